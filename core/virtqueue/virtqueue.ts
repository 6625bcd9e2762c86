import type { AddressSpace, DirtyLog } from '../memory/index.js';
import { drain, type OwnedFd, setNonBlocking, signal, type Watch, watch } from '../system/index.js';
import type { DeviceRing } from './device-ring.js';
import {
  Alignment,
  availableRingBytes,
  descriptorTableBytes,
  MAX_QUEUE_SIZE,
  RingFeature,
  usedRingBytes,
} from './layout.js';
import { Poller } from './poller.js';
import { QueueRun, type QueueService, type Run } from './queue-run.js';
import { SplitRing } from './split-ring.js';

/** Where a queue says what went wrong; pino's loggers fit. */
export interface QueueLog {
  warn(fields: object, message: string): void;
  /** Takes instead of `warn` that the queue stopped, and why. */
  stopped?(fields: object, reason: string): void;
}

/** A queue that is about to start, for a run elsewhere. */
export interface StartingQueue {
  readonly space: AddressSpace;
  readonly size: number;
  readonly features: bigint;
  readonly base: number;
  /** The parts of the ring, by the front-end's addresses. */
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /**
   * Descriptors of the guest's notifications and interrupts, the latter -1 where there are none.
   */
  readonly kick: number;
  readonly call: number;
  /** The ring, for walking its chains only. */
  readonly ring: DeviceRing;
  readonly service: QueueService;
  readonly poller: Poller;
  /** The run takes nothing more, and why. */
  readonly onBroken: (fields: object, reason: string) => void;
}

/** Starts a queue's run elsewhere than on this thread, or declines. */
export type QueuePlacer = (queue: StartingQueue) => Run | undefined;

/** Where the queues of one device may run. */
export interface QueuePlacement {
  /** @param index of the queue. */
  place(index: number): QueuePlacer | undefined;
  /** The device is gone. */
  leave(): void;
}

const EAGAIN = 11;

/** How many times the ring one turn of the event loop takes at most. */
const ROUNDS = 4;

/**
 * The device side of one queue: takes requests when the guest kicks, hands each to a service, and
 * gives it back with an interrupt where the guest wants one.
 *
 * While it drains the ring, notifications are suppressed, and interrupts are gathered into one. A
 * guest that breaks the ring's rules stops its queue: one line in the log, the error eventfd, and
 * nothing more until the queue is started again.
 */
export class Virtqueue {
  readonly #space: AddressSpace;
  readonly #log: QueueLog;
  readonly #poller: Poller;
  readonly #place: QueuePlacer | undefined;
  #size = 0;
  #features = 0n;
  #base = 0;
  #dirtyLog: DirtyLog | undefined;
  #addresses: { descriptors: number; available: number; used: number; log: number | undefined } | undefined;
  #kick: OwnedFd | undefined;
  #call: OwnedFd | undefined;
  #err: OwnedFd | undefined;

  #run: Run | undefined;
  #watch: Watch | undefined;

  /**
   * @param space where the ring and the requests lie.
   * @param size entries: a power of two up to {@link MAX_QUEUE_SIZE}. @throws RangeError
   * @param poller serves the queue, with others that it serves.
   * @param place where it may run instead.
   */
  constructor(
    space: AddressSpace,
    size: number,
    log: QueueLog,
    poller: Poller = new Poller(),
    place?: QueuePlacer,
  ) {
    this.#space = space;
    this.#log = log;
    this.#poller = poller;
    this.#place = place;
    this.size = size;
  }

  get size(): number {
    return this.#size;
  }

  /**
   * @throws RangeError if it is not a power of two up to {@link MAX_QUEUE_SIZE} (2.7), or the queue
   * runs.
   */
  set size(size: number) {
    if (!(Number.isInteger(size) && size >= 1 && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0)) {
      throw new RangeError(`queue size ${size}: not a power of two up to ${MAX_QUEUE_SIZE}`);
    }
    this.#whileStopped();
    this.#size = size;
  }

