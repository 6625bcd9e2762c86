import type { Fd } from '../descriptors/fd.js';
import { libc } from './libc.js';

/**
 * Functions of the C library that several files call. They return -1 where they fail, and the errno
 * is read by `result`. Pointers are addresses in native memory; a `str` is text for set-up, never a
 * name that a guest chose.
 */
export const native = {
  open: libc<(path: string, flags: number, mode: number) => Fd>('open', 'int', ['str', 'int', 'int']),
  close: libc<(fd: Fd) => number>('close', 'int', ['int']),
  read: libc<(fd: Fd, target: number, count: number) => number>('read', 'intptr_t', [
    'int',
    'uintptr_t',
    'size_t',
  ]),
  write: libc<(fd: Fd, source: number, count: number) => number>('write', 'intptr_t', [
    'int',
    'uintptr_t',
    'size_t',
  ]),
  // Linux moves 0x7ffff000 bytes at most in one call, read(2): the count is an `int`, which costs
  // less than 64 bits.
  preadv2: libc<(fd: Fd, iov: number, count: number, offset: number, flags: number) => number>(
    'preadv2',
    'int',
    ['int', 'uintptr_t', 'int', 'int64_t', 'int'],
  ),
  send: libc<(fd: Fd, source: number, count: number, flags: number) => number>('send', 'intptr_t', [
    'int',
    'uintptr_t',
    'size_t',
    'int',
  ]),
  poll: libc<(fds: number, count: number, timeoutMs: number) => number>('poll', 'int', [
    'uintptr_t',
    'size_t',
    'int',
  ]),
  fcntl: libc<(fd: Fd, command: number, argument: number) => number>('fcntl', 'int', ['int', 'int', 'int']),
  ftruncate: libc<(fd: Fd, length: number) => number>('ftruncate', 'int', ['int', 'int64_t']),
  memfdCreate: libc<(name: string, flags: number) => number>('memfd_create', 'int', ['str', 'uint']),
  epollCreate: libc<(flags: number) => number>('epoll_create1', 'int', ['int']),
  epollCtl: libc<(epoll: Fd, operation: number, fd: Fd, event: number) => number>('epoll_ctl', 'int', [
    'int',
    'int',
    'int',
    'uintptr_t',
  ]),
  mount: libc<(source: string, target: string, type: string, flags: number, data: string) => number>(
    'mount',
    'int',
    ['str', 'str', 'str', 'uint64_t', 'str'],
  ),
  umount2: libc<(target: string, flags: number) => number>('umount2', 'int', ['str', 'int']),
};

/** Flags of umount2(2). */
export const UMOUNT = { DETACH: 2, NOFOLLOW: 8 } as const;
