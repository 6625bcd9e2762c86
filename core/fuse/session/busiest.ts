/** How many are followed at a time. */
const FOLLOWED = 64;

/** One that was seen often. */
export interface Busy {
  /** The two halves of its key. */
  readonly low: number;
  readonly high: number;
  /** How often it was seen at least. */
  readonly count: number;
}

/**
 * Who was seen most often, of any number, in little memory: whoever is new takes the place of the
 * one seen least, and its count as what may be wrong of its own ("space saving": Metwally, Agrawal,
 * El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005). One
 * that makes up more than a 64th of what was seen is always among them.
 */
export class Busiest {
  readonly #low = new Int32Array(FOLLOWED);
  readonly #high = new Int32Array(FOLLOWED);
  readonly #counts = new Float64Array(FOLLOWED);
  /** What a count may be too high by. */
  readonly #excess = new Float64Array(FOLLOWED);
  #used = 0;

  /** One was seen, with a key of two signed numbers of 32 bits. */
  see(low: number, high: number): void {
    const counts = this.#counts;
    let least = 0;
    for (let i = 0; i < this.#used; i++) {
      if (this.#low[i] === low && this.#high[i] === high) {
        counts[i] = counts[i]! + 1;
        return;
      }
      if (counts[i]! < counts[least]!) least = i;
    }
    const isFull = this.#used === FOLLOWED;
    const at = isFull ? least : this.#used++;
    this.#excess[at] = isFull ? counts[at]! : 0;
    counts[at] = this.#excess[at]! + 1;
    this.#low[at] = low;
    this.#high[at] = high;
  }

  /** Those seen most often. @param most how many of them. */
  top(most: number): Busy[] {
    const all = Array.from({ length: this.#used }, (_, i) => ({
      low: this.#low[i]!,
      high: this.#high[i]!,
      count: this.#counts[i]! - this.#excess[i]!,
    }));
    return all.toSorted((a, b) => b.count - a.count).slice(0, most);
  }
}
