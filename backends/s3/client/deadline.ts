import { FsError } from '../../../core/backend/index.js';

/**
 * The time by which an operation must end, and the guest's signal that it has given the operation
 * up.
 */
export class Deadline {
  /** Milliseconds of `performance.now()`. */
  readonly at: number;
  readonly signal: AbortSignal | undefined;

  private constructor(at: number, signal: AbortSignal | undefined) {
    this.at = at;
    this.signal = signal;
  }

  static after(seconds: number, signal?: AbortSignal): Deadline {
    return new Deadline(performance.now() + seconds * 1000, signal);
  }

  /** For background work that is repeated until it succeeds. */
  static readonly never = new Deadline(Number.POSITIVE_INFINITY, undefined);

  /** Milliseconds left, 0 or more. */
  get remaining(): number {
    return Math.max(0, this.at - performance.now());
  }

  /** @throws EINTR if the operation was given up. */
  check(): void {
    if (this.signal?.aborted === true) throw FsError.of('EINTR');
  }

  /** Sleeps. @throws EINTR as soon as the operation is given up. */
  async sleep(milliseconds: number): Promise<void> {
    this.check();
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.signal?.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.signal?.addEventListener('abort', done);
    });
    this.check();
  }

  /**
   * Waits for a promise until the deadline. The work behind it goes on.
   * @throws ETIMEDOUT, EINTR
   */
  async wait<T>(work: Promise<T>): Promise<T> {
    if (this.at === Number.POSITIVE_INFINITY && this.signal === undefined) return work;
    this.check();
    const limit = deferred<never>();
    const abort = (): void => limit.reject(FsError.of('EINTR'));
    const expire = (): void => limit.reject(FsError.of('ETIMEDOUT'));
    const timer = Number.isFinite(this.at) ? setTimeout(expire, this.remaining) : undefined;
    this.signal?.addEventListener('abort', abort);
    try {
      return await Promise.race([work, limit.promise]);
    } finally {
      clearTimeout(timer);
      this.signal?.removeEventListener('abort', abort);
    }
  }
}

/** A promise and what settles it. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

export function deferred<T>(): Deferred<T> {
  const settle: { resolve?: (value: T) => void; reject?: (error: unknown) => void } = {};
  const promise = new Promise<T>((resolve, reject) => Object.assign(settle, { resolve, reject }));
  return { promise, resolve: settle.resolve!, reject: settle.reject! };
}

/** Admits a number of holders; the others wait in order. */
export class Semaphore {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(size: number) {
    this.#free = size;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.enter();
    if (turn !== undefined) await turn;
    try {
      return await work();
    } finally {
      this.leave();
    }
  }

  /**
   * @returns a promise of the caller's turn, or undefined if it is its turn already. Each holder
   * must {@link leave}.
   */
  enter(): Promise<void> | undefined {
    if (this.#free === 0) return new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#free -= 1;
    return undefined;
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}

/** Counts the users of something, so that its owner can wait for them before ending it. */
export class Users {
  #count = 0;
  readonly #waiting: (() => void)[] = [];

  async run<T>(work: () => Promise<T>): Promise<T> {
    this.#count += 1;
    try {
      return await work();
    } finally {
      this.#count -= 1;
      if (this.#count === 0) for (const resolve of this.#waiting.splice(0)) resolve();
    }
  }

  /** Resolves when nobody uses it. */
  async gone(): Promise<void> {
    while (this.#count > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

/** Runs jobs one after the other. */
export class Mutex {
  #tail: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => undefined);
    return result;
  }
}

/**
 * Runs `work` for every item, at most `width` at once. After the first error no more are started;
 * it is thrown when those in progress have ended.
 */
export async function parallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const item = items[next++]!;
      try {
        await work(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: Math.min(width, items.length) }, worker));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
