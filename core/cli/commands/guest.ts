import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import * as z from 'zod';
import { UsageError } from '../../backend/index.js';
import {
  chooseForTrusted,
  Guest,
  type GuestOptions,
  type GuestShare,
  TemporaryFolder,
} from '../../guest/index.js';
import {
  check,
  describeOptions,
  Services,
  readConfig,
  type DaemonOptions,
  type ServedExport,
} from '../../plugins/index.js';
import type { BackendOptions } from '../backend-options.js';
import { addLogOptions, servicesOf } from '../serving/log-and-services.js';
import { addFlag, givenOptions, type Values } from '../flags.js';
import { Stopped, stopSignal } from '../serving/signals.js';

/** Exit code after `--timeout`, as that of timeout(1). */
export const TIMED_OUT = 124;

/** Tag of the export that flags describe. */
const TAG = 'virtiofs';

/** Tag of the host's file system, which `--host-tools` shares for its programs. */
const HOST_TAG = 'host';

const memory = z
  .string()
  .regex(/^\d+[mg]?$/i, 'must be MiB, or such as 512M or 2G')
  .transform((text) => Number.parseInt(text, 10) * (/g$/i.test(text) ? 1024 : 1));

/** Options of a guest's machine. */
export const guestSchema = z.strictObject({
  mountPoint: z
    .string()
    .startsWith('/', 'must be absolute')
    .default('/mnt')
    .describe('where the guest mounts the export')
    .meta({ placeholder: 'DIR' }),
  memory: memory.default(512).describe("the guest's memory; default 512M").meta({ placeholder: 'SIZE' }),
  cpus: z.number().int().min(1).max(64).default(1).describe("the guest's processors"),
  timeout: z
    .number()
    .positive()
    .optional()
    .describe('seconds after which the guest is ended, with exit code 124'),
  hostTools: z
    .boolean()
    .default(false)
    .describe(
      "run the command among the host's programs: its root directory, read-only, below a layer in memory",
    ),
  accelerator: z
    .enum(['kvm', 'tcg', 'uml'])
    .optional()
    .describe(
      'uml is User-Mode Linux, at native speed without KVM, for trusted commands; ' +
        'default: kvm where it works, for guest else uml where it works, else tcg',
    ),
  machine: z
    .enum(['q35', 'microvm'])
    .optional()
    .describe(
      'what QEMU emulates: microvm starts sooner; default: microvm with kvm where it boots, else q35',
    ),
  kernel: z
    .string()
    .optional()
    .describe('kernel image; default: the newest with virtio-fs')
    .meta({ placeholder: 'IMAGE' }),
  append: z.string().optional().describe("more for the kernel's command line").meta({ placeholder: 'WORDS' }),
  qemu: z.string().optional().describe("QEMU's program").meta({ placeholder: 'PATH' }),
  console: z.boolean().default(false).describe('show what kernel and init print, on standard error'),
});

const guestCommandSchema = guestSchema.extend({
  programs: z
    .string()
    .optional()
    .describe("programs of the host that the command has beside busybox, by comma, in the guest's memory")
    .meta({ placeholder: 'NAMES' }),
});

const GUEST_FLAGS = describeOptions(guestCommandSchema);

/** `guest`: tries exports in a throw-away guest. */
export function addGuest(program: Command, backend: BackendOptions): void {
  const command = program
    .command('guest')
    .description(
      'boot a throw-away Linux guest with an export mounted, and run a command in it or give a shell',
    )
    .argument('[COMMAND...]', 'program and arguments; without it, a shell')
    .passThroughOptions()
    .optionsGroup('Guest:');
  for (const option of GUEST_FLAGS) addFlag(command, option);
  backend.addTo(command);
  addLogOptions(command, 'error');
  command
    .optionsGroup('Instead of --backend:')
    .option('--config <FILE>', "mount a configuration file's exports, each at MOUNT_POINT/TAG")
    .option('--socket-path <PATH>', 'mount what another daemon serves on this socket')
    .addHelpText('after', EXAMPLES)
    .action((words: string[], values: Values) => runGuest(words, values, backend));
}

