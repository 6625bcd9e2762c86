import { mkdir, open, readdir, readFile, rename, unlink, writeFile } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { DAEMON, type Logger } from '../../../core/backend/index.js';
import { type Caller, turns } from '../../../core/backend/pool-turns.js';
import { parallel } from '../client/concurrency.js';
import type { Metrics } from '../client/metrics.js';
import type { DiskSpace } from '../journal/disk-space.js';
import { Descriptors } from './descriptors.js';

/** Bytes of a block, the unit in which data is fetched and cached. */
export const BLOCK_BYTES = 128 * 1024;
/** Blocks of one file of the cache: 4 MiB of one version of an object. */
export const CHUNK_BLOCKS = 32;

/*
 * A file: magic, zeros up to byte 16, an entry for each block (CRC-32 of its data and its length;
 * zeros where it is not there), zeros up to the header's end, and the blocks. A block whose data is
 * not that of its entry, as after a crash, is none.
 */
const MAGIC = 0x33424b56;
const ENTRIES_AT = 16;
const ENTRY_BYTES = 8;
const HEADER_BYTES = 512;

/** Most bytes waiting to be written to disk. Further blocks are not cached. */
const QUEUE_MAX_BYTES = 16 * 2 ** 20;
/** Milliseconds for which the cache is not written after a failure. */
const REST_MS = 60_000;
/** Part of the free disk that the cache may take, where its limit is more than that. */
const DISK_SHARE = 1 / 4;
/** Files that are looked at at the same time, at a start after a crash. */
const SCANS_AT_ONCE = 16;

/** Name of a file: at least two hex digits, then letters, digits and dashes. */
type ChunkId = string;
const CHUNK_ID = /^[0-9a-f]{2}[0-9a-z-]*$/;

/** What a file has. */
interface Chunk {
  /** A bit for each block that is there. */
  readonly blocks: number;
  readonly bytes: number;
}

/** A block that is to be written. */
interface Waiting {
  /** Its place in the file. */
  readonly slot: number;
  readonly data: Uint8Array;
  readonly done: () => void;
}

/**
 * Caches blocks of objects on disk: what lies together in an object lies together in a file, and is
 * written together. The sum of the sizes is limited; the least recently used files are dropped
 * first. Every block is checked by its checksum when it is read. The cache outlives the process.
 */
export class DiskCache {
  readonly #folder: string;
  #limit: number;
  readonly #space: DiskSpace;
  readonly #log: Logger;
  readonly #metrics: Metrics;
  /** Least recently used first. */
  readonly #chunks = new Map<ChunkId, Chunk>();
  readonly #files = new Descriptors();
  /** Folders that exist: the first digits of ids. */
  readonly #groups = new Set<string>();
  readonly #queue = new Map<ChunkId, Waiting[]>();
  #queuedBytes = 0;
  #isScheduled = false;
  readonly #writing = new Map<ChunkId, Promise<void>>();
  readonly #caller: Caller;
  #bytes = 0;
  /** Milliseconds of `performance.now()` until which nothing is written, after a failure. */
  #rests = 0;

  /**
   * @param folder in the mount's folder
   * @param limit most bytes; less where the disk has less room.
   */
  constructor(folder: string, limit: number, space: DiskSpace, log: Logger, metrics: Metrics) {
    this.#folder = folder;
    this.#limit = limit;
    this.#space = space;
    this.#log = log;
    this.#metrics = metrics;
    this.#caller = { guest: dirname(folder), signal: DAEMON.signal };
  }

  get bytes(): number {
    return this.#bytes;
  }

