import type { Logger } from '../../../core/backend/index.js';
import type { Bucket } from '../client/bucket.js';
import { Deadline } from '../client/deadline.js';
import { type RetryPauses, retryPauseMs } from '../client/retry-pause.js';

/** Before a deletion is tried again. */
const PAUSES: RetryPauses = { firstMs: 500, maxMs: 60_000 };
/** Most keys that one request deletes. */
const DELETE_MAX_KEYS = 1000;

/**
 * Keys to be deleted after a change that has already happened (a rename) and must not fail any
 * more. Until the bucket has deleted a key, it is not shown and not written again.
 */
export class PendingDeletes {
  readonly #bucket: Bucket;
  readonly #log: Logger;
  readonly #timeoutSeconds: number;
  readonly #keys = new Map<string, Promise<void>>();
  #closed = false;

  /** @param timeoutSeconds for one attempt. */
  constructor(bucket: Bucket, log: Logger, timeoutSeconds: number) {
    this.#bucket = bucket;
    this.#log = log;
    this.#timeoutSeconds = timeoutSeconds;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  /**
   * Deletes keys. If that fails, it is tried in the background until it succeeds.
   * @param deleted called when all are gone, before any of them may be written again
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
    if (!(await first)) await this.#retryUntilDone(keys);
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
        await this.#bucket.remove(only, Deadline.after(this.#timeoutSeconds));
        return true;
      }
      for (let at = 0; at < keys.length; at += DELETE_MAX_KEYS) {
        await this.#bucket.removeMany(
          keys.slice(at, at + DELETE_MAX_KEYS),
          Deadline.after(this.#timeoutSeconds),
        );
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

  async #retryUntilDone(keys: readonly string[]): Promise<void> {
    for (let failures = 1; !this.#closed; failures++) {
      await new Promise((resolve) => setTimeout(resolve, retryPauseMs(PAUSES, failures)).unref());
      if (!this.#closed && (await this.#attempt(keys))) return;
    }
  }

  /** Waits until the key may be written again. @throws ETIMEDOUT */
  async settled(key: string, deadline: Deadline): Promise<void> {
    const pending = this.#keys.get(key);
    if (pending !== undefined) await deadline.wait(pending);
  }

  close(): void {
    this.#closed = true;
  }
}
