import { drain, libc, NativeMemory, signal } from '../system/index.js';
import type { FrontEnd, FrontEndQueue } from '../vhost-user/index.js';
import type { Sample } from './figures.js';
import { IN_HEADER, Lane, OUT_HEADER } from './lane.js';

const yieldProcessor = libc<() => number>('sched_yield', 'int', []);
const poll = libc<(fds: number, count: number, timeout: number) => number>('poll', 'int', [
  'uintptr_t',
  'uint',
  'int',
]);

const POLLIN = 1;
/**
 * How long a daemon may be silent before it counts as dead, and how often that is checked. In
 * milliseconds.
 */
const PATIENCE = 20_000;
const WAIT = 50;
const SPINS = 4096;

/**
 * After so many polls in vain the loop yields the processor. The daemon may need it, if there are
 * few.
 */
const YIELD = 256;

/** The most latencies that are kept. Further ones replace older ones. */
const MAX_LATENCIES = 2 ** 20;

/** The daemon has failed a request, or does not answer. */
export class BenchError extends Error {
  override readonly name = 'BenchError';
}

/** What lanes do: operations, each of one or more requests. */
export interface Load {
  /** Writes the first request of an operation into the lane. */
  begin(lane: Lane): void;
  /** Called after a reply. @returns whether it has written a further request of the operation. */
  next(lane: Lane): boolean;
  /** An errno that is not a failure. */
  readonly tolerates?: number;
}

/** How requests are laid out and replies awaited; the same for all daemons. */
export interface DriverOptions {
  /**
   * Whether the loop polls the used ring all the time, or sleeps on the call eventfd.
   */
  readonly wait: 'spin' | 'sleep';
  /** Bytes of data in one segment: 4096, as Linux's page cache gives them, or more. */
  readonly segment: number;
}

/** Drives the queues of a front-end as fast as the daemon answers, in one synchronous loop. */
export class Driver {
  readonly frontEnd: FrontEnd;
  readonly #options: DriverOptions;
  readonly #queues: readonly FrontEndQueue[];
  /** The lane of each request, by queue and token. */
  readonly #owners: (Lane | undefined)[][];
  /** For each queue: whether it has requests that are not published yet. */
  readonly #fresh: boolean[];
  /** `struct pollfd` of each queue's call descriptor. */
  readonly #polled: NativeMemory;
  #unique = 0;
  #silentSince = 0;

  constructor(frontEnd: FrontEnd, options: DriverOptions) {
    this.frontEnd = frontEnd;
    this.#options = options;
    this.#queues = frontEnd.queues;
    this.#owners = frontEnd.queues.map(() => []);
    this.#fresh = frontEnd.queues.map(() => false);
    this.#polled = NativeMemory.allocate(8 * this.#queues.length);
    for (const [i, { call }] of this.#queues.entries()) this.#polled.i32.set([call.value, POLLIN], 2 * i);
  }

  /** Frees the driver's memory. The caller keeps owning the front-end. */
  close(): void {
    this.#polled.free();
  }

  /** Request queues, not counting hiprio. */
  get requestQueues(): number {
    return this.#queues.length - 1;
  }

  /** Makes `depth` lanes, each with room for so many bytes of data. */
  openLanes(depth: number, dataBytes: number): Lane[] {
    return Array.from({ length: depth }, (_, index) => new Lane(index, this.frontEnd.memory, dataBytes));
  }

  closeLanes(lanes: readonly Lane[]): void {
    for (const lane of lanes) this.frontEnd.memory.release(lane.offset);
  }

  /** Sends the request in a lane and waits for its reply. @throws BenchError if it fails. */
  call(lane: Lane): void {
    this.#place(lane);
    this.#show();
    for (let idle = 0; ; idle++) {
      const answered = this.#take(lane.queue);
      if (answered === lane) break;
      if (answered !== undefined) throw new BenchError('the daemon answered a request that was not sent');
      this.#rest(idle);
    }
    checkReply(lane, 0);
  }

  /**
   * Keeps all lanes busy with operations of a load.
   * @param seconds how long new operations begin.
   * @param limit how many operations begin at most.
   * @throws BenchError if one fails. The replies to the others have then been received, if the
   * daemon has sent them.
   */
  run(load: Load, lanes: readonly Lane[], seconds: number, limit: number): Omit<Sample, 'cpu'> {
    try {
      return this.#run(load, lanes, seconds, limit);
    } catch (error) {
      this.#settle();
      throw error;
    }
  }

  /** Receives the replies to all requests in flight, whatever they are. */
  #settle(): void {
    this.#show();
    for (let idle = 0; this.#queues.some(({ driver }) => driver.pending > 0); idle++) {
      for (let queue = 0; queue < this.#queues.length; queue++) {
        while (this.#take(queue) !== undefined) idle = 0;
      }
      this.#rest(idle);
    }
  }

  #run(load: Load, lanes: readonly Lane[], seconds: number, limit: number): Omit<Sample, 'cpu'> {
    const tolerated = load.tolerates ?? 0;
    const latencies = new Float64Array(MAX_LATENCIES);
    const started = performance.now();
    const end = started + seconds * 1000;
    let now = started;
    let begun = 0;
    let finished = 0;
    for (const lane of lanes) {
      if (begun === limit) break;
      begun += 1;
      lane.started = now;
      load.begin(lane);
      this.#place(lane);
    }
    this.#show();
    for (let idle = 0; finished < begun;) {
      let answers = 0;
      for (let queue = this.#queues.length - 1; queue >= 0; queue--) {
        for (let lane = this.#take(queue); lane !== undefined; lane = this.#take(queue)) {
          if (answers === 0) now = performance.now();
          answers += 1;
          checkReply(lane, tolerated);
          if (!load.next(lane)) {
            latencies[finished & (MAX_LATENCIES - 1)] = (now - lane.started) * 1000;
            finished += 1;
            if (now >= end || begun === limit) continue;
            begun += 1;
            lane.started = now;
            load.begin(lane);
          }
          this.#place(lane);
        }
      }
      if (answers > 0) {
        this.#show();
        idle = 0;
      } else {
        this.#rest(idle);
        idle += 1;
      }
    }
    const kept = latencies.subarray(0, Math.min(finished, MAX_LATENCIES)).sort();
    return { operations: finished, seconds: (now - started) / 1000, latencies: kept };
  }

