import { FsError } from '../../core/backend/index.js';

const ENOSPC = FsError.of('ENOSPC');

/** Bytes of a slab, the unit that is taken from and given back to the JavaScript engine. */
export const SLAB_BYTES = 4 << 20;

/** Bytes of a span, the part of a slab that is cut into blocks of one size; also the largest block. */
export const SPAN_BYTES = 128 << 10;

/** Smallest block. */
export const BLOCK_MIN = 256;

const SPANS_PER_SLAB = SLAB_BYTES / SPAN_BYTES;
const SHIFT_MIN = 31 - Math.clz32(BLOCK_MIN);
const CLASSES = 32 - Math.clz32(SPAN_BYTES) - SHIFT_MIN;

/** Free slabs that are kept for the next allocation, 32 MiB, instead of being given back. */
const SPARE_SLABS = 8;

/** Memory from elsewhere; `close` gives it back at once. */
export interface SlabMemory {
  readonly bytes: Uint8Array;
  close(): void;
}

/** Memory of the JavaScript engine's, which the garbage collector gives back. */
function engineMemory(length: number): SlabMemory {
  return { bytes: new Uint8Array(Buffer.allocUnsafeSlow(length).buffer), close: () => undefined };
}

class Slab {
  readonly memory: SlabMemory;
  readonly free: Span[] = [];

  constructor(memory: SlabMemory) {
    this.memory = memory;
    for (let at = SLAB_BYTES - SPAN_BYTES; at >= 0; at -= SPAN_BYTES) this.free.push(new Span(this, at));
  }
}

/** A run of blocks of one size. */
export class Span {
  readonly slab: Slab;
  readonly bytes: Uint8Array;
  readonly start: number;
  /** Size class of its blocks. */
  kind = 0;
  /** Blocks in use. */
  used = 0;
  /** Next block that was never handed out. */
  fresh = 0;
  /** Position in the arena's list of spans with free blocks, -1 when it is full. */
  place = -1;
  readonly freed: number[] = [];

  constructor(slab: Slab, start: number) {
    this.slab = slab;
    this.bytes = slab.memory.bytes;
    this.start = start;
  }
}

/**
 * Memory for file content: blocks of 256 bytes to 128 KiB, in powers of two, cut from slabs of 4 MiB. An ArrayBuffer
 * for each block would cost 3 µs for 4 KiB and a garbage collection every few hundred; this costs some 50 ns, and a
 * slab whose blocks are all free goes back. Content is not cleared: the user of a block knows which of its bytes are
 * valid.
 */
export class Arena {
  /**
   * Where slabs come from. Memory outside the JavaScript engine's is better: the engine would collect garbage as it
   * grows, and only then give it back.
   */
  source: (length: number) => SlabMemory = engineMemory;
  readonly #maxSlabs: number;
  readonly #partial: Span[][] = Array.from({ length: CLASSES }, () => []);
  readonly #slabs: Slab[] = [];
  #slabCount = 0;
  #spare = 0;
  #blockBytes = 0;

  /** @param maxBytes most bytes in slabs, whatever the volumes in it may have been promised. */
  constructor(maxBytes = Infinity) {
    this.#maxSlabs = Math.max(1, Math.floor(maxBytes / SLAB_BYTES));
  }

  /** Bytes in slabs. */
  get slabBytes(): number {
    return this.#slabCount * SLAB_BYTES;
  }

  /** Bytes in blocks that are in use. */
  get blockBytes(): number {
    return this.#blockBytes;
  }

  /**
   * The span that {@link take} will cut the next block of `bytes` (a power of two, 256 to 128 Ki) from.
   * @throws ENOSPC when the arena is full or the system has no memory.
   */
  span(bytes: number): Span {
    const kind = 31 - Math.clz32(bytes) - SHIFT_MIN;
    const partial = this.#partial[kind]!;
    return partial.length > 0 ? partial[partial.length - 1]! : this.#openSpan(kind, partial);
  }

  /** Takes a block from a span. @returns its offset in `span.bytes`. */
  take(span: Span): number {
    const bytes = BLOCK_MIN << span.kind;
    let at: number;
    if (span.freed.length > 0) at = span.freed.pop()!;
    else {
      at = span.start + span.fresh;
      span.fresh += bytes;
    }
    span.used += 1;
    this.#blockBytes += bytes;
    if (span.used * bytes === SPAN_BYTES) this.#unlist(span);
    return at;
  }

  /** Gives a block back. */
  give(span: Span, at: number): void {
    span.used -= 1;
    this.#blockBytes -= BLOCK_MIN << span.kind;
    if (span.used === 0) {
      if (span.place >= 0) this.#unlist(span);
      this.#closeSpan(span);
      return;
    }
    span.freed.push(at);
    if (span.place < 0) {
      const partial = this.#partial[span.kind]!;
      span.place = partial.length;
      partial.push(span);
    }
  }

  #unlist(span: Span): void {
    const partial = this.#partial[span.kind]!;
    const last = partial.pop()!;
    if (last !== span) {
      partial[span.place] = last;
      last.place = span.place;
    }
    span.place = -1;
  }

  #openSpan(kind: number, partial: Span[]): Span {
    let slab = this.#slabs[this.#slabs.length - 1];
    if (slab === undefined) {
      slab = this.#newSlab();
    } else if (slab.free.length === SPANS_PER_SLAB) this.#spare -= 1;
    const span = slab.free.pop()!;
    if (slab.free.length === 0) this.#slabs.pop();
    span.kind = kind;
    span.place = partial.length;
    partial.push(span);
    return span;
  }

  #newSlab(): Slab {
    if (this.#slabCount >= this.#maxSlabs) throw ENOSPC;
    let slab: Slab;
    try {
      slab = new Slab(this.source(SLAB_BYTES));
    } catch {
      throw ENOSPC;
    }
    this.#slabs.push(slab);
    this.#slabCount += 1;
    return slab;
  }

  #closeSpan(span: Span): void {
    const slab = span.slab;
    span.fresh = 0;
    span.freed.length = 0;
    slab.free.push(span);
    if (slab.free.length === 1) this.#slabs.push(slab);
    if (slab.free.length < SPANS_PER_SLAB) return;
    if (this.#spare < SPARE_SLABS) {
      this.#spare += 1;
      return;
    }
    this.#slabs.splice(this.#slabs.indexOf(slab), 1);
    this.#slabCount -= 1;
    slab.memory.close();
  }
}
