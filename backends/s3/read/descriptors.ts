import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';

/** Most files that stay open while nobody uses them. */
const KEPT_MAX = 16;

interface Kept {
  readonly opening: Promise<FileHandle>;
  users: number;
}

/** Keeps files open that are likely to be used again soon. */
export class Descriptors {
  /** By path, least recently used first. */
  readonly #kept = new Map<string, Kept>();

  /**
   * Uses a file for reading and writing.
   * @param isNew whether it is created, or emptied
   * @throws what opening it and `work` throw.
   */
  async use<T>(path: string, isNew: boolean, work: (file: FileHandle) => Promise<T>): Promise<T> {
    if (isNew) this.forget(path);
    const kept = this.#kept.get(path) ?? { opening: open(path, isNew ? 'w+' : 'r+', 0o600), users: 0 };
    this.#kept.delete(path);
    this.#kept.set(path, kept);
    kept.users += 1;
    try {
      return await work(await kept.opening);
    } catch (error) {
      this.forget(path);
      throw error;
    } finally {
      kept.users -= 1;
      // It was forgotten while it was used.
      if (this.#kept.get(path) !== kept) this.#close(kept);
      else this.#shrink();
    }
  }

  /** Closes a file as soon as nobody uses it. */
  forget(path: string): void {
    const kept = this.#kept.get(path);
    if (kept === undefined) return;
    this.#kept.delete(path);
    this.#close(kept);
  }

  #shrink(): void {
    for (const [path, { users }] of this.#kept) {
      if (this.#kept.size <= KEPT_MAX) return;
      if (users === 0) this.forget(path);
    }
  }

  #close({ opening, users }: Kept): void {
    if (users > 0) return;
    // One that could not be opened was reported to whoever uses it.
    opening.then((file) => file.close()).catch(() => undefined);
  }

  close(): void {
    for (const path of this.#kept.keys()) this.forget(path);
  }
}
