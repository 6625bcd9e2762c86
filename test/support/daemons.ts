import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { UnixConnection } from '../../core/system/index.js';
import { program } from './program.js';
import { temporaryFolder } from './vhost-user.js';

/** A daemon that serves a host directory over vhost-user. */
export interface Daemon {
  readonly name: string;
  /** Why it cannot run here; undefined if it can. */
  readonly missing: string | undefined;
  /** Request queues that it serves. */
  readonly requestQueues: number;
  /** Whether it listens again when its front-end has gone. */
  readonly listensAgain: boolean;
  /** Whether it serves the first request queue of its second front-end by a queue thread. */
  readonly threadForSecond?: boolean;
  /** Command line that serves a directory on a socket. */
  command(directory: string, socket: string): readonly string[];
}

const peer = '/usr/lib/qemu/virtiofsd';

/** This program's passthrough. */
export const ours: Daemon = {
  name: 'virtiofs-kit',
  missing: undefined,
  requestQueues: 2,
  listensAgain: true,
  command: (directory, socket) =>
    [process.execPath, program, 'serve', '--socket-path', socket].concat(
      '--tag test --request-queues 2 --log-level warn --backend passthrough --shared-dir'.split(' '),
      directory,
    ),
};

/** The same with a queue thread. */
export const oursThreaded: Daemon = {
  ...ours,
  name: 'virtiofs-kit with a queue thread',
  threadForSecond: true,
  command: (directory, socket) => [...ours.command(directory, socket), '--queue-threads', '1'],
};

/**
 * The daemon in C that comes with QEMU 7.2 (Debian's qemu-system-common). A test that both daemons
 * pass tests the protocol, not our reading of it.
 */
export const cVirtiofsd: Daemon = {
  name: 'C virtiofsd',
  missing:
    process.getuid!() !== 0
      ? 'it needs root'
      : existsSync(peer)
        ? undefined
        : 'qemu-system-common is not installed',
  requestQueues: 1,
  listensAgain: false,
  command: (directory, socket) =>
    [peer, `--socket-path=${socket}`, '-o', `source=${directory}`].concat(
      '-f -o xattr -o log_level=err'.split(' '),
    ),
};

/**
 * The daemon in Rust, from a newer Debian than this one.
 * @param folder where its package and those of its libraries (libc6, libcap-ng0, libseccomp2,
 * libgcc-s1) were unpacked. The loader in there starts it. Or the program itself.
 */
export function rustVirtiofsd(folder: string): Pick<Daemon, 'name' | 'command'> {
  const program = join(folder, 'usr/libexec/virtiofsd');
  const loader = join(folder, 'usr/lib64/ld-linux-x86-64.so.2');
  const start = existsSync(program)
    ? [loader, '--library-path', join(folder, 'usr/lib/x86_64-linux-gnu'), program]
    : [folder];
  return {
    name: 'virtiofsd',
    command: (directory, socket) =>
      start.concat(
        '--socket-path',
        socket,
        '--shared-dir',
        directory,
        '--sandbox',
        'none',
        '--log-level',
        'error',
      ),
  };
}

/** A daemon that was started. */
export interface RunningDaemon {
  readonly directory: string;
  readonly socket: string;
  readonly process: ChildProcess;
  /** Ends it by a signal and waits for it. @returns its exit code, or the signal that ended it. */
  stop(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals>;
}

/** Starts a daemon on an empty directory of its own, below `parent`; it ends with the test. */
export function startDaemon(t: TestContext, daemon: Daemon, parent?: string): RunningDaemon {
  const folder = temporaryFolder(t, parent);
  const directory = join(folder, 'shared');
  mkdirSync(directory);
  const running = launch(daemon, directory, join(folder, 'socket'));
  t.after(() => running.stop('SIGKILL'));
  return running;
}

/** Starts a daemon on a directory. */
export function launch(daemon: Pick<Daemon, 'command'>, directory: string, socket: string): RunningDaemon {
  const [command, ...args] = daemon.command(directory, socket);
  const child = spawn(command!, args, { stdio: ['ignore', 'inherit', 'inherit'] });
  const ended = new Promise<number | NodeJS.Signals>((resolve, reject) => {
    child.once('exit', (code, signal) => resolve(code ?? signal!));
    child.once('error', reject);
  });
  const kill = (): void => void child.kill('SIGKILL');
  process.once('exit', kill);
  child.once('exit', () => process.off('exit', kill));
  const stop = (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal);
    return ended;
  };
  return { directory, socket, process: child, stop };
}

/**
 * Whether a daemon's socket listens. It does not connect: some daemons take a single connection.
 */
export function isListening({ socket, process: child }: RunningDaemon): boolean {
  if (child.exitCode !== null) throw new Error(`the daemon ended with ${child.exitCode}`);
  // Flags of a listening socket have SO_ACCEPTCON, 0x10000 (`include/linux/net.h`). The list is
  // that of the daemon's network: a confined one has its own.
  const lines = readFileSync(`/proc/${child.pid}/net/unix`, 'utf8').split('\n');
  return lines.some((line) => line.endsWith(` ${socket}`) && line.split(' ')[3] === '00010000');
}

/** Connects as soon as the daemon listens, which is a moment after its socket file is there. */
export async function connectTo({ socket, process: child }: RunningDaemon): Promise<UnixConnection> {
  for (;;) {
    try {
      return UnixConnection.connect(socket);
    } catch (error) {
      if (child.exitCode !== null)
        throw new Error(`the daemon ended with ${child.exitCode}`, { cause: error });
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
