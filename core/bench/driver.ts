import { check, drain, libc, NativeMemory, signal } from '../system/index.js';
import type { FrontEnd, FrontEndQueue } from '../vhost-user/index.js';
import type { Sample } from './figures.js';
import { IN_HEADER, Lane, OUT_HEADER } from './lane.js';

const yieldProcessor = libc<() => number>('sched_yield', 'int', []);
const poll = libc<(fds: number, count: number, timeout: number) => number>('poll', 'int', [
  'uintptr_t',
  'uint',
  'int',
]);

const nanosleep = libc<(time: number, left: number) => number>('nanosleep', 'int', [
  'uintptr_t',
  'uintptr_t',
]);
const prctl = libc<(option: number, value: number) => number>('prctl', 'int', ['int', 'size_t']);

const POLLIN = 1;
/** Of Linux `include/uapi/linux/prctl.h`. */
const PR_SET_TIMERSLACK = 29;
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
   * `sleep` blocks on the call eventfds until the daemon interrupts, and looks at the rings only
   * then, as a guest does. `spin` looks at the used ring all the time.
   */
  readonly wait: 'sleep' | 'spin';
  /** What a guest does between two requests: it computes, or its processor is idle. */
  readonly think: 'work' | 'sleep';
  /** Bytes of data in one segment: 4096, as Linux's page cache gives them, or more. */
  readonly segment: number;
}

/** How long lanes are kept busy. */
export interface RunLimits {
  /** Seconds for which new operations begin. Default: no limit. */
  readonly seconds?: number;
  /** Operations that begin at most. Default: no limit. */
  readonly operations?: number;
  /** Microseconds between an answer and the lane's next request. Default 0. */
  readonly think?: number;
}

