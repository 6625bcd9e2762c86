import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import * as z from 'zod';
import { type Backend, type BackendSpec, nameBytes, UsageError } from '../../backend/index.js';
import type { GuestShare } from '../../guest/index.js';
import {
  check,
  describeOptions,
  Services,
  type BackendRegistry,
  type ServedExport,
} from '../../plugins/index.js';
import { addLogOptions, servicesOf } from '../log-and-services.js';
import { addFlag, givenOptions, type Values } from '../flags.js';
import { guestSchema, runIn } from './guest.js';
import { stopSignal } from '../signals.js';

/** The root of the guest: the host's file system, with a layer in memory for every change. */
const ROOT: BackendSpec = {
  type: 'overlay',
  upper: { type: 'memfs' },
  lowers: [{ type: 'passthrough', sharedDir: '/', cache: 'always', submounts: 'cross' }],
};

/** What the overlay backend can do beside the contract. */
interface Overlay extends Backend {
  /** Writes what the upper changed into an archive. */
  saveLayer(file: string): Promise<void>;
}

const ROOT_TAG = 'root';

const sandboxSchema = guestSchema.omit({ mountPoint: true, hostTools: true }).extend({
  share: z
    .array(z.string().min(1))
    .default([])
    .describe('directory that is shared for real, at its own path; DIR:ro without changes')
    .meta({ placeholder: 'DIR[:ro]' }),
  keepDiff: z
    .string()
    .optional()
    .describe('archive to write all changes into, a layer of a container image; gzipped if it ends in gz')
    .meta({ placeholder: 'FILE' }),
});

const FLAGS = describeOptions(sandboxSchema);

/**
 * `sandbox`: runs a command in a throw-away guest that has this host's file system, and changes
 * nothing on it.
 */
export function addSandbox(program: Command, registry: BackendRegistry): void {
  const command = program
    .command('sandbox')
    .description("run a command on this host's file system in a throw-away guest: it changes nothing here")
    .argument('[COMMAND...]', 'program and arguments; without it, a shell')
    .passThroughOptions()
    .optionsGroup('Sandbox:');
  for (const option of FLAGS) addFlag(command, option);
  addLogOptions(command);
  command
    .addHelpText('after', EXAMPLES)
    .action((words: string[], values: Values) => runSandbox(words, values, registry));
}

async function runSandbox(
  words: readonly string[],
  values: Values,
  registry: BackendRegistry,
): Promise<void> {
  const { share, keepDiff, timeout, ...machine } = check(
    sandboxSchema,
    givenOptions(FLAGS, values),
    '',
    ([name]) => `--${FLAGS.find((option) => option.name === name)?.flag ?? String(name)}`,
  );
  const shared = share.map(sharedDirectory);
  const stop = stopSignal();
  const container = await servicesOf(values, { level: 'error' }, registry);
  const log = container.get(Services.Logger);
  const root = (await registry.create(ROOT, { log })) as Overlay;
  const sockets = mkdtempSync(join(tmpdir(), 'virtiofs-kit-sockets-'));
  const exports: ServedExport[] = [
    { tag: ROOT_TAG, socket: join(sockets, ROOT_TAG), backend: root, maxConnections: 1 },
    ...shared.map(({ directory, readOnly }, index) => ({
      tag: `share${index}`,
      socket: join(sockets, `${index}`),
      backend: { type: 'passthrough', sharedDir: directory },
      readOnly,
      maxConnections: 1,
    })),
  ];
  const shares: GuestShare[] = exports.map(({ tag, socket, readOnly = false }, index) => ({
    tag: tag!,
    socketPath: socket!,
    mountPoint: index === 0 ? '/' : shared[index - 1]!.directory,
    readOnly,
  }));
  try {
    const daemon = await container.get(Services.StartDaemon)({ exports });
    try {
      const late = timeout === undefined ? [] : [AbortSignal.timeout(timeout * 1000)];
      const options = {
        ...machine,
        shares,
        rootTag: ROOT_TAG,
        rootIsWritten: true,
        console: machine.console ? process.stderr : undefined,
        signal: AbortSignal.any([stop, ...late]),
      };
      process.exitCode = await runIn(words, options, process.cwd());
      if (keepDiff !== undefined) await root.saveLayer(keepDiff);
    } finally {
      await daemon.close();
    }
  } finally {
    rmSync(sockets, { recursive: true, force: true });
  }
}

/** Reads the value of `--share`. @throws UsageError if it is no directory. */
function sharedDirectory(text: string): { directory: string; readOnly: boolean } {
  const readOnly = text.endsWith(':ro');
  const directory = resolve(readOnly ? text.slice(0, -':ro'.length) : text);
  const path = Buffer.from(nameBytes(directory));
  const isDirectory = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  if (!isDirectory || directory === '/')
    throw new UsageError(`--share ${text}: must be a directory, and not /`);
  return { directory, readOnly };
}

const EXAMPLES = `
Examples:
  virtiofs-kit sandbox -- sh -c 'rm -rf /usr/share/doc; ls /usr/share | wc -l'
  virtiofs-kit sandbox --keep-diff changes.tar.gz -- make install
  virtiofs-kit sandbox --share . --share ~/data:ro -- ./untrusted-script

The command sees this host's programs and files; what it changes is kept in memory and thrown away. It has no network.
Its exit code is ours. Needs QEMU and the like: see virtiofs-kit guest --help
`;
