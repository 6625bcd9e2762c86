import type { Logger } from '../../../core/backend/index.js';
import type { Bucket } from '../client/bucket.js';
import { Deadline } from '../client/deadline.js';

/** First and longest pause before a deletion is tried again, milliseconds. */
const RETRY_FIRST = 500;
const RETRY_MOST = 60_000;
/** Keys that one request deletes. */
const DELETE_MOST = 1000;

/**
 * Keys that are to be deleted, after a change that has happened already (a rename) and that must
 * not fail any more. Until the bucket has deleted one, it is not shown, and nothing new is written
 * to it.
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
   * Deletes keys; where that fails, again and again in the background.
   * @param deleted called when all are gone, before any is written again.
   * @returns after the first attempt.
   */
  async remove(keys: readonly string[], deleted: () => Promise<void>): Promise<void> {
    const first = this.#attempt(keys);
    const whole = this.#finish(keys, first, deleted);
    for (const key of keys) this.#keys.set(key, whole);
    if (await first) await whole;
  }

  async #finish(
    keys: readonly string[],
    first: Promise<boolean>,
    deleted: () => Promise<void>,
  ): Promise<void> {
    if (!(await first)) await this.#insist(keys);
    try {
      if (!this.#closed) await deleted();
    } catch (error) {
      this.#log.error({ key: keys[0], error: String(error) }, 'a deletion could not be noted');
    } finally {
      for (const key of keys) this.#keys.delete(key);
    }
  }

  async #attempt(keys: readonly string[]): Promise<boolean> {
    try {
      const [only] = keys;
      if (only !== undefined && keys.length === 1) {
        await this.#bucket.remove(only, Deadline.after(this.#timeout));
        return true;
      }
      for (let at = 0; at < keys.length; at += DELETE_MOST) {
        await this.#bucket.removeMany(keys.slice(at, at + DELETE_MOST), Deadline.after(this.#timeout));
      }
      return true;
    } catch (error) {
      this.#log.warn(
        { key: keys[0], keys: keys.length, error: String(error) },
        'what was renamed could not be deleted at its old place yet',
      );
      return false;
    }
  }

  async #insist(keys: readonly string[]): Promise<void> {
    for (let pause = RETRY_FIRST; !this.#closed; pause = Math.min(RETRY_MOST, pause * 2)) {
      await new Promise((resolve) => setTimeout(resolve, pause).unref());
      if (!this.#closed && (await this.#attempt(keys))) return;
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
