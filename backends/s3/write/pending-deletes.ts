import type { Logger } from '../../../core/backend/index.js';
import type { Bucket } from '../client/bucket.js';
import { deferred } from '../client/concurrency.js';
import type { Deferred } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import { type RetryPauses, retryPauseMs } from '../client/retry-pause.js';
import { RemovalLog } from '../journal/removal-log.js';
import type { Removal } from '../journal/removal-log.js';

/** Before a deletion is tried again. */
const PAUSES: RetryPauses = { firstMs: 500, maxMs: 60_000 };
/** Most keys that one request deletes. */
const DELETE_MAX_KEYS = 1000;
/** Milliseconds after a removal within which further ones are gathered. */
const BURST_MS = 1000;
/** Milliseconds without a further removal after which those gathered are made. */
const QUIET_MS = 100;
/** Milliseconds after which they are made in any case. */
const GATHERING_MAX_MS = 1000;
/** Most keys that wait for the bucket. */
const PENDING_MAX_KEYS = 4000;

/** Hears what became of a removal that was gathered. */
export interface RemovalOwner {
  /** It is gone, and nothing else is written there before this has ended. Does not reject. */
  removed(): Promise<void>;
  /** The bucket does not let it go: it is there again. */
  refused(): void;
}

/** Removals that go to the bucket together. */
interface Batch {
  readonly log: RemovalLog;
  readonly removals: Map<string, Removal & { readonly owner: RemovalOwner }>;
  readonly since: number;
  readonly over: Deferred<void>;
  timer: NodeJS.Timeout | undefined;
}

/**
 * Keys to be deleted after a change that has already happened and must not fail any more: a rename,
 * or one of many removals, which go together. Until the bucket has deleted a key, it is not shown
 * and not written again.
 */
export class PendingDeletes {
  readonly #bucket: Bucket;
  readonly #log: Logger;
  readonly #timeoutSeconds: number;
  /** Where notes of removals are kept. */
  readonly #folder: string;
  readonly #gathers: boolean;
  readonly #keys = new Map<string, Promise<void>>();
  readonly #batches = new Set<Batch>();
  /** The batch that further removals go to. */
  #gathering: Batch | undefined;
  /** Milliseconds of `performance.now()` of the last removal. */
  #removedAt = Number.NEGATIVE_INFINITY;
  /** A refusal that nobody has heard of yet. */
  #refusal: S3Failure | undefined;
  #closed = false;

