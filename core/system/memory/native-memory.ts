import type { Fd } from '../descriptors/fd.js';
import { Region } from './region.js';

const HIGH = 2 ** 32;

/**
 * Memory of the process outside the JavaScript heap. It does not move, so that its address may be
 * given to system calls. It is zeroed, page-aligned and private, unless it is made otherwise, and
 * exists until {@link free}.
 */
export class NativeMemory {
  readonly address: number;
  /** Bytes: what was asked for, rounded up to whole pages. */
  readonly length: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly #region: Region;

  private constructor(region: Region) {
    this.#region = region;
    this.address = region.address;
    this.length = region.length;
    const buffer = region.view(region.address, region.length);
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.i32 = new Int32Array(buffer);
  }

  /**
   * @param bytes 1 to 2^30.
   * @throws SystemError if there is not that much memory.
   */
  static allocate(bytes: number): NativeMemory {
    return new NativeMemory(Region.anonymous(bytes));
  }

  /**
   * Memory that other processes have, too: whole pages of a memfd, which is never shortened. It
   * must not be {@link discard}ed.
   * @throws SystemError
   */
  static shared(fd: Fd, bytes: number, offset: number): NativeMemory {
    return new NativeMemory(Region.shared(fd, bytes, offset, false));
  }

  /** Frees the whole pages within a range of bytes until they are written again. They read as 0. */
  discard(start: number, end: number): void {
    this.#region.discard(start, end);
  }

  /** Frees the memory. Idempotent. The views then show memory that nothing else uses. */
  free(): void {
    this.#region.release();
  }
}

/** Stores a number from 0 to 2^53-1, such as an address, in the words `at` and `at + 1`. */
export function putLong(words: Uint32Array, at: number, value: number): void {
  words[at] = value;
  words[at + 1] = value / HIGH;
}
