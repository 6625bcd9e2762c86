/**
 * Lock types as the wire has them (`struct fuse_file_lock.type`, Linux `F_RDLCK`, `F_WRLCK`,
 * `F_UNLCK`).
 */
export const LockType = { READ: 0, WRITE: 1, UNLOCK: 2 } as const;

/** One of {@link LockType}. */
export type LockTypeValue = (typeof LockType)[keyof typeof LockType];

/**
 * The last byte of a range that goes to the end of the file, however long it becomes (Linux
 * `OFFSET_MAX`).
 */
export const OFFSET_MAX = 0x7fff_ffff_ffff_ffffn;

/** A 64-bit number from its halves as the wire has them, each taken as unsigned. */
export function u64(high: number, low: number): bigint {
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

/**
 * What a GETLK, SETLK or SETLKW asks for. The table copies what it keeps: one object may be
 * refilled for each request. Offsets are bigint since a lock may lie anywhere up to 2^63-1, far
 * beyond what a number holds exactly.
 */
export interface LockRequest<N> {
  /** The locked file: any object, or value, that stands for it in every session of the export. */
  node: N;
  /** `lock_owner` of the wire, 64 bits; unique within a session. */
  owner: bigint;
  /** Anything else than a {@link LockType} is refused. */
  type: number;
  /** First byte. Ignored by flock. */
  start: bigint;
  /** Last byte, inclusive; {@link OFFSET_MAX} for the end of the file. Ignored by flock. */
  end: bigint;
  /** Process id in the guest, shown to the same guest by GETLK. */
  pid: number;
  /** The `fh` that the request came through; see {@link LockSession.releaseHandle}. */
  handle: number;
}

/** The lock that a GETLK found in the way. */
export interface LockConflict {
  readonly type: LockTypeValue;
  readonly start: bigint;
  readonly end: bigint;
  /**
   * The holder's process id, or 0 if it is in another guest, where the number means nothing (Linux
   * looks it up in the mount's pid namespace and shows 0 for none: `fs/fuse/file.c`,
   * `convert_fuse_file_lock`).
   */
  readonly pid: number;
}

/** Answer of a waiting request that is parked: its completion function will be called. */
export const PARKED = -1;

/** Called once when a parked request ends, with 0 or a positive errno. Must not throw. */
export type LockCompletion = (errno: number) => void;

/** Bounds on what guests can make the table hold. Beyond: ENOLCK. */
export interface LockLimits {
  /** Locked ranges of one session; a flock counts as one. */
  readonly sessionLocks: number;
  /** Locked ranges of all sessions. */
  readonly totalLocks: number;
  /** Parked requests of one session. A transport with a ring of n requests must set less than n. */
  readonly sessionWaiters: number;
  /** Parked requests of all sessions. */
  readonly totalWaiters: number;
}

export const defaultLockLimits: LockLimits = {
  sessionLocks: 131_072,
  totalLocks: 1_048_576,
  sessionWaiters: 256,
  totalWaiters: 4096,
};

/** Saved form of a lock. 64-bit numbers are decimal strings, so that JSON can carry it. */
export interface SavedLock<K> {
  readonly kind: 'posix' | 'flock';
  readonly session: number;
  readonly node: K;
  readonly owner: string;
  readonly type: number;
  readonly start: string;
  readonly end: string;
  readonly pid: number;
  readonly handle: number;
}

/** Saved form of a parked request. */
export interface SavedWaiter<K> extends SavedLock<K> {
  /** The request's id, decimal. */
  readonly unique: string;
}

/**
 * Saved form of a table: locks and parked requests, each in order. `K` is the saved form of a node.
 */
export interface SavedLocks<K> {
  readonly locks: readonly SavedLock<K>[];
  readonly waiters: readonly SavedWaiter<K>[];
}
