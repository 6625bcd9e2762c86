import type { Fd } from '../descriptors/fd.js';
import { deferred, libc, result } from './libc.js';
import { native } from './libc-functions.js';

/**
 * File system calls that work on descriptors. Paths, buffers and structures are addresses in native
 * memory; a path is NUL-terminated. Each returns 0 or more, or minus the errno.
 */

const arm64 = process.arch === 'arm64';

/**
 * Flags of open(2), those whose values differ between x86-64 and arm64 by this machine's
 * architecture.
 */
export const O = {
  RDONLY: 0,
  WRONLY: 0o1,
  RDWR: 0o2,
  ACCMODE: 0o3,
  CREAT: 0o100,
  EXCL: 0o200,
  NOCTTY: 0o400,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  DSYNC: 0o10000,
  DIRECT: arm64 ? 0o200000 : 0o40000,
  DIRECTORY: arm64 ? 0o40000 : 0o200000,
  NOFOLLOW: arm64 ? 0o100000 : 0o400000,
  NOATIME: 0o1000000,
  CLOEXEC: 0o2000000,
  SYNC: 0o4010000,
  PATH: 0o10000000,
  TMPFILE: 0o20000000 | (arm64 ? 0o40000 : 0o200000),
} as const;

/** Flags of the `*at` calls. */
export const AT = {
  FDCWD: -100 as Fd,
  SYMLINK_NOFOLLOW: 0x100,
  REMOVEDIR: 0x200,
  SYMLINK_FOLLOW: 0x400,
  NO_AUTOMOUNT: 0x800,
  /** Attributes that the host has cached: a network file system does not ask its server. */
  STATX_DONT_SYNC: 0x4000,
  EMPTY_PATH: 0x1000,
} as const;

/** Bits of the mask of statx(2). */
export const STATX = { BASIC: 0x7ff, BTIME: 0x800, MNT_ID: 0x1000 } as const;

/** Arguments of statx(2) for a look-up: a symbolic link at the end of the path is not followed. */
export const STATX_NAME = {
  FLAGS: AT.SYMLINK_NOFOLLOW | AT.NO_AUTOMOUNT,
  MASK: STATX.BASIC | STATX.BTIME | STATX.MNT_ID,
} as const;

/** Flags of preadv2(2) and pwritev2(2). */
export const RWF = { NOWAIT: 0x8, NOAPPEND: 0x20 } as const;

