import { type AddressSpace, type DirtyLog, type Message, SegmentList } from '../memory/index.js';
import {
  advancePromises,
  drain,
  type OwnedFd,
  setNonBlocking,
  signal,
  type Watch,
  watch,
} from '../system/index.js';
import { BROKEN, type DeviceRing } from './device-ring.js';
import {
  Alignment,
  availableRingBytes,
  descriptorTableBytes,
  MAX_QUEUE_SIZE,
  RingFeature,
  usedRingBytes,
} from './layout.js';
import { SplitRing } from './split-ring.js';

/** Where a queue says what went wrong; pino's loggers fit. */
export interface QueueLog {
  warn(fields: object, message: string): void;
}

const EAGAIN = 11;

/** While a long drain goes on the guest is interrupted after so many requests or ms, so that both work at the same time. */
const NOTIFY_REQUESTS = 64;
const NOTIFY_TIME = 0.2;

/** One turn of the event loop drains at most this long (ms), or so many requests; then others have theirs. */
const TURN_TIME = 10;
const TURN_MINIMUM = 16;

/** The clock is read after so many requests at most; more often where requests are slow. */
const CLOCK_INTERVAL = 16;

/** A chain with the device. */
class ChainMessage implements Message {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  /** The chain's id, or -1 while it is with the guest. */
  id = -1;
  /** The run of the queue that the chain belongs to. */
  run = 0;
  readonly #queue: Virtqueue;

  constructor(queue: Virtqueue, space: AddressSpace) {
    this.#queue = queue;
    this.readable = new SegmentList(space);
    this.writable = new SegmentList(space);
  }

  complete(written: number): void {
    this.#queue.giveBack(this, written);
  }

  fail(): void {
    this.#queue.failed(this);
  }
}

/**
 * The device side of one queue: takes requests when the guest kicks, hands each to a function, and gives it back with an
 * interrupt where the guest wants one.
 *
 * While it drains the ring, notifications are suppressed, and interrupts are gathered into one. A guest that breaks the
 * ring's rules stops its queue: one line in the log, the error eventfd, and nothing more until the queue is started again.
 */
export class Virtqueue {
  readonly #space: AddressSpace;
  readonly #log: QueueLog;
  #size = 0;
  #features = 0n;
  #base = 0;
  #dirtyLog: DirtyLog | undefined;
  #addresses: { descriptors: number; available: number; used: number; log: number | undefined } | undefined;
  #kick: OwnedFd | undefined;
  #call: OwnedFd | undefined;
  #err: OwnedFd | undefined;

  #ring: DeviceRing | undefined;
  #onMessage: ((message: Message) => void) | undefined;
  #watch: Watch | undefined;
  #state: 'stopped' | 'running' | 'paused' | 'broken' = 'stopped';
  #logging: DirtyLog | undefined;
  /** Counts starts, so that what completes late is told from what belongs to this run. */
  #run = 0;
  #inFlight = 0;
  #idle: (() => void)[] = [];
  #draining = false;
  #scheduled = false;
  /** Requests given back since the guest was last told. */
  #untold = 0;
  readonly #pool: ChainMessage[] = [];

  /**
   * @param space where the ring and the requests lie.
   * @param size entries: a power of two up to {@link MAX_QUEUE_SIZE}. @throws RangeError
   */
  constructor(space: AddressSpace, size: number, log: QueueLog) {
    this.#space = space;
    this.#log = log;
    this.size = size;
  }

  get size(): number {
    return this.#size;
  }

  /** @throws RangeError if it is not a power of two up to {@link MAX_QUEUE_SIZE} (2.7), or the queue runs. */
  set size(size: number) {
    if (!(Number.isInteger(size) && size >= 1 && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0)) {
      throw new RangeError(`queue size ${size}: not a power of two up to ${MAX_QUEUE_SIZE}`);
    }
    this.#whileStopped();
    this.#size = size;
  }

  /** The next available index: where a start goes on. */
  get base(): number {
    return this.#ring?.base ?? this.#base;
  }

  /** @throws RangeError if it is not a 16-bit number, or the queue runs. */
  set base(base: number) {
    if (!(Number.isInteger(base) && base >= 0 && base <= 0xffff))
      throw new RangeError(`ring base ${base}: not a 16-bit number`);
    this.#whileStopped();
    this.#base = base;
  }

  get features(): bigint {
    return this.#features;
  }

  /** The negotiated feature bits, effective from the next start; but LOG_ALL at once. */
  set features(features: bigint) {
    this.#features = features;
    this.#applyLog();
  }

  get dirtyLog(): DirtyLog | undefined {
    return this.#dirtyLog;
  }

  /** The log of writes for live migration, used at once where LOG_ALL is among the features. */
  set dirtyLog(log: DirtyLog | undefined) {
    this.#dirtyLog = log;
    this.#applyLog();
  }

