/** After so many fruitless tries in a row their number is not doubled any more. */
const MOST_SKIPPED = 63;

/**
 * Decides when to try something that costs time and may bring nothing, such as a look at the rings
 * before the thread sleeps. After a try that brought nothing, the next chance is passed over, then
 * 3, 7 and up to 63 chances after each further one. A try that brought something ends that. So it
 * costs little where it does not pay.
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
