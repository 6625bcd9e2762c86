import { Worker } from 'node:worker_threads';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { drain, signal, SystemError } from '../../core/system/index.js';
import { FrontEndError } from '../../core/vhost-user/index.js';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, Op } from '../support/fuse-client.js';
import { Guesses, makeRequest } from '../support/hostile-requests.js';
import { Random } from '../support/random.js';
import { MAPPED, type Target } from './racer.js';
import { startOf } from './attacker.js';

/*
 * A front-end that sends every opcode with values at the edges, while a second thread changes the
 * memory in which they lie. It believes nothing that comes back.
 */

const RING_SIZE = 256;
/** Requests that lie in the ring together. */
const SLOTS = 64;
const IN_BYTES = 16384;
const OUT_BYTES = 16384;
/**
 * How long a batch is waited for of which most was answered, in milliseconds: some wait for locks.
 */
const PATIENCE_MS = 0.5;
/** How long the first answers are waited for, before the queue is taken to be stopped. */
const STOPPED_MS = 300;
/** A connection with fewer slots that were given back is given up. */
const LEAST_FREE = 16;
/** Batches over one connection, at most. */
const BATCHES = 400;
/** One in so many descriptors has a length that cannot be right: the daemon stops the queue. */
const BAD_DESCRIPTOR = 20_000;
const HEADER_BYTES = 40;
/** What a read of an eventfd returns that was signalled. */
const EVENTFD_BYTES = 8;
const NEXT = 1;
const WRITE = 2;

interface Sent {
  readonly opcode: number;
  readonly node: bigint;
}

const pause = new Int32Array(new SharedArrayBuffer(4));

/** A ring that is written without a look at what it has. */
class BlindQueue {
  readonly #frontEnd: FrontEnd;
  readonly #index: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #base: number;
  readonly #in: number;
  readonly #out: number;
  /** Whether the daemon has told by the error descriptor that it serves the queue no more. */
  isStopped = false;
  #next = 0;
  /** How much of the used ring has been seen. */
  #seen = 0;
  readonly #free = new Set(Array.from({ length: SLOTS }, (_, slot) => slot));

