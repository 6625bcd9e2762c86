import { createHash } from 'node:crypto';
import type { RemoteObject } from '../objects/attributes.js';
import type { Bucket } from '../client/bucket.js';
import { deferred } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import type { Deferred } from '../client/concurrency.js';
import type { BlockId, DiskCache } from './disk-cache.js';
import { S3Failure } from '../client/failure.js';
import type { Metrics } from '../client/metrics.js';
import { into } from '../client/http.js';
import type { Sink } from '../client/http.js';

/** Bytes of a block, the unit in which data is fetched and cached. */
export const BLOCK_BYTES = 128 * 1024;
/** Most blocks of one request. Larger reads are split into parallel requests. */
const REQUEST_MAX_BLOCKS = 32;
/**
 * Objects of at most so many blocks are fetched whole, so that their bytes can be compared with
 * their checksum.
 */
const WHOLE_MAX_BLOCKS = 4;
/** Bytes of the first read-ahead of a sequential reader. */
const WINDOW_FIRST_BYTES = 2 * BLOCK_BYTES;

const versionNames = new WeakMap<RemoteObject, string>();

/** The id of a block. The ids of one version of an object differ in the index only. */
function blockId(object: RemoteObject, index: number): BlockId {
  let name = versionNames.get(object);
  if (name === undefined) {
    name = createHash('sha1').update(`${object.key}\0${object.etag}`).digest('hex');
    versionNames.set(object, name);
  }
  return `${name}-${index.toString(36)}`;
}

/** The read-ahead state of one handle. */
export class Stream {
  /** Offset at which a sequential reader continues. */
  next = 0;
  /** Bytes to read ahead; 0 for random access. */
  window = 0;
  /** End of what was requested so far. */
  ahead = 0;
}

/**
 * Reads versions of objects: from memory, then disk, then the bucket. A version never changes, so
 * cached blocks stay valid. Memory is bounded: the least recently used blocks are dropped first,
 * and read-ahead stops while too much is on its way. Blocks are written to disk when they leave
 * memory, in the background.
 */
export class Reader {
  readonly #bucket: Bucket;
  readonly #disk: DiskCache | undefined;
  readonly #metrics: Metrics;
  readonly #limit: number;
  readonly #readAhead: number;
  readonly #timeoutSeconds: number;
  /** Least recently used first. */
  readonly #memory = new Map<BlockId, Buffer>();
  readonly #coming = new Map<BlockId, Promise<Buffer>>();
  #bytes = 0;
  #comingBytes = 0;

  /** @param limits.timeoutSeconds for a fetch, retries included. */
  constructor(
    bucket: Bucket,
    disk: DiskCache | undefined,
    metrics: Metrics,
    limits: { memory: number; readAhead: number; timeoutSeconds: number },
  ) {
    this.#bucket = bucket;
    this.#disk = disk;
    this.#metrics = metrics;
    this.#limit = limits.memory;
    this.#readAhead = Math.min(limits.readAhead, limits.memory / 4);
    this.#timeoutSeconds = limits.timeoutSeconds;
  }

  get bytes(): number {
    return this.#bytes + this.#comingBytes;
  }

  /**
   * Reads bytes `start` to `end` (exclusive, within the object) and passes them to `put` in order.
   * @param stream the handle's read-ahead state; undefined for internal reads
   * @throws S3Failure of kind precondition or missing if the bucket does not have this version any
   * more.
   */
  async read(
    object: RemoteObject,
    start: number,
    end: number,
    stream: Stream | undefined,
    deadline: Deadline,
    put: (at: number, bytes: Uint8Array) => void,
  ): Promise<void> {
    const first = Math.floor(start / BLOCK_BYTES);
    const last = Math.floor((end - 1) / BLOCK_BYTES);
    const isSmall = object.size <= WHOLE_MAX_BLOCKS * BLOCK_BYTES;
    if (isSmall) this.#want(object, 0, Math.floor((object.size - 1) / BLOCK_BYTES));
    else this.#want(object, first, last);
    const blocks: (Buffer | Promise<Buffer>)[] = [];
    for (let index = first; index <= last; index++) blocks.push(this.#block(object, index));
    if (stream !== undefined) this.#adapt(object, stream, start, end);
    for (const [i, waiting] of blocks.entries()) {
      const block = waiting instanceof Promise ? await deadline.wait(waiting) : waiting;
      const from = (first + i) * BLOCK_BYTES;
      const head = Math.max(0, start - from);
      put(Math.max(start, from), block.subarray(head, Math.min(block.length, end - from)));
    }
  }

  #block(object: RemoteObject, index: number): Buffer | Promise<Buffer> {
    const id = blockId(object, index);
    const block = this.#memory.get(id);
    if (block !== undefined) {
      this.#memory.delete(id);
      this.#memory.set(id, block);
      return block;
    }
    const coming = this.#coming.get(id);
    if (coming !== undefined) return coming;
    this.#want(object, index, index);
    return this.#coming.get(id)!;
  }

  /** Doubles the read-ahead window of a sequential reader, and closes it when the reader jumps. */
  #adapt(object: RemoteObject, stream: Stream, start: number, end: number): void {
    const near = start <= stream.next && end + BLOCK_BYTES > stream.next;
    stream.next = end;
    if (!near) {
      stream.window = 0;
      stream.ahead = end;
      return;
    }
    stream.window = Math.min(this.#readAhead, Math.max(WINDOW_FIRST_BYTES, stream.window * 2));
    stream.ahead = Math.max(stream.ahead, end);
    const target = Math.min(object.size, end + stream.window);
    // Requests more only when half of the window is used up, so that requests stay large.
    if (target - stream.ahead < Math.min(stream.window / 2, object.size - stream.ahead)) return;
    const room = this.#limit / 2 - this.#comingBytes;
    const until = Math.min(target, stream.ahead + Math.max(0, room));
    const from = Math.floor(stream.ahead / BLOCK_BYTES);
    const to = Math.floor((until - 1) / BLOCK_BYTES);
    if (until <= stream.ahead || to < from) return;
    stream.ahead = Math.min(object.size, (to + 1) * BLOCK_BYTES);
    this.#want(object, from, to);
  }

