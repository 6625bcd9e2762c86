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
  readonly ranges: Range<O>[];
  maxEnd: bigint;
  /** The largest end of its exclusive ranges; {@link NONE} if it has none. */
  maxWriteEnd: bigint;
  /** The owner of all its ranges, and of its exclusive ones; undefined if they have several. */
  owner: O | undefined;
  writer: O | undefined;
  /** Ranges were removed since it had several owners: it may have one by now. */
  isStale: boolean;
}

const CHUNK_SIZE = 256;
/** So few ranges are removed one by one; also where there is more than a chunk for so many. */
const FEW = 8;
const NONE = -1n;

/**
 * All locked ranges on a file, of all owners, in which conflicts are searched. They are sorted by
 * start, then by owner (no two ranges of an owner begin at the same byte). They lie in chunks of
 * 128 to 256, each of which knows its largest end and whether all are one owner's: a search skips
 * the chunks that do not overlap, and those of the owner itself.
 */
export class FileRanges<O extends Numbered> {
  #chunks: Chunk<O>[] = [];

  /** Whether any of them is exclusive. */
  get hasExclusive(): boolean {
    return this.#chunks.some(({ maxWriteEnd }) => maxWriteEnd !== NONE);
  }

  add(range: Range<O>): void {
    const at = this.#chunkOf(range);
    const chunk = this.#chunks[at];
    if (chunk === undefined) {
      this.#chunks.push(measured([range]));
      return;
    }
    chunk.ranges.splice(place(chunk.ranges, range), 0, range);
    include(chunk, range);
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
    else if (range.end === chunk.maxEnd || range.end === chunk.maxWriteEnd)
      this.#chunks[at] = measured(chunk.ranges);
    else chunk.isStale = chunk.owner === undefined;
  }

  /**
   * Removes ranges that one owner has added: all that it has between the first and the last of
   * them, which are given in their order.
   */
  removeAll(ranges: readonly Range<O>[]): void {
    const [one, other] = [ranges[0], ranges.at(-1)];
    if (one === undefined || other === undefined) return;
    const first = this.#chunkOf(one);
    const last = this.#chunkOf(other);
    if (ranges.length < FEW || last - first > ranges.length / FEW) {
      for (const range of ranges) this.remove(range);
      return;
    }
    const { owner, start: from } = one;
    const to = other.start;
    const left: Chunk<O>[] = [];
    for (let at = first; at <= last; at++) {
      const chunk = this.#chunks[at]!;
      // Those in between lie between the first and the last.
      if (at > first && at < last && chunk.owner === owner) continue;
      const others = chunk.ranges.filter(
        (range) => range.owner !== owner || range.start < from || range.start > to,
      );
      if (others.length > 0) left.push(measured(others));
    }
    this.#chunks = [...this.#chunks.slice(0, first), ...left, ...this.#chunks.slice(last + 1)];
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
      if ((type === LockType.WRITE ? chunk.maxEnd : chunk.maxWriteEnd) < start) continue;
      if (chunk.isStale) Object.assign(chunk, measured(chunk.ranges));
      const only = type === LockType.WRITE ? chunk.owner : chunk.writer;
      if (only !== undefined && only === owner) continue;
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
  const { owner } = ranges[0]!;
  const chunk: Chunk<O> = {
    ranges,
    maxEnd: NONE,
    maxWriteEnd: NONE,
    owner,
    writer: undefined,
    isStale: false,
  };
  for (const range of ranges) include(chunk, range);
  return chunk;
}

/** Takes a range into what is known of its chunk. */
function include<O extends Numbered>(chunk: Chunk<O>, { owner, end, type }: Range<O>): void {
  if (end > chunk.maxEnd) chunk.maxEnd = end;
  if (chunk.owner !== owner) chunk.owner = undefined;
  if (type !== LockType.WRITE) return;
  if (chunk.maxWriteEnd === NONE) chunk.writer = owner;
  else if (chunk.writer !== owner) chunk.writer = undefined;
  if (end > chunk.maxWriteEnd) chunk.maxWriteEnd = end;
}
