import { FrontEnd } from '../vhost-user/index.js';
import { ProcessTree } from './cpu.js';
import { BenchError } from './driver.js';

/** A daemon to measure. */
export interface Target {
  /** Name in tables. */
  readonly name: string;
  /** Path of its socket. */
  readonly socket: string;
  /**
   * The process whose CPU time is counted, with its descendants. Default: the one that listens on
   * the socket.
   */
  readonly pid?: number | undefined;
}

/** A connection to a daemon. */
export interface Connected {
  readonly frontEnd: FrontEnd;
  /** The daemon's processes; absent where they are not known. */
  readonly tree: ProcessTree | undefined;
}

/**
 * The rings. QEMU can be configured to have such ones. An indirect table has room for header and
 * arguments in both directions and for the pages of 1 MiB.
 */
const SET_UP = { requestQueues: 2, queueSize: 512, indirect: 4 + 256, memory: 48 * 2 ** 20 };

/**
 * Connects to a daemon.
 * @throws BenchError, of one line, if that fails; RangeError if its process is not there.
 */
export async function connect(target: Target): Promise<Connected> {
  let frontEnd: FrontEnd;
  try {
    frontEnd = await FrontEnd.connect(target.socket, SET_UP);
  } catch (error) {
    throw new BenchError(`${target.socket}: ${(error as Error).message}`, { cause: error });
  }
  try {
    return { frontEnd, tree: processOf(target, frontEnd.daemon) };
  } catch (error) {
    frontEnd.close();
    throw error;
  }
}

function processOf({ pid }: Target, listener: number): ProcessTree | undefined {
  if (pid !== undefined) return new ProcessTree(pid);
  // Process 1 is an init system that has made the socket, and not the daemon.
  return listener > 1 ? new ProcessTree(listener) : undefined;
}
