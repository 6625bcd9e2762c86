import { randomUUID } from 'node:crypto';
import { closeSync, fdatasync, ftruncate, openSync, writeSync } from 'node:fs';
import { readdir, readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import * as z from 'zod';

const SUFFIX = '.removals';

const removalSchema = z.object({
  key: z.string(),
  /** Of the object; absent for that of a directory, which is empty. */
  etag: z.string().optional(),
});

/** An object that is to be removed from the bucket. */
export type Removal = z.infer<typeof removalSchema>;

/**
 * What a batch of removals is to remove, in a file of its own: for the next start, if this process
 * does not live to see the bucket do it. A line for each, in JSON.
 */
export class RemovalLog {
  readonly #path: string;
  readonly #file: number;
  /** Whether the file is closed, or about to be. */
  #isOver = false;

  /** @throws the system's errors. */
  constructor(folder: string) {
    this.#path = join(folder, `${randomUUID()}${SUFFIX}`);
    this.#file = openSync(this.#path, 'wx', 0o600);
  }

  /** Takes note of a removal. Written at once: a thread would cost more. */
  add(removal: Removal): void {
    writeSync(this.#file, `${JSON.stringify(removal)}\n`);
  }

  /** Makes the notes durable on the disk. */
  async sync(): Promise<void> {
    if (!this.#isOver) await promisify(fdatasync)(this.#file);
  }

  /**
   * Gives the notes up. They are gone from the disk before anything else may be written to their
   * keys: it could look like what was to be removed.
   */
  async end(): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    try {
      await promisify(ftruncate)(this.#file, 0);
      await promisify(fdatasync)(this.#file);
    } finally {
      closeSync(this.#file);
    }
    await unlink(this.#path);
  }

  /** Leaves the notes to the next start. */
  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    closeSync(this.#file);
  }

  /**
   * The notes that a folder has. A line that a power failure spoilt is none: what it was to remove
   * stays.
   */
  static async *left(folder: string): AsyncGenerator<{ path: string; removals: Removal[] }> {
    for (const name of await readdir(folder)) {
      if (!name.endsWith(SUFFIX)) continue;
      const path = join(folder, name);
      const lines = (await readFile(path, 'utf8')).split('\n').slice(0, -1);
      yield { path, removals: lines.flatMap(removalIn) };
    }
  }
}

function removalIn(line: string): Removal[] {
  try {
    return [removalSchema.parse(JSON.parse(line))];
  } catch {
    return [];
  }
}