/** Drives the queues of a front-end as a guest's kernel does, in one synchronous loop. */
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
  /** Lanes that have their answer and were not dealt with yet. */
  readonly #answered: Lane[] = [];
  /** `struct timespec` of a think time. */
  readonly #pause: NativeMemory;
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
    this.#pause = NativeMemory.allocate(16);
    // Linux lets a sleep last 50 microseconds longer than asked for, unless told not to.
    if (options.think === 'sleep') check(prctl(PR_SET_TIMERSLACK, 1), 'prctl(PR_SET_TIMERSLACK)');
  }

  /** Frees the driver's memory. The caller keeps owning the front-end. */
  close(): void {
    this.#polled.free();
    this.#pause.free();
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
    for (let idle = 0; this.#answered.length === 0; idle++) this.#collect(idle);
    if (this.#answered.pop() !== lane)
      throw new BenchError('the daemon answered a request that was not sent');
    checkReply(lane, 0);
  }

  /**
   * Keeps all lanes busy with operations of a load, until the time or the number of operations is
   * over.
   * @throws BenchError if one fails; the others have their answers then, as far as the daemon gives
   * them.
   */
  run(load: Load, lanes: readonly Lane[], limits: RunLimits): Omit<Sample, 'cpu'> {
    try {
      return this.#run(load, lanes, limits);
    } catch (error) {
      this.#settle();
      throw error;
    }
  }

  /** Receives the replies to all requests in flight, whatever they are. */
  #settle(): void {
    this.#show();
    for (let idle = 0; this.#queues.some(({ driver }) => driver.pending > 0); idle++) {
      if (this.#answered.length > 0) idle = 0;
      this.#answered.length = 0;
      this.#collect(idle);
    }
    this.#answered.length = 0;
  }

  #run(load: Load, lanes: readonly Lane[], limits: RunLimits): Omit<Sample, 'cpu'> {
    const { seconds = Number.POSITIVE_INFINITY, operations = Number.POSITIVE_INFINITY, think = 0 } = limits;
    const spins = this.#options.wait === 'spin';
    const tolerated = load.tolerates ?? 0;
    const latencies = new Float64Array(MAX_LATENCIES);
    const started = performance.now();
    const end = started + seconds * 1000;
    let now = started;
    let begun = 0;
    let finished = 0;
    for (const lane of lanes) {
      if (begun === operations) break;
      begun += 1;
      lane.started = now;
      load.begin(lane);
      this.#place(lane);
      if (!spins) this.#show();
    }
    this.#show();
    for (let idle = 0; finished < begun;) {
      this.#collect(idle);
      idle = this.#answered.length > 0 ? 0 : idle + 1;
      if (spins && idle === 0) now = performance.now();
      for (const lane of this.#answered) {
        if (!spins) now = performance.now();
        checkReply(lane, tolerated);
        const goesOn = load.next(lane);
        if (!goesOn) {
          latencies[finished & (MAX_LATENCIES - 1)] = (now - lane.started) * 1000;
          finished += 1;
          if (now >= end || begun === operations) continue;
          begun += 1;
        }
        const thought = think === 0 ? 0 : this.#think(think);
        if (goesOn) lane.started += thought;
        else {
          now += thought;
          lane.started = now;
          load.begin(lane);
        }
        this.#place(lane);
        // Each thread of a guest kicks for itself.
        if (!spins) this.#show();
      }
      this.#answered.length = 0;
      if (spins && idle === 0) this.#show();
    }
    const kept = latencies.subarray(0, Math.min(finished, MAX_LATENCIES)).sort();
    return { operations: finished, seconds: (now - started) / 1000, latencies: kept };
  }

  /** Lets time pass between an answer and the next request. @returns milliseconds that it was. */
  #think(microseconds: number): number {
    const from = performance.now();
    if (this.#options.think === 'sleep') {
      this.#pause.u32.set([Math.floor(microseconds / 1e6), 0, (microseconds % 1e6) * 1000, 0]);
      nanosleep(this.#pause.address, 0);
      return performance.now() - from;
    }
    const until = from + microseconds / 1000;
    let now = performance.now();
    while (now < until) now = performance.now();
    return now - from;
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
   * Finds lanes that have their answers, after a sleep where the front-end is one that sleeps.
   * @param idle how often there was none since the last.
   */
  #collect(idle: number): void {
    if (this.#options.wait === 'sleep') this.#sleep(idle);
    else if (idle > 0) this.#spin(idle);
    for (let queue = this.#queues.length - 1; queue >= 0; queue--) {
      const { driver } = this.#queues[queue]!;
      if (driver.pending === 0) continue;
      // As `virtio_fs_requests_done_work` of Linux: everything is taken, then the next interrupt is
      // asked for, and the ring looked at once more.
      do {
        for (let token = driver.poll(); token >= 0; token = driver.poll()) {
          this.#answered.push(this.#owner(queue, token));
        }
      } while (driver.enableInterrupts());
    }
  }

  /** The lane of an answered request. */
  #owner(queue: number, token: number): Lane {
    const lane = this.#owners[queue]![token];
    if (lane === undefined) throw new BenchError('the daemon gave back a request that it does not have');
    const { usedLength } = this.#queues[queue]!.driver;
    if (lane.outBytes > 0 && usedLength !== lane.replyLength) {
      throw new BenchError(`a reply of ${lane.replyLength} bytes, but ${usedLength} were given back`);
    }
    return lane;
  }

  /** Blocks until the daemon interrupts. */
  #sleep(idle: number): void {
    if (poll(this.#polled.address, this.#queues.length, WAIT) <= 0) {
      this.#bePatient(idle * WAIT);
      return;
    }
    for (let queue = 0; queue < this.#queues.length; queue++) {
      const events = this.#polled.i32[2 * queue + 1]! >> 16;
      if (events !== 0) drain(this.#queues[queue]!.call.value);
    }
  }

  /** Nothing has come: lets others run, and notices from time to time that the daemon is gone. */
  #spin(idle: number): void {
    if (idle % YIELD === YIELD - 1) yieldProcessor();
    if (idle % SPINS !== 0) return;
    if (idle === SPINS) this.#silentSince = performance.now();
    this.#bePatient(performance.now() - this.#silentSince);
  }

  #bePatient(silent: number): void {
    if (silent < WAIT) return;
    if (!this.frontEnd.channel.poll()) throw new BenchError('the daemon closed the connection');
    if (silent <= PATIENCE) return;
    const missed = this.#queues.some(({ driver }) => driver.pending > 0 && driver.ready);
    const what = missed ? 'answered, but not interrupted' : 'not answered';
    throw new BenchError(`the daemon has ${what} for ${PATIENCE / 1000} seconds`);
  }
}

function checkReply(lane: Lane, tolerated: number): void {
  if (lane.outBytes === 0) return;
  if (lane.reply[2] !== lane.words[2]) throw new BenchError('the reply is to another request');
  const { errno } = lane;
  if (errno !== 0 && errno !== tolerated)
    throw new BenchError(`opcode ${lane.words[1]} failed with errno ${errno}`);
}
