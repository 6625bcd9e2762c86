import { BLOCK_MIN, type Arena, type Span } from './arena.js';

/** Bytes of a page, the unit of allocation that `st_blocks` counts (as tmpfs). */
export const PAGE_BYTES = 4096;
/** Bytes of a file that one chunk has. */
export const CHUNK_BYTES = 128 << 10;

/** Bytes of heap for a chunk, with its share of the arena's lists of free blocks. */
export const CHUNK_HEAP_BYTES = 192;

/** The mask of the pages that bytes `from` to `to` (not empty) of a chunk touch. */
export function pageMask(from: number, to: number): number {
  const first = from >>> 12;
  const last = (to - 1) >>> 12;
  return (-1 << first) & (-1 >>> (31 - last));
}

/** Number of pages in a mask. */
export function pageCount(mask: number): number {
  let bits = mask - ((mask >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Lowest page in a mask that is not 0. */
export function firstPage(mask: number): number {
  return 31 - Math.clz32(mask & -mask);
}

/**
 * The content of one aligned 128 KiB of a file. The bytes are in one block, the smallest aligned
 * power of two that covers what was written. Bytes of data pages outside the block are zero. A
 * chunk with `references` above 1 is shared by several files or snapshots and is read-only.
 */
export class Chunk {
  /** The mask of the allocated pages among the 32. The others are holes. */
  pages = 0;
  /**
   * The mask of the allocated pages that were written. The others read as zeros and have no valid
   * bytes.
   */
  data = 0;
  references = 1;
  /** The span of the block; undefined while there is no data. */
  span: Span | undefined;
  /** Offset of the block in `span.bytes`. */
  at = 0;
  /** Offset in the chunk of the block's first byte. */
  start = 0;
  /** Bytes in the block. */
  length = 0;

  /** Offset in lasting memory of the block's first byte. There must be a block, in such memory. */
  get offset(): number {
    return this.span!.slab.region.memory.offset! + this.at;
  }

  /** Whoever makes one asks {@link Arena.hasHeap} first. */
  constructor(arena: Arena) {
    arena.addHeap(CHUNK_HEAP_BYTES);
  }

  /** Enlarges the block so that it covers `from` to `to`. @throws ENOSPC, with nothing changed. */
  cover(arena: Arena, from: number, to: number): void {
    if (from >= this.start && to <= this.start + this.length) return;
    if (this.length === 0) this.#move(arena, from, to);
    else this.#move(arena, Math.min(from, this.start), Math.max(to, this.start + this.length));
  }

  /** Moves the block to another arena. @throws ENOSPC, with nothing changed. */
  relocate(from: Arena, to: Arena): void {
    if (this.length === 0) return;
    const { span, at } = this;
    const next = to.span(this.length);
    const nextAt = to.take(next);
    next.bytes.set(span!.bytes.subarray(at, at + this.length), nextAt);
    from.give(span!, at);
    this.span = next;
    this.at = nextAt;
  }

  /** Shrinks the block to the data pages, if that frees half of it or more. */
  shrink(arena: Arena): void {
    if (this.length === 0) return;
    if (this.data === 0) {
      arena.give(this.span!, this.at);
      this.span = undefined;
      this.length = 0;
      return;
    }
    const from = Math.max(this.start, firstPage(this.data) * PAGE_BYTES);
    const to = Math.min(this.start + this.length, (32 - Math.clz32(this.data)) * PAGE_BYTES);
    if (covering(from, to) < this.length) this.#move(arena, from, to);
  }

  /** A private copy; this chunk loses a reference. @throws ENOSPC, with nothing changed. */
  copy(arena: Arena): Chunk {
    const span = this.length > 0 ? arena.span(this.length) : undefined;
    const copy = new Chunk(arena);
    if (span !== undefined) {
      copy.span = span;
      copy.at = arena.take(span);
      copy.start = this.start;
      copy.length = this.length;
      copyPages(this, span, copy.at, copy.start, copy.length);
    }
    copy.pages = this.pages;
    copy.data = this.data;
    this.references -= 1;
    return copy;
  }

  /** Drops a reference, and the memory with the last one. */
  drop(arena: Arena): void {
    this.references -= 1;
    if (this.references > 0) return;
    if (this.length > 0) arena.give(this.span!, this.at);
    arena.addHeap(-CHUNK_HEAP_BYTES);
  }

  /** Zeroes the bytes `from` to `to` as far as they are in the block. */
  zero(from: number, to: number): void {
    const low = Math.max(from, this.start);
    const high = Math.min(to, this.start + this.length);
    if (low < high) this.span!.bytes.fill(0, this.at + low - this.start, this.at + high - this.start);
  }

  /** Moves the data to a new block that covers `from` to `to`. */
  #move(arena: Arena, from: number, to: number): void {
    const length = covering(from, to);
    const { span, at } = this;
    const next = arena.span(length);
    const nextAt = arena.take(next);
    const start = from - (from % length);
    copyPages(this, next, nextAt, start, length);
    if (span !== undefined) arena.give(span, at);
    this.span = next;
    this.at = nextAt;
    this.start = start;
    this.length = length;
  }
}

/** Length of the smallest aligned block that covers a range. */
function covering(from: number, to: number): number {
  let length = BLOCK_MIN;
  while (from - (from % length) + length < to) length *= 2;
  return length;
}

/**
 * Copies the data pages of `chunk` into a block. Bytes of those pages outside the old block become
 * zero.
 */
function copyPages(chunk: Chunk, span: Span, at: number, start: number, length: number): void {
  if (chunk.data === 0) return;
  const target = span.bytes;
  const end = start + length;
  for (let low = start; low < end;) {
    let high = Math.min(end, low - (low % PAGE_BYTES) + PAGE_BYTES);
    if ((chunk.data & (1 << (low >>> 12))) === 0) {
      low = high;
      continue;
    }
    while (high < end && (chunk.data & (1 << (high >>> 12))) !== 0) high = Math.min(end, high + PAGE_BYTES);
    const copyLow = Math.max(low, chunk.start);
    const copyHigh = Math.min(high, chunk.start + chunk.length);
    if (copyLow >= copyHigh) target.fill(0, at + low - start, at + high - start);
    else {
      if (low < copyLow) target.fill(0, at + low - start, at + copyLow - start);
      const from = chunk.at + copyLow - chunk.start;
      target.set(chunk.span!.bytes.subarray(from, from + copyHigh - copyLow), at + copyLow - start);
      if (copyHigh < high) target.fill(0, at + copyHigh - start, at + high - start);
    }
    low = high;
  }
}
