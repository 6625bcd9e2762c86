import type { GuestBuffer } from '../backend/index.js';
import type { SegmentList } from './segment-list.js';

/** A part of a segment list. */
export class SegmentWindow implements GuestBuffer {
  length = 0;
  address = 0;
  iovCount = 0;
  readonly #list: SegmentList;
  #start = 0;
  #first = 0;
  /** Address of the window's own iovec array, or 0 if it shares the list's. */
  #iov = 0;
  #segments: readonly Uint8Array[] | undefined;

  constructor(list: SegmentList) {
    this.#list = list;
  }

  /**
   * Sets the window to `length` bytes of its list from `start` on. They begin at host address
   * `address` and lie in `count` segments from `first` on.
   */
  set(start: number, length: number, address: number, first: number, count: number, iov = 0): void {
    this.#start = start;
    this.length = length;
    this.address = address;
    this.#first = first;
    this.iovCount = count;
    this.#iov = iov;
    this.#segments = undefined;
  }

  get iov(): number {
    return this.#iov !== 0
      ? this.#iov
      : this.#list.iovOf(this.#start, this.length, this.#first, this.iovCount);
  }

  get segments(): readonly Uint8Array[] {
    return (this.#segments ??= this.#list.arrays(this.#start, this.#start + this.length));
  }

  put(at: number, source: Uint8Array, start = 0, end = source.length): void {
    this.#check(at, end - start);
    this.#list.copyIn(this.#start + at, source, start, end - start);
  }

  get(at: number, target: Uint8Array, start = 0, end = target.length): void {
    this.#check(at, end - start);
    this.#list.copyOut(this.#start + at, target, start, end - start);
  }

  zero(at: number, length: number): void {
    this.#check(at, length);
    this.#list.zero(this.#start + at, length);
  }

  slice(start: number, end = this.length): GuestBuffer {
    this.#check(start, end - start);
    return this.#list.slice(this.#start + start, this.#start + end);
  }

  #check(at: number, count: number): void {
    if (!(at >= 0 && count >= 0 && at + count <= this.length)) {
      throw new RangeError(`${count} bytes at ${at} of a buffer of ${this.length}`);
    }
  }
}
