import { performance } from 'node:perf_hooks';
import { type AddressSpace, type DirtyLog, type Message, Pool, SegmentList } from '../memory/index.js';
import {
  type Fd,
  advancePromises,
  signalBeforeSleep,
  signalForeign,
  signalKind,
  type SignalKind,
  signalOwed,
} from '../system/index.js';
import { BROKEN, type DeviceRing } from './device-ring.js';
import { MAX_QUEUE_SIZE } from './split-ring-layout.js';

/**
 * During a long drain the guest is interrupted after this many requests, or this time, so that it
 * takes replies while further requests are served.
 */
const NOTIFY_REQUESTS = 64;
const NOTIFY_TIME_MS = 0.2;

/**
 * A drain ends after this time, although there are more requests, so that the event loop does its
 * other work. But it serves at least `TURN_MINIMUM` requests.
 */
const TURN_TIME_MS = 10;
const TURN_MINIMUM = 16;

/**
 * A drain ends after this time if another queue has requests. It is also how often the clock is
 * read and others are looked for, unless a single request takes longer.
 */
const SLICE_TIME_MS = 0.05;

/** After a request with so many bytes of data the clock is read. */
const LARGE_BYTES = 32 * 1024;

/** The most requests that are served between two readings of the clock. Fewer if they are slow. */
const CLOCK_INTERVAL = 16;
/** ... and at the start of a drain. 1 where the last ones were slow. */
const FIRST_INTERVAL = 2;

/**
 * In a queue whose requests have no answer, interrupts and, as long as requests come, notifications
 * wait for so long, or until a quarter of the ring is used. Where a file is removed the guest sends
 * FORGET right before its next request: one wake-up serves both.
 */
const REPLYLESS_DELAY_MS = 10;
const REPLYLESS_SHARE = 4;

/** A request of a queue. */
export interface QueueMessage extends Message {
  /** The id of its descriptor chain, or -1 once it is answered. */
  readonly id: number;
}

/** The run to which a chain belongs. */
export interface ChainOwner {
  /** Implements {@link Message.complete}. */
  giveBack(message: ChainMessage, written: number): void;
  /** Implements {@link Message.fail}. */
  giveUp(message: ChainMessage): void;
  /** Implements {@link Message.putBack}. */
  putBack(message: ChainMessage): boolean;
  /** Implements {@link Message.isThreadShared}. */
  readonly isThreadShared: boolean;
  /** Implements {@link Message.isThreadWanted}. */
  isThreadWanted(): boolean;
  /** Implements {@link Message.goOnLater}. */
  goOnLater(goOn: () => void): void;
}

/** A descriptor chain that the device has taken. Pooled. */
export class ChainMessage implements QueueMessage {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  readonly passedOn: boolean;
  readonly #queue: number;
  /** The chain's id, or -1 once it was returned to the guest. */
  id = -1;
  readonly #owner: ChainOwner;

  /** @param passedOnBy the number of the queue whose thread has passed it on. */
  constructor(owner: ChainOwner, space: AddressSpace, passedOnBy = -1) {
    this.#owner = owner;
    this.passedOn = passedOnBy >= 0;
    this.#queue = passedOnBy;
    this.readable = new SegmentList(space);
    this.writable = new SegmentList(space);
  }

  get place(): number {
    return this.passedOn ? this.#queue * MAX_QUEUE_SIZE + this.id : -1;
  }

  complete(written: number): void {
    if (this.id >= 0) this.#owner.giveBack(this, written);
  }

  fail(): void {
    if (this.id >= 0) this.#owner.giveUp(this);
  }

  putBack(): boolean {
    return this.id >= 0 && this.#owner.putBack(this);
  }

  get isThreadShared(): boolean {
    return this.#owner.isThreadShared;
  }

  isThreadWanted(): boolean {
    return this.#owner.isThreadWanted();
  }

  goOnLater(goOn: () => void): void {
    this.#owner.goOnLater(goOn);
  }