const calls = {
  openat: libc<(fd: Fd, path: number, flags: number, mode: number) => number>('openat', 'int', [
    'int',
    'uintptr_t',
    'int',
    'int',
  ]),
  statx: libc<(fd: Fd, path: number, flags: number, mask: number, target: number) => number>('statx', 'int', [
    'int',
    'uintptr_t',
    'int',
    'uint',
    'uintptr_t',
  ]),
  /**
   * syscall(2) for calls of two arguments, SYS_fstat above all: the C library's fstat is a call of
   * four.
   */
  syscall2: libc<(number: number, a: number, b: number) => number>('syscall', 'int', [
    'int',
    'int',
    'uintptr_t',
  ]),
  fstatfs: libc<(fd: Fd, target: number) => number>('fstatfs', 'int', ['int', 'uintptr_t']),
  readlinkat: libc<(fd: Fd, path: number, target: number, size: number) => number>('readlinkat', 'intptr_t', [
    'int',
    'uintptr_t',
    'uintptr_t',
    'size_t',
  ]),
  getdents64: libc<(fd: Fd, target: number, size: number) => number>('getdents64', 'intptr_t', [
    'int',
    'uintptr_t',
    'size_t',
  ]),
  lseek: libc<(fd: Fd, offset: number, whence: number) => number>('lseek', 'int64_t', [
    'int',
    'int64_t',
    'int',
  ]),
  mkdirat: libc<(fd: Fd, path: number, mode: number) => number>('mkdirat', 'int', [
    'int',
    'uintptr_t',
    'uint',
  ]),
  mknodat: libc<(fd: Fd, path: number, mode: number, device: number) => number>('mknodat', 'int', [
    'int',
    'uintptr_t',
    'uint',
    'uint64_t',
  ]),
  symlinkat: libc<(target: number, fd: Fd, path: number) => number>('symlinkat', 'int', [
    'uintptr_t',
    'int',
    'uintptr_t',
  ]),
  linkat: libc<(fd: Fd, path: number, toFd: Fd, toPath: number, flags: number) => number>('linkat', 'int', [
    'int',
    'uintptr_t',
    'int',
    'uintptr_t',
    'int',
  ]),
  unlinkat: libc<(fd: Fd, path: number, flags: number) => number>('unlinkat', 'int', [
    'int',
    'uintptr_t',
    'int',
  ]),
  renameat2: libc<(fd: Fd, path: number, toFd: Fd, toPath: number, flags: number) => number>(
    'renameat2',
    'int',
    ['int', 'uintptr_t', 'int', 'uintptr_t', 'uint'],
  ),
  fchmod: libc<(fd: Fd, mode: number) => number>('fchmod', 'int', ['int', 'uint']),
  chmod: libc<(path: number, mode: number) => number>('chmod', 'int', ['uintptr_t', 'uint']),
  fchownat: libc<(fd: Fd, path: number, uid: number, gid: number, flags: number) => number>(
    'fchownat',
    'int',
    ['int', 'uintptr_t', 'uint', 'uint', 'int'],
  ),
  utimensat: libc<(fd: Fd, path: number, times: number, flags: number) => number>('utimensat', 'int', [
    'int',
    'uintptr_t',
    'uintptr_t',
    'int',
  ]),
  truncate: libc<(path: number, length: number) => number>('truncate', 'int', ['uintptr_t', 'int64_t']),
  // As of `preadv2`, the count is an `int`.
  pwritev2: libc<(fd: Fd, iov: number, count: number, offset: number, flags: number) => number>(
    'pwritev2',
    'int',
    ['int', 'uintptr_t', 'int', 'int64_t', 'int'],
  ),
  pread: libc<(fd: Fd, target: number, size: number, offset: number) => number>('pread', 'int', [
    'int',
    'uintptr_t',
    'size_t',
    'int64_t',
  ]),
  pwrite: libc<(fd: Fd, source: number, size: number, offset: number) => number>('pwrite', 'int', [
    'int',
    'uintptr_t',
    'size_t',
    'int64_t',
  ]),
  fsync: libc<(fd: Fd) => number>('fsync', 'int', ['int']),
  fdatasync: libc<(fd: Fd) => number>('fdatasync', 'int', ['int']),
  syncfs: libc<(fd: Fd) => number>('syncfs', 'int', ['int']),
  fallocate: libc<(fd: Fd, mode: number, offset: number, length: number) => number>('fallocate', 'int', [
    'int',
    'int',
    'int64_t',
    'int64_t',
  ]),
  copyFileRange: libc<
    (fd: Fd, offset: number, toFd: Fd, toOffset: number, length: number, flags: number) => number
  >('copy_file_range', 'intptr_t', ['int', 'uintptr_t', 'int', 'uintptr_t', 'size_t', 'uint']),
  flock: libc<(fd: Fd, operation: number) => number>('flock', 'int', ['int', 'int']),
  dup: libc<(fd: Fd) => number>('dup', 'int', ['int']),
  umask: libc<(mask: number) => number>('umask', 'uint', ['uint']),
  syscall: libc<(number: number, a: number, b: number, c: number, d: number, e: number, f: number) => number>(
    'syscall',
    'int64_t',
    ['int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t', 'int64_t'],
  ),
};

/** open(2) of a path given as text. For set-up, never for names that a guest chose. */
export function open(path: string, flags: number, mode = 0): Fd {
  return result(native.open(path, flags | O.CLOEXEC, mode)) as Fd;
}

/** openat(2); the descriptor is closed on exec. */
export function openat(fd: Fd, path: number, flags: number, mode: number): Fd {
  return result(calls.openat(fd, path, flags | O.CLOEXEC, mode)) as Fd;
}

const SYS_OPENAT2 = 437;

