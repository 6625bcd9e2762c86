import { FsError, type GuestBuffer } from '../../core/backend/index.js';
import type { Arena } from './arena.js';
import { CHUNK, Chunk, PAGE, pageCount, pageMask } from './chunk.js';
import type { Space } from './space.js';

const ENOSPC = FsError.of('ENOSPC');
const ENXIO = FsError.of('ENXIO');

/** Chunks of a group: 8 MiB of a file. */
const GROUP = 64;

/** A file's bytes: chunks of 128 KiB, those that are all hole absent. */
export class Content {
  /** Length of the file in bytes. */
  size = 0;
  /** Pages of 4 KiB that exist. */
  pages = 0;
  #first: Chunk | undefined;
  #groups: Map<number, (Chunk | undefined)[]> | undefined;
  #group: (Chunk | undefined)[] | undefined;
  #groupNumber = -1;

  /** Reads into the buffer. @returns the bytes read: fewer than the buffer has only at the end of the file. */
  read(buffer: GuestBuffer, offset: number): number {
    const length = Math.min(buffer.length, this.size - offset);
    if (length <= 0) return 0;
    for (let done = 0; done < length;) {
      const index = Math.floor((offset + done) / CHUNK);
      const from = offset + done - index * CHUNK;
      const to = Math.min(CHUNK, from + length - done);
      const chunk = this.#chunk(index);
      if (chunk === undefined) buffer.zero(done, to - from);
      else readChunk(chunk, buffer, done, from, to);
      done += to - from;
    }
    return length;
  }

  /**
   * Writes the buffer.
   * @returns the bytes written: fewer than the buffer has where space ends.
   * @throws ENOSPC when there is no space for the first byte.
   */
  write(buffer: GuestBuffer, offset: number, arena: Arena, space: Space): number {
    const length = buffer.length;
    let done = 0;
    while (done < length) {
      const index = Math.floor((offset + done) / CHUNK);
      const from = offset + done - index * CHUNK;
      let to = Math.min(CHUNK, from + length - done);
      let chunk = this.#chunk(index);
      const mask = pageMask(from, to);
      if (chunk === undefined || (chunk.pages & mask) !== mask) {
        to = affordable(chunk, from, to, space);
        if (to === from) break;
        chunk = this.#allocate(index, chunk, from, to, arena, space, true);
      } else if (chunk.references > 1 || from < chunk.start || to > chunk.start + chunk.length) {
        chunk = this.#own(index, chunk, from, to, arena);
      }
      const at = chunk.at - chunk.start;
      buffer.get(done, chunk.span.bytes, at + from, at + to);
      done += to - from;
    }
    if (done === 0 && length > 0) throw ENOSPC;
    if (offset + done > this.size) this.size = offset + done;
    return done;
  }

  /** Sets the length; what is cut off is freed. */
  truncate(size: number, arena: Arena, space: Space): void {
    if (size <= this.size) this.punch(size, Infinity, arena, space);
    this.size = size;
  }

