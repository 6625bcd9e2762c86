import { randomUUID } from 'node:crypto';
import { Mutex } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import type { LeaseStore, Stored } from './lease-store.js';
import { mountRecord, type MountRecord } from './records.js';

/**
 * Part of a term for which the holder relies on it. The rest is for clocks that do not run equally
 * fast.
 */
const RELIED_PART = 0.9;
/** Renewals in a term. */
const BEATS = 3;
/** Attempts at a change whose earlier ones may have been made. */
const ATTEMPTS = 8;

/** Thrown where a lease is lost: others may have taken what it held. */
export const LEASE_LOST = 'LeaseLost';

/** The lease of this mount: as long as it lasts, what it holds is its own. */
export class OwnLease {
  readonly id: string;
  readonly #store: LeaseStore;
  readonly #key: string;
  readonly #termMs: number;
  readonly #lost: () => void;
  readonly #changes = new Mutex();
  readonly #uploads = new Map<string, string>();
  #stored: Stored<MountRecord> | undefined;
  #queued: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #validUntil = Number.NEGATIVE_INFINITY;
  #isLost = false;
  #isEnded = false;

  /** @param lost called once, when the lease is found to be lost. */
  constructor(store: LeaseStore, key: (id: string) => string, termMs: number, lost: () => void, id?: string) {
    this.#store = store;
    this.id = id ?? randomUUID();
    this.#key = key(this.id);
    this.#termMs = termMs;
    this.#lost = lost;
  }

  get isLost(): boolean {
    return this.#isLost;
  }

  /** Whether nobody else can have declared it lost yet, by this machine's monotonic clock. */
  get isValid(): boolean {
    return !this.#isLost && performance.now() < this.#validUntil;
  }

  /** Whether it is valid for longer than the next renewal takes to come. */
  get isFresh(): boolean {
    return !this.#isLost && performance.now() < this.#validUntil - this.#termMs / 2;
  }

  /**
   * Takes the lease of a process up that was killed.
   * @param deadline of the requests
   * @returns whether it is not lost.
   */
  async resume(deadline: Deadline): Promise<boolean> {
    this.#stored = await this.#store.read(this.#key, mountRecord, deadline);
    if (this.#stored?.record.state !== 'active') {
      this.#isLost = true;
      return false;
    }
    for (const { key, id } of this.#stored.record.uploads) this.#uploads.set(id, key);
    await this.renew(deadline);
    return true;
  }

  /**
   * Renews the lease, or begins it.
   * @throws S3Failure of code LeaseLost where it is lost; another where nothing is known.
   */
  async renew(deadline: Deadline): Promise<void> {
    await deadline.wait(this.#write());
  }

  /** Renews it now and then, until {@link rest}. */
  keep(): void {
    if (this.#timer !== undefined || this.#isLost || this.#isEnded) return;
    this.#timer = setTimeout(() => {
      this.#write()
        .catch(() => undefined)
        .finally(() => {
          const isKept = this.#timer !== undefined;
          this.#timer = undefined;
          if (isKept) this.keep();
        });
    }, this.#termMs / BEATS);
    this.#timer.unref();
  }

  /** It need not be renewed. */
  rest(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /**
   * An upload is about to be completed. Whoever declares the lease lost aborts it first, from here
   * on.
   * @throws S3Failure of code LeaseLost
   */
  async enter(key: string, id: string): Promise<void> {
    this.#uploads.set(id, key);
    await this.#write();
  }

  /** An upload has ended, one way or the other. */
  leave(id: string): void {
    this.#uploads.delete(id);
  }

  /** Declares the lease lost by itself: others need not wait for it. Nothing may be entered. */
  async end(deadline: Deadline): Promise<void> {
    this.#isEnded = true;
    this.rest();
    await deadline.wait(this.#write());
    this.#isLost = true;
  }

  /** A write that has everything that was changed until now. */
  #write(): Promise<void> {
    this.#queued ??= this.#changes.run(() => {
      this.#queued = undefined;
      return this.#writeNow();
    });
    return this.#queued;
  }

  async #writeNow(): Promise<void> {
    // Requests have time until nobody may rely on the lease; then they count as failed.
    const deadline = Deadline.after(this.#termMs / 1000);
    for (let attempt = 1; attempt <= ATTEMPTS && !this.#isLost; attempt++) {
      const sent = performance.now();
      const uploads = [...this.#uploads].map(([id, key]) => ({ key, id }));
      const state = this.#isEnded ? 'lost' : 'active';
      const record = { state, termMs: this.#termMs, uploads } as const;
      const written = await this.#store.write(this.#key, record, this.#stored, deadline);
      if (written !== undefined) {
        this.#stored = written;
        this.#validUntil = sent + this.#termMs * RELIED_PART;
        return;
      }
      const found = await this.#store.read(this.#key, mountRecord, deadline);
      if (found?.record.state !== 'active' || found.record.writer !== this.#store.writer) break;
      this.#stored = found;
    }
    if (!this.#isLost) {
      this.#isLost = true;
      this.rest();
      this.#lost();
    }
    throw new S3Failure('refused', 0, LEASE_LOST);
  }
}
