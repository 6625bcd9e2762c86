import { pread, preadv2, pwrite, pwritev2 } from '../calls/files.js';

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

/** Writes by the cheapest call. @returns bytes, or minus the errno. */
export function writeFrom(fd: number, pieces: Pieces, offset: number): number {
  return pieces.iovCount === 1
    ? pwrite(fd, pieces.address, pieces.length, offset)
    : pwritev2(fd, pieces.iov, pieces.iovCount, offset, 0);
}
