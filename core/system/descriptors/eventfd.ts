import type { Fd } from './fd.js';
import { check, libc, result } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { NativeMemory } from '../memory/native-memory.js';
import { OwnedFd } from './owned-fd.js';

const { fcntl, read, write } = native;
const makeEventfd = libc<(initial: number, flags: number) => number>('eventfd', 'int', ['uint', 'int']);

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;

const counters = NativeMemory.allocate(16);
const ONE = counters.address;
const SINK = counters.address + 8;
counters.u32[0] = 1;

/** A new eventfd, non-blocking and closed on exec. @throws SystemError */
export function eventfd(): OwnedFd {
  return new OwnedFd(check(result(makeEventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), 'eventfd') as Fd);
}

/** Adds 1 to an eventfd: 8, or minus the errno (EAGAIN: its counter is at its maximum). */
export function signal(fd: Fd): number {
  return result(write(fd, ONE, 8));
}

/**
 * Takes the count of a non-blocking eventfd: 8, or minus the errno (EAGAIN: it was not signalled).
 */
export function drain(fd: Fd): number {
  return result(read(fd, SINK, 8));
}

/** Makes an open file non-blocking, for all who share it: 0, or minus the errno. */
export function setNonBlocking(fd: Fd): number {
  const flags = result(fcntl(fd, F_GETFL, 0));
  if (flags < 0 || (flags & O_NONBLOCK) !== 0) return Math.min(flags, 0);
  return result(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}