  clear(): void {
    this.id = -1;
    this.readable.clear();
    this.writable.clear();
  }

  close(): void {
    this.id = -1;
    this.readable.close();
    this.writable.close();
  }
}

/** Serves the requests of a queue. */
export interface QueueService {
  /**
   * Takes a request, which is answered by its `complete` or `fail`, at once or later. If this
   * throws, the queue stops as if the guest had broken it.
   * @param following how many more requests will be dispatched before {@link submit} is called.
   */
  dispatch(message: QueueMessage, following: number): void;
  /**
   * There are no further requests for now, so requests that were put aside must be carried out.
   * Never throws.
   */
  submit(): void;
  /** For a service whose requests may be carried out on other threads. */
  readonly completions?: Completions | undefined;
  /** For a `QueuePlacer`: what other threads may see of the files that requests are about. */
  readonly fileTable?: SharedTable | undefined;
}

/** A table in memory that all threads see. */
export interface SharedTable {
  readonly memory: SharedArrayBuffer;
}

/** Requests of a service that other threads carry out, and how the caller learns of their end. */
export interface Completions {
  /** How many of these requests have not ended yet. */
  readonly pending: number;
  /** Whether `collect` would end any. */
  readonly ready: boolean;
  /** Ends the requests that were carried out. */
  collect(): void;
  /** From now until `rest` the caller polls: nothing needs to wake the event loop. */
  attend(): void;
  /**
   * The event loop may sleep from now on, so it must be woken.
   * @returns whether something is ready already, for which it will not be woken.
   */
  rest(): boolean;
}

/** How much of the thread a queue may have: what its {@link Poller} knows of the others. */
export interface Turn {
  /** Whether no other queue waits. If one does, only present requests are served. */
  readonly isAlone: boolean;
  /** Whether another queue has something to serve, or answers to collect, now. */
  isWantedBeside(queue: PolledQueue): boolean;
  /**
   * Whether the turn of the event loop is to end, for what else the thread sleeps for. It is looked
   * for now and then.
   * @param now of `performance.now()`.
   */
  isOver(now: number): boolean;
  /** Whether the thread serves queues of other guests, too. */
  readonly isShared: boolean;
  /**
   * Whether another guest waits for the thread, and the queue's guest has had it for a moment. To
   * be asked in the midst of its requests.
   */
  isWantedByOthers(queue: PolledQueue): boolean;
  /** Calls `goOn` when others had their turn. */
  goOnLater(queue: PolledQueue, goOn: () => void): void;
  /** Whether a guest has no request that an INTERRUPT could end: none in flight, on any thread. */
  isCalm(space: AddressSpace): boolean;
  /** Serves all queues in a later turn of the event loop. */
  serveLater(): void;
}

/** A queue as a {@link Poller} serves it. */
export interface PolledQueue {
  /** The memory of the guest whose queue this is: the same for all queues of a guest. */
  readonly space: AddressSpace;
  /** False for a queue whose requests have no answer, so that nobody waits for them. */
  readonly hasReplies: boolean;
  /** Whether another thread runs the queue and listens to the guest's notifications. */
  readonly isElsewhere: boolean;
  /** Requests that were taken and are not answered yet. */
  readonly inFlight: number;
  readonly completions: Completions | undefined;
  /** Whether there is something to {@link drain}. */
  readonly ready: boolean;
  /**
   * Serves requests until there are none, or another queue has waited for a moment.
   * @returns true if the turn of the event loop is over before that.
   */
  drain(): boolean;
  /** Asks to be woken for new requests. @returns true if some came before that. */
  rest(): boolean;
}

