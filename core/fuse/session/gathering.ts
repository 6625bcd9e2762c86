import type { Awaitable, Gathered } from '../../backend/index.js';
import type { Request } from './request.js';

/**
 * Requests in sight, the one at hand included, from which on they are gathered: fewer gain nothing.
 */
export const FROM = 8;

/**
 * Of so many in sight only half are carried out together, so that the guest has answers to work on
 * while the other half is; and never more than the most.
 */
const HALVED = 16;
export const MOST = 32;

/** How many of the requests in sight are carried out together. */
export function batchSize(seen: number): number {
  return seen < HALVED ? seen : Math.min((seen + 1) >> 1, MOST);
}

/**
 * Fewer requests than that were not worth the trouble; and how many chances are passed over at most
 * after it.
 */
const FEW = 4;
const MOST_SKIPPED = 63;

/**
 * Bytes from which a read or write is work enough by itself, to be done beside others that wait.
 */
export const LARGE = 32 * 1024;

/** Requests that a backend has put aside, and what became of them. */
export class Batch {
  count = 0;
  readonly requests: Request[] = [];
  /** What the backend's `submit` gives for each. */
  readonly results: Awaitable<Gathered<object>>[] = [];
  /** Ends the batch where the backend carries it out beside the engine's thread. */
  readonly later: () => void;

  constructor(end: (batch: Batch) => void) {
    this.later = () => end(this);
  }
}

/**
 * Requests of one session that a backend has put aside, to carry them out by one call. Whether
 * there is anything to gather among the requests in sight is not known before: after each time that
 * there was not, twice as many chances as before are passed over.
 */
export class Gathering {
  /** Requests that are to come after the one at hand. */
  following = 0;
  /** Batches that were carried out beside the engine's thread and have not ended. */
  outstanding = 0;
  readonly #end: (batch: Batch) => void;
  readonly #spare: Batch[] = [];
  #batch: Batch;
  /** Bytes of data of the request at hand; whether the one added last was large. */
  #size = 0;
  #isLarge = false;
  #limit = 0;
  #skip = 0;
  #skipped = 0;

  /** @param end what ends a batch that was carried out beside the engine's thread. */
  constructor(end: (batch: Batch) => void) {
    this.#end = end;
    this.#batch = new Batch(end);
  }

  /** Requests put aside. */
  get count(): number {
    return this.#batch.count;
  }

  /**
   * Whether the request at hand, of so many bytes of data, may be put aside. To be asked once for
   * each: it counts the chances.
   */
  begin(size: number): boolean {
    this.#size = size;
    if (this.#batch.count > 0) return true;
    if (size >= LARGE) return this.following > 0;
    if (this.following + 1 < FROM) return false;
    if (this.#skipped === this.#skip) return true;
    this.#skipped += 1;
    return false;
  }

  /**
   * Adds the request at hand, which was put aside.
   * @returns whether it is time to carry them out.
   */
  add(request: Request): boolean {
    const batch = this.#batch;
    if (batch.count === 0) {
      const seen = this.following + 1;
      this.#limit = seen <= this.#limit ? seen : batchSize(seen);
    }
    batch.requests[batch.count] = request;
    batch.count += 1;
    this.#isLarge = this.#size >= LARGE;
    return batch.count === this.#limit || this.#isLarge;
  }

  /** Begins anew. @returns the batch, which {@link recycle} takes back. */
  end(): Batch {
    const batch = this.#batch;
    this.#batch = this.#spare.pop() ?? new Batch(this.#end);
    if (!this.#isLarge) {
      this.#skipped = 0;
      this.#skip = batch.count < FEW ? Math.min(this.#skip * 2 + 1, MOST_SKIPPED) : 0;
    }
    return batch;
  }

  recycle(batch: Batch): void {
    batch.count = 0;
    this.#spare.push(batch);
  }
}
