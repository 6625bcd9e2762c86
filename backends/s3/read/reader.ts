import { createHash } from 'node:crypto';
import type { RemoteObject } from '../objects/attributes.js';
import type { Bucket } from '../client/bucket.js';
import { deferred } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { returnBuffer, takeBuffer } from '../client/buffers.js';
import { BLOCK_BYTES, CHUNK_BLOCKS } from './disk-cache.js';
import type { DiskCache } from './disk-cache.js';
import { WholeCheck } from './whole-check.js';
import { S3Failure } from '../client/failure.js';
import type { Logger } from '../../../core/backend/index.js';
import { pause } from '../../../core/backend/pauses.js';
import type { Metrics } from '../client/metrics.js';
import { into } from '../client/http.js';
import type { Sink } from '../client/http.js';

/**
 * Most blocks of one request. Larger reads are split into parallel requests: a slow line carries
 * more by several connections, and for a quick one each request is work.
 */
const REQUEST_MAX_BLOCKS = 32;
const QUICK_REQUEST_MAX_BLOCKS = 64;
/** Milliseconds for each MiB by one connection, the wait for its first byte included. */
const QUICK_MS_PER_MIB = 10;
/** Smaller answers say nothing of that. */
const MEASURED_MIN_BYTES = 2 ** 20;
/**
 * Objects of at most so many blocks are fetched whole, so that their bytes can be compared with
 * their checksum.
 */
const WHOLE_MAX_BLOCKS = 4;
/**
 * Bytes that are copied in one turn of the event loop. Memory that a guest has not used before is
 * slow.
 */
export const COPIED_AT_ONCE_BYTES = 2 * BLOCK_BYTES;
/** Bytes of the first read-ahead of a sequential reader. */
const WINDOW_FIRST_BYTES = 2 * BLOCK_BYTES;
/** Most versions whose blocks are summed at a time. */
const CHECKS_MAX = 16;
/** Part of the memory that is given up at a time, and its most bytes: they are written together. */
const EVICTION_SHARE = 1 / 16;
const EVICTION_MAX_BYTES = CHUNK_BLOCKS * BLOCK_BYTES;

const versionNames = new WeakMap<RemoteObject, string>();

/** The name of a version of an object, in hexadecimal digits. */
function versionOf(object: RemoteObject): string {
  let name = versionNames.get(object);
  if (name === undefined) {
    name = createHash('sha1').update(`${object.key}\0${object.etag}`).digest('hex');
    versionNames.set(object, name);
  }
  return name;
}

type BlockId = string;

function blockId(object: RemoteObject, index: number): BlockId {
  return `${versionOf(object)}-${index.toString(36)}`;
}

/** A block of a version. Its memory is used again when nobody holds it any more. */
class Block {
  readonly version: string;
  readonly index: number;
  readonly data: Buffer;
  #holders = 1;

  /** Whoever makes it holds it. */
  constructor(object: RemoteObject, index: number) {
    this.version = versionOf(object);
    this.index = index;
    this.data = takeBuffer(Math.min(BLOCK_BYTES, object.size - index * BLOCK_BYTES));
  }

  hold(): this {
    this.#holders += 1;
    return this;
  }

  /** To be called once by each holder. */
  readonly letGo = (): void => {
    this.#holders -= 1;
    if (this.#holders === 0) returnBuffer(this.data);
  };
}

/** A block that is on its way. */
interface Coming {
  readonly block: Block;
  readonly arrived: Promise<void>;
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
  readonly #memory = new Map<BlockId, Block>();
  readonly #coming = new Map<BlockId, Coming>();
  #bytes = 0;
  #comingBytes = 0;
  #requestBlocks = REQUEST_MAX_BLOCKS;
  readonly #log: Logger;
  readonly #checksAll: boolean;
  /** Of versions whose first block has come, by their names, oldest first. */
  readonly #checks = new Map<string, WholeCheck>();

