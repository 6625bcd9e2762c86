import { randomBytes } from 'node:crypto';
import { type FileHandle, lstat, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { UsageError } from '../../../backend/index.js';
import { Digest } from '../digest.js';
import type { Descriptor } from '../documents.js';

/** What is known of a blob before it is there. */
export type ExpectedBlob = Pick<Descriptor, 'digest' | 'size'>;

/** Bytes of the cache of this user. */
const CACHE_BYTES = 10 * 2 ** 30;

/** What has not grown for so long is of a process that has died. */
const PARTIAL_MS = 24 * 3600 * 1000;

const PARTIAL = '.partial';

/** Blobs on this host's disk, by their digests. What was not used for longest goes first. */
export class BlobCache {
  readonly #folder: string;
  readonly #most: number;

  /**
   * @param folder which is made if need be, of this user alone.
   * @param most bytes.
   */
  constructor(folder = defaultFolder(), most = CACHE_BYTES) {
    this.#folder = folder;
    this.#most = most;
  }

  /**
   * Opens a blob that is there and whole. It can be read whatever becomes of the cache.
   * @returns undefined if there is none; one that is damaged is removed.
   */
  async find({
    digest,
    size,
  }: Pick<ExpectedBlob, 'digest'> & Partial<ExpectedBlob>): Promise<FileHandle | undefined> {
    await this.#makeFolder();
    const path = this.#pathOf(digest);
    let handle;
    try {
      handle = await open(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
    try {
      const expected = Digest.like(digest);
      if (size === undefined || (await handle.stat()).size === size)
        for await (const piece of handle.createReadStream({
          autoClose: false,
          start: 0,
          highWaterMark: 1 << 20,
        }))
          expected.add(piece as Buffer);
      if (expected.value() === digest) {
        const now = new Date();
        await utimes(path, now, now).catch(() => {});
        return handle;
      }
      await rm(path, { force: true });
    } catch (error) {
      await handle.close();
      throw error;
    }
    await handle.close();
    return undefined;
  }

  /**
   * Adds a blob, and removes others where these are too many.
   * @throws UsageError if it is another one than was expected, or larger than the cache.
   */
  async add({ digest, size }: ExpectedBlob, bytes: AsyncIterable<Uint8Array>): Promise<FileHandle> {
    if (size > this.#most)
      throw new UsageError(`${digest}: ${size} bytes, more than the ${this.#most} that are kept of images`);
    await this.#makeFolder();
    const partial = join(this.#folder, randomBytes(8).toString('hex') + PARTIAL);
    const handle = await open(partial, 'wx+', 0o600);
    try {
      const found = Digest.like(digest);
      for await (const piece of bytes) {
        found.add(piece);
        if (found.size > size) break;
        await handle.writeFile(piece);
      }
      if (found.size !== size)
        throw new UsageError(`${digest}: damaged: it has not the ${size} bytes that it should`);
      found.check(digest);
      await rename(partial, this.#pathOf(digest));
      await this.#trim();
      return handle;
    } catch (error) {
      await rm(partial, { force: true });
      await handle.close();
      throw error;
    }
  }

  #pathOf(digest: string): string {
    return join(this.#folder, digest.replace(':', '-'));
  }

  async #makeFolder(): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const stats = await lstat(this.#folder);
    if (!stats.isDirectory() || stats.uid !== process.getuid?.() || (stats.mode & 0o022) !== 0)
      throw new UsageError(`${this.#folder}: must be a directory of yours that nobody else can write to`);
  }

  async #trim(): Promise<void> {
    const now = Date.now();
    const files: { readonly path: string; readonly size: number; readonly usedAt: number }[] = [];
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name);
      // Another process may have removed it.
      const stats = await stat(path).catch(() => undefined);
      if (stats === undefined) continue;
      if (!name.endsWith(PARTIAL)) files.push({ path, size: stats.size, usedAt: stats.mtimeMs });
      else if (now - stats.mtimeMs > PARTIAL_MS) await rm(path, { force: true });
    }
    let total = files.reduce((sum, { size }) => sum + size, 0);
    for (const { path, size } of files.sort((a, b) => a.usedAt - b.usedAt)) {
      if (total <= this.#most) break;
      await rm(path, { force: true });
      total -= size;
    }
  }
}

function defaultFolder(): string {
  const caches = process.env['XDG_CACHE_HOME'];
  return join(
    caches === undefined || caches === '' ? join(homedir(), '.cache') : caches,
    'virtiofs-kit',
    'images',
  );
}