  /** Requests the missing blocks of a range: each run of them by one request. */
  #want(object: RemoteObject, first: number, last: number): void {
    let run = -1;
    for (let index = first; index <= last + 1; index++) {
      const id = blockId(object, index);
      const missing = index <= last && !this.#memory.has(id) && !this.#coming.has(id);
      if (index <= last) {
        if (missing) this.#metrics.blockMisses += 1;
        else this.#metrics.blockHits += 1;
      }
      const fetched = missing && !this.#fromDisk(object, index, id);
      if (fetched && run < 0) run = index;
      if (run >= 0 && (!fetched || index - run + 1 === REQUEST_MAX_BLOCKS)) {
        const stop = fetched ? index + 1 : index;
        this.#fetch(object, run, stop);
        run = -1;
      }
    }
  }

  #fromDisk(object: RemoteObject, index: number, id: BlockId): boolean {
    if (this.#disk?.has(id) !== true) return false;
    const disk = this.#disk;
    const length = Math.min(BLOCK_BYTES, object.size - index * BLOCK_BYTES);
    this.#track(
      id,
      length,
      disk.read(id).then(async (block) => {
        if (block?.length === length) return block;
        const fetched = Buffer.allocUnsafeSlow(length);
        await this.#get(object, index * BLOCK_BYTES, fetched);
        return fetched;
      }),
    );
    return true;
  }

  async #get({ key, etag }: RemoteObject, start: number, target: Buffer): Promise<void> {
    const deadline = Deadline.after(this.#timeoutSeconds);
    await this.#bucket.read(key, etag, start, start + target.length, deadline, into(target));
  }

  #fetch(object: RemoteObject, first: number, stop: number): void {
    const start = first * BLOCK_BYTES;
    const end = Math.min(object.size, stop * BLOCK_BYTES);
    const blocks: { id: BlockId; data: Buffer; length: number; coming: Deferred<Buffer> }[] = [];
    for (let index = first; index < stop; index++) {
      const id = blockId(object, index);
      const length = Math.min(BLOCK_BYTES, end - index * BLOCK_BYTES);
      const coming = deferred<Buffer>();
      blocks.push({ id, data: Buffer.allocUnsafeSlow(length), length, coming });
      this.#track(id, length, coming.promise);
    }
    let current = 0;
    const sink = (arrived: (block: (typeof blocks)[number]) => void): Sink => {
      let filled = 0;
      current = 0;
      return {
        room: () => blocks[current]?.data.subarray(filled) ?? EMPTY,
        took: (count) => {
          const block = blocks[current]!;
          filled += count;
          if (filled < block.length) return;
          arrived(block);
          current += 1;
          filled = 0;
        },
      };
    };
    const give = (block: (typeof blocks)[number]): void => block.coming.resolve(block.data);
    const deadline = Deadline.after(this.#timeoutSeconds);
    const fetching =
      start === 0 && end === object.size
        ? this.#bucket
            .readWhole(
              object,
              deadline,
              () => sink(() => undefined),
              () => blocks.map(({ data }) => data),
            )
            .then(() => blocks.forEach(give))
        : this.#bucket.read(object.key, object.etag, start, end, deadline, sink(give));
    fetching.catch((error: unknown) => {
      for (const block of blocks) block.coming.reject(error);
    });
  }

  #track(id: BlockId, length: number, coming: Promise<Buffer>): void {
    this.#coming.set(id, coming);
    this.#comingBytes += length;
    coming.then(
      (block) => {
        this.#done(id, length);
        this.#remember(id, block);
      },
      () => this.#done(id, length),
    );
  }

  #done(id: BlockId, length: number): void {
    this.#coming.delete(id);
    this.#comingBytes -= length;
  }

  #remember(id: BlockId, block: Buffer): void {
    this.#memory.set(id, block);
    this.#bytes += block.length;
    for (const [old, evicted] of this.#memory) {
      if (this.#bytes <= this.#limit) return;
      this.#memory.delete(old);
      this.#bytes -= evicted.length;
      this.#disk?.write(old, evicted);
    }
  }

  /** Writes the blocks in memory to disk, for the next process. */
  async close(): Promise<void> {
    for (const [id, block] of this.#memory) {
      await this.#disk?.room();
      this.#disk?.write(id, block);
    }
    this.#memory.clear();
    this.#bytes = 0;
  }

  /** Caches the blocks of a small object that was just uploaded. */
  keep(object: RemoteObject, body: Uint8Array): void {
    if (body.length > 4 * BLOCK_BYTES) return;
    for (let at = 0; at < body.length; at += BLOCK_BYTES) {
      const id = blockId(object, at / BLOCK_BYTES);
      if (!this.#memory.has(id)) this.#remember(id, Buffer.from(body.subarray(at, at + BLOCK_BYTES)));
    }
  }
}

const EMPTY = new Uint8Array(0);

/** Whether a read failed because the bucket has another version now. */
export function isChanged(error: unknown): boolean {
  return error instanceof S3Failure && (error.kind === 'precondition' || error.kind === 'missing');
}