  /**
   * @param limits.timeoutSeconds for a fetch, retries included
   * @param checksAll whether large files are compared with their checksum, too.
   */
  constructor(
    bucket: Bucket,
    disk: DiskCache | undefined,
    metrics: Metrics,
    log: Logger,
    limits: { memory: number; readAhead: number; timeoutSeconds: number },
    checksAll: boolean,
  ) {
    this.#log = log;
    this.#checksAll = checksAll;
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
    const blocks: (Block | Coming)[] = [];
    for (let index = first; index <= last; index++) blocks.push(this.#hold(object, index));
    if (stream !== undefined) this.#adapt(object, stream, start, end);
    try {
      for (const [i, found] of blocks.entries()) {
        if ('arrived' in found) await deadline.wait(found.arrived);
        if (end - start > COPIED_AT_ONCE_BYTES && (i * BLOCK_BYTES) % COPIED_AT_ONCE_BYTES === 0)
          await pause();
        const { data } = blockOf(found);
        const from = (first + i) * BLOCK_BYTES;
        const head = Math.max(0, start - from);
        put(Math.max(start, from), data.subarray(head, Math.min(data.length, end - from)));
      }
    } finally {
      for (const found of blocks) blockOf(found).letGo();
    }
  }

  /** Holds a block that is there, or comes. */
  #hold(object: RemoteObject, index: number): Block | Coming {
    const id = blockId(object, index);
    const block = this.#memory.get(id);
    if (block !== undefined) {
      this.#memory.delete(id);
      this.#memory.set(id, block);
      return block.hold();
    }
    if (!this.#coming.has(id)) this.#want(object, index, index);
    const coming = this.#coming.get(id)!;
    coming.block.hold();
    return coming;
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

  /** Gets the missing blocks of a range: each run of them from the disk, or by one request. */
  #want(object: RemoteObject, first: number, last: number): void {
    let run = first;
    let source = this.#sourceOf(object, first);
    this.#count(source);
    for (let index = first + 1; index <= last + 1; index++) {
      const next = index <= last ? this.#sourceOf(object, index) : 'here';
      if (index <= last) this.#count(next);
      const isFull = source === 'bucket' ? index - run === this.#requestBlocks : index % CHUNK_BLOCKS === 0;
      if (next === source && !isFull) continue;
      if (source === 'bucket') this.#fetch(object, run, index);
      else if (source === 'disk') void this.#load(object, run, index);
      run = index;
      source = next;
    }
  }

  #sourceOf(object: RemoteObject, index: number): 'here' | 'disk' | 'bucket' {
    const id = blockId(object, index);
    if (this.#memory.has(id) || this.#coming.has(id)) return 'here';
    return this.#disk?.has(versionOf(object), index) === true ? 'disk' : 'bucket';
  }

  #count(source: 'here' | 'disk' | 'bucket'): void {
    if (source === 'here') this.#metrics.blockHits += 1;
    else this.#metrics.blockMisses += 1;
  }

  /** Reads blocks from the disk, and asks for those that are damaged there. */
  async #load(object: RemoteObject, first: number, stop: number): Promise<void> {
    const expected = this.#expect(object, first, stop);
    const targets = expected.map(({ block }) => block.data);
    const sound = await this.#disk!.read(versionOf(object), first, targets);
    for (const [i, { block, came, failed }] of expected.entries()) {
      if (sound[i] === true) came();
      else this.#get(object, block).then(came, failed);
    }
  }

  async #get({ key, etag }: RemoteObject, { index, data }: Block): Promise<void> {
    const deadline = Deadline.after(this.#timeoutSeconds);
    const start = index * BLOCK_BYTES;
    await this.#bucket.read(key, etag, start, start + data.length, deadline, into(data));
  }