/**
 * openat2(2). `how` is the address of a `struct open_how` of 24 bytes: flags, mode, resolve, each
 * 64 bits.
 */
export function openat2(fd: Fd, path: number, how: number): Fd {
  return syscall(SYS_OPENAT2, fd, path, how, 24) as Fd;
}

/** close(2). The descriptor is gone whatever it returns. */
export function close(fd: Fd): number {
  return result(native.close(fd));
}

/** dup(2), closed on exec. */
export function dup(fd: Fd): Fd {
  return result(native.fcntl(fd, F_DUPFD_CLOEXEC, 0)) as Fd;
}

/** statx(2) into `target`, 256 bytes. */
export function statx(fd: Fd, path: number, flags: number, mask: number, target: number): number {
  return result(calls.statx(fd, path, flags, mask, target));
}

export const SYS_FSTAT = arm64 ? 80 : 5;

/**
 * Offsets in the `struct stat` of the system call, <asm/stat.h> of x86-64 and <asm-generic/stat.h>.
 */
export const STAT = {
  DEV: 0,
  INO: 8,
  MODE: arm64 ? 16 : 24,
  NLINK: arm64 ? 20 : 16,
  UID: arm64 ? 24 : 28,
  GID: arm64 ? 28 : 32,
  RDEV: arm64 ? 32 : 40,
  SIZE: 48,
  BLKSIZE: 56,
  BLOCKS: 64,
  ATIME: 72,
  MTIME: 88,
  CTIME: 104,
} as const;

/** Offsets in `struct statx`, <linux/stat.h>. */
export const STATX_FIELD = {
  MASK: 0,
  BLKSIZE: 4,
  NLINK: 16,
  UID: 20,
  GID: 24,
  MODE: 28,
  INO: 32,
  SIZE: 40,
  BLOCKS: 48,
  ATIME: 64,
  BTIME: 80,
  CTIME: 96,
  MTIME: 112,
  RDEV_MAJOR: 128,
  RDEV_MINOR: 132,
  DEV_MAJOR: 136,
  DEV_MINOR: 140,
  MOUNT_ID: 144,
} as const;

/**
 * fstat(2), the system call itself, into `target`, 144 bytes. It returns less than {@link statx},
 * and costs less.
 */
export function fstat(fd: Fd, target: number): number {
  return result(calls.syscall2(SYS_FSTAT, fd, target));
}

/** fsync(2), at once: where it has nothing to wait for. */
export function fsync(fd: Fd): number {
  return result(calls.fsync(fd));
}

/** fdatasync(2), as {@link fsync}. */
export function fdatasync(fd: Fd): number {
  return result(calls.fdatasync(fd));
}

/** fstatfs(2) into `target`, 120 bytes. */
export function fstatfs(fd: Fd, target: number): number {
  return result(calls.fstatfs(fd, target));
}

/** readlinkat(2): bytes placed, without terminator. */
export function readlinkat(fd: Fd, path: number, target: number, size: number): number {
  return result(calls.readlinkat(fd, path, target, size));
}

/** getdents64(2): bytes placed, 0 at the end. */
export function getdents64(fd: Fd, target: number, size: number): number {
  return result(calls.getdents64(fd, target, size));
}

/** lseek(2): the new offset. */
export function lseek(fd: Fd, offset: number, whence: number): number {
  return result(calls.lseek(fd, offset, whence));
}

export function mkdirat(fd: Fd, path: number, mode: number): number {
  return result(calls.mkdirat(fd, path, mode));
}

/** mknodat(2). `device` as `makedev` of <sys/sysmacros.h> encodes. */
export function mknodat(fd: Fd, path: number, mode: number, device: number): number {
  return result(calls.mknodat(fd, path, mode, device));
}

export function symlinkat(target: number, fd: Fd, path: number): number {
  return result(calls.symlinkat(target, fd, path));
}

export function linkat(fd: Fd, path: number, toFd: Fd, toPath: number, flags: number): number {
  return result(calls.linkat(fd, path, toFd, toPath, flags));
}

export function unlinkat(fd: Fd, path: number, flags: number): number {
  return result(calls.unlinkat(fd, path, flags));
}

