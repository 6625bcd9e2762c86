import type { Slot } from '../../state/index.js';

interface Write {
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
  /** Resolves when the write has ended, or has failed. */
  readonly over: Promise<void>;
}

const nothing = (): void => {};

/**
 * The writes of a guest that its backend has not finished. What is read after one has begun must
 * have its bytes: Linux writes into pages of its cache that it may drop before it has the answer
 * (`fuse_fill_write_pages` in `fs/fuse/file.c` unlocks them), and then reads them anew. Whoever
 * reads them from the cache later gets what came then.
 */
export class WritesUnderWay {
  readonly #files = new Map<Slot, Set<Write>>();

  /** @param end exclusive; infinity where the backend decides where the bytes go. */
  add(slot: Slot, start: number, end: number, result: Promise<unknown>): void {
    const writes = this.#files.get(slot) ?? new Set<Write>();
    this.#files.set(slot, writes);
    const over = result.then(nothing, nothing);
    const write = { start, end, over };
    writes.add(write);
    void over.then(() => {
      writes.delete(write);
      if (writes.size === 0 && this.#files.get(slot) === writes) this.#files.delete(slot);
    });
  }

  /**
   * @returns a promise that resolves when the writes have ended that touch a range; undefined where
   * there are none.
   */
  before(slot: Slot, start: number, end: number): Promise<unknown> | undefined {
    if (this.#files.size === 0) return undefined;
    const writes = this.#files.get(slot);
    if (writes === undefined) return undefined;
    const touching: Promise<void>[] = [];
    for (const write of writes) if (write.start < end && write.end > start) touching.push(write.over);
    return touching.length === 0 ? undefined : Promise.all(touching);
  }
}