  constructor(frontEnd: FrontEnd, index: number) {
    const { memory } = frontEnd;
    this.#frontEnd = frontEnd;
    this.#index = index;
    this.#bytes = memory.bytes;
    this.#view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset, memory.bytes.length);
    this.#base = memory.guestAddress(0);
    this.#in = memory.allocate(SLOTS * IN_BYTES);
    this.#out = memory.allocate(SLOTS * OUT_BYTES);
    if (this.#out < 0) throw new Error('no memory for requests');
  }

  /** Where requests and replies lie. */
  get requests(): readonly (readonly [number, number])[] {
    // Headers and arguments, of which most are short.
    const heads = Array.from({ length: SLOTS }, (_, slot) => [this.#in + slot * IN_BYTES, 128] as const);
    return [...heads, [this.#out, 64]];
  }

  /** Where the ring lies. */
  get ring(): readonly (readonly [number, number])[] {
    const { descriptors, available, used } = this.#frontEnd.queues[this.#index]!.driver;
    return [
      [descriptors - this.#base, RING_SIZE * 16],
      [available - this.#base, 4 + RING_SIZE * 2],
      [used - this.#base, 4 + RING_SIZE * 8],
    ];
  }

  put(slot: number, random: Random, request: Uint8Array): void {
    const at = this.#in + slot * IN_BYTES;
    const length = Math.min(request.length, IN_BYTES);
    this.#bytes.set(request.subarray(0, length), at);
    this.#bytes.fill(0, this.#out + slot * OUT_BYTES, this.#out + slot * OUT_BYTES + 256);
    const cut = random.chance(90) ? Math.min(40, length) : 1 + random.below(Math.max(1, length));
    const segments: [number, number, number][] = [[at, cut, 0]];
    if (length > cut) segments.push([at + cut, length - cut, 0]);
    const out = this.#out + slot * OUT_BYTES;
    if (!random.once(3000)) segments.push([out, 16, WRITE]);
    if (random.chance(90))
      segments.push([out + 16, random.chance(90) ? OUT_BYTES - 16 : 1 + random.below(300), WRITE]);
    const table = this.#frontEnd.queues[this.#index]!.driver.descriptors - this.#base;
    segments.forEach(([address, bytes, flags], i) => {
      const d = table + (slot * 4 + i) * 16;
      const isLast = i === segments.length - 1;
      this.#view.setBigUint64(d, BigInt(this.#base + address), true);
      this.#view.setUint32(d + 8, random.once(BAD_DESCRIPTOR) ? random.next() : bytes, true);
      this.#view.setUint16(d + 12, flags | (isLast ? 0 : NEXT), true);
      this.#view.setUint16(d + 14, slot * 4 + i + 1, true);
    });
  }

  /** The slots that are not in use. */
  get free(): readonly number[] {
    return [...this.#free];
  }

  /**
   * Makes slots available. They are free again when they were used. Others stay in use: requests
   * that wait for locks, or the daemon has stopped the queue.
   * @returns the slots that were used.
   */
  publish(slots: readonly number[]): number[] {
    const { driver, kick, err } = this.#frontEnd.queues[this.#index]!;
    const available = driver.available - this.#base;
    for (const slot of slots) {
      this.#free.delete(slot);
      this.#view.setUint16(available + 4 + 2 * (this.#next % RING_SIZE), slot * 4, true);
      this.#next = (this.#next + 1) & 0xffff;
    }
    this.#view.setUint16(available + 2, this.#next, true);
    signal(kick.value);
    const done: number[] = [];
    let progress = performance.now();
    while (this.#free.size < SLOTS) {
      const before = done.length;
      this.#collect(done);
      const now = performance.now();
      if (done.length > before) progress = now;
      else if (now - progress > (done.length * 2 >= slots.length ? PATIENCE_MS : STOPPED_MS)) break;
      else if (drain(err.value) === EVENTFD_BYTES) {
        this.isStopped = true;
        break;
      }
      Atomics.wait(pause, 0, 0, 0.05);
    }
    return done;
  }

  /** Frees what lies in the used ring. */
  #collect(done: number[]): void {
    const used = this.#frontEnd.queues[this.#index]!.driver.used - this.#base;
    const end = this.#view.getUint16(used + 2, true);
    for (let left = RING_SIZE; this.#seen !== end && left > 0; left--) {
      const slot = this.#view.getUint32(used + 4 + 8 * (this.#seen % RING_SIZE), true) >>> 2;
      this.#seen = (this.#seen + 1) & 0xffff;
      if (slot >= SLOTS || this.#free.has(slot)) continue;
      this.#free.add(slot);
      done.push(slot);
    }
  }

  reply(slot: number): Uint8Array {
    const at = this.#out + slot * OUT_BYTES;
    return this.#bytes.slice(at, at + 256);
  }
}

/** The thread that changes memory. */
class Racer {
  readonly #state = new Int32Array(new SharedArrayBuffer(4));
  readonly #worker: Worker;

  constructor(seed: number) {
    const workerData = { seed, state: this.#state };
    this.#worker = new Worker(new URL('./racer.js', import.meta.url), { workerData });
  }

  /** Has it change the memory of another front-end, or of none. */
  async aim(target: Target): Promise<void> {
    const before = Atomics.load(this.#state, MAPPED);
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
    this.#worker.postMessage(target);
    while (Atomics.load(this.#state, MAPPED) === before) await sleep(1);
  }

  end(): Promise<number> {
    return this.#worker.terminate();
  }
}

const { socket, seed, end, enough, finish } = startOf();
const random = new Random(seed);
const racer = new Racer(seed + 1);
const client = new FuseClient({ request: () => Promise.reject(new Error('not by this way')) });
let requests = 0;
let answered = 0;
let connections = 0;

function isOver(): boolean {
  return requests >= enough || Date.now() >= end;
}

/** INIT, as a guest's kernel sends it. */
function initRequest(): Uint8Array {
  const args = new Uint8Array(64);
  const view = new DataView(args.buffer);
  [7, 38, 131_072, 0x7fffffff & ~(1 << 16)].forEach((word, i) => view.setUint32(i * 4, word, true));
  return client.encode(Op.INIT, 0n, args);
}

async function connection(): Promise<void> {
  const frontEnd = await FrontEnd.connect(socket, {
    requestQueues: 1 + random.below(2),
    queueSize: RING_SIZE,
    eventIdx: random.chance(50),
    memorySlots: random.chance(50),
    memory: 8 * 2 ** 20,
  });
  try {
    connections += 1;
    const index = 1 + random.below(frontEnd.queues.length - 1);
    const queue = new BlindQueue(frontEnd, index);
    const guesses = new Guesses();
    const harmless = Array.from({ length: SLOTS }, () => client.encode(Op.GETATTR, 1n, new Uint8Array(16)));
    harmless[0] = initRequest();
    harmless.forEach((request, slot) => queue.put(slot, random, request));
    queue.publish(queue.free);
    const ranges = random.chance(80) ? queue.requests : [...queue.requests, ...queue.ring];
    await racer.aim({ fd: frontEnd.memory.fd, length: frontEnd.memory.mapping.length, ranges });
    const sent: Sent[] = harmless.map(() => ({ opcode: Op.GETATTR, node: 1n }));
    for (let batch = 0; batch < BATCHES && !isOver(); batch++) {
      const slots = queue.free;
      if (slots.length < LEAST_FREE) return;
      for (const slot of slots) {
        const made = makeRequest(random, guesses, client);
        sent[slot] = made;
        // A request without a header stops the queue.
        const isShort = made.bytes.length < HEADER_BYTES && !random.once(BAD_DESCRIPTOR);
        queue.put(slot, random, isShort ? harmless[1]! : made.bytes);
      }
      const done = queue.publish(slots);
      requests += done.length;
      for (const slot of done) {
        const reply = queue.reply(slot);
        const length = new DataView(reply.buffer).getUint32(0, true);
        if (length < 16) continue;
        answered += 1;
        guesses.learn(sent[slot]!.opcode, sent[slot]!.node, reply);
      }
      // The thread's messages, and the end of the connection.
      await turn();
      if (done.length === 0 || queue.isStopped) return;
    }
  } finally {
    await racer.aim({ fd: frontEnd.memory.fd, length: 4096, ranges: [] });
    frontEnd.close();
  }
}

while (!isOver()) {
  try {
    await connection();
  } catch (error) {
    // The daemon may turn it away, or end the connection.
    if (!(error instanceof FrontEndError || error instanceof SystemError)) throw error;
    await sleep(20);
  }
}
await racer.end();
finish({ requests, answered, connections });
