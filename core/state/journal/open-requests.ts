/** Places of requests that are not answered in the order in which they began. */
const PLACES = 64;

/** A place without a request. */
const NONE = -1;

/**
 * Where the records of requests lie that have no answer yet, by their ids. Most requests are
 * answered before another begins, and those of a batch in their order: so a few places are looked
 * through from the oldest one, and only what has waited for long gets into a map.
 */
export class OpenRequests {
  readonly #lows = new Int32Array(PLACES);
  readonly #highs = new Int32Array(PLACES);
  readonly #positions = new Int32Array(PLACES).fill(NONE);
  /** Places in use are from `#first` up to `#end`, both counted on and on. */
  #first = 0;
  #end = 0;
  readonly #others = new Map<number, number>();

  /** A request has a record at a position, instead of any before. */
  set(low: number, high: number, position: number): void {
    if (this.#first !== this.#end || this.#others.size > 0) this.delete(low, high);
    if (((this.#end - this.#first) | 0) === PLACES) this.#makeRoom();
    const at = this.#end & (PLACES - 1);
    this.#lows[at] = low;
    this.#highs[at] = high;
    this.#positions[at] = position;
    this.#end = (this.#end + 1) | 0;
  }

  has(low: number, high: number): boolean {
    return this.#find(low, high) !== NONE || (this.#others.size > 0 && this.#others.has(uniqueOf(low, high)));
  }

  delete(low: number, high: number): void {
    const at = this.#find(low, high);
    if (at === NONE) {
      if (this.#others.size > 0) this.#others.delete(uniqueOf(low, high));
      return;
    }
    this.#leave(at);
  }

  /** A place is free. The first one in use never is. */
  #leave(at: number): void {
    this.#positions[at] = NONE;
    while (this.#first !== this.#end && this.#positions[this.#first & (PLACES - 1)] === NONE)
      this.#first = (this.#first + 1) | 0;
  }

  clear(): void {
    this.#positions.fill(NONE);
    this.#first = this.#end;
    this.#others.clear();
  }

  /** The records are elsewhere now. @param to gives each one's new position. */
  move(to: (position: number) => number): void {
    // Those in the map are the oldest.
    for (const [unique, position] of this.#others) this.#others.set(unique, to(position));
    for (let i = this.#first; i !== this.#end; i = (i + 1) | 0) {
      const at = i & (PLACES - 1);
      if (this.#positions[at] !== NONE) this.#positions[at] = to(this.#positions[at]!);
    }
  }

  #find(low: number, high: number): number {
    for (let i = this.#first; i !== this.#end; i = (i + 1) | 0) {
      const at = i & (PLACES - 1);
      if (this.#lows[at] === low && this.#highs[at] === high && this.#positions[at] !== NONE) return at;
    }
    return NONE;
  }

  #makeRoom(): void {
    const at = this.#first & (PLACES - 1);
    this.#others.set(uniqueOf(this.#lows[at]!, this.#highs[at]!), this.#positions[at]!);
    this.#leave(at);
  }
}

/** A request's id as a number. Halves are signed. */
export function uniqueOf(low: number, high: number): number {
  return (high >>> 0) * 2 ** 32 + (low >>> 0);
}
