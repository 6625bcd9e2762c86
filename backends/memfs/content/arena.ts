import { FsError } from '../../../core/backend/index.js';

const ENOSPC = FsError.of('ENOSPC');

/** Bytes of a slab, the unit that is given back to the system. */
export const SLAB_BYTES = 4 << 20;

/**
 * Bytes of a span, the part of a slab that is cut into blocks of one size; also the largest block.
 */
export const SPAN_BYTES = 128 << 10;

/** Smallest block. */
export const BLOCK_MIN = 256;

/**
 * Bytes of the first and of the largest region, the unit in which address space is reserved. Each
 * new region costs a garbage collection, since the JavaScript engine counts its whole length at
 * once. So their size doubles.
 */
const REGION_FIRST_BYTES = 64 << 20;
const REGION_MAX_BYTES = 1 << 30;

const SPANS_PER_SLAB = SLAB_BYTES / SPAN_BYTES;
const SHIFT_MIN = 31 - Math.clz32(BLOCK_MIN);
const CLASSES = 32 - Math.clz32(SPAN_BYTES) - SHIFT_MIN;

/** Free slabs that are kept for later allocations (32 MiB). */
const SPARE_SLABS = 8;

/**
 * Most slabs given back in one turn of the event loop. More would delay requests by more than a
 * millisecond or two.
 */
const TRIM_SLABS = 16;

/** Steps of freeing that are done at once. */
const FREED_AT_ONCE = 16;
/** Milliseconds of freeing in one turn of the event loop. */
const FREEING_MS = 1;
/** Most steps of freeing for one slab, where there is no other left. */
const FREED_FOR_SLAB = 500;

/** Memory of a region. */
export interface RegionMemory {
  readonly bytes: Uint8Array;
  /** Where it is in memory that outlives the process, in bytes. Absent elsewhere. */
  readonly offset?: number;
  /** Gives the memory of a range back to the system until it is written again. */
  discard?(start: number, end: number): void;
  close(): void;
}

/** Memory of the JavaScript engine, freed by its garbage collector. */
function engineMemory(): RegionMemory {
  return { bytes: new Uint8Array(Buffer.allocUnsafeSlow(SLAB_BYTES).buffer), close: () => undefined };
}

/** What a recorder must know of a chunk of a file. */
export interface RecordedChunk {
  readonly pages: number;
  readonly data: number;
  readonly start: number;
  readonly length: number;
  readonly offset: number;
}

/** Keeps what is where, so that the next process finds it. */
export interface ContentRecorder {
  /** The chunk of a file at an index is as it is now. */
  chunk(ino: number, index: number, chunk: RecordedChunk | undefined): void;
  /** A file has no chunks from an index on. */
  cut(ino: number, index: number): void;
}

/** A block that a former process has left: bytes, and where it is in lasting memory. */
export type LeftBlock = readonly [offset: number, bytes: number];

/** What all arenas of a process may take together. */
class Budget {
  readonly maxSlabs: number;
  readonly maxHeapBytes: number;
  slabs = 0;
  blockBytes = 0;
  heapBytes = 0;

  constructor(maxSlabs: number, maxHeapBytes: number) {
    this.maxSlabs = maxSlabs;
    this.maxHeapBytes = maxHeapBytes;
  }
}

/** A region of reserved address space, divided into slabs. */
class Region {
  readonly memory: RegionMemory;
  /** Slabs that are not in use and take no memory. */
  readonly empty: Slab[] = [];
  readonly slabs: number;

  constructor(memory: RegionMemory) {
    this.memory = memory;
    this.slabs = memory.bytes.length / SLAB_BYTES;
    for (let i = this.slabs - 1; i >= 0; i--) this.empty.push(new Slab(this, i * SLAB_BYTES));
  }
}

class Slab {
  readonly region: Region;
  readonly start: number;
  readonly free: Span[] = [];

  constructor(region: Region, start: number) {
    this.region = region;
    this.start = start;
  }

  /** Cuts the slab into spans. */
  open(): void {
    for (let at = SLAB_BYTES - SPAN_BYTES; at >= 0; at -= SPAN_BYTES)
      this.free.push(new Span(this, this.start + at));
  }
}

/** A part of a slab that is cut into blocks of one size. */
export class Span {
  readonly slab: Slab;
  readonly bytes: Uint8Array;
  readonly start: number;
  /** Size class of its blocks. */
  sizeClass = 0;
  /** Blocks in use. */
  used = 0;
  /** Offset in the span of the next block that was never used. */
  unusedOffset = 0;
  /** Index in the arena's list of spans with free blocks; -1 if the span is full. */
  partialIndex = -1;
  readonly freed: number[] = [];

