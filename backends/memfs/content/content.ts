import { FsError, type GuestBuffer } from '../../../core/backend/index.js';
import type { Arena } from './arena.js';
import { CHUNK_BYTES, Chunk, CHUNK_HEAP_BYTES, firstPage, PAGE_BYTES, pageCount, pageMask } from './chunk.js';
import { ChunkTree } from './chunk-tree.js';
import type { Space } from '../tree/space.js';

const ENOSPC = FsError.of('ENOSPC');
const ENXIO = FsError.of('ENXIO');

/** Target of a read. */
export type Sink = Pick<GuestBuffer, 'length' | 'put' | 'zero'>;
/** Source of a write. */
export type Source = Pick<GuestBuffer, 'length' | 'get'>;

/** Chunks that are counted in one step. */
const COUNTED_AT_ONCE = 256;

/**
 * A file's bytes in chunks of 128 KiB. A chunk that is all hole is absent. The first chunk has a
 * field of its own, since most files have no other. The others are in a tree, so that a sparse file
 * costs only what its data does.
 */
export class Content {
  /** Length of the file in bytes. */
  size = 0;
  /** Pages of 4 KiB that are allocated. */
  pages = 0;
  /** Number of the inode, where the content is recorded; otherwise 0. */
  ino = 0;
  #first: Chunk | undefined;
  #tree: ChunkTree | undefined;

