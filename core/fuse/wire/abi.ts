/**
 * Constants of Linux `include/uapi/linux/fuse.h`, protocol 7.46, with its names less the `FUSE_`
 * prefix. What 7.46 adds is for requests by io_uring, which are not offered.
 */

export const KERNEL_VERSION = 7;
export const KERNEL_MINOR_VERSION = 46;
/**
 * The oldest minor version that is served. Since then all structures have their present size, or a
 * flag tells that they have grown.
 */
export const OLDEST_MINOR_VERSION = 31;

/** Bits of `fuse_setattr_in.valid`. */
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_FH = 1 << 6;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_CTIME = 1 << 10;
export const FATTR_KILL_SUIDGID = 1 << 11;

/** Bits of `fuse_open_out.open_flags`. */
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
export const FOPEN_NONSEEKABLE = 1 << 2;
export const FOPEN_CACHE_DIR = 1 << 3;
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;
export const FOPEN_PASSTHROUGH = 1 << 7;

/** Bits of `flags` in INIT. */
export const InitFlag = {
  ASYNC_READ: 1 << 0,
  POSIX_LOCKS: 1 << 1,
  ATOMIC_O_TRUNC: 1 << 3,
  EXPORT_SUPPORT: 1 << 4,
  BIG_WRITES: 1 << 5,
  DONT_MASK: 1 << 6,
  FLOCK_LOCKS: 1 << 10,
  HAS_IOCTL_DIR: 1 << 11,
  AUTO_INVAL_DATA: 1 << 12,
  DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14,
  ASYNC_DIO: 1 << 15,
  WRITEBACK_CACHE: 1 << 16,
  NO_OPEN_SUPPORT: 1 << 17,
  PARALLEL_DIROPS: 1 << 18,
  HANDLE_KILLPRIV: 1 << 19,
  POSIX_ACL: 1 << 20,
  ABORT_ERROR: 1 << 21,
  MAX_PAGES: 1 << 22,
  CACHE_SYMLINKS: 1 << 23,
  NO_OPENDIR_SUPPORT: 1 << 24,
  EXPLICIT_INVAL_DATA: 1 << 25,
  MAP_ALIGNMENT: 1 << 26,
  SUBMOUNTS: 1 << 27,
  HANDLE_KILLPRIV_V2: 1 << 28,
  SETXATTR_EXT: 1 << 29,
  INIT_EXT: 1 << 30,
} as const;

/** Bits of `flags2` in INIT. `fuse.h` numbers them from 32 on. */
export const InitFlag2 = {
  SECURITY_CTX: 1 << 0,
  HAS_INODE_DAX: 1 << 1,
  CREATE_SUPP_GROUP: 1 << 2,
  HAS_EXPIRE_ONLY: 1 << 3,
  DIRECT_IO_ALLOW_MMAP: 1 << 4,
  PASSTHROUGH: 1 << 5,
  NO_EXPORT_SUPPORT: 1 << 6,
  HAS_RESEND: 1 << 7,
  ALLOW_IDMAP: 1 << 8,
  OVER_IO_URING: 1 << 9,
  REQUEST_TIMEOUT: 1 << 10,
  HAS_IO_URING_BUFPOOL: 1 << 11,
} as const;

export const RELEASE_FLOCK_UNLOCK = 1 << 1;
export const GETATTR_FH = 1 << 0;
export const LK_FLOCK = 1 << 0;
export const IOCTL_UNRESTRICTED = 1 << 1;
export const IOCTL_DIR = 1 << 4;
export const FSYNC_FDATASYNC = 1 << 0;
export const ATTR_SUBMOUNT = 1 << 0;
export const OPEN_KILL_SUIDGID = 1 << 0;
export const SETXATTR_ACL_KILL_SGID = 1 << 0;

/**
 * Types of extensions. A type from 0 to {@link MAX_NR_SECCTX} is the number of security contexts in
 * the extension.
 */
export const MAX_NR_SECCTX = 31;
export const EXT_GROUPS = 32;

/** `enum fuse_opcode`. */
export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  BMAP: 37,
  DESTROY: 38,
  IOCTL: 39,
  POLL: 40,
  NOTIFY_REPLY: 41,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  SETUPMAPPING: 48,
  REMOVEMAPPING: 49,
  SYNCFS: 50,
  TMPFILE: 51,
  STATX: 52,
  COPY_FILE_RANGE_64: 53,
} as const;

/** `enum fuse_notify_code`: what the kernel is told without having asked. */
export const NotifyCode = {
  POLL: 1,
  INVAL_INODE: 2,
  INVAL_ENTRY: 3,
  STORE: 4,
  RETRIEVE: 5,
  DELETE: 6,
  RESEND: 7,
  INC_EPOCH: 8,
  PRUNE: 9,
} as const;

/** Opcodes below this are looked up in the table. */
export const OPCODE_END = 54;

/**
 * The opcodes of INIT and CUSE_INIT in the other byte order. `fuse.h` reserves them, so that such a
 * guest is recognized.
 */
export const INIT_BSWAP_RESERVED = 436_207_616;
export const CUSE_INIT_BSWAP_RESERVED = 1_048_576;

/** Bits of `fuse_statx_in.sx_mask` and `fuse_statx.mask` (Linux `include/uapi/linux/stat.h`). */
export const STATX_BASIC_STATS = 0x7ff;
export const STATX_BTIME = 0x800;

/** `d_ino` if the backend gives none. The value is libfuse's FUSE_UNKNOWN_INO. */
export const UNKNOWN_INO = 0xffffffff;

/** The `whence` values of lseek(2) that guests send. */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** Limits of Linux's VFS. */
export const XATTR_NAME_MAX = 255;
export const XATTR_SIZE_MAX = 65536;
export const XATTR_LIST_MAX = 65536;