  constructor(slab: Slab, start: number) {
    this.slab = slab;
    this.bytes = slab.region.memory.bytes;
    this.start = start;
  }
}

/** Gives back what a former process had in slabs that are not in use. */
function discardFree({ empty, memory }: Region): void {
  const starts = empty.map(({ start }) => start).sort((a, b) => a - b);
  for (let i = 0; i < starts.length;) {
    let end = starts[i]! + SLAB_BYTES;
    const first = i;
    for (i += 1; starts[i] === end; i++) end += SLAB_BYTES;
    memory.discard?.(starts[first]!, end);
  }
}

/**
 * Allocates memory for file content: blocks of 256 bytes to 128 KiB, in powers of two, cut from
 * slabs of 4 MiB in regions. An ArrayBuffer for each block would cost 3 µs for 4 KiB, and a garbage
 * collection every few hundred. This costs about 50 ns, and a slab without used blocks is given
 * back. Blocks are not cleared: their user knows which bytes are valid.
 */
export class Arena {
  /**
   * Allocates regions. Memory outside the JavaScript engine is better: it is given back at once,
   * and costs no garbage collections as it grows.
   */
  source: ((length: number) => RegionMemory) | undefined;
  /** Set while what files have is kept in memory that outlives the process. */
  recorder: ContentRecorder | undefined;
  readonly #budget: Budget;
  readonly #partial: Span[][] = Array.from({ length: CLASSES }, () => []);
  /** Slabs in use that have free spans. */
  readonly #slabs: Slab[] = [];
  /** Slabs all of whose spans are free. */
  readonly #spare: Slab[] = [];
  #trimming = false;
  /** Regions with empty slabs. */
  readonly #regions: Region[] = [];
  #regionCount = 0;
  #nextRegion = REGION_FIRST_BYTES;
  /** Blocks that were freed by the change that is being made: see {@link change}. */
  readonly #given: (Span | number)[] = [];
  #isChanging = false;
  /** Whether it frees something of which the rest is freed later. */
  #hasFreed = false;
  /** What is to be freed, in steps. */
  readonly #unfreed: Iterator<void>[] = [];
  #freeing = false;

  /**
   * @param maxBytes most bytes in slabs, whatever the limits of the volumes.
   * @param maxHeapBytes most bytes of heap for what says where the content of files is.
   * @param budget in the place of both: that of another arena.
   */
  constructor(maxBytes = Infinity, maxHeapBytes = Infinity, budget?: Budget) {
    this.#budget = budget ?? new Budget(Math.max(1, Math.floor(maxBytes / SLAB_BYTES)), maxHeapBytes);
  }

