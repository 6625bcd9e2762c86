/** Something that a cache keeps. */
export interface Item {
  /** What it takes, about. */
  readonly bytes: number;
  /** Forgets it. It is out of the budget by then. */
  drop(): void;
}

/** Keeps what was used last, within a number of bytes. */
export class Budget {
  readonly #limit: number;
  /** Least recently used first. */
  readonly #items = new Set<Item>();
  #bytes = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Drops others, or the item itself if it is larger than all that may be kept. */
  add(item: Item): void {
    this.#items.add(item);
    this.#bytes += item.bytes;
    for (const oldest of this.#items) {
      if (this.#bytes <= this.#limit) return;
      this.remove(oldest);
      oldest.drop();
    }
  }

  /** The item was used. */
  touch(item: Item): void {
    if (this.#items.delete(item)) this.#items.add(item);
  }

  remove(item: Item): void {
    if (this.#items.delete(item)) this.#bytes -= item.bytes;
  }
}
