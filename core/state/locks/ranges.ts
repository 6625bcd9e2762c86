import { LockType } from './types.js';

/** A locked range, both ends inclusive. Never changed once made. */
export interface Range {
  readonly start: bigint;
  readonly end: bigint;
  /** READ or WRITE. */
  readonly type: number;
}

/** A change that is worked out and not yet made. */
export interface RangeChange {
  /** Index of the first range that goes. */
  readonly at: number;
  /** How many go. */
  readonly remove: number;
  /** What comes instead, at most three. */
  readonly insert: readonly Range[];
  /** Some byte is afterwards locked less than before: others may get their locks. */
  readonly loosens: boolean;
}

/**
 * The record locks that one owner holds on one file: sorted, disjoint, and never two adjacent ranges of one type
 * (POSIX `fcntl`, F_SETLK: a new lock replaces the owner's old ones byte by byte).
 */
export class RangeList {
  readonly ranges: Range[] = [];
  /** How many of them are write locks. */
  #writes = 0;

  /** The first range that stands in the way of another owner's lock from `start` to `end`. */
  conflict(start: bigint, end: bigint, type: number): Range | undefined {
    if (type === LockType.READ && this.#writes === 0) return undefined;
    for (let i = this.#firstEndingFrom(start); i < this.ranges.length; i++) {
      const range = this.ranges[i]!;
      if (range.start > end) return undefined;
      if (type === LockType.WRITE || range.type === LockType.WRITE) return range;
    }
    return undefined;
  }

  /** Works out what locking (or with UNLOCK, unlocking) `start` to `end` changes. */
  plan(start: bigint, end: bigint, type: number): RangeChange {
    let first = this.#firstEndingFrom(start);
    let next = this.#firstStartingAfter(end, first);
    const insert: Range[] = [];
    const loosens = this.#loosens(first, next, type);
    let from = start;
    let to = end;

    const left = this.ranges[first];
    if (first < next && left!.start < start) {
      if (left!.type === type) from = left!.start;
      else insert.push({ start: left!.start, end: start - 1n, type: left!.type });
    } else {
      const before = this.ranges[first - 1];
      if (before !== undefined && before.type === type && before.end === start - 1n) {
        from = before.start;
        first -= 1;
      }
    }

    const right = this.ranges[next - 1];
    let rest: Range | undefined;
    if (next > 0 && right!.start <= end && right!.end > end) {
      if (right!.type === type) to = right!.end;
      else rest = { start: end + 1n, end: right!.end, type: right!.type };
    } else {
      const after = this.ranges[next];
      if (after !== undefined && after.type === type && after.start === end + 1n) {
        to = after.end;
        next += 1;
      }
    }

    if (type !== LockType.UNLOCK) insert.push({ start: from, end: to, type });
    if (rest !== undefined) insert.push(rest);
    return { at: first, remove: next - first, insert, loosens };
  }

  /** Makes a change that {@link plan} worked out on this same state. */
  apply(change: RangeChange): void {
    for (const range of this.ranges.splice(change.at, change.remove, ...change.insert)) {
      if (range.type === LockType.WRITE) this.#writes -= 1;
    }
    for (const range of change.insert) if (range.type === LockType.WRITE) this.#writes += 1;
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