  /**
   * Where the three parts of the ring lie, by the front-end's addresses. They are looked up in the memory at start.
   * @param log guest address of the used ring, if writes to it are to be logged.
   * @throws RangeError if a part is not aligned (2.7), or the queue runs and more than `log` would change.
   */
  setAddresses(descriptors: number, available: number, used: number, log?: number): void {
    if (
      descriptors % Alignment.DESCRIPTORS !== 0 ||
      available % Alignment.AVAILABLE !== 0 ||
      used % Alignment.USED !== 0
    ) {
      throw new RangeError('a part of the ring is not aligned');
    }
    const old = this.#addresses;
    if (old?.descriptors !== descriptors || old.available !== available || old.used !== used)
      this.#whileStopped();
    this.#addresses = { descriptors, available, used, log };
    this.#applyLog();
  }

  /**
   * The eventfd by which the guest announces requests; the queue owns it from here on.
   * @throws SystemError if it cannot be polled.
   */
  setKick(fd: OwnedFd | undefined): void {
    this.#watch?.close();
    this.#watch = undefined;
    this.#kick?.close();
    this.#kick = fd;
    if (fd !== undefined) setNonBlocking(fd.value);
    if (this.#state === 'running') this.#listen();
  }

  /** The eventfd that interrupts the guest; the queue owns it from here on. */
  setCall(fd: OwnedFd | undefined): void {
    this.#call?.close();
    this.#call = fd;
    if (fd !== undefined) setNonBlocking(fd.value);
  }

  /** The eventfd that tells the front-end of a broken queue; the queue owns it from here on. */
  setErr(fd: OwnedFd | undefined): void {
    this.#err?.close();
    this.#err = fd;
    if (fd !== undefined) setNonBlocking(fd.value);
  }

  /** Requests that were taken and not yet given back. */
  get inFlight(): number {
    return this.#inFlight;
  }

  get running(): boolean {
    return this.#state === 'running' || this.#state === 'paused';
  }

  /** Whether the guest broke the ring's rules in this run. */
  get broken(): boolean {
    return this.#state === 'broken';
  }

  /**
   * Begins to take requests, those first that are available already. If `onMessage` throws, the queue stops as if the
   * guest had broken it.
   * @throws RangeError if the addresses are missing or not in shared memory.
   * @throws SystemError if the kick descriptor cannot be polled.
   */
  start(onMessage: (message: Message) => void): void {
    this.#whileStopped();
    const ring = this.#makeRing();
    this.#listen();
    this.#ring = ring;
    this.#onMessage = onMessage;
    this.#applyLog();
    this.#state = 'running';
    this.#run += 1;
    this.#schedule();
  }

  /** Takes no further requests; those in flight are given back as usual. */
  pause(): void {
    if (this.#state !== 'running') return;
    this.#state = 'paused';
    this.#watch?.pause();
  }

  /** Goes on after {@link pause}. */
  resume(): void {
    if (this.#state !== 'paused') return;
    this.#state = 'running';
    // The kick descriptor may have been replaced meanwhile.
    if (this.#watch === undefined) this.#listen();
    else this.#watch.resume();
    this.#schedule();
  }

  /** When nothing is in flight. */
  whenIdle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /**
   * Lets go of the ring: what is still in flight completes without effect on it.
   * @returns the next available index, for GET_VRING_BASE and for the next start.
   */
  stop(): number {
    if (this.#ring === undefined) return this.#base;
    this.#base = this.#ring.base;
    this.#watch?.close();
    this.#watch = undefined;
    this.#ring = undefined;
    this.#onMessage = undefined;
    this.#logging = undefined;
    this.#state = 'stopped';
    this.#untold = 0;
    this.#settle(this.#inFlight);
    return this.#base;
  }

  /** Stops, and gives all descriptors and memory back. The queue is not to be used again. */
  close(): void {
    this.stop();
    this.setKick(undefined);
    this.setCall(undefined);
    this.setErr(undefined);
    for (const message of this.#pool.splice(0)) release(message);
  }

  /** Looks at the ring as after a kick. */
  kick(): void {
    if (this.#state !== 'running' || this.#draining) return;
    try {
      this.#drain();
    } catch (error) {
      this.#draining = false;
      this.#log.warn({ err: error }, 'queue stopped: a request was not handled');
      this.#stopBroken();
    }
  }

  /** For {@link Message.complete}. */
  giveBack(message: ChainMessage, written: number): void {
    const { id } = message;
    if (id < 0) return;
    message.id = -1;
    const ring = this.#ring;
    if (message.run !== this.#run || ring === undefined) {
      release(message);
      return;
    }
    if (this.#logging !== undefined) this.#logWrites(this.#logging, message.writable, written);
    ring.push(id, written);
    this.#untold += 1;
    message.readable.clear();
    message.writable.clear();
    this.#pool.push(message);
    if (!this.#draining || this.#untold >= NOTIFY_REQUESTS) this.#interrupt();
    this.#settle(1);
  }

  /** For {@link Message.fail}. */
  failed(message: ChainMessage): void {
    if (message.id < 0) return;
    message.id = -1;
    const current = message.run === this.#run && this.#ring !== undefined;
    release(message);
    if (!current) return;
    this.#break('a request that can be neither understood nor answered');
    this.#settle(1);
  }

  #drain(): void {
    const ring = this.#ring!;
    const onMessage = this.#onMessage!;
    const pool = this.#pool;
    const run = this.#run;
    // The clock costs as much as a ring entry: one or two requests do without.
    let started = 0;
    let told = 0;
    let interval = 1;
    let untilClock = 2;
    let late = false;
    const limit = 4 * this.#size;
    let taken = 0;
    this.#draining = true;
    ring.suppressNotifications();
    for (;;) {
      const message = pool.pop() ?? new ChainMessage(this, this.#space);
      const id = ring.pop(message.readable, message.writable);
      if (id < 0) {
        message.readable.clear();
        message.writable.clear();
        pool.push(message);
        if (id === BROKEN) this.#break(ring.violation);
        else if (ring.enableNotifications()) {
          // Counted, for a guest may move its index to and fro.
          taken += 1;
          if (taken < limit) {
            ring.suppressNotifications();
            continue;
          }
          this.#schedule();
        }
        break;
      }
      message.id = id;
      message.run = run;
      this.#inFlight += 1;
      onMessage(message);
      if (this.#state !== 'running' || this.#run !== run) break;
      taken += 1;
      untilClock -= 1;
      if (untilClock === 0) {
        const now = performance.now();
        if (started === 0) {
          started = now;
          told = now;
        }
        if (now - told > NOTIFY_TIME) {
          this.#interrupt();
          told = now;
          interval = Math.max(interval >>> 1, 1);
        } else interval = Math.min(interval << 1, CLOCK_INTERVAL);
        untilClock = interval;
        late = taken >= TURN_MINIMUM && now - started > TURN_TIME;
      }
      if (late || taken >= limit) {
        this.#schedule();
        break;
      }
    }
    this.#draining = false;
    if (this.#ring === ring) this.#interrupt();
    if (this.#inFlight > 0) advancePromises();
  }

  #interrupt(): void {
    this.#untold = 0;
    if (this.#ring!.takeInterrupt() && this.#call !== undefined) signal(this.#call.value);
  }

  #settle(count: number): void {
    this.#inFlight -= count;
    if (this.#inFlight === 0 && this.#idle.length > 0) {
      for (const resolve of this.#idle.splice(0)) resolve();
      advancePromises();
    }
  }

  /** Drains in a later turn of the event loop. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.kick();
    });
  }

  #listen(): void {
    const kick = this.#kick;
    if (kick === undefined) return;
    this.#watch = watch(kick.value, () => {
      const code = drain(kick.value);
      if (code > 0 || code === -EAGAIN) this.kick();
      else {
        // Not an eventfd any more: its other end is gone, and it would be readable for ever.
        this.#log.warn({ code }, 'queue: the kick descriptor ended');
        this.#watch?.close();
        this.#watch = undefined;
      }
    });
  }

  #break(violation: string): void {
    if (this.#state === 'broken') return;
    this.#log.warn({ violation }, `queue stopped: the guest sent ${violation}`);
    this.#stopBroken();
  }

  #stopBroken(): void {
    this.#state = 'broken';
    this.#watch?.close();
    this.#watch = undefined;
    if (this.#err !== undefined) signal(this.#err.value);
  }

  #makeRing(): DeviceRing {
    const addresses = this.#addresses;
    if (addresses === undefined) throw new RangeError('the ring has no addresses');
    const size = this.#size;
    const eventIdx = (this.#features & RingFeature.EVENT_IDX) !== 0n;
    const host = (part: string, address: number, length: number) => {
      const found = this.#space.translateUser(address, length);
      if (found < 0) throw new RangeError(`the ring's ${part} are not in shared memory`);
      return found;
    };
    return new SplitRing(this.#space, {
      size,
      descriptors: host('descriptors', addresses.descriptors, descriptorTableBytes(size)),
      available: host('available entries', addresses.available, availableRingBytes(size, eventIdx)),
      used: host('used entries', addresses.used, usedRingBytes(size, eventIdx)),
      base: this.#base,
      eventIdx,
      indirect: (this.#features & RingFeature.INDIRECT_DESC) !== 0n,
    });
  }

  /** A front-end switches logging on and off while queues run. */
  #applyLog(): void {
    if (this.#ring === undefined) return;
    const usedAddress = this.#addresses?.log;
    this.#logging = (this.#features & RingFeature.LOG_ALL) !== 0n ? this.#dirtyLog : undefined;
    this.#ring.logTo(usedAddress === undefined ? undefined : this.#dirtyLog, usedAddress ?? 0);
  }

  #logWrites(log: DirtyLog, writable: SegmentList, written: number): void {
    for (let i = 0; i < writable.count && written > 0; i++) {
      const length = Math.min(written, writable.segmentLength(i));
      log.mark(this.#space.guestAddressOf(writable.segmentAddress(i)), length);
      written -= length;
    }
  }

  #whileStopped(): void {
    if (this.#state !== 'stopped') throw new RangeError('the queue is running');
  }
}

function release(message: ChainMessage): void {
  message.readable.close();
  message.writable.close();
}
