import type { AddressSpace, DirtyLog } from '../memory/index.js';
import {
  type Fd,
  type CloseWatch,
  drainForeign,
  isEventfd,
  isSignal,
  type Log,
  type OwnedFd,
  signalForeign,
  watchSignals,
} from '../system/index.js';
import type { DeviceRing } from './device-ring.js';
import type { InflightQueue, LeftOver } from './inflight.js';
import {
  Alignment,
  availableRingBytes,
  descriptorTableBytes,
  MAX_QUEUE_SIZE,
  RingFeature,
  usedRingBytes,
} from './split-ring-layout.js';
import { Poller } from './poller.js';
import { QueueRun, type QueueService, type Run } from './queue-run.js';
import { SplitRing } from './split-ring.js';

/** Kicks in a row that came without a request, after which the queue listens less often. */
const MOST_EMPTY_KICKS = 64;
const KICK_PAUSE_MS = 1;

/** The log of a queue. pino's loggers have this interface. */
export interface QueueLog extends Pick<Log, 'warn'> {
  /** Called instead of `warn` when the queue has stopped, with the reason. */
  stopped?(fields: object, reason: string): void;
}

/** A queue that is about to start, as a {@link QueuePlacer} gets it. */
export interface StartingQueue {
  readonly space: AddressSpace;
  readonly size: number;
  readonly features: bigint;
  readonly base: number;
  /** The parts of the ring, given by addresses of the front-end. */
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /**
   * The eventfds of the guest's notifications (`kick`) and interrupts (`call`, -1 if there is
   * none).
   */
  readonly kick: Fd;
  readonly call: Fd;
  /** The ring. Only its `walk` and `given` may be used. */
  readonly ring: DeviceRing;
  /** Where it is to be noted which chains the device has. */
  readonly inflight: InflightQueue | undefined;
  /** Heads of chains that were taken before `base`, in order. They are to be taken again first. */
  readonly again: readonly number[];
  readonly service: QueueService;
  readonly poller: Poller;
  /** To be called when the run stops taking requests, with the reason. */
  readonly onBroken: (fields: object, reason: string) => void;
}

/** Chains that a stopped queue has taken, and whose requests were put back. */
export interface Backlog {
  /** Where the queue stopped: the next available index. */
  readonly base: number;
  /** In the order in which they are to be dispatched again. */
  readonly heads: readonly number[];
}

const NO_BACKLOG: Backlog = { base: 0, heads: [] };

/** Starts a queue on another thread. @returns undefined if the queue is to run on this one. */
export type QueuePlacer = (queue: StartingQueue) => Run | undefined;

/** Decides where the queues of one device run. */
export interface QueuePlacement {
  /** @returns undefined if the queue with this index always runs on this thread. */
  place(index: number): QueuePlacer | undefined;
  /** To be called when the device is gone. */
  leave(): void;
}

/** One turn of the event loop takes at most this many requests for each entry of the queue. */
const ROUNDS = 4;

/**
 * The device side of one queue. When the guest kicks, it takes requests, hands each to a service,
 * and returns it with an interrupt if the guest wants one.
 *
 * While it drains the ring, it suppresses notifications, and sends one interrupt for many requests.
 * If the guest breaks the ring's rules, the queue stops with one line in the log and a signal on
 * the error eventfd. Nothing is served until the queue is started again.
 */
export class Virtqueue {
  readonly #space: AddressSpace;
  readonly #log: QueueLog;
  readonly #poller: Poller;
  readonly #place: QueuePlacer | undefined;
  readonly #hasReplies: boolean;
  #size = 0;
  #features = 0n;
  #base = 0;
  #dirtyLog: DirtyLog | undefined;
  #addresses: { descriptors: number; available: number; used: number; log: number | undefined } | undefined;
  #kick: OwnedFd | undefined;
  #call: OwnedFd | undefined;
  #err: OwnedFd | undefined;
  #inflight: InflightQueue | undefined;
  /** Whether the next start goes on with what {@link InflightQueue} says. */
  #resumes = false;
  #backlog = NO_BACKLOG;
  /** Whether a former process may have returned chains without an interrupt. */
  #owesInterrupt = false;

  #run: Run | undefined;
  #watch: CloseWatch | undefined;

