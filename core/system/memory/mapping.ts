import type { Fd } from '../descriptors/fd.js';
import { fstatSync } from 'node:fs';
import { guardRegion, type GuardedRegion } from './fault-guard.js';
import { whyNotMemory } from './foreign-memory.js';
import { sealAgainstShrinking } from './memfd.js';
import { LARGEST_VIEW, PAGE_SIZE, Region, roundUp } from './region.js';
import { canBeUncounted, leaveUncounted } from './v8-accounting.js';

/**
 * A part of a mapping that typed arrays can cover: at most 1 GiB. Its host addresses are those from
 * `start` on and before `end`.
 */
export interface Window {
  readonly start: number;
  readonly end: number;
  readonly u8: Uint8Array;
  /** Whole 16-bit words. `start` is page-aligned. */
  readonly u16: Uint16Array;
  /** Whole 32-bit words. */
  readonly u32: Uint32Array;
}

/**
 * Bytes of a window. V8 begins to collect garbage when it has counted 64 MiB, even if they are
 * subtracted from its count a moment later. If they can't be subtracted, it collects for each
 * window, however small, so windows are as large as possible.
 */
export const WINDOW_SIZE = canBeUncounted ? 2 ** 25 : LARGEST_VIEW;

/** Memory shared through a descriptor: a guest's memory, or a log of its writes. */
export class Mapping {
  /** Host address of the first byte asked for. */
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  readonly #region: Region;
  readonly #first: number;
  /** Each is made when it is first needed: a guest uses few of them, and each costs V8 time. */
  readonly #windows: (Window | undefined)[] = [];
  #guard: GuardedRegion | undefined;
  #holds = 0;
  #isOver = false;

  private constructor(region: Region, address: number, length: number) {
    this.#region = region;
    this.address = address;
    this.length = length;
    this.#first = address - (address % PAGE_SIZE);
    this.#windows.length = Math.ceil((address + length - this.#first) / WINDOW_SIZE);
  }

  /**
   * Maps `length` bytes from `offset` of a descriptor, shared and writable. The descriptor may be
   * closed afterwards. The file is sealed against shrinking, if it can be sealed: mapped memory
   * beyond the end of a file has no pages.
   * @param onLost called in a turn of the event loop after an access found a page missing. The
   * mapping is zeroed memory of this process then. Where `guardRegion` has no handler, SIGBUS ends
   * the process instead.
   * @throws RangeError if the bytes reach beyond the end of the file, or the file is no shared
   * memory (a memfd, or a file on tmpfs or hugetlbfs).
   * @throws SystemError if the descriptor cannot be mapped.
   */
  static map(fd: Fd, length: number, offset: number, onLost: () => void = ignore): Mapping {
    if (!Number.isSafeInteger(length) || !Number.isSafeInteger(offset) || length < 1 || offset < 0) {
      throw new RangeError(`cannot map ${length} bytes at offset ${offset}`);
    }
    const reason = whyNotMemory(fd);
    if (reason !== undefined)
      throw new RangeError(
        `cannot map the file: ${reason}; memory is shared by a memfd, or a file on tmpfs or hugetlbfs`,
      );
    sealAgainstShrinking(fd);
    const { size, blksize } = fstatSync(fd);
    if (offset + length > size) {
      throw new RangeError(`cannot map ${length} bytes at offset ${offset}: the file ends at ${size}`);
    }
    // hugetlbfs maps whole huge pages only and gives their size as its block size.
    const isHuge = blksize > PAGE_SIZE && (blksize & (blksize - 1)) === 0;
    const unit = isHuge ? blksize : PAGE_SIZE;
    const lead = offset % unit;
    const region = Region.shared(fd, roundUp(lead + length, unit), offset - lead, isHuge);
    const mapping = new Mapping(region, region.address + lead, length);
    try {
      mapping.#guard = guardRegion(region, onLost);
    } catch (error) {
      region.release();
      throw error;
    }
    return mapping;
  }

  /**
   * Memory that another thread of this process has mapped. That thread must keep it mapped as long
   * as it is used here.
   */
  static at(address: number, length: number): Mapping {
    const first = address - (address % PAGE_SIZE);
    return new Mapping(Region.borrowed(first, address + length - first), address, length);
  }

  /** The window that holds the byte at a host address of the mapping. */
  windowAt(address: number): Window {
    const index = Math.floor((address - this.#first) / WINDOW_SIZE);
    return this.#windows[index] ?? this.#open(index);
  }

  /** An ArrayBuffer over exactly a part of the mapping, at most 1 GiB, wherever windows begin. */
  view(address: number, length: number): ArrayBuffer {
    if (address < this.address || address + length > this.address + this.length) {
      throw new RangeError('view outside its mapping');
    }
    return this.#region.view(address, length);
  }

  /**
   * Has {@link unmap} wait for one more {@link letGo}, because a thread may be in a system call on
   * the memory.
   */
  hold(): void {
    this.#holds += 1;
  }

  letGo(): void {
    this.#holds -= 1;
    if (this.#holds === 0 && this.#isOver) this.#release();
  }

  /**
   * Releases the memory as soon as nobody holds it. Idempotent. The windows then show zeroed memory
   * that nothing else uses.
   */
  unmap(): void {
    this.#isOver = true;
    if (this.#holds === 0) this.#release();
  }

  #open(index: number): Window {
    const start = this.#first + index * WINDOW_SIZE;
    const end = Math.min(start + WINDOW_SIZE, this.address + this.length);
    if (!(end > start && index >= 0)) throw new RangeError('address outside its mapping');
    const buffer = this.#region.view(start, end - start);
    leaveUncounted(buffer);
    return (this.#windows[index] = {
      start,
      end,
      u8: new Uint8Array(buffer),
      u16: new Uint16Array(buffer, 0, (end - start) >>> 1),
      u32: new Uint32Array(buffer, 0, (end - start) >>> 2),
    });
  }

  #release(): void {
    this.#guard?.end();
    this.#guard = undefined;
    this.#region.release();
    this.#windows.length = 0;
  }
}

function ignore(): void {}
