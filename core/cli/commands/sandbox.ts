import { resolve } from 'node:path';
import type { Command } from 'commander';
import * as z from 'zod';
import { UsageError } from '../../backend/index.js';
import { check, createLogger, describeOptions } from '../../plugins/index.js';
import { Sandbox, type SandboxCommand, type SandboxMount, type TerminalSize } from '../../sandbox/index.js';
import { addFlag, givenOptions, type Values } from '../flags.js';
import { addLogOptions, logConfigOf } from '../log-and-services.js';
import { aborted, Stopped, stopSignal } from '../signals.js';
import { guestSchema, TIMED_OUT } from './guest.js';

const sandboxSchema = guestSchema.omit({ mountPoint: true, hostTools: true }).extend({
  share: z
    .array(z.string().min(1))
    .default([])
    .describe('directory that is shared for real, at its own path; DIR:ro without changes')
    .meta({ placeholder: 'DIR[:ro]' }),
  image: z
    .string()
    .min(1)
    .optional()
    .describe("image of a container in place of this host's files: an OCI layout, or of docker save")
    .meta({ placeholder: 'PATH[:TAG]' }),
  hide: z
    .array(z.string().startsWith('/', 'must be absolute'))
    .default([])
    .describe('path that the command does not see, nor can make')
    .meta({ placeholder: 'PATH' }),
  readOnly: z
    .array(z.string().startsWith('/', 'must be absolute'))
    .default([])
    .describe('path below which the command changes nothing')
    .meta({ placeholder: 'PATH' }),
  hideSecrets: z
    .boolean()
    .default(true)
    .describe('hide keys, tokens and histories of home directories (the list is in docs/sandboxes.md)'),
  env: z
    .array(z.string().min(1))
    .default([])
    .describe("variable of the command's environment; NAME alone has the value that it has here")
    .meta({ placeholder: 'NAME[=VALUE]' }),
  user: z
    .string()
    .min(1)
    .optional()
    .describe("who runs the command, by name or number; default root, or the image's")
    .meta({ placeholder: 'USER[:GROUP]' }),
  cwd: z
    .string()
    .startsWith('/', 'must be absolute')
    .optional()
    .describe("where the command starts; default: the current directory, or the image's")
    .meta({ placeholder: 'DIR' }),
  size: z
    .string()
    .regex(/^\d+[kmgt]?$/i, 'must be bytes, or such as 512m or 2g')
    .transform((text) => Number.parseInt(text, 10) * 1024 ** ' kmgt'.indexOf(unitOf(text)))
    .optional()
    .describe('most bytes of what the command writes; default 1g')
    .meta({ placeholder: 'SIZE' }),
  files: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe('most files and directories that it changes or makes; default 1,000,000')
    .meta({ placeholder: 'COUNT' }),
  keepDiff: z
    .string()
    .optional()
    .describe('archive to write all changes into, a layer of a container image; gzipped if it ends in gz')
    .meta({ placeholder: 'FILE' }),
  commit: z
    .string()
    .min(1)
    .optional()
    .describe('OCI layout to write an image into: that of --image, if any, with the changes')
    .meta({ placeholder: 'DIR[:TAG]' }),
});

/** Ends of `--commit` that name a tag. */
const TAG = /^(.+):([\w.-]+)$/;

function unitOf(text: string): string {
  return /[kmgt]$/i.exec(text)?.[0].toLowerCase() ?? ' ';
}

const FLAGS = describeOptions(sandboxSchema);

/**
 * `sandbox`: runs a command in a throw-away guest that has this host's file system, and changes
 * nothing on it.
 */
export function addSandbox(program: Command): void {
  const command = program
    .command('sandbox')
    .description("run a command on this host's file system in a throw-away guest: it changes nothing here")
    .argument('[COMMAND...]', 'program and arguments; without it, a shell')
    .passThroughOptions()
    .optionsGroup('Sandbox:')
    .option('-t, --tty', 'give the command a terminal; default: only a shell has one');
  for (const option of FLAGS) addFlag(command, option);
  addLogOptions(command);
  command.addHelpText('after', EXAMPLES).action(runSandbox);
}