  /**
   * Puts a lane's request into its queue, with segments as Linux makes them
   * (`fs/fuse/virtio_fs.c`).
   */
  #place(lane: Lane): void {
    const { driver } = this.#queues[lane.queue]!;
    const { inBytes, dataIn, outBytes, dataOut } = lane;
    const unique = (this.#unique = (this.#unique + 2) >>> 0);
    lane.words[0] = inBytes + dataIn;
    lane.words[2] = unique;
    const { memory } = this.frontEnd;
    const at = memory.guestAddress(lane.offset);
    driver.begin();
    driver.readable(at, IN_HEADER);
    if (inBytes > IN_HEADER) driver.readable(at + IN_HEADER, inBytes - IN_HEADER);
    const data = memory.guestAddress(lane.dataOffset);
    const { segment } = this.#options;
    for (let done = 0; done < dataIn; done += segment) {
      driver.readable(data + done, Math.min(segment, dataIn - done));
    }
    if (outBytes > 0) {
      const reply = memory.guestAddress(lane.replyOffset);
      driver.writable(reply, OUT_HEADER);
      if (outBytes > OUT_HEADER) driver.writable(reply + OUT_HEADER, outBytes - OUT_HEADER);
      for (let done = 0; done < dataOut; done += segment) {
        driver.writable(data + done, Math.min(segment, dataOut - done));
      }
    }
    this.#owners[lane.queue]![driver.submit()] = lane;
    this.#fresh[lane.queue] = true;
  }

  /** Publishes the new requests of each queue to the daemon. */
  #show(): void {
    for (let queue = 0; queue < this.#fresh.length; queue++) {
      if (!this.#fresh[queue]) continue;
      this.#fresh[queue] = false;
      const { driver, kick } = this.#queues[queue]!;
      if (driver.publish()) signal(kick.value);
    }
  }

  /**
   * The lane for which a queue has a reply. If there is none, it asks for an interrupt, as a guest
   * does.
   */
  #take(queue: number): Lane | undefined {
    const { driver } = this.#queues[queue]!;
    let token = driver.poll();
    if (token < 0) {
      if (driver.pending === 0 || !driver.enableInterrupts()) return undefined;
      token = driver.poll();
    }
    const lane = this.#owners[queue]![token];
    if (lane === undefined) throw new BenchError('the daemon gave back a request that it does not have');
    if (lane.outBytes > 0 && driver.usedLength !== lane.replyLength) {
      throw new BenchError(`a reply of ${lane.replyLength} bytes, but ${driver.usedLength} were given back`);
    }
    return lane;
  }

  /**
   * Called when no reply has come: sleeps, or checks from time to time that the daemon is there.
   */
  #rest(idle: number): void {
    let silent = 0;
    if (this.#options.wait === 'sleep') {
      if (poll(this.#polled.address, this.#queues.length, WAIT) === 0) silent = idle * WAIT;
      for (const { call } of this.#queues) drain(call.value);
    } else {
      if (idle % YIELD === YIELD - 1) yieldProcessor();
      if (idle === 0 || idle % SPINS !== 0) return;
      if (idle === SPINS) this.#silentSince = performance.now();
      silent = performance.now() - this.#silentSince;
    }
    if (silent < WAIT) return;
    if (!this.frontEnd.channel.poll()) throw new BenchError('the daemon closed the connection');
    if (silent > PATIENCE) throw new BenchError(`the daemon has not answered for ${PATIENCE / 1000} seconds`);
  }
}

function checkReply(lane: Lane, tolerated: number): void {
  if (lane.outBytes === 0) return;
  if (lane.reply[2] !== lane.words[2]) throw new BenchError('the reply is to another request');
  const { errno } = lane;
  if (errno !== 0 && errno !== tolerated)
    throw new BenchError(`opcode ${lane.words[1]} failed with errno ${errno}`);
}