/** A queue from its start to its stop. */
export interface Run extends PolledQueue {
  /** Whether requests are taken. They are not while it is paused, or once the ring is broken. */
  readonly taking: boolean;
  readonly broken: boolean;
  /** The next available index. For a run on another thread it is exact only while paused. */
  readonly base: number;
  pause(): void;
  /** Resolves when no further request is taken. */
  whenPaused(): Promise<void>;
  resume(): void;
  /**
   * Whether nothing is in flight. For a run on another thread it must also be paused.
   */
  readonly isIdle: boolean;
  whenIdle(): Promise<void>;
  /** For a paused run on another thread: resolves when every answer is in the ring. */
  whenReturned?(): Promise<void>;
  /**
   * Ends the run. Requests that are still in flight complete without effect, or are put back.
   */
  end(): void;
  /** After {@link end}: the chains of requests that were put back, in that order. */
  readonly backlog: readonly number[];
  /** @param fd the descriptor that interrupts the guest, or -1. */
  setCall(fd: Fd): void;
  /** For a paused run on another thread: regions were added to the guest's memory. */
  memoryAdded?(): void;
  /** Logs writes to guest memory. @param usedAddress guest address of the used ring, if logged. */
  logTo(log: DirtyLog | undefined, usedAddress: number | undefined): void;
}

/** What a run needs from its queue. */
export interface RunSetup {
  readonly ring: DeviceRing;
  readonly space: AddressSpace;
  /** The most requests that one turn of the event loop takes. */
  readonly limit: number;
  readonly service: QueueService;
  /** Who serves the run. */
  readonly turn: Turn;
  /** As {@link PolledQueue.hasReplies}. */
  readonly hasReplies: boolean;
  /** Called when the run stops taking requests, with the reason. */
  readonly onBroken: (fields: object, reason: string) => void;
}

/** A run on this thread: takes requests from the ring, and returns them to the guest. */
export class QueueRun implements Run, ChainOwner {
  taking = true;
  broken = false;
  inFlight = 0;
  readonly isElsewhere = false;
  readonly backlog: number[] = [];
  readonly #ring: DeviceRing;
  #call = -1 as Fd;
  #callKind: SignalKind | undefined;
  #log: DirtyLog | undefined;
  readonly space: AddressSpace;
  readonly hasReplies: boolean;
  readonly #limit: number;
  readonly #service: QueueService;
  readonly #turn: Turn;
  readonly #onBroken: (fields: object, reason: string) => void;
  readonly #pool = new Pool<ChainMessage>();
  #over = false;
  #draining = false;
  /** Whether notifications are still suppressed, since the last drain. */
  #awake = true;
  /** Whether a request of this drain makes room for other guests. */
  #yields = false;
  /** The request that was taken last. */
  #latest: ChainMessage | undefined;
  /** Requests returned since the guest was last interrupted. */
  #unannounced = 0;
  /** How many requests the next drain serves before it reads the clock. */
  #firstInterval = FIRST_INTERVAL;
  #idle: (() => void)[] = [];
  /** Without replies: until the ring is looked at, and the guest interrupted for what is in it. */
  #later: NodeJS.Timeout | undefined;
  /** Without replies: whether there were requests since {@link #later} began. */
  #hasServed = false;
  /** Whether the guest is to notify of many requests only. */
  #waitsForMany = false;
  /**
   * Without replies: whether the guest gives requests room for one. It then waits for them to come
   * back, as older Windows drivers do.
   */
  #isAwaited = false;

  constructor(setup: RunSetup) {
    this.#ring = setup.ring;
    this.space = setup.space;
    this.#limit = setup.limit;
    this.#service = setup.service;
    this.#turn = setup.turn;
    this.hasReplies = setup.hasReplies;
    this.#onBroken = setup.onBroken;
  }

  /** The completions of the service, if it has requests carried out on other threads. */
  get completions(): Completions | undefined {
    return this.#service.completions;
  }

  get base(): number {
    return this.#ring.base;
  }

  pause(): void {
    this.taking = false;
  }

  whenPaused(): Promise<void> {
    return Promise.resolve();
  }

  resume(): void {
    this.taking = !this.broken;
  }

