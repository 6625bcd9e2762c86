import { type Awaitable, isPromise } from '../../../core/backend/index.js';

/**
 * Lets one change of the tree through at a time, in order. A change is several steps on several
 * layers; over asynchronous ones another could see it half done. Over synchronous layers nobody
 * ever waits.
 */
export class Turnstile {
  #last: Promise<void> | undefined;

  pass<T>(change: () => Awaitable<T>): Awaitable<T> {
    const result = this.#last === undefined ? change() : this.#after(this.#last, change);
    if (isPromise(result)) this.#block(result);
    return result;
  }

  async #after<T>(before: Promise<void>, change: () => Awaitable<T>): Promise<T> {
    await before;
    return change();
  }

  #block(change: Promise<unknown>): void {
    const settled = settle(change);
    this.#last = settled;
    void settled.finally(() => {
      if (this.#last === settled) this.#last = undefined;
    });
  }
}

/** Resolves when the change is over; its error is the caller's. */
async function settle(change: Promise<unknown>): Promise<void> {
  await Promise.allSettled([change]);
}
