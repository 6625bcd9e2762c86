import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, stat, unlink, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { DAEMON, type Logger } from '../../../core/backend/index.js';
import { type Caller, turns } from '../../../core/backend/pool-turns.js';
import type { Metrics } from '../client/metrics.js';
import type { DiskSpace } from '../journal/disk-space.js';

/** Header of a cached block: magic, CRC-32 of the data, length, zero. */
const HEADER_BYTES = 16;
const MAGIC = 0x32424b56;
/** Most blocks waiting to be written to disk. Further ones are not cached. */
const QUEUE_MAX_BLOCKS = 64;
/** Milliseconds for which the cache is not written after a failure. */
const REST_MS = 60_000;

/** Part of the free disk that the cache may take, where its limit is more than that. */
const DISK_SHARE = 1 / 4;

/** Name of a cached block: at least two hex digits, then letters, digits and dashes. */
export type BlockId = string;

/**
 * Caches blocks of objects on disk, one file each. The sum of their sizes is limited; the least
 * recently used blocks are dropped first. Every block is checked by its checksum when it is read.
 * The cache outlives the process.
 */
export class DiskCache {
  readonly #folder: string;
  #limit: number;
  readonly #space: DiskSpace;
  readonly #log: Logger;
  readonly #metrics: Metrics;
  /** Sizes by id, least recently used first. */
  readonly #blocks = new Map<BlockId, number>();
  /** Folders that exist: the first digits of ids. */
  readonly #groups = new Set<string>();
  readonly #written = new Set<Promise<void>>();
  readonly #caller: Caller;
  #bytes = 0;
  /** Milliseconds of `performance.now()` until which nothing is written, after a failure. */
  #rests = 0;

  /** @param limit most bytes; less where the disk has less room. */
  constructor(folder: string, limit: number, space: DiskSpace, log: Logger, metrics: Metrics) {
    this.#folder = folder;
    this.#limit = limit;
    this.#space = space;
    this.#log = log;
    this.#metrics = metrics;
    this.#caller = { guest: folder, signal: DAEMON.signal };
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Reads the folder at start, in the order of last use. */
  async start(): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    const found: { id: string; size: number; used: number }[] = [];
    for (const group of await readdir(this.#folder)) {
      for (const id of await readdir(join(this.#folder, group))) {
        const path = join(this.#folder, group, id);
        const { size, mtimeMs } = await stat(path);
        if (id.includes('.')) await unlink(path);
        else found.push({ id, size, used: mtimeMs });
      }
    }
    found.sort((a, b) => a.used - b.used);
    for (const { id, size } of found) this.#add(id, size);
    // What is cached already counts as free: it may be replaced.
    this.#limit = Math.min(this.#limit, (this.#space.atStart + this.#bytes) * DISK_SHARE);
    await this.#shrink();
  }

  #path(id: BlockId): string {
    return join(this.#folder, id.slice(0, 2), id);
  }

  has(id: BlockId): boolean {
    return this.#blocks.has(id);
  }

  /** @returns the block, or undefined if it is not cached or damaged. */
  async read(id: BlockId): Promise<Buffer | undefined> {
    const size = this.#blocks.get(id);
    if (size === undefined) return undefined;
    this.#blocks.delete(id);
    this.#blocks.set(id, size);
    try {
      const stored = await turns.run(this.#caller, 'short', () => readWhole(this.#path(id), size));
      const block = stored.subarray(HEADER_BYTES);
      const sound =
        stored.length === size &&
        stored.readUInt32LE(0) === MAGIC &&
        stored.readUInt32LE(8) === block.length &&
        stored.readUInt32LE(4) === crc32(block);
      if (sound) {
        this.#metrics.diskHits += 1;
        return block;
      }
      this.#metrics.diskCorrupt += 1;
      this.#log.warn({ block: id }, 'cached block fails its checksum: dropped');
    } catch (error) {
      this.#log.warn({ block: id, error: String(error) }, 'cached block can not be read: dropped');
    }
    await this.#drop(id);
    return undefined;
  }

  /** Waits until the next {@link write} will not be left out. */
  async room(): Promise<void> {
    while (this.#written.size >= QUEUE_MAX_BLOCKS) await Promise.race(this.#written);
  }

  /** Stores a block in the background. It is left out if too many are waiting. */
  write(id: BlockId, block: Uint8Array): void {
    if (
      performance.now() < this.#rests ||
      this.#limit === 0 ||
      this.#written.size >= QUEUE_MAX_BLOCKS ||
      this.#blocks.has(id)
    )
      return;
    const done = this.#store(id, block).catch((error: unknown) => {
      if (performance.now() < this.#rests) return;
      this.#rests = performance.now() + REST_MS;
      this.#log.error({ error: String(error) }, 'the disk cache can not be written: tried again in a minute');
    });
    this.#written.add(done);
    void done.finally(() => this.#written.delete(done));
  }

  async #store(id: BlockId, block: Uint8Array): Promise<void> {
    // The journal's room is not for copies of what the bucket has.
    if (!this.#space.takes(HEADER_BYTES + block.length + this.#space.reserve)) return;
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32LE(MAGIC, 0);
    header.writeUInt32LE(crc32(block), 4);
    header.writeUInt32LE(block.length, 8);
    const path = this.#path(id);
    const partial = `${path}.${randomUUID()}`;
    const group = id.slice(0, 2);
    await turns.run(this.#caller, 'short', async () => {
      if (!this.#groups.has(group)) await mkdir(join(this.#folder, group), { recursive: true });
      this.#groups.add(group);
      const file = await open(partial, 'wx', 0o600);
      try {
        await file.writev([header, block]).finally(() => file.close());
        await rename(partial, path);
      } catch (error) {
        await unlink(partial).catch(() => undefined);
        throw error;
      }
    });
    this.#add(id, HEADER_BYTES + block.length);
    await this.#shrink();
  }

  #add(id: BlockId, size: number): void {
    this.#bytes += size - (this.#blocks.get(id) ?? 0);
    this.#blocks.delete(id);
    this.#blocks.set(id, size);
  }

  async #shrink(): Promise<void> {
    for (const id of this.#blocks.keys()) {
      if (this.#bytes <= this.#limit) return;
      await this.#drop(id);
    }
  }

  /** Gives up the blocks that were used longest ago. @returns whether there were any. */
  async free(bytes: number): Promise<boolean> {
    const until = this.#bytes - bytes;
    const had = this.#blocks.size > 0;
    for (const id of this.#blocks.keys()) {
      if (this.#bytes <= until) break;
      await this.#drop(id);
    }
    return had;
  }

  async #drop(id: BlockId): Promise<void> {
    this.#bytes -= this.#blocks.get(id) ?? 0;
    this.#blocks.delete(id);
    await unlink(this.#path(id)).catch(() => undefined);
  }

  /**
   * Waits for the blocks being stored, and records the order of use in their file times, for the
   * next process.
   */
  async close(): Promise<void> {
    await Promise.all(this.#written);
    const base = Date.now() / 1000 - this.#blocks.size;
    let rank = 0;
    for (const id of this.#blocks.keys()) {
      await utimes(this.#path(id), base + rank, base + rank).catch(() => undefined);
      rank += 1;
    }
  }
}

/** The first bytes of a file, as many as there are of `size`. */
async function readWhole(path: string, size: number): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const bytes = Buffer.allocUnsafeSlow(size);
    const { bytesRead } = await file.read(bytes, 0, size, 0);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
