import type { AddressSpace, DirtyLog } from '../memory/index.js';
import { type Log, type OwnedFd, ReceivedFd, SystemError } from '../system/index.js';
import {
  type Backlog,
  type InflightQueue,
  type QueuePlacer,
  type Poller,
  type QueueService,
  Virtqueue,
} from '../virtqueue/index.js';
import { ProtocolError } from './messages.js';

/** Where a ring lies, by the front-end's addresses. */
export interface VringAddresses {
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
  readonly log: boolean;
  readonly logAddress: number;
}

/** Time between two polls of a ring that has no kick descriptor. */
const POLL_INTERVAL_MS = 1;

/** The index of the queue for FORGET and INTERRUPT (virtio 1.2, 5.11.2): none has an answer. */
const HIPRIO = 0;

/** Entries until SET_VRING_NUM comes, without which the ring does not start. Any valid number. */
const INITIAL_SIZE = 1;

/**
 * One queue's state in the protocol (spec "Ring states"). The queue takes requests while it is
 * started and enabled. It is started once its size, its addresses and SET_VRING_KICK have come, and
 * until GET_VRING_BASE.
 */
export class Vring {
  readonly index: number;
  readonly #queue: Virtqueue;
  readonly #service: QueueService;
  #sized = false;
  #addressed = false;
  /** SET_VRING_KICK came since the ring was stopped, with a descriptor or without. */
  #startable = false;
  #polling = false;
  #enabled = false;
  /** {@link suspend} stopped a queue whose driver had broken the ring's rules. */
  #wasBroken = false;
  #poll: NodeJS.Timeout | undefined;

  /** @param place may start the queue on another thread. */
  constructor(
    index: number,
    space: AddressSpace,
    service: QueueService,
    log: Log,
    poller: Poller,
    place?: QueuePlacer,
  ) {
    this.index = index;
    this.#service = service;
    this.#queue = new Virtqueue(space, INITIAL_SIZE, log, poller, place, index !== HIPRIO);
  }

  /** Whether the queue is started and not broken. It may be paused. */
  get running(): boolean {
    return this.#queue.running;
  }

  get inFlight(): number {
    return this.#queue.inFlight;
  }

  /** Whether another thread runs the queue now. */
  get isElsewhere(): boolean {
    return this.#queue.isElsewhere;
  }

  get isIdle(): boolean {
    return this.#queue.isIdle;
  }

