/** After so many fruitless tries in a row their number is not doubled any more. */
const MOST_SKIPPED = 63;

/**
 * Chances at something that costs time and may be fruitless: to look at rings for a moment, to
 * gather requests. After each time that it was, twice as many chances as before are passed over, up
 * to 63; the first fruitful time ends that. So it costs little where it does not pay.
 */
export class BackOff {
  #skipped = 0;
  #skip = 0;

  /** Whether the chance at hand is to be passed over. It counts: to be asked once for each. */
  skips(): boolean {
    if (this.#skipped === this.#skip) return false;
    this.#skipped += 1;
    return true;
  }

  /** The chance was taken. */
  tried(isFruitful: boolean): void {
    this.#skipped = 0;
    this.#skip = isFruitful ? 0 : Math.min(this.#skip * 2 + 1, MOST_SKIPPED);
  }
}