  /** Bytes of heap of the chunks, as if none were shared. */
  get heapBytes(): number {
    return (this.#first === undefined ? 0 : CHUNK_HEAP_BYTES) + (this.#tree?.heapBytes ?? 0);
  }

  /**
   * Reads into the sink.
   * @returns the bytes read; fewer than the sink's length only at the end of the file.
   */
  read(sink: Sink, offset: number): number {
    const length = Math.min(sink.length, this.size - offset);
    if (length <= 0) return 0;
    for (let done = 0; done < length;) {
      const index = Math.floor((offset + done) / CHUNK_BYTES);
      const from = offset + done - index * CHUNK_BYTES;
      const to = Math.min(CHUNK_BYTES, from + length - done);
      const chunk = this.chunk(index);
      if (chunk === undefined || chunk.data === 0) sink.zero(done, to - from);
      else readChunk(chunk, sink, done, from, to);
      done += to - from;
    }
    return length;
  }

  /**
   * Writes the source.
   * @returns the bytes written; fewer than the source's length if space runs out.
   * @throws ENOSPC if there is no space for the first byte.
   */
  write(source: Source, offset: number, arena: Arena, space: Space): number {
    const length = source.length;
    let done = 0;
    while (done < length) {
      const index = Math.floor((offset + done) / CHUNK_BYTES);
      const from = offset + done - index * CHUNK_BYTES;
      let to = Math.min(CHUNK_BYTES, from + length - done);
      let chunk = this.#changeable(index, arena);
      const mask = pageMask(from, to);
      if (
        chunk === undefined ||
        (chunk.data & mask) !== mask ||
        chunk.references > 1 ||
        from < chunk.start ||
        to > chunk.start + chunk.length
      ) {
        to = writableEnd(chunk, from, to, space);
        if (to === from) break;
        try {
          chunk = this.#prepare(index, chunk, from, to, arena, space);
        } catch (error) {
          if (done === 0) throw error;
          break;
        }
      }
      const at = chunk.at - chunk.start;
      source.get(done, chunk.span!.bytes, at + from, at + to);
      done += to - from;
    }
    if (done === 0 && length > 0) throw ENOSPC;
    if (offset + done > this.size) this.size = offset + done;
    return done;
  }

  /** Sets the length. What is cut off is freed, and so are pages allocated beyond the end. */
  truncate(size: number, arena: Arena, space: Space): void {
    if (size <= this.size) this.punch(size, Infinity, arena, space);
    this.size = size;
  }

  /** Turns `from` to `to` into a hole: whole pages are freed, parts of pages zeroed. */
  punch(from: number, to: number, arena: Arena, space: Space): void {
    if (to === Infinity) this.#cut(from, arena, space);
    else for (const _ of this.punching(from, to, arena, space));
  }

  /** As {@link punch}, in steps of a chunk each. */
  *punching(from: number, to: number, arena: Arena, space: Space): Generator<void> {
    let index = Math.floor(from / CHUNK_BYTES);
    while (index * CHUNK_BYTES < to) {
      const start = index * CHUNK_BYTES;
      this.#punchChunk(index, Math.max(0, from - start), Math.min(CHUNK_BYTES, to - start), arena, space);
      yield;
      index = this.#nextIndex(index + 1);
    }
  }

  /** Does at once what {@link allocating} does in steps. */
  allocate(from: number, to: number, arena: Arena, space: Space): void {
    for (const _ of this.allocating(from, to, arena, space));
  }

  /**
   * Allocates every page of a range, or none, in steps of a chunk each (`fallocate`). New pages
   * have no data. Pages that were allocated already count as data from now on, as on tmpfs.
   * @throws ENOSPC. Then nothing was changed, unless others changed this file between the steps.
   */
  *allocating(from: number, to: number, arena: Arena, space: Space): Generator<void> {
    const end = Math.ceil(to / CHUNK_BYTES);
    if (Math.ceil(to / PAGE_BYTES) - Math.floor(from / PAGE_BYTES) > space.freePages + this.pages)
      throw ENOSPC;
    let reserved = 0;
    let chunks = 0;
    for (let index = Math.floor(from / CHUNK_BYTES); index < end; index++) {
      const chunk = this.chunk(index);
      if (chunk === undefined) chunks += 1;
      reserved += pageCount(maskOf(index, from, to) & ~(chunk?.pages ?? 0));
      if (index % COUNTED_AT_ONCE === 0) yield;
    }
    if (!arena.hasHeap(chunks * CHUNK_HEAP_BYTES, space.contentHeapBytes)) throw ENOSPC;
    space.takePages(reserved);
    try {
      for (let index = Math.floor(from / CHUNK_BYTES); index < end; index++) {
        reserved = this.#allocateIn(index, maskOf(index, from, to), reserved, arena, space);
        yield;
      }
    } finally {
      space.givePages(reserved);
    }
  }

  /** First byte of data at or after `offset`. @throws ENXIO if there is none before the end. */
  nextData(offset: number): number {
    const at = this.#firstData(offset);
    if (at >= this.size) throw ENXIO;
    return at;
  }

  /**
   * First hole at or after `offset`; the end of the file counts as one.
   * @throws ENXIO beyond the end.
   */
  nextHole(offset: number): number {
    if (offset >= this.size) throw ENXIO;
    let index = Math.floor(offset / CHUNK_BYTES);
    let page = (offset - index * CHUNK_BYTES) >>> 12;
    for (; index * CHUNK_BYTES < this.size; index++, page = 0) {
      const holes = ~(this.chunk(index)?.data ?? 0) & (-1 << page);
      if (holes === 0) continue;
      return Math.min(this.size, Math.max(offset, index * CHUNK_BYTES + firstPage(holes) * PAGE_BYTES));
    }
    return this.size;
  }

  /** The ranges of data, each from its first byte to the one after its last. */
  *extents(from = 0): Generator<readonly [number, number]> {
    for (let at = from; at < this.size;) {
      const start = this.#firstData(at);
      if (start >= this.size) return;
      at = this.nextHole(start);
      yield [start, at];
    }
  }

  /** The ranges of pages that are allocated but have no data. */
  *allocations(): Generator<readonly [number, number]> {
    for (let index = this.#nextIndex(0); index !== Infinity; index = this.#nextIndex(index + 1)) {
      const { pages, data } = this.chunk(index)!;
      for (let blank = pages & ~data; blank !== 0;) {
        const page = firstPage(blank);
        const at = index * CHUNK_BYTES + page * PAGE_BYTES;
        yield [at, at + PAGE_BYTES];
        blank &= ~(1 << page);
      }
    }
  }

  /** A copy that shares all chunks. */
  clone(): Content {
    const copy = new Content();
    copy.size = this.size;
    copy.pages = this.pages;
    copy.#first = this.#first;
    if (this.#first !== undefined) this.#first.references += 1;
    copy.#tree = this.#tree?.clone();
    return copy;
  }

  /** Drops everything. The caller gives pages and heap back to the volume's space. */
  clear(arena: Arena): void {
    this.#first?.drop(arena);
    this.#tree?.clear(arena);
    this.pages = 0;
    this.size = 0;
    this.#first = undefined;
    this.#tree = undefined;
  }

  /** The chunk at byte `index` × 128 KiB, to be read; undefined if it is a hole. */
  chunk(index: number): Chunk | undefined {
    return index === 0 ? this.#first : this.#tree?.get(index);
  }

  /** Shares `chunk` as the whole chunk at `index`. @throws ENOSPC, with nothing changed. */
  share(index: number, chunk: Chunk, arena: Arena, space: Space): void {
    const old = this.#changeable(index, arena);
    const count = pageCount(chunk.pages) - (old === undefined ? 0 : pageCount(old.pages));
    if (count > space.freePages) throw ENOSPC;
    if (old === undefined) this.#check(index, arena, space);
    chunk.references += 1;
    old?.drop(arena);
    this.#put(index, chunk, old === undefined, arena, space);
    this.#addPages(index, count);
    space.takePages(count);
    this.#record(index, chunk, arena);
  }

  /** Puts a chunk where none is. The caller takes its pages from the space. */
  restore(index: number, chunk: Chunk, arena: Arena, space: Space): void {
    if (index > 0) this.#tree ??= new ChunkTree();
    this.#put(index, chunk, true, arena, space);
    this.pages += pageCount(chunk.pages);
    if (index > 0) this.#tree!.addPages(index, pageCount(chunk.pages));
  }

  /** The chunks, in order. */
  *chunks(): Generator<readonly [index: number, chunk: Chunk]> {
    for (let index = this.#nextIndex(0); index !== Infinity; index = this.#nextIndex(index + 1))
      yield [index, this.chunk(index)!];
  }

  /**
   * First byte of data at or after `offset`. If there is none: Infinity, or some byte beyond the
   * end.
   */
  #firstData(offset: number): number {
    const index = Math.floor(offset / CHUNK_BYTES);
    const page = (offset - index * CHUNK_BYTES) >>> 12;
    const data = (this.chunk(index)?.data ?? 0) & (-1 << page);
    if (data !== 0) return Math.max(offset, index * CHUNK_BYTES + firstPage(data) * PAGE_BYTES);
    const next = this.#tree?.nextData(index + 1) ?? Infinity;
    return next === Infinity ? Infinity : next * CHUNK_BYTES + firstPage(this.chunk(next)!.data) * PAGE_BYTES;
  }

  /** The chunk at `index`, to be changed if it has one reference. */
  #changeable(index: number, arena: Arena): Chunk | undefined {
    return index === 0 ? this.#first : this.#tree?.own(index, arena);
  }

  /** Checks that there is heap for a chunk more, at `index`. @throws ENOSPC */
  #check(index: number, arena: Arena, space: Space): void {
    if (index > 0) (this.#tree ??= new ChunkTree()).check(index, arena, space);
    else if (!arena.hasHeap(CHUNK_HEAP_BYTES, space.contentHeapBytes)) throw ENOSPC;
  }

  #put(index: number, chunk: Chunk, isMore: boolean, arena: Arena, space: Space): void {
    if (index > 0) this.#tree!.put(index, chunk, arena, space);
    else {
      this.#first = chunk;
      if (isMore) space.contentHeapBytes += CHUNK_HEAP_BYTES;
    }
  }

