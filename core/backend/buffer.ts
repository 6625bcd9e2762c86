/**
 * The memory that a read fills or a write drains: the guest's own pages (or, over `/dev/fuse`, the
 * transport's buffer), never a copy. Valid until the method returns or the promise that it returned
 * settles; not afterwards.
 *
 * The guest may change the bytes at any time, even while they are read: copy what must be checked
 * before checking it.
 */
export interface GuestBuffer {
  /** Bytes. */
  readonly length: number;
  /** Address of an array of `struct iovec` that covers the buffer, for system calls. */
  readonly iov: number;
  /** Entries in that array, 0 to 1024. */
  readonly iovCount: number;
  /** Address of the first byte; where `iovCount` is 1, that of all of them in a row. */
  readonly address: number;
  /** The same memory as arrays, in order, empty ones left out. Made on first use. */
  readonly segments: readonly Uint8Array[];
  /**
   * Copies `source` from `start` to `end` into the buffer at `at`.
   * @throws RangeError if it does not fit.
   */
  put(at: number, source: Uint8Array, start?: number, end?: number): void;
  /**
   * Copies from the buffer at `at` into `target` from `start` to `end`.
   * @throws RangeError if there is too little.
   */
  get(at: number, target: Uint8Array, start?: number, end?: number): void;
  /** Zeroes `length` bytes from `at`. @throws RangeError if that is beyond the end. */
  zero(at: number, length: number): void;
  /** The part from `start` to `end`, with the same lifetime. */
  slice(start: number, end?: number): GuestBuffer;
}

/** Memory of the daemon's own that a backend reads into or writes from, as with a guest's. */
export interface HostBuffer extends GuestBuffer {
  /** The memory as one array. */
  readonly bytes: Uint8Array;
  /**
   * Gives the whole pages of 4 KiB within a range back to the system until they are written again;
   * the range then reads as zeros where it covered them. Absent: memory goes back by `close` alone.
   */
  discard?(start: number, end: number): void;
  /** Gives the memory back; the array is detached. */
  close(): void;
}