  /**
   * @param space the memory in which the ring and the requests lie.
   * @param size entries: a power of two up to {@link MAX_QUEUE_SIZE}. @throws RangeError
   * @param poller serves the queue, together with other queues.
   * @param place may start the queue on another thread.
   * @param hasReplies false if its requests have no answer, so that nobody waits for them.
   */
  constructor(
    space: AddressSpace,
    size: number,
    log: QueueLog,
    poller: Poller = new Poller(),
    place?: QueuePlacer,
    hasReplies = true,
  ) {
    this.#space = space;
    this.#log = log;
    this.#poller = poller;
    this.#place = place;
    this.#hasReplies = hasReplies;
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

  /** The next available index, at which a start continues. */
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

  /** The negotiated feature bits. They apply from the next start on; LOG_ALL applies at once. */
  set features(features: bigint) {
    this.#features = features;
    this.#applyLog();
  }

  get dirtyLog(): DirtyLog | undefined {
    return this.#dirtyLog;
  }

  /** The log of writes for live migration, used as soon as LOG_ALL is among the features. */
  set dirtyLog(log: DirtyLog | undefined) {
    this.#dirtyLog = log;
    this.#applyLog();
  }

  /**
   * Sets the addresses of the ring's three parts, which are addresses of the front-end. They are
   * looked up in memory when the queue starts.
   * @param log guest address of the used ring, if writes to it are to be logged.
   * @throws RangeError if a part is not aligned (2.7), or if the queue runs and anything but `log`
   * changes.
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
    check(fd, isEventfd);
    this.#watch?.close();
    this.#watch = undefined;
    this.#kick?.close();
    this.#kick = fd;
    if (this.#run?.taking === true) this.#listen();
  }

  /** The eventfd that interrupts the guest; the queue owns it from here on. */
  setCall(fd: OwnedFd | undefined): void {
    check(fd, isSignal);
    this.#call?.close();
    this.#call = fd;
    this.#run?.setCall(fd?.value ?? (-1 as Fd));
    this.#interruptIfOwed();
  }

  /** The eventfd that tells the front-end of a broken queue; the queue owns it from here on. */
  setErr(fd: OwnedFd | undefined): void {
    check(fd, isSignal);
    this.#err?.close();
    this.#err = fd;
  }

  /**
   * Notes from the next start on which chains this queue has. That start goes on where the process
   * ended that has used the region before: at the index that the region tells, with the chains that
   * it had taken.
   * @throws RangeError if the queue runs.
   */
  set inflight(inflight: InflightQueue | undefined) {
    this.#whileStopped();
    this.#inflight = inflight;
    this.#resumes = inflight !== undefined;
  }

  /**
   * For a queue whose start another thread has prepared: it begins at its {@link base}, takes these
   * chains again first, and notes which it has. @throws RangeError if the queue runs.
   */
  takeOver(inflight: InflightQueue | undefined, again: readonly number[]): void {
    this.inflight = inflight;
    this.#resumes = false;
    this.#backlog = { base: this.#base, heads: again };
  }

  /** Requests that were put back since the queue stopped (`Message.putBack`). */
  get backlog(): Backlog {
    return this.#backlog;
  }

  /**
   * The next start takes these chains again, if the queue goes on where it stopped: then the ring
   * says that as many chains were not returned. They are otherwise forgotten, as those of a guest
   * that starts anew. @throws RangeError if the queue runs.
   */
  set backlog(backlog: Backlog) {
    this.#whileStopped();
    this.#backlog = backlog;
  }

  /** Requests that were taken and are not answered yet. */
  get inFlight(): number {
    return this.#run?.inFlight ?? 0;
  }

  /** Whether the queue is started and not broken. It may be paused. */
  get running(): boolean {
    return this.#run?.broken === false;
  }

  /** Whether the guest has broken the ring's rules since the start. */
  get broken(): boolean {
    return this.#run?.broken === true;
  }

  /**
   * Begins to take requests, also those that are available already.
   * @throws RangeError if the addresses are missing or not in shared memory.
   * @throws SystemError if the kick descriptor cannot be polled.
   */
  start(service: QueueService): void {
    this.#whileStopped();
    const { ring, base, again } = this.#makeRing();
    const onBroken = (fields: object, reason: string): void => this.#break(fields, reason);
    const elsewhere = this.#startElsewhere({ ring, base, again }, service, onBroken);
    const run =
      elsewhere ??
      new QueueRun({
        ring,
        space: this.#space,
        limit: ROUNDS * this.#size,
        service,
        turn: this.#poller,
        hasReplies: this.#hasReplies,
        onBroken,
      });
    if (elsewhere === undefined) {
      run.setCall(this.#call?.value ?? (-1 as Fd));
      this.#listen();
    }
    this.#run = run;
    this.#interruptIfOwed();
    this.#poller.add(run);
    this.#applyLog();
    this.#poller.serveLater();
  }

  /**
   * Starts the queue on another thread if it may run there. A queue with a dirty log, or without a
   * kick eventfd, which must be polled, runs on this thread.
   */
  #startElsewhere(
    start: Pick<StartingQueue, 'ring' | 'base' | 'again'>,
    service: QueueService,
    onBroken: (fields: object, reason: string) => void,
  ): Run | undefined {
    if (this.#place === undefined || this.#kick === undefined || this.#writeLog !== undefined)
      return undefined;
    return this.#place({
      space: this.#space,
      size: this.#size,
      features: this.#features,
      ...start,
      inflight: this.#inflight,
      ...this.#addresses!,
      kick: this.#kick.value,
      call: this.#call?.value ?? (-1 as Fd),
      service,
      poller: this.#poller,
      onBroken,
    });
  }

