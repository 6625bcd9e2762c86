import { type AddressSpace, type DirtyLog, type Message, SegmentList } from '../memory/index.js';
import { advancePromises, signal } from '../system/index.js';
import { BROKEN, type DeviceRing } from './device-ring.js';

/**
 * While a long drain goes on the guest is interrupted after so many requests or ms, so that both
 * work at the same time.
 */
const NOTIFY_REQUESTS = 64;
const NOTIFY_TIME = 0.2;

/**
 * One turn of the event loop drains at most this long (ms), or so many requests; then others have
 * theirs.
 */
const TURN_TIME = 10;
const TURN_MINIMUM = 16;

/** The clock is read after so many requests at most; more often where requests are slow. */
const CLOCK_INTERVAL = 16;

/** A request that came through a queue. */
export interface QueueMessage extends Message {
  /** Its chain's id, or -1 once it is answered. */
  readonly id: number;
}

/** Who takes answered chains back. */
export interface ChainOwner {
  /** For {@link Message.complete}. */
  giveBack(message: ChainMessage, written: number): void;
  /** For {@link Message.fail}. */
  giveUp(message: ChainMessage): void;
}

/** A chain with the device. */
export class ChainMessage implements QueueMessage {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  readonly passedOn: boolean;
  /** The chain's id, or -1 while it is with the guest. */
  id = -1;
  readonly #owner: ChainOwner;

  /** @param passedOn see {@link Message.passedOn}. */
  constructor(owner: ChainOwner, space: AddressSpace, passedOn = false) {
    this.#owner = owner;
    this.passedOn = passedOn;
    this.readable = new SegmentList(space);
    this.writable = new SegmentList(space);
  }

  complete(written: number): void {
    if (this.id >= 0) this.#owner.giveBack(this, written);
  }