export function renameat2(fd: Fd, path: number, toFd: Fd, toPath: number, flags: number): number {
  return result(calls.renameat2(fd, path, toFd, toPath, flags));
}

export function fchmod(fd: Fd, mode: number): number {
  return result(calls.fchmod(fd, mode));
}

/** chmod(2). Follows symbolic links: for paths below /proc/self/fd. */
export function chmod(path: number, mode: number): number {
  return result(calls.chmod(path, mode));
}

/** fchownat(2). 2^32-1 leaves an id as it is. */
export function fchownat(fd: Fd, path: number, uid: number, gid: number, flags: number): number {
  return result(calls.fchownat(fd, path, uid, gid, flags));
}

/** utimensat(2). `times` are two `struct timespec`, 32 bytes. */
export function utimensat(fd: Fd, path: number, times: number, flags: number): number {
  return result(calls.utimensat(fd, path, times, flags));
}

export function ftruncate(fd: Fd, length: number): number {
  return result(native.ftruncate(fd, length));
}

/** truncate(2). Follows symbolic links: for paths below /proc/self/fd. */
export function truncate(path: number, length: number): number {
  return result(calls.truncate(path, length));
}

/** preadv2(2): bytes read. */
export function preadv2(fd: Fd, iov: number, count: number, offset: number, flags: number): number {
  return result(native.preadv2(fd, iov, count, offset, flags));
}

/** pwritev2(2): bytes written. */
export function pwritev2(fd: Fd, iov: number, count: number, offset: number, flags: number): number {
  return result(calls.pwritev2(fd, iov, count, offset, flags));
}

/** pread(2): bytes read. Costs less than {@link preadv2} of one piece. */
export function pread(fd: Fd, target: number, size: number, offset: number): number {
  return result(calls.pread(fd, target, size, offset));
}

/** pwrite(2): bytes written. */
export function pwrite(fd: Fd, source: number, size: number, offset: number): number {
  return result(calls.pwrite(fd, source, size, offset));
}

/** fallocate(2). */
export function fallocate(fd: Fd, mode: number, offset: number, length: number): number {
  return result(calls.fallocate(fd, mode, offset, length));
}

/**
 * copy_file_range(2): bytes copied. The offsets are addresses of 64-bit integers, which advance.
 */
export function copyFileRange(fd: Fd, offset: number, toFd: Fd, toOffset: number, length: number): number {
  return result(calls.copyFileRange(fd, offset, toFd, toOffset, length, 0));
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Takes an exclusive lock, flock(2), on an open file or directory, without waiting. EAGAIN: another
 * open file description has it locked.
 */
export function lockExclusively(fd: Fd): number {
  return result(calls.flock(fd, LOCK_EX | LOCK_NB));
}

/** Sets the process's umask and returns the former one. */
export function umask(mask: number): number {
  return calls.umask(mask);
}

const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;

/** Status flags of an open file (F_GETFL). */
export function getStatusFlags(fd: Fd): number {
  return result(native.fcntl(fd, F_GETFL, 0));
}

/** Sets the status flags of an open file: APPEND, DIRECT, NOATIME, NONBLOCK (F_SETFL). */
export function setStatusFlags(fd: Fd, flags: number): number {
  return result(native.fcntl(fd, F_SETFL, flags));
}

/**
 * A system call by its number, for those that the C library lacks or wraps (it applies set*id to
 * all threads).
 */
export function syscall(number: number, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0): number {
  return result(calls.syscall(number, a, b, c, d, e, f));
}

/** The same calls on a thread of libuv's pool, because they may take long. */
export const preadv2Later = deferred(native.preadv2);
export const pwritev2Later = deferred(calls.pwritev2);
export const fsyncLater = deferred(calls.fsync);
export const fdatasyncLater = deferred(calls.fdatasync);
export const syncfsLater = deferred(calls.syncfs);
export const ftruncateLater = deferred(native.ftruncate);
export const closeLater = deferred(native.close);
export const fallocateLater = deferred(calls.fallocate);
export const copyFileRangeLater = deferred(calls.copyFileRange);