  /**
   * Whether the queue runs on another thread. Its kick descriptor must not be changed then.
   */
  get isElsewhere(): boolean {
    return this.#run?.isElsewhere === true;
  }

  /** Stops taking requests. Those in flight are answered as usual. */
  pause(): void {
    if (this.#run?.taking !== true) return;
    this.#run.pause();
    this.#watch?.pause();
  }

  /** Takes requests again, after {@link pause}. */
  resume(): void {
    if (this.#run === undefined || this.#run.broken || this.#run.taking) return;
    this.#run.resume();
    // The kick descriptor may have been replaced during the pause.
    if (this.#watch === undefined) this.#listen();
    else this.#watch.resume();
    this.#poller.serveLater();
  }

  /** Regions were added to the memory. A queue on another thread must be paused. */
  memoryAdded(): void {
    this.#run?.memoryAdded?.();
  }

  /** After {@link pause}: resolves when no further request is taken. */
  whenPaused(): Promise<void> {
    return this.#run?.whenPaused() ?? Promise.resolve();
  }

  /** Whether nothing is in flight. A queue on another thread must be paused, too. */
  get isIdle(): boolean {
    return this.#run?.isIdle ?? true;
  }

  /** Resolves when {@link isIdle} is true. */
  whenIdle(): Promise<void> {
    return this.#run?.whenIdle() ?? Promise.resolve();
  }

  /** After {@link pause}: resolves when every answer is in the ring. */
  whenReturned(): Promise<void> {
    return this.#run?.whenReturned?.() ?? Promise.resolve();
  }

  /**
   * Stops the queue. Requests that are still in flight complete without effect on the ring.
   * @returns the next available index, for GET_VRING_BASE and for the next start.
   */
  stop(): number {
    const run = this.#run;
    if (run === undefined) return this.#base;
    this.#base = run.base;
    this.#backlog = { base: run.base, heads: run.backlog };
    this.#run = undefined;
    this.#poller.remove(run);
    this.#watch?.close();
    this.#watch = undefined;
    run.end();
    return this.#base;
  }

  /** Stops the queue and closes its descriptors. It must not be used again. */
  close(): void {
    this.stop();
    this.setKick(undefined);
    this.setCall(undefined);
    this.setErr(undefined);
  }

  /** Serves the ring as after a kick of the guest. */
  kick(): void {
    if (this.#run !== undefined) this.#poller.serve();
  }

  #listen(): void {
    const kick = this.#kick;
    if (kick === undefined || this.isElsewhere) return;
    let emptyKicks = 0;
    let base = -1;
    const served = (): void => {
      this.kick();
      const run = this.#run;
      const next = run?.base ?? base;
      emptyKicks = next === base ? emptyKicks + 1 : 0;
      base = next;
      if (emptyKicks < MOST_EMPTY_KICKS) return;
      // Whoever kicks without requests is listened to no more often than this.
      emptyKicks = 0;
      kicked.pause();
      setTimeout(() => {
        if (this.#watch === kicked && run?.taking === true) kicked.resume();
      }, KICK_PAUSE_MS).unref();
    };
    const kicked = watchSignals(kick.value, served, drainForeign);
    this.#watch = kicked;
  }

  #break(fields: object, reason: string): void {
    this.#watch?.close();
    this.#watch = undefined;
    if (this.#log.stopped === undefined) this.#log.warn(fields, `queue stopped: ${reason}`);
    else this.#log.stopped(fields, reason);
    if (this.#err !== undefined) signalForeign(this.#err.value);
  }

  #interruptIfOwed(): void {
    if (!this.#owesInterrupt || this.#call === undefined || this.#run === undefined) return;
    this.#owesInterrupt = false;
    signalForeign(this.#call.value);
  }

  /** What the start goes on with: chains of a former process, or of the last run. */
  #leftOver(used: number): LeftOver | undefined {
    const usedIndex = Atomics.load(new Uint16Array(this.#space.view(used, 4)), 1);
    const left = this.#track(usedIndex);
    const { base, heads } = this.#backlog;
    this.#backlog = NO_BACKLOG;
    if (left !== undefined || heads.length === 0 || base !== this.#base) return left;
    if (((base - usedIndex) & 0xffff) !== heads.length || heads.some((head) => head >= this.#size))
      return undefined;
    for (const head of heads) this.#inflight?.take(head);
    return { heads, base };
  }

  /** Begins to track chains, or goes on with those that a former process has taken. */
  #track(usedIndex: number): LeftOver | undefined {
    const inflight = this.#inflight;
    if (inflight === undefined) return undefined;
    const left = this.#resumes ? inflight.resume(this.#size, usedIndex) : undefined;
    if (left === undefined) inflight.begin(this.#size, usedIndex, this.#base);
    else this.#owesInterrupt = true;
    this.#resumes = false;
    return left;
  }

  /** @returns also where the ring begins. */
  #makeRing(): Pick<StartingQueue, 'ring' | 'base' | 'again'> {
    const addresses = this.#addresses;
    if (addresses === undefined) throw new RangeError('the ring has no addresses');
    const size = this.#size;
    const eventIdx = (this.#features & RingFeature.EVENT_IDX) !== 0n;
    const host = (part: string, address: number, length: number) => {
      const found = this.#space.translateUser(address, length);
      if (found < 0) throw new RangeError(`the ring's ${part} are not in shared memory`);
      return found;
    };
    const descriptors = host('descriptors', addresses.descriptors, descriptorTableBytes(size));
    const available = host('available entries', addresses.available, availableRingBytes(size, eventIdx));
    const used = host('used entries', addresses.used, usedRingBytes(size, eventIdx));
    const { base, heads: again } = this.#leftOver(used) ?? { base: this.#base, heads: [] };
    const ring = new SplitRing(this.#space, {
      size,
      descriptors,
      available,
      used,
      base,
      inflight: this.#inflight,
      again,
      eventIdx,
      indirect: (this.#features & RingFeature.INDIRECT_DESC) !== 0n,
    });
    return { ring, base, again };
  }

  /** The log of writes, if writes are to be logged. */
  get #writeLog(): DirtyLog | undefined {
    return (this.#features & RingFeature.LOG_ALL) !== 0n ? this.#dirtyLog : undefined;
  }

  /** Begins or ends logging, which a front-end may do while queues run. */
  #applyLog(): void {
    this.#run?.logTo(this.#writeLog, this.#addresses?.log);
  }

  #whileStopped(): void {
    if (this.#run !== undefined) throw new RangeError('the queue is running');
  }
}

/**
 * What is no eventfd, or no socket where this side writes, may block, or ask a file system that
 * does: it is closed.
 * @throws RangeError
 */
function check(fd: OwnedFd | undefined, isFit: (fd: Fd) => boolean): void {
  if (fd === undefined || isFit(fd.value)) return;
  fd.close();
  throw new RangeError('the descriptor is not an eventfd');
}
