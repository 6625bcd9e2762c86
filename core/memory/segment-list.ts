import type { GuestBuffer } from '../backend/index.js';
import type { Window } from '../system/index.js';
import { allocateIov, IOV_MAX, type IovArray, releaseIov, setEntry } from './iov.js';
import { SegmentWindow } from './segment-window.js';
import type { WindowSource } from './windows.js';

/** Up to so many bytes a loop is faster than `TypedArray.set`, which needs a `subarray` first. */
const LOOP_LIMIT_BYTES = 256;

const NOWHERE: Window = {
  start: -1,
  end: -1,
  u8: new Uint8Array(0),
  u16: new Uint16Array(0),
  u32: new Uint32Array(0),
};

/**
 * A list of memory segments, used as one sequence of bytes. It is reused for one request after
 * another.
 *
 * Offsets count from the first byte. The guest can change the memory at any time, so two reads of
 * the same byte may differ.
 */
export class SegmentList implements GuestBuffer {
  /** All bytes of the list, below 2^32. */
  length = 0;
  /** The number of segments. None of them is empty or begins where the one before it ends. */
  count = 0;

  readonly #memory: WindowSource;
  /** Host address of each segment. */
  #addresses: Float64Array;
  /** Offset of each segment, followed by the length of the list. */
  #starts: Float64Array;
  /** The iovec array of {@link iovOf}. */
  #iov: IovArray | undefined;
  /** The host address at which the last segment ends, or -1. */
  #end = -1;
  /** The index of the segment found last, and the memory window used last. */
  #cursor = 0;
  #window: Window = NOWHERE;
  #data: SegmentWindow = new SegmentWindow(this);
  #slices: IovArray[] | undefined;
  #segments: Uint8Array[] | undefined;

  /** @param memory where the segments lie. */
  constructor(memory: WindowSource, entries = 64) {
    this.#memory = memory;
    this.#addresses = new Float64Array(entries);
    this.#starts = new Float64Array(entries + 1);
  }

  /**
   * Address of an iovec array over the whole list. It overwrites the one of {@link window}.
   */
  get iov(): number {
    return this.iovOf(0, this.length, 0, this.count);
  }

  get address(): number {
    return this.#addresses[0]!;
  }

  /** Bytes of the first segment; 0 for an empty list. */
  get firstLength(): number {
    return this.count === 0 ? 0 : this.#starts[1]!;
  }

  get iovCount(): number {
    return this.count;
  }

