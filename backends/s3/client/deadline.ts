import { FsError } from '../../../core/backend/index.js';
import { deferred } from './concurrency.js';

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
    // It may fail, for the same reason, after this has.
    work.catch(() => undefined);
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
