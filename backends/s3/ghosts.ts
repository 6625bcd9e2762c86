import type { Logger } from '../../core/backend/index.js';
import type { Bucket } from './bucket.js';
import { Deadline } from './deadline.js';

/** First and longest pause before a deletion is tried again, milliseconds. */
const RETRY_FIRST = 500;
const RETRY_MOST = 60_000;

/**
 * Keys that are to be deleted, after a change that has happened already (a rename) and that must not fail any more. Until
 * the bucket has deleted one, it is not shown, and nothing new is written to it.
 */
export class Ghosts {
  readonly #bucket: Bucket;
  readonly #log: Logger;
  readonly #timeout: number;
  readonly #keys = new Map<string, Promise<void>>();
  #closed = false;

  /** @param timeout seconds for one attempt. */
  constructor(bucket: Bucket, log: Logger, timeout: number) {
    this.#bucket = bucket;
    this.#log = log;
    this.#timeout = timeout;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  /**
   * Deletes a key; where that fails, again and again in the background.
   * @returns after the first attempt.
   */
  async remove(key: string, deleted: () => Promise<void>): Promise<void> {
    const first = this.#attempt(key);
    const whole = this.#finish(key, first, deleted);
    this.#keys.set(key, whole);
    if (await first) await whole;
  }

  async #finish(key: string, first: Promise<boolean>, deleted: () => Promise<void>): Promise<void> {
    if (!(await first)) await this.#insist(key);
    this.#keys.delete(key);
    if (!this.#closed) await deleted();
  }

  async #attempt(key: string): Promise<boolean> {
    try {
      await this.#bucket.remove(key, Deadline.after(this.#timeout));
      return true;
    } catch (error) {
      this.#log.warn(
        { key, error: String(error) },
        'a renamed object could not be deleted at its old key yet',
      );
      return false;
    }
  }

  async #insist(key: string): Promise<void> {
    for (let pause = RETRY_FIRST; !this.#closed; pause = Math.min(RETRY_MOST, pause * 2)) {
      await new Promise((resolve) => setTimeout(resolve, pause).unref());
      if (!this.#closed && (await this.#attempt(key))) return;
    }
  }

  /** Returns when the key may be written again. @throws ETIMEDOUT */
  async settled(key: string, deadline: Deadline): Promise<void> {
    const pending = this.#keys.get(key);
    if (pending !== undefined) await deadline.wait(pending);
  }

  close(): void {
    this.#closed = true;
  }
}