  get segments(): readonly Uint8Array[] {
    return (this.#segments ??= this.arrays(0, this.length));
  }

  /**
   * Appends a segment, which must lie in mapped memory. An empty one is left out. One that begins
   * where the last one ends is merged with it, since system calls are faster with fewer segments;
   * the pages of a large buffer are often adjacent.
   * @returns false if the list would exceed 1024 segments or 2^32 - 1 bytes. It is unchanged then.
   */
  push(address: number, length: number): boolean {
    if (length === 0) return true;
    const index = this.count;
    const end = this.length + length;
    if (end > 0xffffffff) return false;
    if (address === this.#end) {
      this.#end = address + length;
      this.#starts[index] = end;
      this.length = end;
      return true;
    }
    if (index === this.#addresses.length && !this.#grow()) return false;
    this.#end = address + length;
    this.#addresses[index] = address;
    this.#starts[index + 1] = end;
    this.count = index + 1;
    this.length = end;
    return true;
  }

  /** Empties the list. Its window and slices become invalid. */
  clear(): void {
    this.count = 0;
    this.length = 0;
    this.#end = -1;
    this.#cursor = 0;
    this.#segments = undefined;
    if (this.#slices !== undefined) this.#endSlices(this.#slices);
  }

  /** Empties the list and frees its native memory. The list must not be used again. */
  close(): void {
    this.clear();
    if (this.#iov !== undefined) releaseIov(this.#iov);
    this.#iov = undefined;
  }

  /**
   * Gives up the iovec arrays and the {@link window} that the list has handed out, without reusing
   * them: an abandoned request may still use them, for example in a system call on a thread. The
   * window becomes empty.
   */
  leaveArrays(): void {
    this.#iov = undefined;
    this.#data.set(0, 0, 0, 0, 0);
    this.#data = new SegmentWindow(this);
    this.#slices = undefined;
  }

  /** The host address of segment `index`. */
  segmentAddress(index: number): number {
    return this.#addresses[index]!;
  }

  /** The bytes of segment `index`. */
  segmentLength(index: number): number {
    return this.#starts[index + 1]! - this.#starts[index]!;
  }

  /**
   * Copies `count` bytes from `offset` on into `target` from `start`.
   * @throws RangeError if either is too short.
   */
  copyOut(offset: number, target: Uint8Array, start: number, count: number): void {
    this.#check(offset, count);
    if (!(start >= 0 && start + count <= target.length)) throw new RangeError('target too short');
    while (count > 0) {
      const index = this.#find(offset);
      const address = this.#addresses[index]! + offset - this.#starts[index]!;
      const window = this.#windowAt(address);
      const bytes = Math.min(count, this.#starts[index + 1]! - offset, window.end - address);
      copy(target, start, window.u8, address - window.start, bytes);
      offset += bytes;
      start += bytes;
      count -= bytes;
    }
  }

  /**
   * Copies `count` bytes of `source` from `start` into the list at `offset`.
   * @throws RangeError if either is too short.
   */
  copyIn(offset: number, source: Uint8Array, start: number, count: number): void {
    this.#check(offset, count);
    if (!(start >= 0 && start + count <= source.length)) throw new RangeError('source too short');
    while (count > 0) {
      const index = this.#find(offset);
      const address = this.#addresses[index]! + offset - this.#starts[index]!;
      const window = this.#windowAt(address);
      const bytes = Math.min(count, this.#starts[index + 1]! - offset, window.end - address);
      copy(window.u8, address - window.start, source, start, bytes);
      offset += bytes;
      start += bytes;
      count -= bytes;
    }
  }

  /**
   * As {@link copyOut}, by 32-bit words: copies `count` words from `offset` on into `target` from
   * index `start`. Faster for the small structures of the protocol.
   */
  copyWordsOut(offset: number, target: Uint32Array, start: number, count: number): void {
    this.#check(offset, count * 4);
    if (!(start >= 0 && start + count <= target.length)) throw new RangeError('target too short');
    if (count === 0) return;
    const index = this.#find(offset);
    const address = this.#addresses[index]! + offset - this.#starts[index]!;
    const window = this.#windowAt(address);
    const at = address - window.start;
    const end = offset + count * 4;
    if ((at & 3) === 0 && end <= this.#starts[index + 1]! && at + count * 4 <= window.end - window.start) {
      const words = window.u32;
      const from = at >>> 2;
      for (let i = 0; i < count; i++) target[start + i] = words[from + i]!;
    } else {
      const bytes = new Uint8Array(target.buffer, target.byteOffset + start * 4, count * 4);
      this.copyOut(offset, bytes, 0, bytes.length);
    }
  }

  /**
   * As {@link copyIn}, by 32-bit words. Where the words lie is found here once more, because a
   * method for both costs a LOOKUP 12 % and a GETATTR 6 %.
   */
  copyWordsIn(offset: number, source: Uint32Array, start: number, count: number): void {
    this.#check(offset, count * 4);
    if (!(start >= 0 && start + count <= source.length)) throw new RangeError('source too short');
    if (count === 0) return;
    const index = this.#find(offset);
    const address = this.#addresses[index]! + offset - this.#starts[index]!;
    const window = this.#windowAt(address);
    const at = address - window.start;
    const end = offset + count * 4;
    if ((at & 3) === 0 && end <= this.#starts[index + 1]! && at + count * 4 <= window.end - window.start) {
      const words = window.u32;
      const to = at >>> 2;
      for (let i = 0; i < count; i++) words[to + i] = source[start + i]!;
    } else {
      const bytes = new Uint8Array(source.buffer, source.byteOffset + start * 4, count * 4);
      this.copyIn(offset, bytes, 0, bytes.length);
    }
  }

  put(at: number, source: Uint8Array, start = 0, end = source.length): void {
    this.copyIn(at, source, start, end - start);
  }

  get(at: number, target: Uint8Array, start = 0, end = target.length): void {
    this.copyOut(at, target, start, end - start);
  }

  zero(at: number, length: number): void {
    this.#check(at, length);
    while (length > 0) {
      const index = this.#find(at);
      const address = this.#addresses[index]! + at - this.#starts[index]!;
      const window = this.#windowAt(address);
      const bytes = Math.min(length, this.#starts[index + 1]! - at, window.end - address);
      window.u8.fill(0, address - window.start, address - window.start + bytes);
      at += bytes;
      length -= bytes;
    }
  }

  slice(start: number, end = this.length): GuestBuffer {
    this.#check(start, end - start);
    const first = start === end ? 0 : this.#find(start);
    const count = start === end ? 0 : this.#find(end - 1) - first + 1;
    const iov = allocateIov(count);
    (this.#slices ??= []).push(iov);
    this.#describe(iov, start, end, first, count);
    const slice = new SegmentWindow(this);
    slice.set(start, end - start, this.#addressOf(start, first), first, count, iov.address);
    return slice;
  }

  /**
   * The part from `start` to `end`, as the buffer of a data request. A list has one such buffer,
   * which each call sets anew; an earlier one and all slices become invalid. Unlike {@link slice}
   * it allocates nothing, since it shares the list's iovec array.
   * @throws RangeError if it reaches beyond the end.
   */
  window(start: number, end: number): GuestBuffer {
    this.#check(start, end - start);
    if (this.#slices !== undefined) this.#endSlices(this.#slices);
    const data = this.#data;
    if (start === end) {
      data.set(start, 0, 0, 0, 0);
      return data;
    }
    const first = this.#find(start);
    const last = end === this.length ? this.count - 1 : this.#find(end - 1);
    data.set(start, end - start, this.#addressOf(start, first), first, last - first + 1);
    return data;
  }

  /**
   * Fills the list's iovec array with `length` bytes from `start` on, which lie in `count` segments
   * from `first` on.
   * @returns the array's address.
   */
  iovOf(start: number, length: number, first: number, count: number): number {
    let iov = this.#iov;
    if (iov === undefined || iov.capacity < count) {
      if (iov !== undefined) releaseIov(iov);
      iov = allocateIov(count);
      this.#iov = iov;
    }
    this.#describe(iov, start, start + length, first, count);
    return iov.address;
  }

  /**
   * The memory from `start` to `end` as arrays. Each segment is one array, or several if it crosses
   * memory windows.
   */
  arrays(start: number, end: number): Uint8Array[] {
    this.#check(start, end - start);
    const arrays: Uint8Array[] = [];
    while (start < end) {
      const index = this.#find(start);
      const address = this.#addresses[index]! + start - this.#starts[index]!;
      const window = this.#windowAt(address);
      const bytes = Math.min(end - start, this.#starts[index + 1]! - start, window.end - address);
      arrays.push(window.u8.subarray(address - window.start, address - window.start + bytes));
      start += bytes;
    }
    return arrays;
  }

  #endSlices(slices: readonly IovArray[]): void {
    for (const slice of slices) releaseIov(slice);
    this.#slices = undefined;
  }

  #check(offset: number, count: number): void {
    if (!(offset >= 0 && count >= 0 && offset + count <= this.length)) {
      throw new RangeError(`${count} bytes at ${offset} of a buffer of ${this.length}`);
    }
  }

  /** Index of the segment that holds the byte at an offset below the length. */
  #find(offset: number): number {
    const starts = this.#starts;
    let index = this.#cursor;
    if (offset < starts[index]!) index = 0;
    while (offset >= starts[index + 1]!) index += 1;
    this.#cursor = index;
    return index;
  }

  #windowAt(address: number): Window {
    const window = this.#window;
    if (address >= window.start && address < window.end) return window;
    return (this.#window = this.#memory.windowAt(address));
  }

  #addressOf(offset: number, index: number): number {
    return this.#addresses[index]! + offset - this.#starts[index]!;
  }

  /**
   * Fills an iovec array with the part of the list from `start` to `end`, which lies in `count`
   * segments from `first` on.
   */
  #describe(iov: IovArray, start: number, end: number, first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const index = first + i;
      const from = Math.max(start, this.#starts[index]!);
      const to = Math.min(end, this.#starts[index + 1]!);
      setEntry(iov, i, this.#addressOf(from, index), to - from);
    }
  }

  #grow(): boolean {
    const old = this.#addresses.length;
    if (old === IOV_MAX) return false;
    const capacity = Math.min(4 * old, IOV_MAX);
    const addresses = new Float64Array(capacity);
    addresses.set(this.#addresses);
    const starts = new Float64Array(capacity + 1);
    starts.set(this.#starts);
    this.#addresses = addresses;
    this.#starts = starts;
    return true;
  }
}

function copy(target: Uint8Array, to: number, source: Uint8Array, from: number, count: number): void {
  if (count <= LOOP_LIMIT_BYTES) {
    for (let i = 0; i < count; i++) target[to + i] = source[from + i]!;
  } else {
    target.set(source.subarray(from, from + count), to);
  }
}