async function runSandbox(words: readonly string[], values: Values): Promise<void> {
  const { share, env, keepDiff, commit, cwd, console, ...rest } = check(
    sandboxSchema,
    givenOptions(FLAGS, values),
    '',
    ([name]) => `--${FLAGS.find((option) => option.name === name)?.flag ?? String(name)}`,
  );
  const { stdin, stdout, stderr } = process;
  const isTerminal = stdin.isTTY && stdout.isTTY;
  if (values['tty'] === true && !isTerminal)
    throw new UsageError('--tty: standard input and output must be a terminal here, too');
  const stop = stopSignal();
  const gone = new AbortController();
  // The reader of the output has closed it, as `head` does.
  stdout.on('error', () => gone.abort(new Stopped(141)));
  try {
    const booting = new AbortController();
    const abort = (): void => booting.abort(stop.reason);
    stop.addEventListener('abort', abort, { once: true });
    await using box = await Sandbox.start({
      ...rest,
      hideSecrets: rest.image === undefined && rest.hideSecrets,
      mounts: Object.fromEntries(share.map(sharedDirectory)),
      env: Object.fromEntries(env.flatMap(variable)),
      cwd: cwd ?? (rest.image === undefined ? process.cwd() : undefined),
      console: console ? stderr : undefined,
      signal: AbortSignal.any([booting.signal, gone.signal]),
      log: createLogger(logConfigOf(values, { level: 'error' })),
    });
    stop.removeEventListener('abort', abort);
    const hasTerminal = values['tty'] === true || (words.length === 0 && isTerminal);
    const wanted = box.command(words.length === 0 ? undefined : words);
    const command = await box.spawn(wanted.length === 0 ? ['sh'] : wanted, {
      stdin,
      tty: hasTerminal ? terminalSize() : undefined,
    });
    process.exitCode = await attend(command, stop, hasTerminal);
    if (keepDiff !== undefined) await box.export(keepDiff);
    const [, directory = commit, tag] = TAG.exec(commit ?? '') ?? [];
    if (directory !== undefined) await box.commit(directory, tag);
  } catch (error) {
    if (error instanceof Stopped) process.exitCode = error.exitCode;
    else if (error instanceof DOMException && error.name === 'TimeoutError') {
      stderr.write('virtiofs-kit: --timeout: time is up, the guest was ended\n');
      process.exitCode = TIMED_OUT;
    } else throw error;
  } finally {
    stdin.destroy();
  }
}

/** Passes on what a command says, and what it is told. @returns its exit code. */
async function attend(command: SandboxCommand, stop: AbortSignal, hasTerminal: boolean): Promise<number> {
  const { stdin, stdout, stderr } = process;
  // The first signal is for the command; the second one ends this process.
  void aborted(stop).then(() => {
    if (stop.reason instanceof Stopped) void command.kill(stop.reason.signal ?? 'SIGTERM');
  });
  const resize = (): void => command.resize(terminalSize());
  if (hasTerminal) {
    stdin.setRawMode(true);
    stdout.on('resize', resize);
  }
  try {
    const outputs = [copied(command.stdout, stdout), copied(command.stderr, stderr)];
    const code = await command.exitCode;
    await Promise.all(outputs);
    return code;
  } finally {
    if (hasTerminal) {
      stdin.setRawMode(false);
      stdout.off('resize', resize);
    }
  }
}

/** Copies to one of this process's outputs, which stays open. */
async function copied(from: NodeJS.ReadableStream, to: NodeJS.WriteStream): Promise<void> {
  for await (const part of from) {
    if (to.writable && !to.write(part)) {
      await new Promise((go) => to.once('drain', go).once('close', go));
    }
  }
}

function terminalSize(): TerminalSize {
  const { columns, rows } = process.stdout;
  // A terminal without a known size reports 0.
  return columns > 0 && rows > 0 ? { columns, rows } : { columns: 80, rows: 24 };
}

/** Reads the value of `--share`. */
function sharedDirectory(text: string): [string, SandboxMount] {
  const readOnly = text.endsWith(':ro');
  const source = resolve(readOnly ? text.slice(0, -':ro'.length) : text);
  if (source === '/') throw new UsageError(`--share ${text}: must be a directory, and not /`);
  return [source, { source, readOnly }];
}

/** Reads the value of `--env`. */
function variable(text: string): [string, string][] {
  const at = text.indexOf('=');
  if (at >= 0) return [[text.slice(0, at), text.slice(at + 1)]];
  const value = process.env[text];
  return value === undefined ? [] : [[text, value]];
}

const EXAMPLES = `
Examples:
  virtiofs-kit sandbox -- sh -c 'rm -rf /usr/share/doc; ls /usr/share | wc -l'
  virtiofs-kit sandbox --keep-diff changes.tar.gz -- make install
  virtiofs-kit sandbox --image ./debian-layout:stable -- apt-get --version
  virtiofs-kit sandbox --share . --share ~/data:ro --user nobody -- ./untrusted-script

The command sees this host's programs and files, but for the secrets of home directories; what it changes is kept in memory and thrown away. It has no network.
Its exit code is ours. The first Ctrl-C is for the command, the second one ends it. Needs QEMU and the like: see
virtiofs-kit guest --help. --accelerator uml starts in a second or two without KVM: for your own code, not for code that
you don't trust, since User-Mode Linux is a process of this host like any other.
`;
