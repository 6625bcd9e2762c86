import koffi from 'koffi';
import { check, libc, result } from '../calls/libc.js';

const mmap = libc<
  (address: number, length: number, protection: number, flags: number, fd: number, offset: number) => number
>('mmap', 'intptr_t', ['uintptr_t', 'size_t', 'int', 'int', 'int', 'int64_t']);
const munmap = libc<(address: number, length: number) => number>('munmap', 'int', ['uintptr_t', 'size_t']);

const madvise = libc<(address: number, length: number, advice: number) => number>('madvise', 'int', [
  'uintptr_t',
  'size_t',
  'int',
]);

const mprotect = libc<(address: number, length: number, protection: number) => number>('mprotect', 'int', [
  'uintptr_t',
  'size_t',
  'int',
]);

const PROT_READ_WRITE = 3;
const PROT_READ_EXEC = 5;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;

const MADV_DONTNEED = 4;
const MADV_HUGEPAGE = 14;

/**
 * From this size on private memory may be backed by huge pages: a fault costs more than clearing
 * the rest of one does.
 */
const HUGE_PAGE = 2 ** 21;

/** The smallest page; addresses and lengths of regions are multiples of it. */
export const PAGE_SIZE = 4096;

/**
 * Largest view. Node 20 aborts on views above 4 GiB; half of 2^31 keeps every index a small
 * integer.
 */
export const LARGEST_VIEW = 2 ** 30;

/** What must still happen before a region's addresses may be used for something else. */
interface Lifetime {
  readonly address: number;
  readonly length: number;
  views: number;
  released: boolean;
}

const collected = new FinalizationRegistry<Lifetime>((lifetime) => {
  lifetime.views -= 1;
  unmapIfUnused(lifetime);
});

function unmapIfUnused(lifetime: Lifetime): void {
  if (lifetime.released && lifetime.views === 0) munmap(lifetime.address, lifetime.length);
}

/**
 * A range of mapped addresses, and the ArrayBuffers over it.
 *
 * An ArrayBuffer made over foreign memory cannot be detached, so that one that is still held
 * somewhere would turn into a wild pointer when its memory is unmapped. A released region is
 * therefore replaced in place by fresh anonymous memory: what backed it is let go at once, a late
 * access finds zeros that nobody else uses, and the addresses are given back when the last view was
 * collected.
 */
export class Region {
  readonly address: number;
  readonly length: number;
  readonly #lifetime: Lifetime;
  #isBorrowed = false;

  private constructor(address: number, length: number) {
    this.address = address;
    this.length = length;
    this.#lifetime = { address, length, views: 0, released: false };
  }

  /** Private zeroed memory. @throws SystemError */
  static anonymous(bytes: number): Region {
    const length = roundUp(bytes, PAGE_SIZE);
    const address = check(
      result(mmap(0, length, PROT_READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)),
      `mmap of ${length} bytes`,
    );
    // Advice: a kernel without huge pages refuses it, and nothing is lost.
    if (length >= HUGE_PAGE) madvise(address, length, MADV_HUGEPAGE);
    return new Region(address, length);
  }

  /**
   * Shared memory of a descriptor; `offset` and `length` as mmap(2) wants them.
   * @param huge it is of huge pages, which are reserved at once: where there are not enough, that
   * fails here rather than when they are touched.
   * @throws SystemError
   */
  static shared(fd: number, length: number, offset: number, huge: boolean): Region {
    const flags = MAP_SHARED | (huge ? 0 : MAP_NORESERVE);
    const address = check(
      result(mmap(0, length, PROT_READ_WRITE, flags, fd, offset)),
      `mmap of ${length} bytes at offset ${offset}`,
    );
    return new Region(address, length);
  }

  /**
   * A range that another thread of this process has mapped, and keeps mapped as long as this one
   * looks there.
   */
  static borrowed(address: number, length: number): Region {
    const region = new Region(address, length);
    region.#isBorrowed = true;
    return region;
  }

  /** An ArrayBuffer over a part of the region. */
  view(address: number, length: number): ArrayBuffer {
    if (this.#lifetime.released || address < this.address || address + length > this.address + this.length) {
      throw new RangeError('view outside its region');
    }
    const buffer = koffi.view(address, length);
    if (this.#isBorrowed) return buffer;
    this.#lifetime.views += 1;
    collected.register(buffer, this.#lifetime);
    return buffer;
  }

  /**
   * Lets go of what backs the whole pages within a range of a private region; they read as zeros
   * then.
   */
  discard(start: number, end: number): void {
    const from = roundUp(start, PAGE_SIZE);
    const length = end - (end % PAGE_SIZE) - from;
    if (this.#lifetime.released || start < 0 || end > this.length)
      throw new RangeError('range outside its region');
    if (length > 0) check(result(madvise(this.address + from, length, MADV_DONTNEED)), 'madvise');
  }

  /**
   * Ends writing to a private region, whose content is machine code.
   * @returns false where the system does not allow that.
   */
  makeExecutable(): boolean {
    return result(mprotect(this.address, this.length, PROT_READ_EXEC)) === 0;
  }

  /** Lets go of the memory. Idempotent. */
  release(): void {
    if (this.#lifetime.released || this.#isBorrowed) return;
    this.#lifetime.released = true;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    check(
      result(mmap(this.address, this.length, PROT_READ_WRITE, flags, -1, 0)),
      'mmap over a released region',
    );
    unmapIfUnused(this.#lifetime);
  }
}

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