async function runGuest(words: readonly string[], values: Values, backend: BackendOptions): Promise<void> {
  const options = check(guestCommandSchema, givenOptions(GUEST_FLAGS, values), '', ([name]) => {
    return `--${GUEST_FLAGS.find((option) => option.name === name)?.flag ?? String(name)}`;
  });
  const served = whatToServe(values, backend);
  const accelerator = options.accelerator ?? (await chooseForTrusted(options));
  const stop = stopSignal();
  const temporary = new TemporaryFolder();
  const sockets = temporary.path;
  const exports: ServedExport[] = served.exports.map((one, index) => ({
    ...one,
    socket: join(sockets, `${index}`),
    maxConnections: 1,
  }));
  const shares: GuestShare[] = exports.map(({ tag = TAG, socket }) => {
    const mountPoint = served.several === true ? join(options.mountPoint, tag) : options.mountPoint;
    return { tag, socket: socket!, mountPoint };
  });
  if (served.socketPath !== undefined) {
    shares.push({ tag: TAG, socket: served.socketPath, mountPoint: options.mountPoint, isForeign: true });
  }
  if (options.hostTools) {
    const socket = join(sockets, HOST_TAG);
    const source = { type: 'passthrough', sharedDir: '/', cache: 'always', submounts: 'cross' };
    exports.push({ tag: HOST_TAG, socket, backend: source, readOnly: true, maxConnections: 1 });
    shares.unshift({ tag: HOST_TAG, socket, mountPoint: '/' });
  }
  const container = await servicesOf(values, { level: 'error' }, backend.registry);
  try {
    const daemon = await container.get(Services.StartDaemon)({ ...served, exports });
    try {
      const late = options.timeout === undefined ? [] : [AbortSignal.timeout(options.timeout * 1000)];
      process.exitCode = await runIn(words, {
        ...options,
        accelerator,
        programs: options.programs?.split(',').map((name) => name.trim()),
        shares: shares.map((share) => ({ ...share, readOnly: daemon.isReadOnly(share.socket) })),
        rootTag: options.hostTools ? HOST_TAG : undefined,
        console: options.console ? process.stderr : undefined,
        signal: AbortSignal.any([stop, ...late]),
      });
    } finally {
      await daemon.close();
    }
  } finally {
    temporary[Symbol.dispose]();
  }
}

/** What the guest mounts. */
interface GuestExports extends Pick<DaemonOptions, 'exports' | 'backends' | 'folder'> {
  /** Each export is mounted in a folder of its own. */
  readonly several?: boolean;
  /** The socket of another daemon, whose export is mounted. */
  readonly socketPath?: string;
}

function whatToServe(values: Values, backend: BackendOptions): GuestExports {
  const { config, socketPath } = values;
  if (typeof config === 'string') {
    const { exports, backends, folder } = readConfig(config);
    return { exports: exports.map((one) => ({ ...one, fd: undefined })), backends, folder, several: true };
  }
  if (typeof socketPath === 'string') {
    if (!existsSync(socketPath))
      throw new UsageError(`--socket-path ${socketPath}: no such socket; start its daemon first`);
    return { exports: [], socketPath };
  }
  const { spec, settings } = backend.choice(values);
  return { exports: [{ ...settings, backend: spec, optionName: backend.name }] };
}

/**
 * Boots a guest, runs a command in it and shuts it down.
 * @param folder where the command starts. Default: the mount point of the first share.
 * @returns the exit code of the command, or of the signal or timeout that ended it early.
 */
export async function runIn(
  words: readonly string[],
  options: GuestOptions,
  folder?: string,
): Promise<number> {
  const { stdin, stdout, stderr } = process;
  const gone = new AbortController();
  // The reader of the output has closed it, as `head` does.
  stdout.on('error', () => gone.abort(new Stopped(141)));
  try {
    const signal = AbortSignal.any([gone.signal, ...(options.signal === undefined ? [] : [options.signal])]);
    const guest = await Guest.boot({ ...options, signal });
    const isShell = words.length === 0 && stdin.isTTY && stdout.isTTY;
    const command = words.length === 0 ? ['sh'] : words;
    const code = await (isShell
      ? guest.shell({ input: stdin, output: stdout })
      : guest.run(command, { stdin, stdout, stderr, folder }));
    await guest.shutdown();
    return code;
  } catch (error) {
    if (error instanceof Stopped) return error.exitCode;
    if (error instanceof DOMException && error.name === 'TimeoutError') {
      stderr.write('virtiofs-kit: --timeout: time is up, the guest was ended\n');
      return TIMED_OUT;
    }
    throw error;
  } finally {
    stdin.destroy();
  }
}

const EXAMPLES = `
Examples:
  virtiofs-kit guest --backend memfs -- sh -c 'echo hi > /mnt/x && cat /mnt/x'
  virtiofs-kit guest --backend memfs                          a shell; its exit ends the guest
  virtiofs-kit guest --backend ./my-backend.js -- ls -l /mnt
  virtiofs-kit guest --shared-dir . --host-tools -- git status  with the host's programs
  tar c . | virtiofs-kit guest --backend memfs -- sh -c 'tar x -C /mnt && ls -lR /mnt'

The command's output, input and exit code are the guest's. Needs QEMU, busybox and a kernel:
  apt-get install --no-install-recommends qemu-system-x86 busybox-static linux-image-cloud-amd64
Where KVM does not work and user-mode-linux is installed, the guest is that (one processor, no --kernel, --append to
its own command line): 1 to 5 seconds to boot instead of 20. It is a process of this host: let it run only what you
would run here. --accelerator tcg is QEMU all the same.
`;
