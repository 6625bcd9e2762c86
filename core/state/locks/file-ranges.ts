import { LockType } from './request.js';

/** An owner, which must have a unique number. */
export interface Numbered {
  readonly serial: number;
}

/** A locked range and its owner. Both ends are inclusive. It never changes. */
export interface Range<O extends Numbered> {
  readonly owner: O;
  readonly start: bigint;
  readonly end: bigint;
  /** READ or WRITE. */
  readonly type: number;
}

interface Chunk<O extends Numbered> {
  /** Never empty. */
  ranges: Range<O>[];
  maxEnd: bigint;
  writes: number;
}

const CHUNK_SIZE = 256;

/**
 * All locked ranges on a file, of all owners, in which conflicts are searched. They are sorted by
 * start, then by owner (no two ranges of an owner begin at the same byte). They lie in chunks of
 * 128 to 256, each of which knows its largest end: a search skips the chunks that do not overlap.
 */
export class FileRanges<O extends Numbered> {
  #chunks: Chunk<O>[] = [];

  add(range: Range<O>): void {
    const at = this.#chunkOf(range);
    const chunk = this.#chunks[at];
    if (chunk === undefined) {
      this.#chunks.push(measured([range]));
      return;
    }
    chunk.ranges.splice(place(chunk.ranges, range), 0, range);
    if (range.end > chunk.maxEnd) chunk.maxEnd = range.end;
    if (range.type === LockType.WRITE) chunk.writes += 1;
    if (chunk.ranges.length > CHUNK_SIZE) {
      const half = CHUNK_SIZE / 2;
      this.#chunks.splice(at, 1, measured(chunk.ranges.slice(0, half)), measured(chunk.ranges.slice(half)));
    }
  }

  /** Removes a range that was added. */
  remove(range: Range<O>): void {
    const at = this.#chunkOf(range);
    const chunk = this.#chunks[at]!;
    chunk.ranges.splice(place(chunk.ranges, range), 1);
    if (chunk.ranges.length === 0) this.#chunks.splice(at, 1);
    else if (range.end === chunk.maxEnd) this.#chunks[at] = measured(chunk.ranges);
    else if (range.type === LockType.WRITE) chunk.writes -= 1;
  }

  /**
   * Removes ranges that one owner has added: all that it has between the first and the last of
   * them, which are given in their order.
   */
  removeAll(ranges: readonly Range<O>[]): void {
    if (ranges.length < CHUNK_SIZE) {
      for (const range of ranges) this.remove(range);
      return;
    }
    const { owner, start: from } = ranges[0]!;
    const to = ranges.at(-1)!.start;
    const left: Chunk<O>[] = [];
    for (const chunk of this.#chunks) {
      const first = chunk.ranges[0]!.start;
      const last = chunk.ranges.at(-1)!.start;
      if (last < from || first > to) {
        left.push(chunk);
        continue;
      }
      const isWithin = first >= from && last <= to;
      const others = chunk.ranges.filter(
        (range) => range.owner !== owner || !(isWithin || (range.start >= from && range.start <= to)),
      );
      if (others.length > 0) left.push(measured(others));
    }
    this.#chunks = left;
  }

  /**
   * The ranges that conflict with a lock of `owner` from `start` to `end`, sorted by start. An
   * undefined owner is one that has no locks yet.
   */
  *conflicts(
    owner: O | undefined,
    start: bigint,
    end: bigint,
    type: number,
  ): Generator<Range<O>, void, undefined> {
    for (const chunk of this.#chunks) {
      if (chunk.ranges[0]!.start > end) return;
      if (chunk.maxEnd < start || (type === LockType.READ && chunk.writes === 0)) continue;
      for (const range of chunk.ranges) {
        if (range.start > end) return;
        if (range.end < start || range.owner === owner) continue;
        if (type === LockType.WRITE || range.type === LockType.WRITE) yield range;
      }
    }
  }

  /** The first of {@link conflicts}. */
  conflict(owner: O | undefined, start: bigint, end: bigint, type: number): Range<O> | undefined {
    for (const range of this.conflicts(owner, start, end, type)) return range;
    return undefined;
  }

  /** Index of the chunk in which a range is, or would be; 0 if there are no chunks. */
  #chunkOf(range: Range<O>): number {
    let low = 0;
    let high = this.#chunks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comesBefore(range, this.#chunks[middle]!.ranges[0]!)) high = middle;
      else low = middle + 1;
    }
    return Math.max(low - 1, 0);
  }
}

function comesBefore<O extends Numbered>(a: Range<O>, b: Range<O>): boolean {
  return a.start < b.start || (a.start === b.start && a.owner.serial < b.owner.serial);
}

/** Index at which a range is, or would be. */
function place<O extends Numbered>(ranges: readonly Range<O>[], range: Range<O>): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (comesBefore(ranges[middle]!, range)) low = middle + 1;
    else high = middle;
  }
  return low;
}

function measured<O extends Numbered>(ranges: Range<O>[]): Chunk<O> {
  let maxEnd = -1n;
  let writes = 0;
  for (const range of ranges) {
    if (range.end > maxEnd) maxEnd = range.end;
    if (range.type === LockType.WRITE) writes += 1;
  }
  return { ranges, maxEnd, writes };
}
