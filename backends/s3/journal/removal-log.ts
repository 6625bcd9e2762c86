import { randomUUID } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { JournalFile } from './journal-file.js';

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
  readonly #file: JournalFile;
  #size = 0;
  /** Whether the file is closed, or about to be. */
  #isOver = false;

  /** @throws the system's errors. */
  constructor(folder: string) {
    this.#file = JournalFile.create(join(folder, `${randomUUID()}${SUFFIX}`));
  }

  /**
   * Takes note of a removal. Written at once: a thread would cost more.
   * @throws the system's errors. What was written of the line has no end, so it is no note, and the
   * next line is written over it.
   */
  add(removal: Removal): void {
    const line = Buffer.from(`${JSON.stringify(removal)}\n`);
    this.#file.writeAtOnce([line], this.#size, line.length);
    this.#size += line.length;
  }

  /** Makes the notes durable on the disk. */
  async sync(): Promise<void> {
    if (!this.#isOver) await this.#file.sync();
  }

  /**
   * Gives the notes up. They are gone from the disk before anything else may be written to their
   * keys: it could look like what was to be removed.
   */
  async end(): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    try {
      await this.#file.truncate(0);
      await this.#file.sync();
    } catch (error) {
      await this.#file.close();
      throw error;
    }
    await this.#file.remove(0);
  }

  /** Leaves the notes to the next start. */
  async close(): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    await this.#file.close();
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
