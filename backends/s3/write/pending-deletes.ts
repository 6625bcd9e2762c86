import type { Logger } from '../../../core/backend/index.js';
import type { Bucket } from '../client/bucket.js';
import { deferred } from '../client/concurrency.js';
import type { Deferred } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import { type RetryPauses, retryPauseMs } from '../client/retry-pause.js';
import { RemovalLog } from '../journal/removal-log.js';
import type { Removal } from '../journal/removal-log.js';
import { removeUnchanged } from './removals.js';

/** Before a deletion is tried again. */
const PAUSES: RetryPauses = { firstMs: 500, maxMs: 60_000 };
/** Most keys of a batch: as many as one request deletes. */
const BATCH_MAX_KEYS = 1000;
/** Milliseconds after a removal within which further ones are gathered. */
const BURST_MS = 1000;
/** Milliseconds without a further removal after which those gathered are made. */
const QUIET_MS = 100;
/** Milliseconds after which they are made in any case. */
const GATHERING_MAX_MS = 1000;
/** Most keys that wait for the bucket. */
const PENDING_MAX_KEYS = 4000;

const LATER = 'what was renamed or removed could not be deleted yet';
const REPLACED = 'another writer has made anew what was to be deleted: it stays';

/** Hears what became of a removal that was gathered. */
export interface RemovalOwner {
  /** It is gone, and nothing else is written there before this has ended. Does not reject. */
  removed(): Promise<void>;
  /** The bucket does not let it go, or another writer has made it anew: it is there again. */
  kept(): void;
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
    if (batch.removals.size === BATCH_MAX_KEYS) this.#send(batch);
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

  readonly #deadline = (): Deadline => Deadline.after(this.#timeoutSeconds);

  async #carryOut(batch: Batch): Promise<void> {
    const refused = new Map<string, S3Failure>();
    const replaced = new Set<string>();
    let left: Removal[] = [...batch.removals.values()];
    for (let failures = 1; left.length > 0; failures++) {
      const removed = await removeUnchanged(this.#bucket, left, this.#deadline);
      const again: Removal[] = [];
      for (const key of removed.replaced) replaced.add(key);
      for (const removal of left) {
        const failure = removed.failed.get(removal.key);
        if (failure?.transient === true) again.push(removal);
        else if (failure !== undefined) refused.set(removal.key, failure);
      }
      left = again;
      if (left.length === 0) break;
      const error = removed.failed.get(left[0]!.key)?.message;
      this.#log.warn({ keys: left.length, error }, 'removed files are not gone yet');
      await pause(failures);
      if (this.#closed) return;
    }
    await batch.log
      .end()
      .catch((error: unknown) => this.#log.error({ error: String(error) }, 'removals could not be noted'));
    for (const [key, { owner }] of batch.removals) {
      const failure = refused.get(key);
      if (replaced.has(key)) {
        this.#log.info({ key }, REPLACED);
        owner.kept();
      } else if (failure === undefined) await owner.removed();
      else {
        this.#refusal ??= failure;
        this.#log.error({ key, error: failure.message }, 'a removed file is there again: not let go');
        owner.kept();
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
   * Removes objects. If that fails, it is tried in the background until it succeeds.
   * @param deleted called when all are gone, before any of them may be written again
   * @returns after the first attempt.
   */
  async remove(removals: readonly Removal[], deleted: () => Promise<void>): Promise<void> {
    const [only] = removals;
    const first = only !== undefined && removals.length === 1 ? this.#atOnce(only) : this.#attempt(removals);
    const whole = this.#finish(removals, first, deleted);
    for (const { key } of removals) this.#keys.set(key, whole);
    if ((await first).length === 0) await whole;
  }

  async #finish(
    removals: readonly Removal[],
    first: Promise<readonly Removal[]>,
    deleted: () => Promise<void>,
  ): Promise<void> {
    let left = await first;
    for (let failures = 1; left.length > 0 && !this.#closed; failures++) {
      await pause(failures);
      if (!this.#closed) left = await this.#attempt(left);
    }
    try {
      if (!this.#closed) await deleted();
    } catch (error) {
      this.#log.error({ key: removals[0]?.key, error: String(error) }, 'a deletion could not be noted');
    } finally {
      for (const { key } of removals) this.#keys.delete(key);
    }
  }

  /** The first attempt at one removal: in the moment of the change no look is needed. */
  async #atOnce(removal: Removal): Promise<readonly Removal[]> {
    try {
      await this.#bucket.remove(removal.key, this.#deadline());
      return [];
    } catch (error) {
      this.#log.warn({ key: removal.key, error: String(error) }, LATER);
      return [removal];
    }
  }

  /** @returns those that are not gone yet. */
  async #attempt(removals: readonly Removal[]): Promise<readonly Removal[]> {
    const { failed, replaced } = await removeUnchanged(this.#bucket, removals, this.#deadline);
    for (const key of replaced) this.#log.info({ key }, REPLACED);
    const [failure] = failed;
    if (failure !== undefined) {
      const [key, error] = failure;
      this.#log.warn({ key, keys: failed.size, error: error.message }, LATER);
    }
    return removals.filter(({ key }) => failed.has(key));
  }

  /** Waits until the key may be written again. @throws ETIMEDOUT */
  async settled(key: string, deadline: Deadline): Promise<void> {
    if (this.#gathering?.removals.has(key) === true) this.#send(this.#gathering);
    const pending = this.#keys.get(key);
    if (pending !== undefined) await deadline.wait(pending);
  }

  /**
   * Waits until what was renamed away from below a prefix is gone from there. @throws ETIMEDOUT
   */
  async renamedAway(prefix: string, deadline: Deadline): Promise<void> {
    const gathered = this.below(prefix);
    const pending = [...this.#keys].filter(([key]) => key.startsWith(prefix) && !gathered.has(key));
    if (pending.length > 0) await deadline.wait(Promise.all(pending.map(([, whole]) => whole)));
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
