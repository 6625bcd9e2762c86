import { readdirSync, readFileSync } from 'node:fs';
import { EACCES } from '../calls/negative-errno.js';
import { close, O, open } from '../calls/files.js';
import { isAtOrBelow } from '../calls/own-mounts.js';

/** What the kernel itself says of how this process is confined. */

/** Of one thread, proc_pid_status(5). */
export interface ThreadState {
  readonly noNewPrivs: boolean;
  /** 2: a filter is in force. */
  readonly seccomp: number;
  /** Sets of capabilities, a bit each. */
  readonly bounding: bigint;
  readonly permitted: bigint;
}

/** The state of every thread of this process. */
export function threadStates(): ThreadState[] {
  return readdirSync('/proc/self/task').flatMap((thread) => {
    let status;
    try {
      status = readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
    } catch {
      return []; // It has ended.
    }
    const field = (name: string): string => new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(status)?.[1] ?? '';
    return {
      noNewPrivs: field('NoNewPrivs') === '1',
      seccomp: Number(field('Seccomp')),
      bounding: BigInt(`0x${field('CapBnd') || '0'}`),
      permitted: BigInt(`0x${field('CapPrm') || '0'}`),
    };
  });
}

/**
 * When this process was started, in clock ticks since the machine was: with its id it is told from
 * all others, and execve(2) changes neither. proc_pid_stat(5), field 22.
 */
export function startTicks(): string {
  const stat = readFileSync('/proc/self/stat', 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
}

/** Names of the network's interfaces, proc_pid_net(5). */
export function interfaces(): string[] {
  const lines = readFileSync('/proc/self/net/dev', 'utf8').matchAll(/^ *([^:|\s]+):/gm);
  return [...lines].map(([, name]) => name!);
}

/** Files of which this process runs code: its executable, the loader, the libraries. */
export function mappedFiles(): string[] {
  const lines = readFileSync('/proc/self/maps', 'utf8').matchAll(/^\S+ ..x. .*? (\/.*)$/gm);
  return [...new Set([...lines].map(([, path]) => path!))].filter((path) => !path.endsWith(' (deleted)'));
}

/** Directories that are on every machine; which of them is asked does not matter. */
const COMMON = ['/', '/usr', '/dev', '/etc', '/proc', '/sys'];

/**
 * Whether Landlock refuses a directory that lies outside the allowed paths. Where each of some
 * common ones is allowed, nothing is restricted that could be asked, and it is true as well.
 */
export function isRefused(allowed: readonly string[]): boolean {
  const outside = COMMON.find((directory) => !allowed.some((path) => isAtOrBelow(directory, path)));
  if (outside === undefined) return true;
  const fd = open(outside, O.DIRECTORY);
  if (fd >= 0) close(fd);
  return fd === EACCES;
}