  setCall(fd: Fd): void {
    this.#call = fd;
    this.#callKind = fd < 0 ? undefined : signalKind(fd);
  }

  logTo(log: DirtyLog | undefined, usedAddress: number | undefined): void {
    this.#log = log;
    this.#ring.logTo(usedAddress === undefined ? undefined : log, usedAddress ?? 0);
  }

  get ready(): boolean {
    return this.taking && !this.#draining && this.#ring.ready;
  }

  /** Drains the ring. The guest need not notify of further requests until {@link rest}. */
  drain(): boolean {
    if (!this.taking || this.#draining) return false;
    this.#draining = true;
    try {
      return this.#takeAll();
    } catch (error) {
      this.#break({ err: error }, 'a request was not handled');
      if (this.#latest !== undefined && this.#latest.id >= 0) this.giveUp(this.#latest);
      return false;
    } finally {
      this.#service.submit();
      this.#draining = false;
      if (!this.#over) {
        if (this.hasReplies) this.#interruptLast();
        else this.#interruptLater();
      }
      if (this.inFlight > 0) advancePromises();
    }
  }

  #takeAll(): boolean {
    const ring = this.#ring;
    const service = this.#service;
    const turn = this.#turn;
    signalOwed();
    // Reading the clock costs as much as a ring entry, so it is not read for one or two requests,
    // unless they are slow.
    let untilClock = this.#firstInterval;
    let started = untilClock === 1 ? performance.now() : 0;
    let announced = started;
    let looked = started;
    let interval = 1;
    let most = Infinity;
    this.#awake = true;
    this.#yields = false;
    ring.suppressNotifications();
    for (let taken = 1; ; taken++) {
      const message = this.#pool.take() ?? new ChainMessage(this, this.space);
      const id = ring.pop(message.readable, message.writable);
      if (id < 0) {
        message.clear();
        this.#pool.give(message);
        if (id === BROKEN) {
          this.#violated(ring.violation);
          return false;
        }
        return false;
      }
      message.id = id;
      this.inFlight += 1;
      this.#latest = message;
      const { following } = ring;
      if (taken === 1 && !turn.isAlone) most = following + 1;
      if (message.readable.length + message.writable.length > LARGE_BYTES) untilClock = 1;
      service.dispatch(message, following);
      if (!this.taking) return false;
      if (taken >= this.#limit) return true;
      if (taken === most || this.#yields) return false;
      untilClock -= 1;
      if (untilClock > 0) continue;
      const now = performance.now();
      if (started === 0) started = announced = looked = now;
      const isSlow = now - looked > SLICE_TIME_MS;
      looked = now;
      interval = isSlow ? Math.max(interval >>> 1, 1) : Math.min(interval << 1, CLOCK_INTERVAL);
      untilClock = interval;
      this.#firstInterval = Math.min(interval, FIRST_INTERVAL);
      if (now - started > SLICE_TIME_MS && turn.isWantedBeside(this)) return false;
      if (now - announced > NOTIFY_TIME_MS) {
        this.#interrupt();
        announced = now;
      }
      if (turn.isOver(now)) {
        // Else two slow requests were served in each turn before the guest heard of the first.
        this.#firstInterval = 1;
        return true;
      }
      if (taken >= TURN_MINIMUM && now - started > TURN_TIME_MS) return true;
    }
  }

  rest(): boolean {
    if (!this.taking) return false;
    const mayWait = this.#later !== undefined && this.#turn.isCalm(this.space);
    if (!this.#awake && (mayWait || !this.#waitsForMany)) return false;
    this.#awake = false;
    this.#waitsForMany = mayWait;
    return this.#ring.enableNotifications(mayWait ? this.#many : 1);
  }

  giveBack(message: ChainMessage, written: number): void {
    if (this.#over) {
      message.close();
      return;
    }
    if (this.#log !== undefined) this.#logWrites(this.#log, message.writable, written);
    if (!this.hasReplies && message.writable.length > 0) this.#isAwaited = true;
    this.#ring.push(message.id, written);
    message.clear();
    this.#pool.give(message);
    this.#unannounced += 1;
    if (!this.#draining || this.#unannounced >= NOTIFY_REQUESTS) this.#interrupt();
    this.#settle(1);
  }

  giveUp(message: ChainMessage): void {
    message.close();
    if (this.#over) return;
    this.#violated('a request that can be neither understood nor answered');
    this.#settle(1);
  }

  get isThreadShared(): boolean {
    return this.#turn.isShared;
  }

  isThreadWanted(): boolean {
    if (!this.#turn.isWantedByOthers(this)) return false;
    this.#yields = true;
    return true;
  }

  goOnLater(goOn: () => void): void {
    this.#turn.goOnLater(this, goOn);
  }

  putBack(message: ChainMessage): boolean {
    if (!this.#over) return false;
    this.backlog.push(message.id);
    message.close();
    return true;
  }

  get isIdle(): boolean {
    return this.inFlight === 0;
  }

  whenIdle(): Promise<void> {
    if (this.inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  end(): void {
    if (this.#later !== undefined) this.#interrupt();
    clearTimeout(this.#later);
    this.#over = true;
    this.taking = false;
    for (const message of this.#pool.takeAll()) message.close();
    this.#settle(this.inFlight);
  }

  #violated(violation: string): void {
    this.#break({ violation }, `the guest sent ${violation}`);
  }

  #break(fields: object, reason: string): void {
    if (this.broken) return;
    this.broken = true;
    this.taking = false;
    this.#onBroken(fields, reason);
  }

  #interrupt(): void {
    this.#unannounced = 0;
    if (this.#ring.takeInterrupt() && this.#call >= 0) signalForeign(this.#call);
  }

  /** As {@link #interrupt}, after the last answer for now: it may wait until the thread sleeps. */
  #interruptLast(): void {
    this.#unannounced = 0;
    if (!this.#ring.takeInterrupt() || this.#call < 0) return;
    // Requests that are under way may be answered by what runs before the sleep.
    if (this.inFlight > 0 || this.#callKind === undefined) signalForeign(this.#call);
    else signalBeforeSleep(this.#call, this.#callKind);
  }

  /** So many requests without replies, and the guest is interrupted at once. */
  get #many(): number {
    return Math.max(1, Math.floor(this.#ring.size / REPLYLESS_SHARE));
  }

  /** As {@link #interrupt}, for requests without replies. */
  #interruptLater(): void {
    if (this.#unannounced === 0) return;
    const isDue = !this.#ring.notifiesByIndex || this.#isAwaited;
    if (isDue || this.#unannounced >= this.#many) this.#interruptLast();
    if (isDue) return;
    this.#hasServed = true;
    this.#later ??= this.#lookLater();
  }

  #lookLater(): NodeJS.Timeout {
    return setTimeout(() => this.#look(), REPLYLESS_DELAY_MS).unref();
  }

  /** Ends what {@link #interruptLater} began, unless there were requests meanwhile. */
  #look(): void {
    this.#later = undefined;
    this.#interrupt();
    if (!this.taking) return;
    const { ready } = this;
    if (ready || this.#hasServed) this.#later = this.#lookLater();
    this.#hasServed = false;
    if (ready || this.rest()) this.#turn.serveLater();
  }

  #settle(count: number): void {
    this.inFlight -= count;
    if (this.inFlight > 0 || this.#idle.length === 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
    advancePromises();
  }

  #logWrites(log: DirtyLog, writable: SegmentList, written: number): void {
    for (let i = 0; i < writable.count && written > 0; i++) {
      const length = Math.min(written, writable.segmentLength(i));
      this.space.eachGuestRange(writable.segmentAddress(i), length, (at, bytes) => log.mark(at, bytes));
      written -= length;
    }
  }
}
