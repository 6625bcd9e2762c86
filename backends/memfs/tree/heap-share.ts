/** Bytes of heap that all volumes of a process may take together. */
export class HeapBudget {
  readonly limit: number;
  used = 0;

  constructor(limit: number) {
    this.limit = limit;
  }
}

/** What a share has, apart from it: so it can be given back when the share is collected. */
interface Held {
  readonly budget: HeapBudget;
  bytes: number;
}

const collected = new FinalizationRegistry<Held>((held) => {
  held.budget.used -= held.bytes;
});

/** What one volume has of a {@link HeapBudget}. */
export class HeapShare {
  readonly #held: Held;

  constructor(budget: HeapBudget) {
    this.#held = { budget, bytes: 0 };
    collected.register(this, this.#held);
  }

  /**
   * Whether the volume may have so many bytes: no more than it leaves, so that there is always
   * something for other volumes.
   */
  allows(bytes: number): boolean {
    const { budget } = this.#held;
    return bytes <= budget.limit - (budget.used - this.#held.bytes) - bytes;
  }

  /** The volume has so many bytes from now on. */
  set(bytes: number): void {
    this.#held.budget.used += bytes - this.#held.bytes;
    this.#held.bytes = bytes;
  }
}