  /**
   * @param timeoutSeconds for one attempt
   * @param folder where notes of removals are kept
   * @param gathers whether many removals go together.
   */
  constructor(bucket: Bucket, log: Logger, timeoutSeconds: number, folder: string, gathers: boolean) {
    this.#gathers = gathers;
    this.#bucket = bucket;
    this.#log = log;
    this.#timeoutSeconds = timeoutSeconds;
    this.#folder = folder;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  /**
   * Removes an object now: at once, or with others where there are many. An answer that does not
   * come does not undo it: the bucket may have made it already, and is asked until it has.
   * @param mayGather whether it may go with others
   * @returns whether it is gone; else it is noted on disk, and not shown any more.
   * @throws S3Failure if the bucket refuses, as far as that is known.
   */
  async removeNow(
    removal: Removal,
    owner: RemovalOwner,
    deadline: Deadline,
    mayGather: boolean,
  ): Promise<boolean> {
    const isOneOfMany = this.#gathers && mayGather && performance.now() - this.#removedAt <= BURST_MS;
    // The first of many is made at once: whoever asks hears whether the bucket lets go at all.
    if (isOneOfMany && this.#gather(removal, owner)) return false;
    try {
      await this.#bucket.remove(removal.key, deadline);
    } catch (error) {
      const isRefused = error instanceof S3Failure && !error.transient;
      if (isRefused || !this.#gather(removal, owner)) throw error;
      return false;
    }
    this.#removedAt = performance.now();
    return true;
  }

  /** Leaves a removal to a batch. @returns false if that is not possible. */
  #gather(removal: Removal, owner: RemovalOwner): boolean {
    const now = performance.now();
    if (this.#closed || this.#keys.size >= PENDING_MAX_KEYS || this.#keys.has(removal.key)) return false;
    let batch = this.#gathering;
    try {
      batch ??= this.#begin(this.#folder);
      batch.log.add(removal);
    } catch {
      // A disk that takes no notes: the bucket is asked at once, then.
      return false;
    }
    this.#removedAt = now;
    batch.removals.set(removal.key, { ...removal, owner });
    this.#keys.set(removal.key, batch.over.promise);
    clearTimeout(batch.timer);
    if (batch.removals.size === DELETE_MAX_KEYS) this.#send(batch);
    else {
      const gatheringMs = Math.min(QUIET_MS, Math.max(0, batch.since + GATHERING_MAX_MS - now));
      const sent = batch;
      batch.timer = setTimeout(() => this.#send(sent), gatheringMs).unref();
    }
    return true;
  }

  #begin(folder: string): Batch {
    const log = new RemovalLog(folder);
    const over = deferred<void>();
    const batch = { log, removals: new Map(), since: performance.now(), over, timer: undefined };
    this.#gathering = batch;
    this.#batches.add(batch);
    return batch;
  }

  #send(batch: Batch): void {
    clearTimeout(batch.timer);
    if (this.#gathering !== batch) return;
    this.#gathering = undefined;
    void this.#carryOut(batch);
  }

  async #carryOut(batch: Batch): Promise<void> {
    const refused = new Map<string, S3Failure>();
    let keys = [...batch.removals.keys()];
    for (let failures = 1; keys.length > 0; failures++) {
      const again: string[] = [];
      try {
        const failed = await this.#bucket.removeEach(keys, Deadline.after(this.#timeoutSeconds));
        for (const [key, failure] of failed) {
          if (failure.transient) again.push(key);
          else refused.set(key, failure);
        }
      } catch (error) {
        const isLasting = error instanceof S3Failure && !error.transient;
        if (isLasting) for (const key of keys) refused.set(key, error);
        else again.push(...keys);
        this.#log.warn({ keys: keys.length, error: String(error) }, 'removed files are not gone yet');
      }
      keys = again;
      if (keys.length > 0) await pause(failures);
      if (keys.length > 0 && this.#closed) return;
    }
    await batch.log
      .end()
      .catch((error: unknown) => this.#log.error({ error: String(error) }, 'removals could not be noted'));
    for (const [key, { owner }] of batch.removals) {
      const failure = refused.get(key);
      if (failure === undefined) await owner.removed();
      else {
        this.#refusal ??= failure;
        this.#log.error({ key, error: failure.message }, 'a removed file is there again: not let go');
        owner.refused();
      }
      this.#keys.delete(key);
    }
    this.#batches.delete(batch);
    batch.over.resolve();
  }

  /** Removals below a prefix that the bucket has not made yet: ETags, if they have one, by key. */
  below(prefix: string): ReadonlyMap<string, string | undefined> {
    const found = new Map<string, string | undefined>();
    for (const { removals } of this.#batches) {
      for (const [key, { etag }] of removals) if (key.startsWith(prefix)) found.set(key, etag);
    }
    return found;
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
        'what was renamed or removed could not be deleted yet',
      );
      return false;
    }
  }

  async #retryUntilDone(keys: readonly string[]): Promise<void> {
    for (let failures = 1; !this.#closed; failures++) {
      await pause(failures);
      if (!this.#closed && (await this.#attempt(keys))) return;
    }
  }

  /** Waits until the key may be written again. @throws ETIMEDOUT */
  async settled(key: string, deadline: Deadline): Promise<void> {
    if (this.#gathering?.removals.has(key) === true) this.#send(this.#gathering);
    const pending = this.#keys.get(key);
    if (pending !== undefined) await deadline.wait(pending);
  }

  /** Waits until nothing below a prefix waits to be deleted. @throws ETIMEDOUT */
  async settledBelow(prefix: string, deadline: Deadline): Promise<void> {
    if (this.#gathering !== undefined) this.#send(this.#gathering);
    const pending = [...this.#keys].filter(([key]) => key.startsWith(prefix)).map(([, whole]) => whole);
    if (pending.length > 0) await deadline.wait(Promise.all(pending));
  }

  /**
   * Has the removals made that were gathered, and waits.
   * @throws ETIMEDOUT; S3Failure, once, if the bucket has refused one.
   */
  async flush(deadline: Deadline): Promise<void> {
    if (this.#gathering !== undefined) this.#send(this.#gathering);
    await deadline.wait(Promise.all(Array.from(this.#batches, ({ over }) => over.promise)));
    const refusal = this.#refusal;
    this.#refusal = undefined;
    if (refusal !== undefined) throw refusal;
  }

  /** Makes the notes of removals durable on the local disk. */
  async sync(): Promise<void> {
    await Promise.all(Array.from(this.#batches, ({ log }) => log.sync()));
  }

  /** Ends service. What was gathered and is not gone is left to the next start. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#gathering?.timer);
    await Promise.all(Array.from(this.#batches, ({ log }) => log.close()));
  }
}

async function pause(failures: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, retryPauseMs(PAUSES, failures)).unref());
}
