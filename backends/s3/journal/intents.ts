import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import * as z from 'zod';
import { DAEMON } from '../../../core/backend/index.js';
import { type Caller, turns } from '../../../core/backend/pool-turns.js';

const intentSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('rename-file'),
    from: z.string(),
    to: z.string(),
    etag: z.string(),
    mark: z.string(),
    /** Journal of the file at `to` that this one replaces. */
    replaces: z.string().optional(),
  }),
  z.object({
    type: z.literal('rename-directory'),
    from: z.string(),
    to: z.string(),
    /**
     * `copy`: copies are being made. `delete`: all are made, and the originals are being deleted.
     * `undo`: the copies are being removed again.
     */
    phase: z.enum(['copy', 'delete', 'undo']),
  }),
  z.object({ type: z.literal('hidden'), key: z.string() }),
]);

/**
 * A change of several requests in progress. Paths are relative to the root, `key` is a full key.
 * - `rename-file`: the object `etag` at `from` is copied to `to` with the mark, then deleted.
 * - `rename-directory`: everything below `from` is copied to below `to`, then deleted.
 * - `hidden`: `key` has the content of an unlinked open file, and is deleted when it is closed.
 */
export type Intent = z.infer<typeof intentSchema>;

/** Records of intents, one small file each. Those that exist at start were interrupted. */
export class Intents {
  readonly #folder: string;
  readonly #caller: Caller;

  /** @param folder in the mount's folder. */
  constructor(folder: string) {
    this.#folder = folder;
    this.#caller = { guest: dirname(folder), signal: DAEMON.signal };
  }

  #path(id: string): string {
    return join(this.#folder, `${id}.json`);
  }

  /** Records an intent, durably. @returns its id. */
  async begin(intent: Intent, id: string = randomUUID()): Promise<string> {
    await turns.run(this.#caller, 'short', () => this.#record(intent, this.#path(id)));
    return id;
  }

  async #record(intent: Intent, path: string): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    const partial = `${path}.new`;
    const file = await open(partial, 'w', 0o600);
    try {
      await file.writeFile(JSON.stringify(intent));
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(partial, path);
  }

  async end(id: string): Promise<void> {
    await turns.run(this.#caller, 'short', () => unlink(this.#path(id)).catch(() => undefined));
  }

  /** Intents that were not ended. */
  async list(): Promise<readonly { readonly id: string; readonly intent: Intent }[]> {
    const found: { id: string; intent: Intent }[] = [];
    for (const name of await readdir(this.#folder).catch(() => [])) {
      if (!name.endsWith('.json')) continue;
      const text = await readFile(join(this.#folder, name), 'utf8');
      found.push({ id: name.slice(0, -5), intent: intentSchema.parse(JSON.parse(text)) });
    }
    return found;
  }
}
