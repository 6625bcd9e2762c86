import type { RangeList } from './ranges.js';
import type { LockCompletion } from './types.js';

/** A lock owner of one session (a process, or for flock and OFD locks an open file of the guest). */
export interface Owner<N> {
  readonly session: number;
  readonly id: bigint;
  /** Files on which it holds locks. */
  readonly files: Set<FileLocks<N>>;
  /** Its parked requests. */
  readonly waits: Set<Waiter<N>>;
}

/** One owner's record locks on one file. */
export interface Holding {
  readonly list: RangeList;
  pid: number;
  /** The `fh` of the latest request. */
  handle: number;
}

/** One owner's flock on a file. */
export interface Flock {
  readonly type: number;
  readonly pid: number;
  readonly handle: number;
}

/** The locks on one file and who waits for them. */
export interface FileLocks<N> {
  readonly node: N;
  readonly posix: Map<Owner<N>, Holding>;
  readonly flock: Map<Owner<N>, Flock>;
  /** In order of arrival. */
  readonly waiters: Set<Waiter<N>>;
}

/** A parked request: plain data, but for `done`. */
export interface Waiter<N> {
  readonly kind: 'posix' | 'flock';
  readonly file: FileLocks<N>;
  readonly owner: Owner<N>;
  readonly type: number;
  readonly start: bigint;
  readonly end: bigint;
  readonly pid: number;
  readonly handle: number;
  readonly unique: bigint;
  /** One owner whose lock is in the way. The request is tried again when that owner's locks on the file change. */
  blocker: Owner<N>;
  readonly done: LockCompletion;
}

/** An owner other than `owner` whose record locks are in the way, with the first range that is. */
export function posixBlocker<N>(
  file: FileLocks<N>,
  owner: Owner<N>,
  start: bigint,
  end: bigint,
  type: number,
): Owner<N> | undefined {
  for (const [other, holding] of file.posix) {
    if (other !== owner && holding.list.conflict(start, end, type) !== undefined) return other;
  }
  return undefined;
}

/** An owner other than `owner` whose flock is in the way. */
export function flockBlocker<N>(file: FileLocks<N>, owner: Owner<N>, type: number): Owner<N> | undefined {
  for (const [other, held] of file.flock) {
    if (other !== owner && (type === 1 || held.type === 1)) return other;
  }
  return undefined;
}
