import { FsError } from './errors.js';

/** Threads of libuv's pool by default, and how many it can have at most. */
const POOL_THREADS = 4;
const POOL_THREADS_MAX = 1024;

/** How many threads libuv's pool has: `UV_THREADPOOL_SIZE` of the environment, else four. */
function poolThreads(): number {
  const given = process.env['UV_THREADPOOL_SIZE'];
  if (given === undefined) return POOL_THREADS;
  return Math.min(Math.max(Number.parseInt(given, 10) || 1, 1), POOL_THREADS_MAX);
}

/** A `short` call waits for the disk once; a `long` one copies, allocates or syncs all there is. */
export type CallLength = 'short' | 'long';

/**
 * Who asks: a guest's identity, or what stands for the guests of a file system; undefined for the
 * daemon itself.
 */
type Guest = unknown;

/** A call is made for somebody, who may give it up. A `Context` is one. */
export interface Caller {
  readonly guest?: Guest;
  readonly signal: AbortSignal;
}

/** Long calls of all guests that run at a time. */
const MAX_LONG = 2;

/** The calls of one length that wait. The guest whose turn is next comes first. */
class Line {
  readonly #guests = new Map<Guest, (() => void)[]>();

  add(guest: Guest, start: () => void): void {
    const calls = this.#guests.get(guest);
    if (calls === undefined) this.#guests.set(guest, [start]);
    else calls.push(start);
  }

  /**
   * Starts a call of the first guest that is allowed one, which then comes last.
   * @returns whether there was any.
   */
  start(isAllowed: (guest: Guest) => boolean): boolean {
    for (const [guest, calls] of this.#guests) {
      if (!isAllowed(guest)) continue;
      const start = calls.shift()!;
      this.#guests.delete(guest);
      if (calls.length > 0) this.#guests.set(guest, calls);
      start();
      return true;
    }
    return false;
  }
}

/** What a guest has running. */
interface Running {
  calls: number;
  long: number;
}

/**
 * Deals the thread pool to guests. The pool has few threads and serves first in, first out: as many
 * calls as a guest likes to ask for would stand before another guest's fsync. So no more calls are
 * handed to it than it has threads; the others wait here.
 *
 * - Guests take turns, a call each.
 * - A guest's next call leaves at least as many threads free as it then has. So one that waits for
 *   a slow disk has half of the pool at most.
 * - A guest has one long call at a time, and all together {@link MAX_LONG}. The first is dealt
 *   before short calls, the others after them.
 */
export class Turns {
  readonly #threads: number;
  readonly #short = new Line();
  readonly #long = new Line();
  /** Guests that have calls running. */
  readonly #guests = new Map<Guest, Running>();
  #running = 0;
  #runningLong = 0;

  /** @param threads how many calls run at a time. */
  constructor(threads: number) {
    this.#threads = threads;
  }

  /**
   * Makes a call when it is its guest's turn.
   * @throws FsError EINTR if the request was given up while it waited.
   */
  async run<T>({ guest, signal }: Caller, length: CallLength, call: () => Promise<T>): Promise<T> {
    const isLong = length === 'long';
    await new Promise<void>((resolve) => {
      const line = isLong ? this.#long : this.#short;
      line.add(guest, () => {
        this.#enter(guest, isLong);
        resolve();
      });
      this.#deal();
    });
    try {
      if (signal.aborted) throw FsError.of('EINTR');
      return await call();
    } finally {
      this.#leave(guest, isLong);
      this.#deal();
    }
  }

  #deal(): void {
    while (this.#running < this.#threads) {
      if (this.#runningLong === 0 && this.#startLong()) continue;
      if (this.#short.start((guest) => this.#mayStart(guest))) continue;
      if (!this.#startLong()) return;
    }
  }

  #startLong(): boolean {
    if (this.#runningLong === MAX_LONG) return false;
    return this.#long.start((guest) => this.#mayStart(guest) && !this.#guests.get(guest)?.long);
  }

  #mayStart(guest: Guest): boolean {
    const own = this.#guests.get(guest)?.calls ?? 0;
    return own === 0 || own + 1 <= this.#threads - this.#running - 1;
  }

  #enter(guest: Guest, isLong: boolean): void {
    const own = this.#guests.get(guest) ?? { calls: 0, long: 0 };
    own.calls += 1;
    this.#running += 1;
    if (isLong) {
      own.long += 1;
      this.#runningLong += 1;
    }
    this.#guests.set(guest, own);
  }

  #leave(guest: Guest, isLong: boolean): void {
    const own = this.#guests.get(guest)!;
    own.calls -= 1;
    this.#running -= 1;
    if (isLong) {
      own.long -= 1;
      this.#runningLong -= 1;
    }
    if (own.calls === 0) this.#guests.delete(guest);
  }
}

/** The turns of all file systems: they have one pool. */
export const turns = new Turns(poolThreads());
