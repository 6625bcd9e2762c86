import { BLOCK_MIN, type Arena, type Span } from './arena.js';

/** Bytes of a page, the unit of allocation that `st_blocks` counts (as tmpfs). */
export const PAGE = 4096;
/** Bytes of file content under one chunk. */
export const CHUNK = 128 << 10;

/** Bits of the pages that a byte range of a chunk, `from` to `to` (not empty), touches. */
export function pageMask(from: number, to: number): number {
  const first = from >>> 12;
  const last = (to - 1) >>> 12;
  return (-1 << first) & (-1 >>> (31 - last));
}

/** Number of pages in a mask. */
export function pageCount(mask: number): number {
  let bits = mask - ((mask >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return (((bits + (bits >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}

/**
 * The content of one aligned 128 KiB of a file. `pages` has a bit for each of the 32 pages that exists; the others are
 * holes. The bytes lie in one block, the smallest aligned power of two that covers what was written; bytes of existing
 * pages outside the block are zero. A chunk that several files or snapshots share (`references` above 1) is read-only.
 */
export class Chunk {
  span: Span;
  /** Offset of the block in `span.bytes`. */
  at: number;
  /** Offset in the chunk of the block's first byte. */
  start: number;
  /** Bytes in the block. */
  length: number;
  pages = 0;
  references = 1;

  constructor(arena: Arena, from: number, to: number) {
    const length = covering(from, to);
    this.start = from - (from % length);
    this.length = length;
    this.span = arena.span(length);
    this.at = arena.take(this.span);
  }

  /** Makes the block cover `from` to `to` as well. */
  grow(arena: Arena, from: number, to: number): void {
    if (from >= this.start && to <= this.start + this.length) return;
    const length = covering(Math.min(from, this.start), Math.max(to, this.start + this.length));
    this.move(arena, from - (from % length), length);
  }

  /** Moves the content to a block of another size that covers all existing pages' bytes. */
  move(arena: Arena, start: number, length: number): void {
    const span = arena.span(length);
    const at = arena.take(span);
    copyPages(this, span, at, start, length);
    arena.give(this.span, this.at);
    this.span = span;
    this.at = at;
    this.start = start;
    this.length = length;
  }

  /** A private copy; this chunk loses a reference. */
  copy(arena: Arena): Chunk {
    const copy = new Chunk(arena, this.start, this.start + this.length);
    copyPages(this, copy.span, copy.at, copy.start, copy.length);
    copy.pages = this.pages;
    this.references -= 1;
    return copy;
  }

  /** Drops a reference, and the memory with the last one. */
  drop(arena: Arena): void {
    this.references -= 1;
    if (this.references === 0) arena.give(this.span, this.at);
  }

  /** Zeroes `from` to `to` where the block has it. */
  zero(from: number, to: number): void {
    const low = Math.max(from, this.start);
    const high = Math.min(to, this.start + this.length);
    if (low < high) this.span.bytes.fill(0, this.at + low - this.start, this.at + high - this.start);
  }
}

/** Length of the smallest aligned block that covers a range. */
function covering(from: number, to: number): number {
  let length = BLOCK_MIN;
  while (from - (from % length) + length < to) length *= 2;
  return length;
}

/** Copies the existing pages of `chunk` into a block; bytes of those pages beyond the old block become zero. */
function copyPages(chunk: Chunk, span: Span, at: number, start: number, length: number): void {
  const source = chunk.span.bytes;
  const target = span.bytes;
  const end = start + length;
  for (let low = start; low < end;) {
    const bit = 1 << (low >>> 12);
    let high = Math.min(end, low - (low % PAGE) + PAGE);
    if ((chunk.pages & bit) === 0) {
      low = high;
      continue;
    }
    while (high < end && (chunk.pages & (1 << (high >>> 12))) !== 0) high = Math.min(end, high + PAGE);
    const copyLow = Math.max(low, chunk.start);
    const copyHigh = Math.min(high, chunk.start + chunk.length);
    if (copyLow >= copyHigh) target.fill(0, at + low - start, at + high - start);
    else {
      if (low < copyLow) target.fill(0, at + low - start, at + copyLow - start);
      target.set(
        source.subarray(chunk.at + copyLow - chunk.start, chunk.at + copyHigh - chunk.start),
        at + copyLow - start,
      );
      if (copyHigh < high) target.fill(0, at + copyHigh - start, at + high - start);
    }
    low = high;
  }
}
