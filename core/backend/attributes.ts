/** File type bits of a mode (`st_mode & S_IFMT`), POSIX `<sys/stat.h>` with Linux's values. */
export const FileType = {
  MASK: 0o170000,
  FIFO: 0o010000,
  CHARACTER: 0o020000,
  DIRECTORY: 0o040000,
  BLOCK: 0o060000,
  REGULAR: 0o100000,
  SYMLINK: 0o120000,
  SOCKET: 0o140000,
} as const;

/** Permission bits beyond rwx, POSIX `<sys/stat.h>`. */
export const ModeBits = { SETUID: 0o4000, SETGID: 0o2000, STICKY: 0o1000, PERMISSIONS: 0o7777 } as const;

/**
 * What `stat` shows of a node. Only `mode`, type bits included, is required.
 *
 * The engine reads the object before it calls the backend again and keeps no reference, so that a
 * synchronous backend may return one object of its own, refilled each time. A promise must resolve
 * to an object that stays unchanged.
 */
export interface Attributes {
  /** Type and permission bits. */
  mode: number;
  /** Inode number, 1 to 2^64-1. Default: derived from the node's identity. */
  ino?: number | bigint | undefined;
  /** Bytes, 0 to 2^53-1. Default 0. */
  size?: number | undefined;
  /** Units of 512 bytes. Default: what `size` takes. */
  blocks?: number | undefined;
  /** Hard links. Default 1. */
  nlink?: number | undefined;
  /** Owner. Default 0. */
  uid?: number | undefined;
  /** Group. Default 0. */
  gid?: number | undefined;
  /**
   * Device number of a character or block device, encoded as {@link makeDevice} does. Default 0.
   */
  rdev?: number | undefined;
  /** Preferred I/O size in bytes. Default 4096. */
  blksize?: number | undefined;
  /**
   * Last access: seconds since 1970-01-01T00:00Z. A fraction counts where `atimeNsec` is not given.
   * Default 0.
   */
  atime?: number | undefined;
  /** Nanoseconds of `atime`, 0 to 999,999,999. */
  atimeNsec?: number | undefined;
  /** Last change of the content; as `atime`. */
  mtime?: number | undefined;
  /** Nanoseconds of `mtime`, 0 to 999,999,999. */
  mtimeNsec?: number | undefined;
  /** Last change of the attributes; as `atime`. Default: `mtime`. */
  ctime?: number | undefined;
  /** Nanoseconds of `ctime`, 0 to 999,999,999. */
  ctimeNsec?: number | undefined;
  /** Creation; as `atime`. Default: not known, and STATX says so. */
  btime?: number | undefined;
  /** Nanoseconds of `btime`, 0 to 999,999,999. */
  btimeNsec?: number | undefined;
  /**
   * The directory is the root of another file system below the share (FUSE_ATTR_SUBMOUNT). Default
   * false.
   */
  submount?: boolean | undefined;
}

/**
 * Attributes for a backend that fills one object again and again: with every field, so that it
 * keeps its shape.
 */
export function newAttributes(): Attributes & { uid: number; gid: number } {
  return {
    mode: 0,
    ino: 1,
    size: 0,
    blocks: 0,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
    atime: 0,
    atimeNsec: 0,
    mtime: 0,
    mtimeNsec: 0,
    ctime: 0,
    ctimeNsec: 0,
    btime: undefined,
    btimeNsec: undefined,
    submount: false,
  };
}

/**
 * Encodes a device number as FUSE carries it (Linux `new_encode_dev`): 12 bits of major, 20 of
 * minor.
 */
export function makeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}

/** Major number of an encoded device. */
export function deviceMajor(rdev: number): number {
  return (rdev >>> 8) & 0xfff;
}

/** Minor number of an encoded device. */
export function deviceMinor(rdev: number): number {
  return (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
}

/** A time to set: seconds since the epoch (may be negative) and nanoseconds 0 to 999,999,999. */
export interface Time {
  /** Since 1970-01-01T00:00Z, whole; negative before. */
  readonly seconds: number;
  /** 0 to 999,999,999. */
  readonly nanoseconds: number;
}

/** What a SETATTR asks to change. A field that is absent stays as it is. */
export interface AttributeChanges {
  /** Permission bits (`mode & 0o7777`). */
  readonly mode?: number;
  /** New owner, 0 to 2^32-2. */
  readonly uid?: number;
  /** New group, 0 to 2^32-2. */
  readonly gid?: number;
  /** New length in bytes: truncates or extends with zeros. */
  readonly size?: number;
  /** New time of the last access; `now` is the backend's own clock. */
  readonly atime?: Time | 'now';
  /** New time of the last change of the content; `now` is the backend's own clock. */
  readonly mtime?: Time | 'now';
  /** Sent by a guest with write-back caching, which keeps the times itself. */
  readonly ctime?: Time;
  /**
   * The change must clear set-user-id, and set-group-id of a group-executable file, since the
   * caller has no privilege to keep them (FATTR_KILL_SUIDGID, only where `semantics.killPriv` is
   * declared).
   */
  readonly killSuidGid?: boolean;
}

/** What `statfs` shows. Absent fields are 0, but `blockSize` 4096 and `nameMax` 255. */
export interface FsStatistics {
  /** Size of a block in bytes, the unit of the block counts. */
  readonly blockSize?: number;
  /** Size of the file system. */
  readonly blocks?: number;
  /** Free blocks. */
  readonly blocksFree?: number;
  /** Blocks free for users without privilege. Default: `blocksFree`. */
  readonly blocksAvailable?: number;
  /** Files that there are and may yet be. */
  readonly files?: number;
  /** Files that may yet be. */
  readonly filesFree?: number;
  /** Longest name in bytes. */
  readonly nameMax?: number;
}
