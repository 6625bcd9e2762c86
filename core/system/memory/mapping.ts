import { fstatSync } from 'node:fs';
import { sealAgainstShrinking } from './memfd.js';
import { PAGE_SIZE, Region, roundUp, WINDOW_SIZE } from './region.js';

/**
 * A part of a mapping that typed arrays can cover: at most 1 GiB, at host addresses from `start` up
 * to `end`.
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

/** Memory shared through a descriptor: a guest's memory, or a log of its writes. */
export class Mapping {
  /** Host address of the first byte asked for. */
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  /** In order of addresses, without gaps. */
  readonly windows: readonly Window[];
  readonly #region: Region;
  #holds = 0;
  #isOver = false;

  private constructor(region: Region, address: number, length: number) {
    this.#region = region;
    this.address = address;
    this.length = length;
    const windows: Window[] = [];
    const first = address - (address % PAGE_SIZE);
    for (let start = first; start < address + length; start += WINDOW_SIZE) {
      const end = Math.min(start + WINDOW_SIZE, address + length);
      const buffer = region.view(start, end - start);
      windows.push({
        start,
        end,
        u8: new Uint8Array(buffer),
        u16: new Uint16Array(buffer, 0, (end - start) >>> 1),
        u32: new Uint32Array(buffer, 0, (end - start) >>> 2),
      });
    }
    this.windows = windows;
  }

  /**
   * Maps `length` bytes from `offset` of a descriptor, shared and writable. The descriptor may be
   * closed afterwards. Touching memory beyond the end of a file kills a process (SIGBUS): the file
   * is sealed against shrinking if it can be.
   * @throws RangeError if they reach beyond the end of the file.
   * @throws SystemError if the descriptor cannot be mapped.
   */
  static map(fd: number, length: number, offset: number): Mapping {
    if (!Number.isSafeInteger(length) || !Number.isSafeInteger(offset) || length < 1 || offset < 0) {
      throw new RangeError(`cannot map ${length} bytes at offset ${offset}`);
    }
    sealAgainstShrinking(fd);
    const { size, blksize } = fstatSync(fd);
    if (offset + length > size) {
      throw new RangeError(`cannot map ${length} bytes at offset ${offset}: the file ends at ${size}`);
    }
    // hugetlbfs maps whole huge pages only and gives their size as its block size.
    const unit = blksize > PAGE_SIZE && (blksize & (blksize - 1)) === 0 ? blksize : PAGE_SIZE;
    const lead = offset % unit;
    const region = Region.shared(fd, roundUp(lead + length, unit), offset - lead);
    return new Mapping(region, region.address + lead, length);
  }

  /**
   * Memory that another thread of this process has mapped, and keeps mapped as long as it is used
   * here.
   */
  static at(address: number, length: number): Mapping {
    const first = address - (address % PAGE_SIZE);
    return new Mapping(Region.borrowed(first, address + length - first), address, length);
  }

  /** An ArrayBuffer over exactly a part of the mapping, at most 1 GiB, wherever windows begin. */
  view(address: number, length: number): ArrayBuffer {
    if (address < this.address || address + length > this.address + this.length) {
      throw new RangeError('view outside its mapping');
    }
    return this.#region.view(address, length);
  }

  /**
   * Has {@link unmap} wait for one more {@link letGo}: a thread may be in a system call on the
   * memory.
   */
  hold(): void {
    this.#holds += 1;
  }

  letGo(): void {
    this.#holds -= 1;
    if (this.#holds === 0 && this.#isOver) this.#region.release();
  }

  /**
   * Lets go of the memory, as soon as nobody holds it. Idempotent; the windows then show zeros that
   * nobody else sees.
   */
  unmap(): void {
    this.#isOver = true;
    if (this.#holds === 0) this.#region.release();
  }
}
