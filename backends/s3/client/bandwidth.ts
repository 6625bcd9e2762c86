import { setTimeout as sleep } from 'node:timers/promises';

/** What was not used may be used later, up to that of so many milliseconds. */
const SAVED_MS = 100;
/** Milliseconds that are not worth a timer: the next one waits longer. */
const SHORTEST_MS = 5;
/** Milliseconds of the limit that are read ahead at most: a reader's next bytes come soon then. */
const AHEAD_MS = 2_000;

/**
 * A limit on bytes a second in one direction. All that asks gets its turn, in the order in which it
 * asks.
 */
export class Bandwidth {
  readonly #perMs: number;
  /** Milliseconds of `performance.now()` by which all that was counted has gone. */
  #freeAt = 0;

  /** @param perSecond bytes, above 0. */
  constructor(perSecond: number) {
    this.#perMs = perSecond / 1000;
  }

  /** @returns undefined where there is no limit. */
  static of(perSecond: number | undefined): Bandwidth | undefined {
    return perSecond === undefined ? undefined : new Bandwidth(perSecond);
  }

  /** Most bytes to read ahead. */
  get ahead(): number {
    return this.#perMs * AHEAD_MS;
  }

  /**
   * Counts bytes that are about to go, or have come.
   * @returns a promise of the time when they may go, or more may come; undefined: that is now.
   */
  take(bytes: number): Promise<void> | undefined {
    const now = performance.now();
    this.#freeAt = Math.max(this.#freeAt, now - SAVED_MS) + bytes / this.#perMs;
    const waitMs = this.#freeAt - now;
    return waitMs < SHORTEST_MS ? undefined : sleep(waitMs);
  }
}

/** The limits of a mount's client. What is absent has none. */
export interface Limits {
  /** On bodies that go to the bucket, and on those that come from it. */
  readonly up: Bandwidth | undefined;
  readonly down: Bandwidth | undefined;
}