  #remove(index: number, arena: Arena, space: Space): void {
    if (index > 0) this.#tree!.remove(index, arena, space);
    else {
      this.#first = undefined;
      space.contentHeapBytes -= CHUNK_HEAP_BYTES;
    }
  }

  /** Counts pages that the chunk at `index` has got or lost. */
  #addPages(index: number, count: number): void {
    this.pages += count;
    if (index > 0 && count !== 0) this.#tree!.addPages(index, count);
  }

  /** Removes everything from a byte on. */
  #cut(from: number, arena: Arena, space: Space): void {
    let index = Math.floor(from / CHUNK_BYTES);
    if (from % CHUNK_BYTES !== 0 || index === 0) {
      this.#punchChunk(index, from % CHUNK_BYTES, CHUNK_BYTES, arena, space);
      index += 1;
    }
    const freed = this.#tree?.cut(index, arena, space) ?? 0;
    if (freed > 0 && this.ino !== 0) arena.recorder!.cut(this.ino, index);
    this.pages -= freed;
    space.givePages(freed);
  }

  /** The first index from `index` on that has a chunk; Infinity when there is none. */
  #nextIndex(index: number): number {
    if (index === 0 && this.#first !== undefined) return 0;
    return this.#tree?.next(index) ?? Infinity;
  }

  /**
   * The chunk at `index`, made private to this file. A new one if there is none.
   * @throws ENOSPC, with nothing changed.
   */
  #own(index: number, old: Chunk | undefined, arena: Arena, space: Space): Chunk {
    if (old !== undefined && old.references === 1) return old;
    if (old === undefined) this.#check(index, arena, space);
    const chunk = old === undefined ? new Chunk(arena) : old.copy(arena);
    this.#put(index, chunk, old === undefined, arena, space);
    if (old !== undefined) this.#record(index, chunk, arena);
    return chunk;
  }

  /** To be called when a chunk has another block, other pages or other pages with data. */
  #record(index: number, chunk: Chunk | undefined, arena: Arena): void {
    if (this.ino !== 0) arena.recorder!.chunk(this.ino, index, chunk);
  }

  /**
   * Prepares a range of a chunk for writing: it is private and allocated, and the bytes of new
   * pages outside the range are zeroed.
   */
  #prepare(
    index: number,
    old: Chunk | undefined,
    from: number,
    to: number,
    arena: Arena,
    space: Space,
  ): Chunk {
    const chunk = this.#own(index, old, arena, space);
    const mask = pageMask(from, to);
    // A growing file, or one allocated in advance, will fill the chunk: it gets the largest block
    // at once.
    const filling = chunk.length === 0 && (chunk.pages === -1 || this.#endsInData(index));
    if (filling) chunk.cover(arena, 0, CHUNK_BYTES);
    else chunk.cover(arena, from, to);
    const fresh = mask & ~chunk.data;
    if ((fresh & (1 << (from >>> 12))) !== 0) chunk.zero(from - (from % PAGE_BYTES), from);
    const tail = to % PAGE_BYTES;
    if (tail !== 0 && (fresh & (1 << (to >>> 12))) !== 0) chunk.zero(to, to - tail + PAGE_BYTES);
    const count = pageCount(mask & ~chunk.pages);
    chunk.pages |= mask;
    chunk.data |= mask;
    this.#addPages(index, count);
    space.takePages(count);
    this.#record(index, chunk, arena);
    return chunk;
  }

  /** Whether the chunk before `index` has data up to its end. */
  #endsInData(index: number): boolean {
    return index > 0 && ((this.chunk(index - 1)?.data ?? 0) & (1 << 31)) !== 0;
  }

  /**
   * Allocates pages of a chunk.
   * @param reserved pages that were taken from the space.
   * @returns how many of those are left.
   */
  #allocateIn(index: number, mask: number, reserved: number, arena: Arena, space: Space): number {
    const old = this.#changeable(index, arena);
    if (old !== undefined && (old.data & mask) === mask) return reserved;
    const chunk = this.#own(index, old, arena, space);
    const count = pageCount(mask & ~chunk.pages);
    // More than were counted: others have freed some meanwhile.
    if (count > reserved) space.takePages(count - reserved);
    const blank = chunk.pages & ~chunk.data & mask;
    for (let page = 0; page < 32; page++) {
      if ((blank & (1 << page)) !== 0) chunk.zero(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    }
    chunk.data |= blank;
    chunk.pages |= mask;
    this.#addPages(index, count);
    this.#record(index, chunk, arena);
    return Math.max(0, reserved - count);
  }

  #punchChunk(index: number, from: number, to: number, arena: Arena, space: Space): void {
    const chunk = this.#changeable(index, arena);
    if (chunk === undefined || from >= to) return;
    const wholeFrom = Math.ceil(from / PAGE_BYTES) * PAGE_BYTES;
    const wholeTo = to - (to % PAGE_BYTES);
    const whole = wholeFrom < wholeTo ? pageMask(wholeFrom, wholeTo) : 0;
    const freed = pageCount(chunk.pages & whole);
    if ((chunk.pages & ~whole) === 0) {
      this.#addPages(index, -freed);
      this.#remove(index, arena, space);
      this.#record(index, undefined, arena);
      chunk.drop(arena);
    } else {
      const owned = this.#own(index, chunk, arena, space);
      owned.pages &= ~whole;
      owned.data &= ~whole;
      if (wholeFrom > wholeTo) owned.zero(from, to);
      else {
        owned.zero(from, wholeFrom);
        owned.zero(wholeTo, to);
      }
      owned.shrink(arena);
      this.#addPages(index, -freed);
      this.#record(index, owned, arena);
    }
    space.givePages(freed);
  }
}