  #fetch(object: RemoteObject, first: number, stop: number): void {
    const start = first * BLOCK_BYTES;
    const end = Math.min(object.size, stop * BLOCK_BYTES);
    const expected = this.#expect(object, first, stop);
    let current = 0;
    const sink = (arrived: (coming: Expected) => void): Sink => {
      let filled = 0;
      current = 0;
      return {
        room: () => expected[current]?.block.data.subarray(filled) ?? EMPTY,
        took: (count) => {
          const coming = expected[current]!;
          filled += count;
          if (filled < coming.block.data.length) return;
          arrived(coming);
          current += 1;
          filled = 0;
        },
      };
    };
    const deadline = Deadline.after(this.#timeoutSeconds);
    const fetching =
      start === 0 && end === object.size
        ? this.#bucket
            .readWhole(
              object,
              deadline,
              () => sink(() => undefined),
              () => expected.map(({ block }) => block.data),
            )
            .then(() => expected.forEach(({ came }) => came()))
        : this.#bucket.read(
            object.key,
            object.etag,
            start,
            end,
            deadline,
            sink(({ came }) => came()),
          );
    const began = performance.now();
    fetching.then(
      () => this.#measured(end - start, performance.now() - began),
      (error: unknown) => {
        for (const { failed } of expected) failed(error);
      },
    );
  }

  #measured(bytes: number, milliseconds: number): void {
    if (bytes < MEASURED_MIN_BYTES) return;
    const isQuick = (milliseconds / bytes) * 2 ** 20 < QUICK_MS_PER_MIB;
    this.#requestBlocks = isQuick ? QUICK_REQUEST_MAX_BLOCKS : REQUEST_MAX_BLOCKS;
  }

  /** Makes room for blocks that will come. */
  #expect(object: RemoteObject, first: number, stop: number): readonly Expected[] {
    if (this.#checksAll && first === 0) this.#beginCheck(object);
    const expected: Expected[] = [];
    for (let index = first; index < stop; index++) {
      const block = new Block(object, index);
      const id = blockId(object, index);
      const { promise, resolve, reject } = deferred<void>();
      const done = (): void => {
        this.#coming.delete(id);
        this.#comingBytes -= block.data.length;
      };
      // Its memory is not used again: something of what failed may still come.
      const failed = (error: unknown): void => {
        if (this.#coming.get(id)?.block !== block) return;
        done();
        reject(error);
      };
      // Nobody may wait for it.
      promise.catch(() => undefined);
      this.#coming.set(id, { block, arrived: promise });
      this.#comingBytes += block.data.length;
      expected.push({
        block,
        came: () => {
          if (this.#coming.get(id)?.block !== block) return;
          const checking = this.#check(block);
          const arrived = (): void => {
            done();
            this.#remember(id, block);
            resolve();
          };
          if (checking === undefined) arrived();
          else void checking.then((isRight) => (isRight ? arrived() : this.#refuse(object, failed)), failed);
        },
        failed,
      });
    }
    return expected;
  }

  /**
   * Begins to sum a large version whose first block is asked for: what comes after that block may
   * come before it.
   */
  #beginCheck(object: RemoteObject): void {
    const version = versionOf(object);
    if (object.size <= WHOLE_MAX_BLOCKS * BLOCK_BYTES || this.#checks.has(version)) return;
    const count = Math.ceil(object.size / BLOCK_BYTES);
    const expected = this.#bucket.expectation(object, Deadline.after(this.#timeoutSeconds));
    this.#checks.set(version, new WholeCheck(count, this.#limit / 2, expected));
    for (const [oldest, other] of this.#checks) {
      if (this.#checks.size <= CHECKS_MAX) break;
      other.giveUp();
      this.#checks.delete(oldest);
    }
  }

  /** @returns where it must be waited for, whether the bytes of a version are right. */
  #check(block: Block): Promise<boolean> | undefined {
    const { version } = block;
    const check = this.#checks.get(version);
    const result = check?.take(block);
    const end = (): void => {
      if (check?.isOver === true && this.#checks.get(version) === check) this.#checks.delete(version);
    };
    if (result === undefined) end();
    return result?.finally(end);
  }

  /** Nothing of such a version is kept: it is fetched anew. */
  #refuse(object: RemoteObject, failed: (error: unknown) => void): void {
    const version = versionOf(object);
    this.#metrics.corruptReads += 1;
    this.#log.warn({ key: object.key }, 'the bytes of an object are not those of its checksum: EIO');
    for (const [id, block] of this.#memory) {
      if (block.version !== version) continue;
      this.#memory.delete(id);
      this.#bytes -= block.data.length;
      block.letGo();
    }
    const forgotten = this.#disk?.forget(version) ?? Promise.resolve();
    void forgotten.then(() => failed(new S3Failure('transient', 0, 'CorruptBody')));
  }

  #remember(id: BlockId, block: Block): void {
    this.#memory.set(id, block);
    this.#bytes += block.data.length;
    if (this.#bytes <= this.#limit) return;
    const until = this.#limit - Math.min(EVICTION_MAX_BYTES, this.#limit * EVICTION_SHARE);
    for (const [old, evicted] of this.#memory) {
      if (this.#bytes <= until) return;
      this.#memory.delete(old);
      this.#bytes -= evicted.data.length;
      this.#store(evicted);
    }
  }

  #store(block: Block): void {
    if (this.#disk === undefined) block.letGo();
    else this.#disk.write(block.version, block.index, block.data, block.letGo);
  }

  /** Writes the blocks in memory to disk, for the next process. */
  async close(): Promise<void> {
    for (const block of this.#memory.values()) {
      await this.#disk?.room();
      this.#store(block);
    }
    this.#memory.clear();
    this.#bytes = 0;
  }

  /** Caches the blocks of a small object that was just uploaded. */
  keep(object: RemoteObject, body: Uint8Array): void {
    if (body.length > WHOLE_MAX_BLOCKS * BLOCK_BYTES || body.length !== object.size) return;
    for (let at = 0; at < body.length; at += BLOCK_BYTES) {
      const index = at / BLOCK_BYTES;
      const id = blockId(object, index);
      if (this.#memory.has(id)) continue;
      const block = new Block(object, index);
      block.data.set(body.subarray(at, at + BLOCK_BYTES));
      this.#remember(id, block);
    }
  }
}

/** A block that was asked for, and what is to be called when it is there or never will be. */
interface Expected {
  readonly block: Block;
  readonly came: () => void;
  readonly failed: (error: unknown) => void;
}

function blockOf(found: Block | Coming): Block {
  return 'arrived' in found ? found.block : found;
}

const EMPTY = new Uint8Array(0);

/** Whether a read failed because the bucket has another version now. */
export function isChanged(error: unknown): boolean {
  return error instanceof S3Failure && (error.kind === 'precondition' || error.kind === 'missing');
}
