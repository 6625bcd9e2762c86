import { check, drain, libc, NativeMemory, signal } from '../system/index.js';
import { native } from '../system/calls/libc-functions.js';
import type { FrontEnd, FrontEndQueue } from '../vhost-user/index.js';
import type { Sample } from './figures.js';
import { Forgets, HIPRIO } from './forgets.js';
import { IN_HEADER, RequestSlot, OUT_HEADER } from './request-slot.js';

const yieldProcessor = libc<() => number>('sched_yield', 'int', []);

const nanosleep = libc<(time: number, left: number) => number>('nanosleep', 'int', [
  'uintptr_t',
  'uintptr_t',
]);
const prctl = libc<(option: number, value: number) => number>('prctl', 'int', ['int', 'size_t']);

const POLLIN = 1;
/** Of Linux `include/uapi/linux/prctl.h`. */
const PR_SET_TIMERSLACK = 29;

/** How long a daemon may be silent before it counts as dead, and how often that is checked. */
const PATIENCE_MS = 20_000;
const WAIT_MS = 50;
/** A loop that spins checks after so many polls in vain. */
const SPINS_PER_CHECK = 4096;

/**
 * After so many polls in vain the loop yields the processor. The daemon may need it, if there are
 * few.
 */
const SPINS_PER_YIELD = 256;

/** The most latencies that are kept. Further ones replace older ones. */
const MAX_LATENCIES = 2 ** 20;

/** The daemon has failed a request, or does not answer. */
export class BenchError extends Error {
  override readonly name = 'BenchError';
}

/** What is measured: operations, each of one or more requests, one after the other. */
export interface Load {
  /** Begins an operation: writes its first request into the slot. */
  begin(slot: RequestSlot): void;
  /** Takes a reply. @returns whether it has written a further request of the operation. */
  next(slot: RequestSlot): boolean;
  /** An errno that is not a failure. */
  readonly tolerates?: number;
}

/** How a driver lays out requests and waits for replies. It is the same for all daemons. */
export interface DriverOptions {
  /**
   * `sleep` blocks on the call eventfds until the daemon interrupts, as a guest does, and only then
   * looks at the used rings. `spin` looks at them all the time.
   */
  readonly wait: 'sleep' | 'spin';
  /** How the think time passes: the front-end computes, or it sleeps. */
  readonly thinkBy: 'work' | 'sleep';
  /** Data in one segment of a descriptor chain. Linux's page cache gives 4096 bytes. */
  readonly segmentBytes: number;
}

/** How long a run lasts. */
export interface RunLimits {
  /** Seconds for which new operations begin. Default: no limit. */
  readonly seconds?: number;
  /** Operations that begin at most. Default: no limit. */
  readonly operations?: number;
  /** Time between a reply and the slot's next request. Default 0. */
  readonly thinkTimeUs?: number;
}

/** Drives the queues of a front-end as a guest's kernel does, in one synchronous loop. */
export class Driver {
  readonly frontEnd: FrontEnd;
  readonly #options: DriverOptions;
  readonly #queues: readonly FrontEndQueue[];
  /** The slot of each request in flight, by queue and by the ring's token. */
  readonly #owners: (RequestSlot | undefined)[][];
  /** Requests without a reply, which nobody waits for. */
  readonly #forgets: Forgets;
  /** For each queue: whether it has requests that the daemon was not told of yet. */
  readonly #unpublished: boolean[];
  /** `struct pollfd` of each queue's call descriptor. */
  readonly #polled: NativeMemory;
  /** Slots whose reply has come and was not looked at yet. */
  readonly #answered: RequestSlot[] = [];
  /** `struct timespec` of the think time. */
  readonly #pause: NativeMemory;
  #unique = 0;
  #silentSince = 0;

