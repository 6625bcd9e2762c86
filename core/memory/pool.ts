/**
 * Objects that wait to be used again. An array would give up its memory each time that it becomes
 * empty, so that one request at a time would make garbage by each `push`.
 */
export class Pool<T> {
  readonly #items: T[] = [];
  #count = 0;

  /** @returns undefined if none is left. */
  take(): T | undefined {
    if (this.#count === 0) return undefined;
    this.#count -= 1;
    return this.#items[this.#count];
  }

  /** Gives an object back. The caller must not use it from now on. */
  give(item: T): void {
    this.#items[this.#count] = item;
    this.#count += 1;
  }

  /** Takes all that are left. */
  takeAll(): T[] {
    const all = this.#items.slice(0, this.#count);
    this.#items.length = 0;
    this.#count = 0;
    return all;
  }
}
