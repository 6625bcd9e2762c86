import type { Fd } from '../descriptors/fd.js';
import { EAGAIN } from './negative-errno.js';
import { lseek, pread, preadv2, pwrite, pwritev2 } from './files.js';

const SEEK_END = 2;

/** The memory of one read or write, in one or more pieces, such as a backend's buffer. */
export interface Pieces {
  /** Bytes of all pieces. */
  readonly length: number;
  /** Address of the first piece. */
  readonly address: number;
  /**
   * Address of an array of `struct iovec`. The array is made when this is read, so read it only if
   * there are several pieces.
   */
  readonly iov: number;
  /** Entries in that array. */
  readonly iovCount: number;
}

/**
 * Reads by the cheapest system call.
 * @param flags of preadv2(2).
 * @returns bytes, or minus the errno.
 */
export function readInto(fd: Fd, pieces: Pieces, offset: number, flags: number): number {
  return pieces.iovCount === 1 && flags === 0
    ? pread(fd, pieces.address, pieces.length, offset)
    : preadv2(fd, pieces.iov, pieces.iovCount, offset, flags);
}

/**
 * Whether a read that must not wait (RWF_NOWAIT of preadv2(2)) has to be continued by one that may
 * wait. It has returned less than it was asked for, either because the next page is not in memory,
 * or because the file ends there. Only the file's size tells the two apart.
 * @param count bytes that it returned, or minus the errno.
 */
export function mustReadOn(fd: Fd, offset: number, count: number): boolean {
  return count < 0 ? count === EAGAIN : offset + count < lseek(fd, 0, SEEK_END);
}

/** Writes by the cheapest system call. @returns bytes, or minus the errno. */
export function writeFrom(fd: Fd, pieces: Pieces, offset: number): number {
  return pieces.iovCount === 1
    ? pwrite(fd, pieces.address, pieces.length, offset)
    : pwritev2(fd, pieces.iov, pieces.iovCount, offset, 0);
}