  /** An arena of its own that shares the limits of this one. */
  sibling(): Arena {
    return new Arena(undefined, undefined, this.#budget);
  }

  /** Most bytes in slabs. */
  get maxBytes(): number {
    return this.#budget.maxSlabs * SLAB_BYTES;
  }

  /**
   * A change of a tree begins whose content is kept. Until {@link changed} a killed process leaves
   * the state before it. So blocks that it frees stay as they are until then.
   */
  change(): void {
    this.#isChanging = true;
  }

  /** The change is made, and recorded. */
  changed(): void {
    this.#isChanging = false;
    this.#hasFreed = false;
    const given = this.#given;
    for (let i = 0; i < given.length; i += 2) this.#giveNow(given[i] as Span, given[i + 1] as number);
    given.length = 0;
  }

  /**
   * Whether a volume may take `bytes` more of the heap. It has `own` bytes, and may not have more
   * than is left: so there is always something for other volumes.
   */
  hasHeap(bytes: number, own: number): boolean {
    return own + bytes <= this.#budget.maxHeapBytes - this.#budget.heapBytes;
  }

  /** Counts bytes of heap that are taken, or given back (below 0). */
  addHeap(bytes: number): void {
    this.#budget.heapBytes += bytes;
  }

  /**
   * Frees what may be much in steps of some microseconds each: few of them at once, the others in
   * later turns of the event loop.
   */
  free(steps: Iterator<void>): void {
    if (this.#isChanging) this.#hasFreed = true;
    for (let i = 0; i < FREED_AT_ONCE; i++) if (steps.next().done === true) return;
    this.#unfreed.push(steps);
    if (this.#freeing) return;
    this.#freeing = true;
    setImmediate(() => this.#freeMore());
  }

  #freeMore(): void {
    const end = performance.now() + FREEING_MS;
    while (this.#unfreed.length > 0 && performance.now() < end) this.#freeStep();
    this.#freeing = this.#unfreed.length > 0;
    if (this.#freeing) setImmediate(() => this.#freeMore());
  }

  #freeStep(): void {
    if (this.#unfreed.at(-1)!.next().done === true) this.#unfreed.pop();
  }

  /** Bytes in slabs, of all arenas that share its limits. */
  get slabBytes(): number {
    return this.#budget.slabs * SLAB_BYTES;
  }

  /** Bytes in blocks that are in use, of all arenas that share its limits. */
  get blockBytes(): number {
    return this.#budget.blockBytes;
  }

  /**
   * The span for the next block of `bytes` (a power of two, 256 to 128 Ki), which {@link take} then
   * cuts from it.
   * @throws ENOSPC if the arena is full or the system has no memory.
   */
  span(bytes: number): Span {
    const sizeClass = 31 - Math.clz32(bytes) - SHIFT_MIN;
    const partial = this.#partial[sizeClass]!;
    return partial.length > 0 ? partial[partial.length - 1]! : this.#openSpan(sizeClass, partial);
  }

  /** Takes a block from a span. @returns its offset in `span.bytes`. */
  take(span: Span): number {
    const bytes = BLOCK_MIN << span.sizeClass;
    let at: number;
    if (span.freed.length > 0) at = span.freed.pop()!;
    else {
      at = span.start + span.unusedOffset;
      span.unusedOffset += bytes;
    }
    span.used += 1;
    this.#budget.blockBytes += bytes;
    if (span.used * bytes === SPAN_BYTES) this.#unlist(span);
    return at;
  }

  /** Frees a block. */
  give(span: Span, at: number): void {
    if (this.#isChanging) this.#given.push(span, at);
    else this.#giveNow(span, at);
  }

  /**
   * Goes on with the blocks that a former process has left, in regions that cover the memory.
   * @param blocks no two of which overlap
   * @returns for each block its span.
   * @throws RangeError for blocks that no arena has made.
   */
  adopt(regions: readonly RegionMemory[], blocks: readonly LeftBlock[]): Span[] {
    const spans = new Map<number, Span>();
    const slabs = new Map<number, Slab>();
    for (const memory of regions) {
      const region = new Region(memory);
      for (const slab of region.empty) slabs.set(memory.offset! + slab.start, slab);
    }
    const found = blocks.map(([offset, bytes]) => {
      const spanOffset = offset - (offset % SPAN_BYTES);
      const slab = slabs.get(offset - (offset % SLAB_BYTES));
      if (slab === undefined) throw new RangeError('memfs: content outside of its memory');
      let span = spans.get(spanOffset);
      if (span === undefined) {
        if (slab.free.length === 0) slab.open();
        span = slab.free.find(({ start }) => start === slab.start + (spanOffset % SLAB_BYTES))!;
        slab.free.splice(slab.free.indexOf(span), 1);
        span.sizeClass = 31 - Math.clz32(bytes) - SHIFT_MIN;
        spans.set(spanOffset, span);
      }
      if (bytes !== BLOCK_MIN << span.sizeClass || offset % bytes !== 0)
        throw new RangeError('memfs: content where other content is');
      const end = (offset % SPAN_BYTES) + bytes;
      span.used += 1;
      span.unusedOffset = Math.max(span.unusedOffset, end);
      this.#budget.blockBytes += bytes;
      return span;
    });
    this.#listAdopted(slabs.values(), spans, blocks);
    return found;
  }

  /** Puts slabs and spans with room into the lists. */
  #listAdopted(slabs: Iterable<Slab>, spans: ReadonlyMap<number, Span>, blocks: readonly LeftBlock[]): void {
    const used = new Set(blocks.map(([offset]) => offset));
    for (const [offset, span] of spans) {
      const bytes = BLOCK_MIN << span.sizeClass;
      for (let at = 0; at < span.unusedOffset; at += bytes)
        if (!used.has(offset + at)) span.freed.push(span.start + at);
      if (span.used * bytes === SPAN_BYTES) continue;
      const partial = this.#partial[span.sizeClass]!;
      span.partialIndex = partial.length;
      partial.push(span);
    }
    const inUse = new Set([...spans.values()].map(({ slab }) => slab));
    const regions = new Set<Region>();
    for (const slab of slabs) {
      const { region } = slab;
      regions.add(region);
      if (!inUse.has(slab)) continue;
      region.empty.splice(region.empty.indexOf(slab), 1);
      this.#budget.slabs += 1;
      if (slab.free.length > 0) this.#slabs.push(slab);
    }
    for (const region of regions) {
      this.#regionCount += 1;
      if (region.empty.length > 0) this.#regions.push(region);
      discardFree(region);
    }
  }

  #giveNow(span: Span, at: number): void {
    span.used -= 1;
    this.#budget.blockBytes -= BLOCK_MIN << span.sizeClass;
    if (span.used === 0) {
      if (span.partialIndex >= 0) this.#unlist(span);
      this.#closeSpan(span);
      return;
    }
    span.freed.push(at);
    if (span.partialIndex < 0) {
      const partial = this.#partial[span.sizeClass]!;
      span.partialIndex = partial.length;
      partial.push(span);
    }
  }

  #unlist(span: Span): void {
    const partial = this.#partial[span.sizeClass]!;
    const last = partial.pop()!;
    if (last !== span) {
      partial[span.partialIndex] = last;
      last.partialIndex = span.partialIndex;
    }
    span.partialIndex = -1;
  }

  #openSpan(sizeClass: number, partial: Span[]): Span {
    let slab = this.#slabs[this.#slabs.length - 1];
    if (slab === undefined) {
      if (this.#spare.length === 0 && this.#budget.slabs >= this.#budget.maxSlabs) this.#freeForSlab();
      slab = this.#slabs.pop() ?? this.#spare.pop() ?? this.#newSlab();
      this.#slabs.push(slab);
    }
    const span = slab.free.pop()!;
    if (slab.free.length === 0) this.#slabs.pop();
    span.sizeClass = sizeClass;
    span.partialIndex = partial.length;
    partial.push(span);
    return span;
  }

  /** Frees what is to be freed, until there is a span or a slab. */
  #freeForSlab(): void {
    if (this.#hasFreed) return;
    // What earlier changes freed can be used at once.
    const isChanging = this.#isChanging;
    this.#isChanging = false;
    for (let i = 0; i < FREED_FOR_SLAB && this.#unfreed.length > 0; i++) {
      if (this.#slabs.length > 0 || this.#spare.length > 0) break;
      this.#freeStep();
    }
    this.#isChanging = isChanging;
  }

  #newSlab(): Slab {
    if (this.#budget.slabs >= this.#budget.maxSlabs) throw ENOSPC;
    const region = this.#regions[this.#regions.length - 1] ?? this.#newRegion();
    const slab = region.empty.pop()!;
    if (region.empty.length === 0) this.#regions.pop();
    slab.open();
    this.#budget.slabs += 1;
    return slab;
  }

  #newRegion(): Region {
    let memory: RegionMemory;
    try {
      memory = this.source === undefined ? engineMemory() : this.source(this.#nextRegion);
    } catch {
      throw ENOSPC;
    }
    if (this.source !== undefined) this.#nextRegion = Math.min(REGION_MAX_BYTES, this.#nextRegion * 2);
    const region = new Region(memory);
    this.#regions.push(region);
    this.#regionCount += 1;
    return region;
  }

  #closeSpan(span: Span): void {
    const slab = span.slab;
    span.unusedOffset = 0;
    span.freed.length = 0;
    slab.free.push(span);
    if (slab.free.length === 1) this.#slabs.push(slab);
    if (slab.free.length < SPANS_PER_SLAB) return;
    this.#slabs.splice(this.#slabs.indexOf(slab), 1);
    this.#spare.push(slab);
    if (this.#spare.length > SPARE_SLABS && !this.#trimming) {
      this.#trimming = true;
      setImmediate(() => this.#trim());
    }
  }

  /** Gives free slabs beyond the reserve back, some in each turn. */
  #trim(): void {
    const count = Math.min(TRIM_SLABS, this.#spare.length - SPARE_SLABS);
    for (let i = 0; i < count; i++) this.#giveSlab(this.#spare.pop()!);
    this.#trimming = this.#spare.length > SPARE_SLABS;
    if (this.#trimming) setImmediate(() => this.#trim());
  }

  /** Gives a slab's memory back; and its region's address space when no slab of it is in use. */
  #giveSlab(slab: Slab): void {
    const { region } = slab;
    this.#budget.slabs -= 1;
    slab.free.length = 0;
    region.empty.push(slab);
    if (region.empty.length === 1) this.#regions.push(region);
    if (region.empty.length === region.slabs) {
      this.#regions.splice(this.#regions.indexOf(region), 1);
      region.memory.close();
      this.#regionCount -= 1;
      if (this.#regionCount === 0) this.#nextRegion = REGION_FIRST_BYTES;
    } else region.memory.discard?.(slab.start, slab.start + SLAB_BYTES);
  }
}
