import { type Awaitable, isPromise } from '../../../core/backend/index.js';

/**
 * Runs the changes of the tree one after another. A change takes several steps on several layers;
 * over asynchronous layers another change could otherwise see it half done. Over synchronous layers
 * nothing ever waits.
 */
export class ChangeQueue {
  #last: Promise<void> | undefined;

  run<T>(change: () => Awaitable<T>): Awaitable<T> {
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

/** Resolves when the change is over. Its error belongs to the caller. */
async function settle(change: Promise<unknown>): Promise<void> {
  await Promise.allSettled([change]);
}
