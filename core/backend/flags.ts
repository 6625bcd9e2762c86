/** Bits of the `flags` of `Backend.write`. */
export const WriteFlags = {
  /**
   * From the guest's page cache: `context` and the handle may be another writer's
   * (FUSE_WRITE_CACHE).
   */
  CACHE: 1,
  /** Clear set-user-id and set-group-id (FUSE_WRITE_KILL_SUIDGID). */
  KILL_SUIDGID: 4,
} as const;

/** What guests' locks on a node need to be kept to by others: see `Backend.lock`. */
export const LockHold = {
  /** Nothing: no guest has a lock on it. */
  NONE: 0,
  /** Others may have shared locks. */
  SHARED: 1,
  /** Others may have no lock. */
  EXCLUSIVE: 2,
} as const;

/** One of {@link LockHold}. */
export type LockHold = (typeof LockHold)[keyof typeof LockHold];

/** Bits of the `flags` of `Backend.rename`, Linux `rename(2)`. */
export const RenameFlags = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;

/** Bits of the `flags` of `Backend.setxattr`, Linux `setxattr(2)`. */
export const XattrFlags = { CREATE: 1, REPLACE: 2 } as const;

/** Bits of the `mode` of `Backend.fallocate`, Linux `fallocate(2)`. */
export const FallocateMode = {
  KEEP_SIZE: 0x01,
  PUNCH_HOLE: 0x02,
  COLLAPSE_RANGE: 0x08,
  ZERO_RANGE: 0x10,
  INSERT_RANGE: 0x20,
  UNSHARE_RANGE: 0x40,
} as const;

/**
 * Bits of the `flags` of `Backend.open` and `Backend.create`, Linux `open(2)` on x86-64
 * and arm64.
 */
export const OpenFlags = {
  ACCESS_MODE: 0o3,
  READ_ONLY: 0,
  WRITE_ONLY: 0o1,
  READ_WRITE: 0o2,
  CREAT: 0o100,
  EXCL: 0o200,
  NOCTTY: 0o400,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  DSYNC: 0o10000,
  LARGEFILE: 0o100000,
  NOFOLLOW: 0o400000,
  NOATIME: 0o1000000,
  SYNC: 0o4010000,
} as const;
