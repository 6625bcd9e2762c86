import type { Fd } from '../descriptors/fd.js';
import koffi from 'koffi';
import { check, libc, result } from '../calls/libc.js';

const mmap = libc<
  (address: number, length: number, protection: number, flags: number, fd: Fd, offset: number) => number
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
 * Private memory of this size or more may be backed by huge pages. To clear a whole one costs less
 * than the page faults that it saves.
 */
const HUGE_PAGE_BYTES = 2 ** 21;

/** Bytes of the smallest page. Addresses and lengths of regions are multiples of it. */
export const PAGE_SIZE = 4096;

/**
 * Largest view. Node 20 aborts on views above 4 GiB; half of 2^31 keeps every index a small
 * integer.
 */
export const LARGEST_VIEW = 2 ** 30;

/** A range of addresses is unmapped when its region is released and no view of it is left. */
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
 * An ArrayBuffer over foreign memory cannot be detached. If its memory were unmapped, one that is
 * still in use would point to nothing, or to something else. So fresh anonymous memory replaces a
 * released region at the same addresses. What backed the region is freed at once, and a
 * late access finds zeros that nothing else uses. The addresses are unmapped when the last view was
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
      result(mmap(0, length, PROT_READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1 as Fd, 0)),
      `mmap of ${length} bytes`,
    );
    // A kernel without huge pages refuses this advice, which does no harm.
    if (length >= HUGE_PAGE_BYTES) madvise(address, length, MADV_HUGEPAGE);
    return new Region(address, length);
  }

  /**
   * Maps a descriptor as shared memory. `offset` and `length` are as mmap(2) wants them.
   * @param huge whether the file is of huge pages. They are reserved at once, so that too few of
   * them are an error here and not at a later access.
   * @throws SystemError
   */
  static shared(fd: Fd, length: number, offset: number, huge: boolean): Region {
    const flags = MAP_SHARED | (huge ? 0 : MAP_NORESERVE);
    const address = check(
      result(mmap(0, length, PROT_READ_WRITE, flags, fd, offset)),
      `mmap of ${length} bytes at offset ${offset}`,
    );
    return new Region(address, length);
  }

  /**
   * A range that another thread of this process has mapped. That thread must keep it mapped as long
   * as it is used here.
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
   * Frees what backs the whole pages within a range of a private region. They read as zeros then.
   */
  discard(start: number, end: number): void {
    const from = roundUp(start, PAGE_SIZE);
    const length = end - (end % PAGE_SIZE) - from;
    if (this.#lifetime.released || start < 0 || end > this.length)
      throw new RangeError('range outside its region');
    if (length > 0) check(result(madvise(this.address + from, length, MADV_DONTNEED)), 'madvise');
  }

  /**
   * Makes a private region of machine code executable and read-only.
   * @returns false if the system does not allow that.
   */
  makeExecutable(): boolean {
    return result(mprotect(this.address, this.length, PROT_READ_EXEC)) === 0;
  }

  /** Frees what backs the region. Idempotent. */
  release(): void {
    if (this.#lifetime.released || this.#isBorrowed) return;
    this.#lifetime.released = true;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    check(
      result(mmap(this.address, this.length, PROT_READ_WRITE, flags, -1 as Fd, 0)),
      'mmap over a released region',
    );
    unmapIfUnused(this.#lifetime);
  }
}

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
