/**
 * Lets a few long calls run at a time. The thread pool has four threads and serves first in, first
 * out: as many copies as a guest likes to ask for would otherwise stand before another guest's
 * fsync.
 */
export class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  /** @param count how many run at a time. */
  constructor(count: number) {
    this.#free = count;
  }

  /** Runs a call when it is its turn. */
  async run<T>(call: () => Promise<T>): Promise<T> {
    if (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#free -= 1;
    try {
      return await call();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}
