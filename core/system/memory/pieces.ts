import { EAGAIN } from '../calls/errno.js';
import { lseek, pread, preadv2, pwrite, pwritev2 } from '../calls/files.js';

const SEEK_END = 2;

/** Memory in one piece or more, for one transfer. The buffers of backends are such. */
export interface Pieces {
  /** Bytes of all pieces. */
  readonly length: number;
  /** Of the first piece. */
  readonly address: number;
  /**
   * Address of an array of `struct iovec`. Made when it is asked for, so that one piece does
   * without.
   */
  readonly iov: number;
  /** Entries in that array. */
  readonly iovCount: number;
}

/** Reads by the cheapest call. @param flags of preadv2(2). @returns bytes, or minus the errno. */
export function readInto(fd: number, pieces: Pieces, offset: number, flags: number): number {
  return pieces.iovCount === 1 && flags === 0
    ? pread(fd, pieces.address, pieces.length, offset)
    : preadv2(fd, pieces.iov, pieces.iovCount, offset, flags);
}

/**
 * Whether a read that must not wait (RWF_NOWAIT of preadv2(2)), and gave less than it was asked
 * for, is to be continued by one that may wait. It ends early at pages that are not in memory, as
 * any read does at the end of the file. Only the file's size tells the two apart.
 * @param count bytes that it gave, or minus the errno.
 */
export function mustReadOn(fd: number, offset: number, count: number): boolean {
  return count < 0 ? count === EAGAIN : offset + count < lseek(fd, 0, SEEK_END);
}

/** Writes by the cheapest call. @returns bytes, or minus the errno. */
export function writeFrom(fd: number, pieces: Pieces, offset: number): number {
  return pieces.iovCount === 1
    ? pwrite(fd, pieces.address, pieces.length, offset)
    : pwritev2(fd, pieces.iov, pieces.iovCount, offset, 0);
}