  /** The next available index: where a start goes on. */
  get base(): number {
    return this.#run?.base ?? this.#base;
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
   * Where the three parts of the ring lie, by the front-end's addresses. They are looked up in the
   * memory at start.
   * @param log guest address of the used ring, if writes to it are to be logged.
   * @throws RangeError if a part is not aligned (2.7), or the queue runs and more than `log` would
   * change.
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
    if (this.#run?.taking === true) this.#listen();
  }

  /** The eventfd that interrupts the guest; the queue owns it from here on. */
  setCall(fd: OwnedFd | undefined): void {
    this.#call?.close();
    this.#call = fd;
    if (fd !== undefined) setNonBlocking(fd.value);
    this.#run?.setCall(fd?.value ?? -1);
  }

  /** The eventfd that tells the front-end of a broken queue; the queue owns it from here on. */
  setErr(fd: OwnedFd | undefined): void {
    this.#err?.close();
    this.#err = fd;
    if (fd !== undefined) setNonBlocking(fd.value);
  }

  /** Requests that were taken and not yet given back. */
  get inFlight(): number {
    return this.#run?.inFlight ?? 0;
  }

  /** Whether the queue was started, and works; it may be paused. */
  get running(): boolean {
    return this.#run?.broken === false;
  }

  /** Whether the guest broke the ring's rules since the start. */
  get broken(): boolean {
    return this.#run?.broken === true;
  }

  /**
   * Begins to take requests, those first that are available already.
   * @throws RangeError if the addresses are missing or not in shared memory.
   * @throws SystemError if the kick descriptor cannot be polled.
   */
  start(service: QueueService): void {
    this.#whileStopped();
    const ring = this.#makeRing();
    const onBroken = (fields: object, reason: string): void => this.#break(fields, reason);
    const elsewhere = this.#startElsewhere(ring, service, onBroken);
    const run =
      elsewhere ?? new QueueRun({ ring, space: this.#space, limit: ROUNDS * this.#size, service, onBroken });
    if (elsewhere === undefined) {
      run.setCall(this.#call?.value ?? -1);
      this.#listen();
    }
    this.#run = run;
    this.#poller.add(run);
    this.#applyLog();
    this.#poller.serveLater();
  }

  /**
   * Only on this thread is there a dirty log, and somebody who looks where there are no
   * notifications.
   */
  #startElsewhere(
    ring: DeviceRing,
    service: QueueService,
    onBroken: (fields: object, reason: string) => void,
  ): Run | undefined {
    if (this.#place === undefined || this.#kick === undefined || this.#writeLog !== undefined)
      return undefined;
    return this.#place({
      space: this.#space,
      size: this.#size,
      features: this.#features,
      base: this.#base,
      ...this.#addresses!,
      kick: this.#kick.value,
      call: this.#call?.value ?? -1,
      ring,
      service,
      poller: this.#poller,
      onBroken,
    });
  }

  /**
   * Whether the queue runs on another thread: its kick descriptor is not to be changed meanwhile.
   */
  get isElsewhere(): boolean {
    return this.#run?.isElsewhere === true;
  }

  /** Takes no further requests; those in flight are given back as usual. */
  pause(): void {
    if (this.#run?.taking !== true) return;
    this.#run.pause();
    this.#watch?.pause();
  }

  /** Goes on after {@link pause}. */
  resume(): void {
    if (this.#run === undefined || this.#run.broken || this.#run.taking) return;
    this.#run.resume();
    // The kick descriptor may have been replaced meanwhile.
    if (this.#watch === undefined) this.#listen();
    else this.#watch.resume();
    this.#poller.serveLater();
  }

  /** The space has become more; of a queue that runs elsewhere, while it is paused. */
  memoryAdded(): void {
    this.#run?.memoryAdded?.();
  }

  /** After {@link pause}: when no further request is taken. */
  whenPaused(): Promise<void> {
    return this.#run?.whenPaused() ?? Promise.resolve();
  }

  /** Whether nothing is in flight; of a queue that runs elsewhere: since {@link pause}. */
  get isIdle(): boolean {
    return this.#run?.isIdle ?? true;
  }

  /** When it {@link isIdle}. */
  whenIdle(): Promise<void> {
    return this.#run?.whenIdle() ?? Promise.resolve();
  }

  /**
   * Lets go of the ring: what is still in flight completes without effect on it.
   * @returns the next available index, for GET_VRING_BASE and for the next start.
   */
  stop(): number {
    const run = this.#run;
    if (run === undefined) return this.#base;
    this.#base = run.base;
    this.#run = undefined;
    this.#poller.remove(run);
    this.#watch?.close();
    this.#watch = undefined;
    run.end();
    return this.#base;
  }

  /** Stops, and gives all descriptors and memory back. The queue is not to be used again. */
  close(): void {
    this.stop();
    this.setKick(undefined);
    this.setCall(undefined);
    this.setErr(undefined);
  }

  /** Looks at the ring as after a kick. */
  kick(): void {
    if (this.#run !== undefined) this.#poller.serve();
  }

  #listen(): void {
    const kick = this.#kick;
    if (kick === undefined || this.isElsewhere) return;
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

  #break(fields: object, reason: string): void {
    this.#watch?.close();
    this.#watch = undefined;
    if (this.#log.stopped === undefined) this.#log.warn(fields, `queue stopped: ${reason}`);
    else this.#log.stopped(fields, reason);
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

  /** The log of writes, where there is to be one. */
  get #writeLog(): DirtyLog | undefined {
    return (this.#features & RingFeature.LOG_ALL) !== 0n ? this.#dirtyLog : undefined;
  }

  /** A front-end switches logging on and off while queues run. */
  #applyLog(): void {
    this.#run?.logTo(this.#writeLog, this.#addresses?.log);
  }

  #whileStopped(): void {
    if (this.#run !== undefined) throw new RangeError('the queue is running');
  }
}
