import type { Gathered } from '../../backend/accelerator.js';
import type { Awaitable } from '../../backend/index.js';
import { BackOff, Pool } from '../../memory/index.js';
import { NO_SLOT, type Slot } from '../../state/index.js';
import type { Request } from './request.js';

/**
 * Requests are gathered only if at least so many are in the queue, the current one included. Fewer
 * gain nothing.
 */
export const GATHERED_FROM = 8;

/**
 * If the queue has so many requests, a batch takes only half of them: the guest can then work on
 * its replies while the other half is carried out. A batch never takes more than GATHERED_MOST.
 */
const HALVED = 16;
export const GATHERED_MOST = 32;

/** The size of a batch, if the queue has `seen` requests, the current one included. */
export function batchSize(seen: number): number {
  return seen < HALVED ? seen : Math.min((seen + 1) >> 1, GATHERED_MOST);
}

/** A batch of fewer requests than this was not worth its cost. */
export const GATHERED_FEW = 4;

/**
 * A read or write of so many bytes is worth a batch of its own, which another thread may carry out
 * while further requests wait.
 */
export const LARGE = 32 * 1024;

/** Requests that a backend has gathered, and their results. */
export class Batch {
  count = 0;
  readonly requests: Request[] = [];
  /** What the backend's `submit` returns for each of them. */
  readonly results: Awaitable<Gathered<object>>[] = [];
  /** The first of them that are appends to {@link file}; behind these it {@link end}s then. */
  appends = 0;
  file = NO_SLOT;
  end = 0;
  /** Of `KnownEnds`, at the first of them. */
  version = 0;
  /** Ends the batch, if the backend carries it out on another thread. */
  readonly later: () => void;

  constructor(end: (batch: Batch) => void) {
    this.later = () => end(this);
  }
}

/**
 * Decides which requests of a session are gathered, so that the backend carries them out by one
 * call. Nobody knows beforehand whether the next requests can be gathered. So after each batch that
 * was too small, about twice as many requests as before are served singly before the next attempt.
 */
export class Gathering {
  /** How many requests follow the current one in this turn. */
  following = 0;
  /** Batches that other threads are carrying out. */
  outstanding = 0;
  readonly #end: (batch: Batch) => void;
  readonly #spare = new Pool<Batch>();
  #batch: Batch;
  /** Bytes of data of the current request, and whether the one added last was large. */
  #size = 0;
  #isLarge = false;
  #limit = 0;
  readonly #backOff = new BackOff();

  /** @param end called for a batch that another thread has carried out. */
  constructor(end: (batch: Batch) => void) {
    this.#end = end;
    this.#batch = new Batch(end);
  }

  /** Requests in the batch. */
  get count(): number {
    return this.#batch.count;
  }

  /**
   * Whether the current request, with `size` bytes of data, may be gathered. To be asked once for
   * each request, since it counts the skipped ones.
   */
  begin(size: number): boolean {
    this.#size = size;
    if (this.#batch.count > 0) return true;
    if (size >= LARGE) return this.following > 0;
    if (this.following + 1 < GATHERED_FROM) return false;
    return !this.#backOff.skips();
  }

  /**
   * Adds the current request, which the backend has gathered, to the batch.
   * @returns whether the batch is full.
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

  /**
   * The current request, which the backend has gathered and {@link add} follows for, appends to a
   * file.
   * @param end where the file ends then.
   * @param version of `KnownEnds`.
   */
  append(file: Slot, end: number, version: number): void {
    const batch = this.#batch;
    if (batch.appends !== batch.count) return;
    if (batch.appends === 0) batch.version = version;
    batch.appends += 1;
    batch.file = file;
    batch.end = end;
  }

  /**
   * Where a file ends once the batch is carried out.
   * @returns -1 if there is none, or it has something else than appends to that file.
   */
  endOf(file: Slot): number {
    const { count, appends, file: its, end } = this.#batch;
    return count > 0 && appends === count && its === file ? end : -1;
  }

  /** Begins a new batch. @returns the former one, which {@link recycle} takes back. */
  end(): Batch {
    const batch = this.#batch;
    this.#batch = this.#spare.take() ?? new Batch(this.#end);
    if (!this.#isLarge) this.#backOff.tried(batch.count >= GATHERED_FEW);
    return batch;
  }

  recycle(batch: Batch): void {
    batch.count = 0;
    batch.appends = 0;
    this.#spare.give(batch);
  }
}
