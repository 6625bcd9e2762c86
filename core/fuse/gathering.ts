import type { Awaitable } from '../backend/index.js';
import type { Request } from './request.js';

/** Requests in sight, the one at hand included, from which on they are gathered: fewer gain nothing. */
const FROM = 8;

/**
 * Of so many in sight only half are carried out together, so that the guest has answers to work on while the other half is;
 * and never more than the most.
 */
const HALVED = 16;
const MOST = 32;

/** Fewer requests than that were not worth the trouble; and how many chances are passed over at most after it. */
const FEW = 4;
const MOST_SKIPPED = 63;

/**
 * Reads and writes of one session that a backend has put aside, to carry them out by one call. Whether there is anything to
 * gather among the requests in sight is not known before: after each time that there was not, twice as many chances as before
 * are passed over.
 */
export class Gathering {
  count = 0;
  /** Requests that are to come after the one at hand. */
  following = 0;
  readonly requests: Request[] = [];
  /** What the backend's `submit` gives for each. */
  readonly results: Awaitable<number>[] = Array.from({ length: MOST }, () => 0);
  #limit = 0;
  #skip = 0;
  #skipped = 0;

  /** Whether the read or write at hand may be put aside. To be asked once for each: it counts the chances. */
  begin(): boolean {
    if (this.count > 0) return true;
    if (this.following + 1 < FROM) return false;
    if (this.#skipped === this.#skip) return true;
    this.#skipped += 1;
    return false;
  }

  /** Adds a request that was put aside. @returns whether it is time to carry them out. */
  add(request: Request): boolean {
    if (this.count === 0) {
      const seen = this.following + 1;
      const isRest = seen < HALVED || seen <= this.#limit;
      this.#limit = isRest ? seen : Math.min((seen + 1) >> 1, MOST);
    }
    this.requests[this.count] = request;
    this.count += 1;
    return this.count === this.#limit;
  }

  /** Begins anew. @returns how many requests there were. */
  end(): number {
    const { count } = this;
    this.count = 0;
    this.#skipped = 0;
    this.#skip = count < FEW ? Math.min(this.#skip * 2 + 1, MOST_SKIPPED) : 0;
    return count;
  }
}