  get #indexPath(): string {
    return `${this.#folder}.index`;
  }

  /** Finds what a process before has left: by its list, or, after a crash, in each file. */
  async start(): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    if (!(await this.#readIndex())) await this.#scan();
    // What is cached already counts as free: it may be replaced.
    this.#limit = Math.min(this.#limit, (this.#space.atStart + this.#bytes) * DISK_SHARE);
    await this.#shrink();
  }

  /** @returns whether there was a list. It holds once: it is not kept up while files change. */
  async #readIndex(): Promise<boolean> {
    let list: unknown;
    try {
      list = JSON.parse(await readFile(this.#indexPath, 'utf8'));
      await unlink(this.#indexPath);
    } catch {
      return false;
    }
    if (!Array.isArray(list) || !list.every(isListed)) return false;
    for (const [id, blocks, bytes] of list) this.#add(id, { blocks, bytes });
    return true;
  }

  async #scan(): Promise<void> {
    const found: { id: ChunkId; chunk: Chunk; used: number }[] = [];
    for (const group of await readdir(this.#folder)) {
      const folder = join(this.#folder, group);
      await parallel(await readdir(folder), SCANS_AT_ONCE, async (id) => {
        const path = join(folder, id);
        const seen = CHUNK_ID.test(id) ? await look(path).catch(() => undefined) : undefined;
        if (seen === undefined) await unlink(path).catch(() => undefined);
        else found.push({ id, ...seen });
      });
    }
    found.sort((a, b) => a.used - b.used);
    for (const { id, chunk } of found) this.#add(id, chunk);
  }

  #add(id: ChunkId, chunk: Chunk): void {
    this.#bytes += chunk.bytes - (this.#chunks.get(id)?.bytes ?? 0);
    this.#chunks.delete(id);
    this.#chunks.set(id, chunk);
  }

  #path(id: ChunkId): string {
    return join(this.#folder, id.slice(0, 2), id);
  }

  /** @param version a name of a version of an object: at least two hex digits. */
  has(version: string, index: number): boolean {
    return this.#has(chunkId(version, index), index % CHUNK_BLOCKS);
  }

  #has(id: ChunkId, slot: number): boolean {
    return ((this.#chunks.get(id)?.blocks ?? 0) & bit(slot)) !== 0;
  }

  /**
   * Reads consecutive blocks of one file.
   * @param targets as long as the blocks are
   * @returns for each whether it is there and undamaged.
   */
  async read(version: string, first: number, targets: readonly Uint8Array[]): Promise<readonly boolean[]> {
    const id = chunkId(version, first);
    const slot = first % CHUNK_BLOCKS;
    const chunk = this.#chunks.get(id);
    if (chunk === undefined) return targets.map(() => false);
    this.#chunks.delete(id);
    this.#chunks.set(id, chunk);
    const entries = Buffer.alloc(targets.length * ENTRY_BYTES);
    let count: number;
    try {
      count = await turns.run(this.#caller, 'short', () =>
        this.#files.use(this.#path(id), false, async (file) => {
          await file.read(entries, 0, entries.length, ENTRIES_AT + slot * ENTRY_BYTES);
          return (await file.readv(targets, HEADER_BYTES + slot * BLOCK_BYTES)).bytesRead;
        }),
      );
    } catch (error) {
      this.#log.warn({ chunk: id, error: String(error) }, 'cached blocks can not be read: dropped');
      await this.#drop(id);
      return targets.map(() => false);
    }
    let end = 0;
    const sound = targets.map((target, i) => {
      end += target.length;
      const isSound =
        end <= count &&
        entries.readUInt32LE(i * ENTRY_BYTES + 4) === target.length &&
        entries.readUInt32LE(i * ENTRY_BYTES) === crc32(target);
      if (isSound) this.#metrics.diskHits += 1;
      return isSound;
    });
    const damaged = sound.flatMap((isSound, i) => (isSound ? [] : [i]));
    if (damaged.length > 0) {
      this.#metrics.diskCorrupt += damaged.length;
      this.#log.warn({ chunk: id, damaged: damaged.length }, 'cached blocks fail their checksums: dropped');
      if (this.#chunks.get(id) === chunk) {
        const bytes = damaged.reduce((sum, i) => sum + targets[i]!.length, 0);
        const blocks = damaged.reduce((bits, i) => bits & ~bit(slot + i), chunk.blocks);
        this.#add(id, { blocks, bytes: chunk.bytes - bytes });
      }
    }
    return sound;
  }

  /** Waits until the next {@link write} will not be left out. */
  async room(): Promise<void> {
    while (this.#queuedBytes > QUEUE_MAX_BYTES - BLOCK_BYTES) {
      this.#writeQueued();
      await Promise.race(this.#writing.values());
    }
  }

  /**
   * Stores a block in the background. It is left out if too many are waiting.
   * @param done called when the data is not needed any more.
   */
  write(version: string, index: number, data: Uint8Array, done: () => void): void {
    const id = chunkId(version, index);
    const slot = index % CHUNK_BLOCKS;
    const isLeftOut =
      this.#limit === 0 ||
      performance.now() < this.#rests ||
      this.#queuedBytes + data.length > QUEUE_MAX_BYTES ||
      this.#has(id, slot) ||
      this.#queue.get(id)?.some((waiting) => waiting.slot === slot) === true;
    if (isLeftOut) return done();
    this.#queuedBytes += data.length;
    const waiting = this.#queue.get(id);
    if (waiting === undefined) this.#queue.set(id, [{ slot, data, done }]);
    else waiting.push({ slot, data, done });
    // What comes in this turn is written together.
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#writeQueued();
    });
  }

  #writeQueued(): void {
    for (const [id, blocks] of this.#queue) {
      if (this.#writing.has(id)) continue;
      this.#queue.delete(id);
      const writing = this.#write(id, blocks).finally(() => {
        this.#writing.delete(id);
        if (this.#queue.has(id)) this.#writeQueued();
      });
      this.#writing.set(id, writing);
    }
  }

  async #write(id: ChunkId, blocks: readonly Waiting[]): Promise<void> {
    try {
      await this.#store(
        id,
        blocks.toSorted((a, b) => a.slot - b.slot),
      );
    } catch (error) {
      await this.#drop(id);
      if (performance.now() < this.#rests) return;
      this.#rests = performance.now() + REST_MS;
      this.#log.error({ error: String(error) }, 'the disk cache can not be written: tried again in a minute');
    } finally {
      for (const { data, done } of blocks) {
        this.#queuedBytes -= data.length;
        done();
      }
    }
  }

  async #store(id: ChunkId, blocks: readonly Waiting[]): Promise<void> {
    const before = this.#chunks.get(id);
    const bytes = blocks.reduce(
      (sum, { data }) => sum + data.length,
      before === undefined ? HEADER_BYTES : 0,
    );
    // The journal's room is not for copies of what the bucket has.
    if (!this.#space.takes(bytes + this.#space.reserve)) return;
    const group = id.slice(0, 2);
    await turns.run(this.#caller, 'short', async () => {
      if (!this.#groups.has(group)) await mkdir(join(this.#folder, group), { recursive: true });
      this.#groups.add(group);
      await this.#files.use(this.#path(id), before === undefined, (file) =>
        writeBlocks(file, blocks, before === undefined),
      );
    });
    const now = this.#chunks.get(id);
    // It may have been dropped meanwhile.
    if (before !== undefined && now === undefined) return;
    const added = blocks.reduce((bits, { slot }) => bits | bit(slot), 0);
    this.#add(id, { blocks: (now?.blocks ?? 0) | added, bytes: (now?.bytes ?? 0) + bytes });
    await this.#shrink();
  }

  async #shrink(): Promise<void> {
    for (const id of this.#chunks.keys()) {
      if (this.#bytes <= this.#limit) return;
      await this.#drop(id);
    }
  }

  /** Gives up what was used longest ago. @returns whether there was anything. */
  async free(bytes: number): Promise<boolean> {
    const until = this.#bytes - bytes;
    const had = this.#chunks.size > 0;
    for (const id of this.#chunks.keys()) {
      if (this.#bytes <= until) break;
      await this.#drop(id);
    }
    return had;
  }

  async #drop(id: ChunkId): Promise<void> {
    this.#bytes -= this.#chunks.get(id)?.bytes ?? 0;
    this.#chunks.delete(id);
    this.#files.forget(this.#path(id));
    await turns.run(this.#caller, 'short', () => unlink(this.#path(id)).catch(() => undefined));
  }

  /** Gives up what there is of a version, and what is about to be written of it. */
  async forget(version: string): Promise<void> {
    const isOf = (id: ChunkId): boolean => id.startsWith(`${version}-`);
    for (const [id, blocks] of [...this.#queue].filter(([name]) => isOf(name))) {
      this.#queue.delete(id);
      for (const { data, done } of blocks) {
        this.#queuedBytes -= data.length;
        done();
      }
    }
    await Promise.all([...this.#writing].filter(([id]) => isOf(id)).map(([, writing]) => writing));
    for (const id of [...this.#chunks.keys()].filter(isOf)) await this.#drop(id);
  }

  /** Waits for the blocks being stored, and lists what there is, for the next process. */
  async close(): Promise<void> {
    for (;;) {
      this.#writeQueued();
      if (this.#writing.size === 0) break;
      await Promise.all(this.#writing.values());
    }
    this.#files.close();
    const list = [...this.#chunks].map(([id, { blocks, bytes }]) => [id, blocks, bytes]);
    const partial = `${this.#indexPath}.new`;
    await writeFile(partial, JSON.stringify(list), { mode: 0o600 })
      .then(() => rename(partial, this.#indexPath))
      .catch((error: unknown) =>
        this.#log.warn({ error: String(error) }, 'the disk cache could not be listed for the next start'),
      );
  }
}

function chunkId(version: string, index: number): ChunkId {
  return `${version}-${Math.floor(index / CHUNK_BLOCKS).toString(36)}`;
}

function bit(slot: number): number {
  return 1 << slot;
}

function isListed(entry: unknown): entry is [ChunkId, number, number] {
  if (!Array.isArray(entry) || entry.length !== 3) return false;
  const [id, blocks, bytes] = entry as unknown[];
  return (
    typeof id === 'string' &&
    CHUNK_ID.test(id) &&
    Number.isInteger(blocks) &&
    Number.isSafeInteger(bytes) &&
    (bytes as number) > 0
  );
}

/** @returns undefined if the file is none of the cache's. */
async function look(path: string): Promise<{ chunk: Chunk; used: number } | undefined> {
  const file = await open(path, 'r');
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    await file.read(header, 0, HEADER_BYTES, 0);
    if (header.readUInt32LE(0) !== MAGIC) return undefined;
    let blocks = 0;
    let bytes = HEADER_BYTES;
    for (let slot = 0; slot < CHUNK_BLOCKS; slot++) {
      const length = header.readUInt32LE(ENTRIES_AT + slot * ENTRY_BYTES + 4);
      if (length === 0 || length > BLOCK_BYTES) continue;
      blocks |= bit(slot);
      bytes += length;
    }
    return { chunk: { blocks, bytes }, used: (await file.stat()).mtimeMs };
  } finally {
    await file.close();
  }
}

/** @param blocks by their slots. */
async function writeBlocks(file: FileHandle, blocks: readonly Waiting[], isNew: boolean): Promise<void> {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(MAGIC, 0);
  for (const { slot, data } of blocks) {
    header.writeUInt32LE(crc32(data), ENTRIES_AT + slot * ENTRY_BYTES);
    header.writeUInt32LE(data.length, ENTRIES_AT + slot * ENTRY_BYTES + 4);
  }
  const whole = isNew && blocks[0]?.slot === 0;
  for (const run of runs(blocks)) {
    const { slot } = run[0]!;
    const data = run.map((block) => block.data);
    const isFirst = whole && slot === 0;
    const at = isFirst ? 0 : HEADER_BYTES + slot * BLOCK_BYTES;
    await writeAll(file, isFirst ? [header, ...data] : data, at);
    const from = ENTRIES_AT + slot * ENTRY_BYTES;
    if (!isNew) await writeAll(file, [header.subarray(from, from + run.length * ENTRY_BYTES)], from);
  }
  if (isNew && !whole) await writeAll(file, [header], 0);
}

async function writeAll(file: FileHandle, pieces: readonly Uint8Array[], at: number): Promise<void> {
  const { bytesWritten } = await file.writev(pieces, at);
  // The disk is full.
  if (bytesWritten < pieces.reduce((sum, { length }) => sum + length, 0)) throw new Error('cut off');
}

/** Blocks that lie beside each other. */
function runs(blocks: readonly Waiting[]): Waiting[][] {
  const found: Waiting[][] = [];
  for (const block of blocks) {
    const last = found.at(-1);
    if (last !== undefined && last.at(-1)!.slot + 1 === block.slot) last.push(block);
    else found.push([block]);
  }
  return found;
}