  constructor(frontEnd: FrontEnd, options: DriverOptions) {
    this.frontEnd = frontEnd;
    this.#options = options;
    this.#queues = frontEnd.queues;
    this.#owners = frontEnd.queues.map(() => []);
    this.#unpublished = frontEnd.queues.map(() => false);
    this.#forgets = new Forgets(frontEnd);
    this.#polled = NativeMemory.allocate(8 * this.#queues.length);
    for (const [i, { call }] of this.#queues.entries()) this.#polled.i32.set([call.value, POLLIN], 2 * i);
    this.#pause = NativeMemory.allocate(16);
    // By default Linux may let a sleep last 50 microseconds longer than asked for.
    if (options.thinkBy === 'sleep') check(prctl(PR_SET_TIMERSLACK, 1), 'prctl(PR_SET_TIMERSLACK)');
  }

  /** Frees the driver's memory. The caller keeps owning the front-end. */
  close(): void {
    this.#forgets.close();
    this.#polled.free();
    this.#pause.free();
  }

  /** Request queues, not counting hiprio. */
  get requestQueues(): number {
    return this.#queues.length - 1;
  }

  /** Makes slots for `depth` requests at a time. @throws RangeError if memory is too small. */
  openSlots(depth: number, dataBytes: number): RequestSlot[] {
    return Array.from(
      { length: depth },
      (_, index) => new RequestSlot(index, this.frontEnd.memory, dataBytes),
    );
  }

  /** Gives the memory of slots back. */
  closeSlots(slots: readonly RequestSlot[]): void {
    for (const slot of slots) this.frontEnd.memory.release(slot.offset);
  }

  /** Sends the request in a slot and waits for its reply. @throws BenchError if it fails. */
  call(slot: RequestSlot): void {
    this.#place(slot);
    this.#publish();
    for (let idle = 0; this.#answered.length === 0; idle++) this.#collect(idle);
    if (this.#answered.pop() !== slot)
      throw new BenchError('the daemon answered a request that was not sent');
    checkReply(slot, 0);
  }

  /**
   * Keeps all slots busy with operations of a load, until the time or the number of operations is
   * over.
   * @throws BenchError if one fails. The replies to the others have then been received, if the
   * daemon has sent them.
   */
  run(load: Load, slots: readonly RequestSlot[], limits: RunLimits): Omit<Sample, 'cpuSeconds'> {
    try {
      return this.#run(load, slots, limits);
    } catch (error) {
      this.#settle();
      throw error;
    }
  }

  /** Receives the replies to all requests in flight, whatever they are. */
  #settle(): void {
    this.#publish();
    for (let idle = 0; this.#queues.some(({ driver }) => driver.pending > 0); idle++) {
      if (this.#answered.length > 0) idle = 0;
      this.#answered.length = 0;
      this.#collect(idle);
    }
    this.#answered.length = 0;
  }

  #run(load: Load, slots: readonly RequestSlot[], limits: RunLimits): Omit<Sample, 'cpuSeconds'> {
    const {
      seconds = Number.POSITIVE_INFINITY,
      operations = Number.POSITIVE_INFINITY,
      thinkTimeUs = 0,
    } = limits;
    const spins = this.#options.wait === 'spin';
    const tolerated = load.tolerates ?? 0;
    const latenciesUs = new Float64Array(MAX_LATENCIES);
    const started = performance.now();
    const end = started + seconds * 1000;
    let now = started;
    let begun = 0;
    let finished = 0;
    for (const slot of slots) {
      if (begun === operations) break;
      begun += 1;
      slot.startedMs = now;
      load.begin(slot);
      this.#place(slot);
      if (!spins) this.#publish();
    }
    this.#publish();
    for (let idle = 0; finished < begun;) {
      this.#collect(idle);
      idle = this.#answered.length > 0 ? 0 : idle + 1;
      if (spins && idle === 0) now = performance.now();
      for (const slot of this.#answered) {
        if (!spins) now = performance.now();
        checkReply(slot, tolerated);
        const goesOn = load.next(slot);
        if (!goesOn) {
          latenciesUs[finished & (MAX_LATENCIES - 1)] = (now - slot.startedMs) * 1000;
          finished += 1;
          if (now >= end || begun === operations) continue;
          begun += 1;
        }
        const thought = thinkTimeUs === 0 ? 0 : this.#think(thinkTimeUs);
        if (goesOn) slot.startedMs += thought;
        else {
          now += thought;
          slot.startedMs = now;
          load.begin(slot);
        }
        this.#place(slot);
        // In a guest each thread publishes its own request.
        if (!spins) this.#publish();
      }
      this.#answered.length = 0;
      if (spins && idle === 0) this.#publish();
    }
    const kept = latenciesUs.subarray(0, Math.min(finished, MAX_LATENCIES)).sort();
    return { operations: finished, seconds: (now - started) / 1000, latenciesUs: kept };
  }

  /** Lets the think time pass. @returns the milliseconds that it took. */
  #think(thinkTimeUs: number): number {
    const from = performance.now();
    if (this.#options.thinkBy === 'sleep') {
      this.#pause.u32.set([Math.floor(thinkTimeUs / 1e6), 0, (thinkTimeUs % 1e6) * 1000, 0]);
      nanosleep(this.#pause.address, 0);
      return performance.now() - from;
    }
    const until = from + thinkTimeUs / 1000;
    let now = performance.now();
    while (now < until) now = performance.now();
    return now - from;
  }

  /**
   * Puts a slot's request into its queue, with segments as Linux makes them
   * (`fs/fuse/virtio_fs.c`). One without a reply is as good as answered.
   */
  #place(slot: RequestSlot): void {
    const { driver } = this.#queues[slot.queue]!;
    const { inBytes, dataInBytes, outBytes, dataOutBytes } = slot;
    const unique = (this.#unique = (this.#unique + 2) >>> 0);
    slot.words[0] = inBytes + dataInBytes;
    slot.words[2] = unique;
    if (outBytes === 0) {
      for (let idle = 1; !this.#forgets.place(slot); idle++) {
        this.#publish();
        this.#collect(idle);
      }
      this.#unpublished[slot.queue] = true;
      this.#answered.push(slot);
      return;
    }
    const { memory } = this.frontEnd;
    const at = memory.guestAddress(slot.offset);
    driver.begin();
    driver.readable(at, IN_HEADER);
    if (inBytes > IN_HEADER) driver.readable(at + IN_HEADER, inBytes - IN_HEADER);
    const data = memory.guestAddress(slot.dataOffset);
    const { segmentBytes } = this.#options;
    for (let done = 0; done < dataInBytes; done += segmentBytes) {
      driver.readable(data + done, Math.min(segmentBytes, dataInBytes - done));
    }
    if (outBytes > 0) {
      const reply = memory.guestAddress(slot.replyOffset);
      driver.writable(reply, OUT_HEADER);
      if (outBytes > OUT_HEADER) driver.writable(reply + OUT_HEADER, outBytes - OUT_HEADER);
      for (let done = 0; done < dataOutBytes; done += segmentBytes) {
        driver.writable(data + done, Math.min(segmentBytes, dataOutBytes - done));
      }
    }
    this.#owners[slot.queue]![driver.submit()] = slot;
    this.#unpublished[slot.queue] = true;
  }

  /** Tells the daemon of the new requests. */
  #publish(): void {
    for (let queue = 0; queue < this.#unpublished.length; queue++) {
      if (!this.#unpublished[queue]) continue;
      this.#unpublished[queue] = false;
      const { driver, kick } = this.#queues[queue]!;
      driver.kick(kick.value);
    }
  }

  /**
   * Takes the replies that have come. A driver that sleeps waits for some first.
   * @param idle how often no reply had come since the last one.
   */
  #collect(idle: number): void {
    if (this.#options.wait === 'sleep') this.#sleep(idle);
    else if (idle > 0) this.#spin(idle);
    for (let queue = this.#queues.length - 1; queue >= 0; queue--) {
      const { driver } = this.#queues[queue]!;
      if (driver.pending === 0) continue;
      // As `virtio_fs_requests_done_work` of Linux does: it takes all replies, asks for the next
      // interrupt, and then looks at the ring once more.
      do {
        for (let token = driver.poll(); token >= 0; token = driver.poll()) {
          if (queue === HIPRIO) this.#forgets.giveBack(token);
          else this.#answered.push(this.#owner(queue, token));
        }
      } while (driver.enableInterrupts());
    }
  }

  /** The slot of a request whose reply has come. */
  #owner(queue: number, token: number): RequestSlot {
    const slot = this.#owners[queue]![token];
    if (slot === undefined) throw new BenchError('the daemon gave back a request that it does not have');
    const { usedLength } = this.#queues[queue]!.driver;
    if (usedLength !== slot.replyBytes) {
      throw new BenchError(`a reply of ${slot.replyBytes} bytes, but ${usedLength} were given back`);
    }
    return slot;
  }

  /** Blocks until the daemon interrupts. */
  #sleep(idle: number): void {
    if (native.poll(this.#polled.address, this.#queues.length, WAIT_MS) <= 0) {
      this.#bePatient(idle * WAIT_MS);
      return;
    }
    for (let queue = 0; queue < this.#queues.length; queue++) {
      const events = this.#polled.i32[2 * queue + 1]! >> 16;
      if (events !== 0) drain(this.#queues[queue]!.call.value);
    }
  }

  /**
   * No reply has come: yields the processor, or checks from time to time that the daemon is there.
   */
  #spin(idle: number): void {
    if (idle % SPINS_PER_YIELD === SPINS_PER_YIELD - 1) yieldProcessor();
    if (idle % SPINS_PER_CHECK !== 0) return;
    if (idle === SPINS_PER_CHECK) this.#silentSince = performance.now();
    this.#bePatient(performance.now() - this.#silentSince);
  }

  /** @throws BenchError if the daemon has gone, or has been silent for too long. */
  #bePatient(silentMs: number): void {
    if (silentMs < WAIT_MS) return;
    // A daemon that goes to sleep may miss a FORGET (the C virtiofsd does, now and then). In a
    // guest the next one tells it.
    const forgets = this.#queues[HIPRIO]!;
    if (forgets.driver.pending > 0) signal(forgets.kick.value);
    if (!this.frontEnd.channel.poll()) throw new BenchError('the daemon closed the connection');
    if (silentMs <= PATIENCE_MS) return;
    const missed = this.#queues.some(({ driver }) => driver.pending > 0 && driver.ready);
    const what = missed ? 'answered, but not interrupted' : 'not answered';
    throw new BenchError(`the daemon has ${what} for ${PATIENCE_MS / 1000} seconds`);
  }
}

function checkReply(slot: RequestSlot, tolerated: number): void {
  if (slot.outBytes === 0) return;
  if (slot.reply[2] !== slot.words[2]) throw new BenchError('the reply is to another request');
  const { errno } = slot;
  if (errno !== 0 && errno !== tolerated)
    throw new BenchError(`opcode ${slot.words[1]} failed with errno ${errno}`);
}
