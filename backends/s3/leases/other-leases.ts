import type { Bucket } from '../client/bucket.js';
import type { Deadline } from '../client/deadline.js';
import type { KeyMap } from '../objects/keys.js';
import type { LeaseStore, Stored } from './lease-store.js';
import { mountKey, mountRecord, type MountRecord } from './records.js';

/** Most leases that are watched at a time; then those that were begun with first are given up. */
const WATCHED_MAX = 1024;

interface Sight {
  readonly etag: string;
  /** Milliseconds of `performance.now()` at which it was seen so for the first time. */
  readonly since: number;
}

/**
 * The leases of other mounts. Nobody's wall clock counts: a lease is over when its record has not
 * changed for its whole term while we looked on.
 */
export class OtherLeases {
  readonly #store: LeaseStore;
  readonly #bucket: Bucket;
  readonly #keys: KeyMap;
  readonly #termMs: number;
  readonly #sights = new Map<string, Sight>();

  constructor(store: LeaseStore, bucket: Bucket, keys: KeyMap, termMs: number) {
    this.#store = store;
    this.#bucket = bucket;
    this.#keys = keys;
    this.#termMs = termMs;
  }

  /**
   * Whether a mount has lost what it holds. If so nothing that it has begun to write can appear any
   * more.
   */
  async isOver(id: string, deadline: Deadline): Promise<boolean> {
    const key = mountKey(this.#keys, id);
    const stored = await this.#store.read(key, mountRecord, deadline);
    if (stored?.record.state === 'lost') {
      await this.#fence(key, stored, deadline);
      return true;
    }
    // One whose record somebody has deleted may believe in it for a term.
    if (!this.#wasLong(id, stored?.etag ?? '', stored?.record.termMs ?? this.#termMs)) return false;
    if (stored !== undefined) {
      const { termMs, uploads } = stored.record;
      const lost = await this.#store.write(
        key,
        { state: 'lost', termMs, uploads } as const,
        stored,
        deadline,
      );
      if (lost === undefined) return false;
      await this.#fence(key, lost, deadline);
    }
    this.#sights.delete(id);
    return true;
  }

  /** Whether something has been the same since so long ago. */
  #wasLong(id: string, etag: string, termMs: number): boolean {
    const now = performance.now();
    const before = this.#sights.get(id);
    if (before?.etag === etag) return now - before.since >= termMs;
    this.#sights.delete(id);
    this.#sights.set(id, { etag, since: now });
    if (this.#sights.size > WATCHED_MAX) this.#sights.delete(this.#sights.keys().next().value!);
    return false;
  }

  /** Aborts what a lost mount may be about to complete. */
  async #fence(key: string, stored: Stored<MountRecord>, deadline: Deadline): Promise<void> {
    const { uploads, termMs } = stored.record;
    if (uploads.length === 0) return;
    for (const upload of uploads) {
      // What anybody may have put there says nothing of keys elsewhere.
      if (!upload.key.startsWith(this.#keys.prefix)) continue;
      await this.#bucket.abortUpload(upload.key, upload.id, deadline);
    }
    // So that nobody does it again. If another has come first, he has done it.
    await this.#store.write(key, { state: 'lost', termMs, uploads: [] } as const, stored, deadline);
  }
}
