import type { FileRanges } from './file-ranges.js';
import type { OwnerRanges } from './owner-ranges.js';
import { type LockCompletion, LockType } from './request.js';

/**
 * A lock owner of one session: a process of the guest, or for flock and OFD locks one of its open
 * files.
 */
export interface Owner<N> {
  /** Unique among all owners. */
  readonly serial: number;
  readonly session: number;
  readonly id: bigint;
  /** Files on which it holds locks. */
  readonly files: Set<FileLocks<N>>;
  /** Its parked requests. */
  readonly waits: Set<Waiter<N>>;
}

/** One owner's record locks on one file. */
export interface Holding<N> {
  readonly list: OwnerRanges<Owner<N>>;
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

/** The locks on one file, and the requests that wait for them. */
export interface FileLocks<N> {
  readonly node: N;
  readonly posix: Map<Owner<N>, Holding<N>>;
  /** The same ranges as in `posix`, of all owners together. */
  readonly ranges: FileRanges<Owner<N>>;
  readonly flock: Map<Owner<N>, Flock>;
  /** In order of arrival. */
  readonly waiters: Set<Waiter<N>>;
  /** The same requests by their {@link Waiter.blocker}, in no particular order. */
  readonly blocked: Map<Owner<N>, Set<Waiter<N>>>;
}

/** A lock that is or was asked for. Plain data. */
export interface Claim<N> {
  readonly kind: 'posix' | 'flock';
  readonly file: FileLocks<N>;
  readonly owner: Owner<N>;
  readonly type: number;
  readonly start: bigint;
  readonly end: bigint;
  readonly pid: number;
  readonly handle: number;
}

/** A parked request: a claim that waits. */
export interface Waiter<N> {
  readonly claim: Claim<N>;
  readonly unique: bigint;
  /** Increases in the order of arrival. */
  readonly sequence: number;
  /** When it came, in milliseconds of `performance.now()`. */
  readonly since: number;
  /**
   * One owner of a conflicting lock. The claim is tried again when that owner's locks on the file
   * change.
   */
  blocker: Owner<N>;
  readonly done: LockCompletion;
}

/** A parked request that waits for somebody outside of the table. */
export interface Elsewhere<N> {
  readonly node: N;
  readonly handle: number;
  readonly cancel: LockCompletion;
}

/** An owner of a lock that conflicts with a claim, if there is one. */
export function findBlocker<N>({ kind, file, owner, type, start, end }: Claim<N>): Owner<N> | undefined {
  if (type === LockType.UNLOCK) return undefined;
  if (kind === 'posix') return file.ranges.conflict(owner, start, end, type)?.owner;
  // If several other owners have a flock, all of these are shared. So the first decides.
  for (const [other, held] of file.flock) {
    if (other !== owner) return type === LockType.WRITE || held.type === LockType.WRITE ? other : undefined;
  }
  return undefined;
}
