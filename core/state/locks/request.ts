/**
 * Lock types as the wire has them (`struct fuse_file_lock.type`, Linux `F_RDLCK`, `F_WRLCK`,
 * `F_UNLCK`).
 */
export const LockType = { READ: 0, WRITE: 1, UNLOCK: 2 } as const;

/** One of {@link LockType}. */
export type LockTypeValue = (typeof LockType)[keyof typeof LockType];

/**
 * The end of a range that reaches to the end of the file, however long the file becomes (Linux
 * `OFFSET_MAX`).
 */
export const OFFSET_MAX = 0x7fff_ffff_ffff_ffffn;

/** A 64-bit number from its halves, each of which is taken as unsigned. */
export function u64(high: number, low: number): bigint {
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

/**
 * The arguments of a GETLK, SETLK or SETLKW. The table copies what it keeps, so the caller may
 * reuse the object. Offsets are bigint, since they go up to 2^63-1, which a number cannot hold
 * exactly.
 */
export interface LockRequest<N> {
  /** The locked file: any value that stands for it in every session of the export. */
  node: N;
  /** The request's `lock_owner`, 64 bits; unique within a session. */
  owner: bigint;
  /** A {@link LockType}; anything else is refused. */
  type: number;
  /** First byte. Ignored by flock. */
  start: bigint;
  /** Last byte, inclusive; {@link OFFSET_MAX} for the end of the file. Ignored by flock. */
  end: bigint;
  /** Process id in the guest. GETLK reports it to the same guest only. */
  pid: number;
  /** The `fh` that the request came through; see {@link LockSession.releaseHandle}. */
  handle: number;
}

/** The conflicting lock that a GETLK has found. */
export interface LockConflict {
  readonly type: LockTypeValue;
  readonly start: bigint;
  readonly end: bigint;
  /**
   * The holder's process id, or 0 if it runs in another guest, where the number means something
   * else. Linux looks it up in the mount's pid namespace and shows 0 for none (`fs/fuse/file.c`,
   * `convert_fuse_file_lock`).
   */
  readonly pid: number;
}

/** The result of a lock request that is parked: its completion function will be called. */
export const PARKED = -1;

/** Called once when a parked request ends, with 0 or a positive errno. Must not throw. */
export type LockCompletion = (errno: number) => void;