  /** Takes requests again after {@link pause}, also in memory that was added since. */
  resumeWithMemory(): void {
    this.#queue.memoryAdded();
    if (this.#enabled) this.#queue.resume();
  }

  /** After {@link pause}: resolves when no further request is taken. */
  whenPaused(): Promise<void> {
    return this.#queue.whenPaused();
  }

  /** After {@link pause}: resolves when nothing is in flight. */
  whenIdle(): Promise<void> {
    return this.#queue.whenIdle();
  }

  /** After {@link pause}: resolves when every answer is in the ring. */
  whenReturned(): Promise<void> {
    return this.#queue.whenReturned();
  }

  /** @param log the dirty log, if there is one. */
  setFeatures(features: bigint, log: DirtyLog | undefined): void {
    this.#queue.dirtyLog = log;
    this.#queue.features = features;
  }

  /** Where the queue notes which chains it has. @throws ProtocolError if it runs. */
  setInflight(inflight: InflightQueue | undefined): void {
    this.#attempt('SET_INFLIGHT_FD', () => {
      this.#queue.inflight = inflight;
    });
  }

  setSize(size: number): void {
    this.#attempt('SET_VRING_NUM', () => {
      this.#queue.size = size;
    });
    this.#sized = true;
    this.#startIfReady('SET_VRING_NUM');
  }

  setBase(base: number): void {
    this.#attempt('SET_VRING_BASE', () => {
      this.#queue.base = base;
    });
  }

  /** While the queue runs, only the log's part may change. @throws ProtocolError */
  setAddresses({ descriptor, available, used, log, logAddress }: VringAddresses): void {
    this.#attempt('SET_VRING_ADDR', () => {
      this.#queue.setAddresses(descriptor, available, used, log ? logAddress : undefined);
    });
    this.#addressed = true;
    this.#startIfReady('SET_VRING_ADDR');
  }

  /** Takes the kick descriptor over. Without one, the ring is polled each millisecond. */
  setKick(fd: OwnedFd | undefined): void {
    this.#attempt('SET_VRING_KICK', () => this.#queue.setKick(keep(fd)));
    this.#polling = fd === undefined;
    this.#startable = true;
    this.#startIfReady('SET_VRING_KICK');
    this.#setPoll();
  }

  setCall(fd: OwnedFd | undefined): void {
    this.#attempt('SET_VRING_CALL', () => this.#queue.setCall(keep(fd)));
  }

  setErr(fd: OwnedFd | undefined): void {
    this.#attempt('SET_VRING_ERR', () => this.#queue.setErr(keep(fd)));
  }

  setEnabled(enabled: boolean): void {
    this.#enabled = enabled;
    if (!enabled) this.#queue.pause();
    else if (this.#queue.running) this.#queue.resume();
    else this.#startIfReady('SET_VRING_ENABLE');
    this.#setPoll();
  }

  /** The next available index. */
  get base(): number {
    return this.#queue.base;
  }

  /** Requests that were put back since the queue stopped. */
  get backlog(): Backlog {
    return this.#queue.backlog;
  }

  /** As `Virtqueue.backlog`. */
  setBacklog(backlog: Backlog): void {
    this.#queue.backlog = backlog;
  }

  /** Takes requests again after {@link pause}. */
  goOn(): void {
    if (this.#enabled) this.#queue.resume();
  }

  /** Takes no further requests. */
  pause(): void {
    this.#queue.pause();
  }

  /** Stops the queue until {@link restart}. The guest gets no answer to requests in flight. */
  suspend(): void {
    this.#wasBroken ||= this.#queue.broken;
    this.#queue.stop();
  }

  /** Starts the queue at the same index. Its addresses are looked up in memory again. */
  restart(): void {
    this.#startIfReady('SET_MEM_TABLE');
    this.#setPoll();
  }

  /** GET_VRING_BASE: stops until the next SET_VRING_KICK. @returns the next available index. */
  stop(): number {
    const base = this.#queue.stop();
    this.#wasBroken = false;
    this.#startable = false;
    this.#setPoll();
    this.#queue.setKick(undefined);
    return base;
  }

  /**
   * Returns to the state of a new connection. Only the call and error descriptors stay: QEMU sends
   * the error descriptor only once.
   */
  reset(): void {
    this.stop();
    this.#queue.base = 0;
    this.#sized = false;
    this.#addressed = false;
    this.#enabled = false;
  }

  /** Stops the queue for good and closes its descriptors. */
  close(): void {
    this.#startable = false;
    this.#queue.close();
    this.#setPoll();
  }

  #startIfReady(name: string): void {
    const ready = this.#sized && this.#addressed && this.#startable && this.#enabled;
    // A queue whose driver broke the rules stays as it is until the front-end stops it.
    if (ready && !this.#queue.running && !this.#queue.broken && !this.#wasBroken) {
      this.#attempt(name, () => this.#queue.start(this.#service));
    }
  }

  #setPoll(): void {
    const on = this.#polling && this.#queue.running;
    if (on) this.#poll ??= setInterval(() => this.#queue.kick(), POLL_INTERVAL_MS);
    else {
      clearInterval(this.#poll);
      this.#poll = undefined;
    }
  }

  #attempt(name: string, action: () => void): void {
    try {
      action();
    } catch (error) {
      if (!(error instanceof RangeError || error instanceof SystemError)) throw error;
      throw new ProtocolError(`${name}: queue ${this.index}: ${error.message}`, { cause: error });
    }
  }
}

/** Takes a descriptor out of its message. */
export function keep(fd: OwnedFd): OwnedFd;
export function keep(fd: OwnedFd | undefined): OwnedFd | undefined;
export function keep(fd: OwnedFd | undefined): OwnedFd | undefined {
  return fd === undefined ? undefined : new ReceivedFd(fd.take());
}