/** The mask of the pages of chunk `index` that are in the range. */
function maskOf(index: number, from: number, to: number): number {
  return pageMask(Math.max(0, from - index * CHUNK_BYTES), Math.min(CHUNK_BYTES, to - index * CHUNK_BYTES));
}

function readChunk(chunk: Chunk, sink: Sink, at: number, from: number, to: number): void {
  const mask = pageMask(from, to);
  const base = chunk.at - chunk.start;
  const end = chunk.start + chunk.length;
  if ((chunk.data & mask) === mask && from >= chunk.start && to <= end) {
    sink.put(at, chunk.span!.bytes, base + from, base + to);
    return;
  }
  for (let low = from; low < to;) {
    const high = Math.min(to, low - (low % PAGE_BYTES) + PAGE_BYTES);
    const copyLow = Math.max(low, chunk.start);
    const copyHigh = Math.min(high, end);
    if ((chunk.data & (1 << (low >>> 12))) === 0 || copyLow >= copyHigh)
      sink.zero(at + low - from, high - low);
    else {
      if (low < copyLow) sink.zero(at + low - from, copyLow - low);
      sink.put(at + copyLow - from, chunk.span!.bytes, base + copyLow, base + copyHigh);
      if (copyHigh < high) sink.zero(at + copyHigh - from, high - copyHigh);
    }
    low = high;
  }
}

/** The end of a write from `from` to `to`, as far as the free space allows. */
function writableEnd(chunk: Chunk | undefined, from: number, to: number, space: Space): number {
  let left = space.freePages;
  const pages = chunk === undefined ? 0 : chunk.pages;
  if (pageCount(pageMask(from, to) & ~pages) <= left) return to;
  let at = from;
  while (at < to) {
    if ((pages & (1 << (at >>> 12))) === 0 && --left < 0) return at;
    at = Math.min(to, at - (at % PAGE_BYTES) + PAGE_BYTES);
  }
  return to;
}
