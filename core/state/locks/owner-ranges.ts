import type { FileRanges, Numbered, Range } from './file-ranges.js';
import { LockType } from './request.js';

/** A change to an owner's ranges that is computed and not yet made. */
export interface RangeChange<O extends Numbered> {
  /** Index of the first range that is removed. */
  readonly at: number;
  /** How many ranges are removed. */
  readonly remove: number;
  /** The ranges that replace them, at most three. */
  readonly insert: readonly Range<O>[];
  /** Whether some byte is unlocked or becomes shared: other owners may get their locks then. */
  readonly loosens: boolean;
}

/**
 * The record locks that one owner holds on one file. They are sorted and disjoint, and adjacent
 * ranges of one type are merged (POSIX `fcntl`, F_SETLK: a new lock replaces the owner's old ones
 * byte by byte).
 */
export class OwnerRanges<O extends Numbered> {
  readonly ranges: Range<O>[] = [];
  readonly #owner: O;
  readonly #file: FileRanges<O>;

  constructor(owner: O, file: FileRanges<O>) {
    this.#owner = owner;
    this.#file = file;
  }

  /** Computes what changes by locking `start` to `end`, or unlocking with UNLOCK. */
  plan(start: bigint, end: bigint, type: number): RangeChange<O> {
    let first = this.#firstEndingFrom(start);
    let next = this.#firstStartingAfter(end, first);
    const owner = this.#owner;
    const insert: Range<O>[] = [];
    const loosens = this.#loosens(first, next, type);
    let from = start;
    let to = end;

    const left = this.ranges[first];
    if (first < next && left!.start < start) {
      if (left!.type === type) from = left!.start;
      else insert.push({ owner, start: left!.start, end: start - 1n, type: left!.type });
    } else {
      const before = this.ranges[first - 1];
      if (before !== undefined && before.type === type && before.end === start - 1n) {
        from = before.start;
        first -= 1;
      }
    }

    const right = this.ranges[next - 1];
    let rest: Range<O> | undefined;
    if (next > 0 && right!.start <= end && right!.end > end) {
      if (right!.type === type) to = right!.end;
      else rest = { owner, start: end + 1n, end: right!.end, type: right!.type };
    } else {
      const after = this.ranges[next];
      if (after !== undefined && after.type === type && after.start === end + 1n) {
        to = after.end;
        next += 1;
      }
    }

    if (type !== LockType.UNLOCK) insert.push({ owner, start: from, end: to, type });
    if (rest !== undefined) insert.push(rest);
    return { at: first, remove: next - first, insert, loosens };
  }

  /** Makes a change that {@link plan} has computed. The ranges must not have changed since. */
  apply(change: RangeChange<O>): void {
    this.#file.removeAll(this.ranges.splice(change.at, change.remove, ...change.insert));
    for (const range of change.insert) this.#file.add(range);
  }

  /** Removes the last ranges, at most so many. @returns what was removed. */
  removeLast(most: number): readonly Range<O>[] {
    const removed = this.ranges.splice(Math.max(0, this.ranges.length - most));
    this.#file.removeAll(removed);
    return removed;
  }

  #loosens(first: number, next: number, type: number): boolean {
    if (type === LockType.WRITE) return false;
    if (type === LockType.UNLOCK) return first < next;
    for (let i = first; i < next; i++) if (this.ranges[i]!.type === LockType.WRITE) return true;
    return false;
  }

  /** Index of the first range with `end >= position`. */
  #firstEndingFrom(position: bigint): number {
    let low = 0;
    let high = this.ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.ranges[middle]!.end < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Index of the first range with `start > position`, at or after `from`. */
  #firstStartingAfter(position: bigint, from: number): number {
    let low = from;
    let high = this.ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.ranges[middle]!.start <= position) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
