/** Bytes `start` to `end` (exclusive) of a file, as one record of its log wrote them. */
export interface Extent {
  readonly start: number;
  readonly end: number;
  /** Position of the first byte in the log; for a hole, of its record. */
  readonly position: number;
  /** The bytes are zeros and are not in the log. */
  readonly hole: boolean;
}

/** A piece of a range: of an extent, or of a gap between extents. */
export interface Piece {
  readonly start: number;
  readonly end: number;
  readonly source: 'log' | 'hole' | 'gap';
  readonly position: number;
}

/**
 * The extents of a file, in order and without overlap. The bytes between them were not written
 * here.
 */
export class Extents {
  #list: Extent[] = [];
  /** Bytes of the extents that are in the log. */
  live = 0;

  [Symbol.iterator](): IterableIterator<Extent> {
    return this.#list[Symbol.iterator]();
  }

  /** A copy, unaffected by later writes. */
  clone(): Extents {
    const copy = new Extents();
    copy.#list = [...this.#list];
    copy.live = this.live;
    return copy;
  }

  /** Inserts an extent, which replaces whatever was in its range. */
  insert(start: number, end: number, position: number, hole = false): void {
    if (start >= end) return;
    const from = this.#search(start);
    let to = from;
    const pieces: Extent[] = [];
    while (to < this.#list.length && this.#list[to]!.start < end) {
      const old = this.#list[to]!;
      if (old.start < start) pieces.push({ ...old, end: start });
      if (to === from) pieces.push({ start, end, position, hole });
      if (old.end > end) pieces.push(cut(old, end, old.end));
      this.#count(old, -1);
      to += 1;
    }
    if (to === from) pieces.push({ start, end, position, hole });
    for (const piece of pieces) this.#count(piece, 1);
    this.#list.splice(from, to - from, ...pieces);
  }

  /** Drops everything from `size` on. */
  truncate(size: number): void {
    while (this.#list.length > 0) {
      const last = this.#list.at(-1)!;
      if (last.end <= size) return;
      this.#list.pop();
      this.#count(last, -1);
      if (last.start < size) {
        const kept = { ...last, end: size };
        this.#list.push(kept);
        this.#count(kept, 1);
        return;
      }
    }
  }

  /** Drops the extents and holes of records before `position`: the bucket has them. */
  dropBefore(position: number): void {
    this.#list = this.#list.filter((extent) => extent.position >= position);
    this.live = 0;
    for (const extent of this.#list) this.#count(extent, 1);
  }

  /** The extents that touch a range, cut to it, and the gaps between them, in order. */
  *cover(start: number, end: number): Generator<Piece> {
    let at = start;
    for (let i = this.#search(start); i < this.#list.length && at < end; i++) {
      const extent = this.#list[i]!;
      if (extent.start >= end) break;
      if (extent.start > at) {
        yield { start: at, end: extent.start, source: 'gap', position: 0 };
        at = extent.start;
      }
      const stop = Math.min(end, extent.end);
      const { position, hole } = cut(extent, at, stop);
      yield { start: at, end: stop, source: hole ? 'hole' : 'log', position };
      at = stop;
    }
    if (at < end) yield { start: at, end, source: 'gap', position: 0 };
  }

  /** Index of the first extent that ends after `offset`. */
  #search(offset: number): number {
    let low = 0;
    let high = this.#list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#list[middle]!.end <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #count(extent: Extent, sign: 1 | -1): void {
    if (!extent.hole) this.live += sign * (extent.end - extent.start);
  }
}

/** The part of an extent from `start` to `end`. */
function cut(extent: Extent, start: number, end: number): Extent {
  const position = extent.hole ? extent.position : extent.position + start - extent.start;
  return { start, end, position, hole: extent.hole };
}