  fail(): void {
    if (this.id >= 0) this.#owner.giveUp(this);
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

/** Who serves the requests of a queue. */
export interface QueueService {
  /**
   * Takes a request, answered by its `complete` or `fail` at once or later. If it throws, the queue
   * stops as if the guest had broken it.
   * @param following requests that are to be handed over next, before {@link submit}.
   */
  dispatch(message: QueueMessage, following: number): void;
  /**
   * There are no further requests for now: what was put aside for them is to be carried out. Never
   * throws.
   */
  submit(): void;
  /** For a service that has requests carried out beside this thread. */
  readonly completions?: Completions | undefined;
  /** For a `QueuePlacer`: whose requests these are at the moment. */
  currentSession?(): object;
}

/** How a service learns of the requests that are carried out beside this thread. */
export interface Completions {
  /** Requests that are not ended yet. */
  readonly pending: number;
  /** Whether `collect` would end some. */
  readonly ready: boolean;
  collect(): void;
  /** From now until `rest` the caller collects: nothing needs to wake the event loop. */
  attend(): void;
  /**
   * The event loop may sleep from now on.
   * @returns whether something is ready already, of which nothing may tell.
   */
  rest(): boolean;
}

/** A queue as a {@link Poller} serves it. */
export interface PolledQueue {
  /** Requests that were taken and not yet given back. */
  readonly inFlight: number;
  readonly completions: Completions | undefined;
  /** Whether there is something to {@link drain}. */
  readonly ready: boolean;
  /**
   * Serves requests until there are none.
   * @param isAlone no other queue waits; else only those that are there now are served.
   * @returns true if the turn of the event loop is over before that.
   */
  drain(isAlone: boolean): boolean;
  /** Whoever sends requests is to wake the event loop. @returns true if some came meanwhile. */
  rest(): boolean;
}

/** A queue between its start and its stop. */
export interface Run extends PolledQueue {
  /** Whether requests are taken: not while paused, and no more once the ring is broken. */
  readonly taking: boolean;
  readonly broken: boolean;
  /** Where the device stands in the ring: of a run on another thread as of its last pause. */
  readonly base: number;
  pause(): void;
  /** When no further request is taken. */
  whenPaused(): Promise<void>;
  resume(): void;
  /**
   * Whether nothing is in flight, and nothing can come to be. Of a queue on this thread: whether
   * nothing is in flight.
   */
  readonly isIdle: boolean;
  whenIdle(): Promise<void>;
  /** Lets go of the ring: what is still in flight completes without effect. */
  end(): void;
  /** @param fd descriptor that interrupts the guest, or -1. */
  setCall(fd: number): void;
  /** It is another thread's, which listens to the guest's notifications by itself. */
  readonly isElsewhere: boolean;
  /** For a run elsewhere, paused: the guest's memory has become more. */
  memoryAdded?(): void;
  /** Logs writes to the guest's memory, those to the ring as if it began at a guest address. */
  logTo(log: DirtyLog | undefined, usedAddress: number | undefined): void;
}

/** What a run needs of its queue. */
export interface RunSetup {
  readonly ring: DeviceRing;
  readonly space: AddressSpace;
  /** Requests that one turn of the event loop takes at most. */
  readonly limit: number;
  readonly service: QueueService;
  /** The run takes nothing more, and why. */
  readonly onBroken: (fields: object, reason: string) => void;
}

/** A run on this thread: takes requests from the ring, and gives them back. */
export class QueueRun implements Run, ChainOwner {
  taking = true;
  broken = false;
  inFlight = 0;
  readonly isElsewhere = false;
  readonly #ring: DeviceRing;
  #call = -1;
  #log: DirtyLog | undefined;
  readonly #space: AddressSpace;
  readonly #limit: number;
  readonly #service: QueueService;
  readonly #onBroken: (fields: object, reason: string) => void;
  readonly #pool: ChainMessage[] = [];
  #over = false;
  #draining = false;
  /** The guest was not asked for notifications since the last drain. */
  #awake = true;
  /** The request taken last. */
  #latest: ChainMessage | undefined;
  /** Requests given back since the guest was last told. */
  #untold = 0;
  #idle: (() => void)[] = [];

  constructor(setup: RunSetup) {
    this.#ring = setup.ring;
    this.#space = setup.space;
    this.#limit = setup.limit;
    this.#service = setup.service;
    this.#onBroken = setup.onBroken;
  }

  /** How what the service has carried out beside this thread ends. */
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

  setCall(fd: number): void {
    this.#call = fd;
  }

  logTo(log: DirtyLog | undefined, usedAddress: number | undefined): void {
    this.#log = log;
    this.#ring.logTo(usedAddress === undefined ? undefined : log, usedAddress ?? 0);
  }

  get ready(): boolean {
    return this.taking && !this.#draining && this.#ring.ready;
  }

  /** The guest is not to notify of further requests until {@link rest}. */
  drain(isAlone: boolean): boolean {
    if (!this.taking || this.#draining) return false;
    this.#draining = true;
    try {
      return this.#takeAll(isAlone);
    } catch (error) {
      this.#break({ err: error }, 'a request was not handled');
      if (this.#latest !== undefined && this.#latest.id >= 0) this.giveUp(this.#latest);
      return false;
    } finally {
      this.#service.submit();
      this.#draining = false;
      if (!this.#over) this.#interrupt();
      if (this.inFlight > 0) advancePromises();
    }
  }

  #takeAll(isAlone: boolean): boolean {
    const ring = this.#ring;
    const service = this.#service;
    // The clock costs as much as a ring entry: one or two requests do without.
    let started = 0;
    let told = 0;
    let interval = 1;
    let untilClock = 2;
    let most = Infinity;
    this.#awake = true;
    ring.suppressNotifications();
    for (let taken = 1; ; taken++) {
      const message = this.#pool.pop() ?? new ChainMessage(this, this.#space);
      const id = ring.pop(message.readable, message.writable);
      if (id < 0) {
        message.clear();
        this.#pool.push(message);
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
      if (taken === 1 && !isAlone) most = following + 1;
      service.dispatch(message, following);
      if (!this.taking) return false;
      if (taken >= this.#limit) return true;
      if (taken === most) return false;
      untilClock -= 1;
      if (untilClock > 0) continue;
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
      if (taken >= TURN_MINIMUM && now - started > TURN_TIME) return true;
    }
  }

  rest(): boolean {
    if (!this.taking || !this.#awake) return false;
    this.#awake = false;
    return this.#ring.enableNotifications();
  }

  giveBack(message: ChainMessage, written: number): void {
    if (this.#over) {
      message.close();
      return;
    }
    if (this.#log !== undefined) this.#logWrites(this.#log, message.writable, written);
    this.#ring.push(message.id, written);
    message.clear();
    this.#pool.push(message);
    this.#untold += 1;
    if (!this.#draining || this.#untold >= NOTIFY_REQUESTS) this.#interrupt();
    this.#settle(1);
  }

  giveUp(message: ChainMessage): void {
    message.close();
    if (this.#over) return;
    this.#violated('a request that can be neither understood nor answered');
    this.#settle(1);
  }

  get isIdle(): boolean {
    return this.inFlight === 0;
  }

  whenIdle(): Promise<void> {
    if (this.inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  end(): void {
    this.#over = true;
    this.taking = false;
    for (const message of this.#pool.splice(0)) message.close();
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
    this.#untold = 0;
    if (this.#ring.takeInterrupt() && this.#call >= 0) signal(this.#call);
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
      this.#space.eachGuestRange(writable.segmentAddress(i), length, (at, bytes) => log.mark(at, bytes));
      written -= length;
    }
  }
}