  /** Turns `from` to `to` into a hole: whole pages are freed, parts of pages zeroed. */
  punch(from: number, to: number, arena: Arena, space: Space): void {
    const firstIndex = Math.floor(from / CHUNK);
    const lastIndex = Math.ceil(to / CHUNK) - 1;
    if (firstIndex === 0) this.#punchChunk(0, from, Math.min(to, CHUNK), arena, space);
    if (this.#groups === undefined) return;
    for (const [number, group] of this.#groups) {
      const base = number * GROUP;
      if (base > lastIndex || base + GROUP <= firstIndex) continue;
      const end = Math.min(GROUP, lastIndex - base + 1);
      for (let i = Math.max(0, firstIndex - base); i < end; i++) {
        if (group[i] === undefined) continue;
        const start = (base + i) * CHUNK;
        this.#punchChunk(base + i, Math.max(0, from - start), Math.min(CHUNK, to - start), arena, space);
      }
      if (group.every((chunk) => chunk === undefined)) this.#removeGroup(number);
    }
  }

  /**
   * Makes every page of a range exist, all or none (`fallocate`).
   * @throws ENOSPC
   */
  allocate(from: number, to: number, arena: Arena, space: Space): void {
    let missing = 0;
    if (
      Math.floor((to - 1) / PAGE) - Math.floor(from / PAGE) + 1 - this.pages >
      space.maxPages - space.pages
    ) {
      throw ENOSPC;
    }
    this.#eachChunk(from, to, (chunk, _index, low, high) => {
      const mask = pageMask(low, high);
      missing += pageCount(chunk === undefined ? mask : mask & ~chunk.pages);
    });
    if (missing > space.maxPages - space.pages) throw ENOSPC;
    this.#eachChunk(from, to, (chunk, index, low, high) => {
      const mask = pageMask(low, high);
      if (chunk === undefined || (chunk.pages & mask) !== mask) {
        this.#allocate(index, chunk, low, high, arena, space, false);
      }
    });
  }

  /** First byte of data at or after `offset`. @throws ENXIO when there is none before the end. */
  nextData(offset: number): number {
    if (offset >= this.size) throw ENXIO;
    let index = Math.floor(offset / CHUNK);
    let page = Math.floor((offset - index * CHUNK) / PAGE);
    const end = Math.ceil(this.size / CHUNK);
    while (index < end) {
      const pages = this.#chunk(index)?.pages ?? 0;
      const rest = pages & (-1 << page);
      if (page < 32 && rest !== 0) {
        const at = index * CHUNK + (31 - Math.clz32(rest & -rest)) * PAGE;
        if (at >= this.size) throw ENXIO;
        return Math.max(at, offset);
      }
      index = this.#nextIndex(index + 1);
      page = 0;
    }
    throw ENXIO;
  }

  /** First hole at or after `offset`; the end of the file counts as one. @throws ENXIO beyond the end. */
  nextHole(offset: number): number {
    if (offset >= this.size) throw ENXIO;
    let index = Math.floor(offset / CHUNK);
    let page = Math.floor((offset - index * CHUNK) / PAGE);
    for (;;) {
      const holes = ~(this.#chunk(index)?.pages ?? 0) & (-1 << page);
      if (holes !== 0) {
        const at = index * CHUNK + (31 - Math.clz32(holes & -holes)) * PAGE;
        return Math.min(Math.max(at, offset), this.size);
      }
      index += 1;
      page = 0;
      if (index * CHUNK >= this.size) return this.size;
    }
  }

  /** Frees everything. */
  clear(arena: Arena, space: Space): void {
    this.#first?.drop(arena);
    if (this.#groups !== undefined) {
      for (const group of this.#groups.values()) for (const chunk of group) chunk?.drop(arena);
    }
    space.pages -= this.pages;
    this.pages = 0;
    this.size = 0;
    this.#first = undefined;
    this.#groups = undefined;
    this.#group = undefined;
    this.#groupNumber = -1;
  }

  #chunk(index: number): Chunk | undefined {
    if (index === 0) return this.#first;
    if (this.#groups === undefined) return undefined;
    const number = Math.floor(index / GROUP);
    if (number !== this.#groupNumber) {
      this.#group = this.#groups.get(number);
      this.#groupNumber = number;
    }
    return this.#group === undefined ? undefined : this.#group[index % GROUP];
  }

  #put(index: number, chunk: Chunk | undefined): void {
    if (index === 0) {
      this.#first = chunk;
      return;
    }
    const number = Math.floor(index / GROUP);
    this.#groups ??= new Map();
    let group = this.#groups.get(number);
    if (group === undefined) {
      group = Array.from({ length: GROUP }, (): Chunk | undefined => undefined);
      this.#groups.set(number, group);
    }
    this.#group = group;
    this.#groupNumber = number;
    group[index % GROUP] = chunk;
  }

  #removeGroup(number: number): void {
    this.#groups!.delete(number);
    if (this.#groups!.size === 0) this.#groups = undefined;
    this.#group = undefined;
    this.#groupNumber = -1;
  }

  /** The next index from `index` on whose group exists; Infinity when there is none. */
  #nextIndex(index: number): number {
    if (this.#groups === undefined) return Infinity;
    const number = Math.floor(index / GROUP);
    if (this.#groups.has(number)) return index;
    let next = Infinity;
    for (const candidate of this.#groups.keys()) if (candidate > number && candidate < next) next = candidate;
    return next * GROUP;
  }

  #eachChunk(
    from: number,
    to: number,
    visit: (chunk: Chunk | undefined, index: number, low: number, high: number) => void,
  ): void {
    for (let at = from; at < to;) {
      const index = Math.floor(at / CHUNK);
      const low = at - index * CHUNK;
      const high = Math.min(CHUNK, to - index * CHUNK);
      visit(this.#chunk(index), index, low, high);
      at = index * CHUNK + high;
    }
  }

  /** Makes the pages of a range exist and the chunk writable; new pages' bytes outside the range are zeroed. */
  #allocate(
    index: number,
    old: Chunk | undefined,
    from: number,
    to: number,
    arena: Arena,
    space: Space,
    willWrite: boolean,
  ): Chunk {
    let chunk: Chunk;
    if (old === undefined) {
      const sequential = index > 0 && ((this.#chunk(index - 1)?.pages ?? 0) & (1 << 31)) !== 0;
      chunk = sequential ? new Chunk(arena, 0, CHUNK) : new Chunk(arena, from, to);
      this.#put(index, chunk);
    } else chunk = this.#own(index, old, from, to, arena);
    const mask = pageMask(from, to);
    const fresh = mask & ~chunk.pages;
    if (willWrite) {
      if ((fresh & (1 << (from >>> 12))) !== 0) chunk.zero(from - (from % PAGE), from);
      const tail = to % PAGE;
      if (tail !== 0 && (fresh & (1 << ((to - 1) >>> 12))) !== 0) chunk.zero(to, to - tail + PAGE);
    } else {
      for (let page = from >>> 12; page * PAGE < to; page++) {
        if ((fresh & (1 << page)) !== 0) chunk.zero(page * PAGE, (page + 1) * PAGE);
      }
    }
    chunk.pages |= mask;
    const count = pageCount(fresh);
    this.pages += count;
    space.pages += count;
    return chunk;
  }

  /** A chunk of this file alone whose block covers a range. */
  #own(index: number, old: Chunk, from: number, to: number, arena: Arena): Chunk {
    let chunk = old;
    if (old.references > 1) {
      chunk = old.copy(arena);
      this.#put(index, chunk);
    }
    chunk.grow(arena, from, to);
    return chunk;
  }

  #punchChunk(index: number, from: number, to: number, arena: Arena, space: Space): void {
    const chunk = this.#chunk(index);
    if (chunk === undefined || from >= to) return;
    const firstWhole = Math.ceil(from / PAGE);
    const endWhole = Math.floor(to / PAGE);
    const whole = firstWhole < endWhole ? pageMask(firstWhole * PAGE, endWhole * PAGE) : 0;
    const freed = pageCount(chunk.pages & whole);
    this.pages -= freed;
    space.pages -= freed;
    if ((chunk.pages & ~whole) === 0) {
      chunk.drop(arena);
      this.#put(index, undefined);
      return;
    }
    const owned = this.#own(index, chunk, chunk.start, chunk.start + chunk.length, arena);
    owned.pages &= ~whole;
    owned.zero(from, Math.min(to, firstWhole * PAGE));
    owned.zero(Math.max(from, endWhole * PAGE), to);
  }
}

function readChunk(chunk: Chunk, buffer: GuestBuffer, at: number, from: number, to: number): void {
  const mask = pageMask(from, to);
  const end = chunk.start + chunk.length;
  if ((chunk.pages & mask) === mask && from >= chunk.start && to <= end) {
    const base = chunk.at - chunk.start;
    buffer.put(at, chunk.span.bytes, base + from, base + to);
    return;
  }
  for (let low = from; low < to;) {
    const high = Math.min(to, low - (low % PAGE) + PAGE);
    const copyLow = Math.max(low, chunk.start);
    const copyHigh = Math.min(high, end);
    if ((chunk.pages & (1 << (low >>> 12))) === 0 || copyLow >= copyHigh) {
      buffer.zero(at + low - from, high - low);
    } else {
      const base = chunk.at - chunk.start;
      if (low < copyLow) buffer.zero(at + low - from, copyLow - low);
      buffer.put(at + copyLow - from, chunk.span.bytes, base + copyLow, base + copyHigh);
      if (copyHigh < high) buffer.zero(at + copyHigh - from, high - copyHigh);
    }
    low = high;
  }
}

/** How far a write from `from` to `to` gets with the space that is left. */
function affordable(chunk: Chunk | undefined, from: number, to: number, space: Space): number {
  let left = space.maxPages - space.pages;
  const pages = chunk === undefined ? 0 : chunk.pages;
  if (pageCount(pageMask(from, to) & ~pages) <= left) return to;
  let at = from;
  while (at < to) {
    if ((pages & (1 << (at >>> 12))) === 0 && --left < 0) return at;
    at = Math.min(to, at - (at % PAGE) + PAGE);
  }
  return to;
}
