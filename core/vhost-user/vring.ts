import type { AddressSpace, DirtyLog } from '../memory/index.js';
import { type Log, OwnedFd, SystemError } from '../system/index.js';
import { type QueuePlacer, type Poller, type QueueService, Virtqueue } from '../virtqueue/index.js';
import { ProtocolError } from './messages.js';

/** Where a ring lies, by the front-end's addresses. */
export interface VringAddresses {
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
  readonly log: boolean;
  readonly logAddress: number;
}

/** How often a ring without a kick descriptor is looked at, in milliseconds. */
const POLL_INTERVAL = 1;

/** Entries until SET_VRING_NUM says otherwise; any valid number does. */
const INITIAL_SIZE = 1;

/**
 * One queue's state as the protocol sees it (spec "Ring states"): it runs while it is started (its
 * place and its kick are known, and no GET_VRING_BASE came since) and enabled.
 */
export class Vring {
  readonly index: number;
  readonly #queue: Virtqueue;
  readonly #service: QueueService;
  #sized = false;
  #addressed = false;
  /** A kick descriptor, or the wish to be polled, came since the ring was stopped. */
  #startable = false;
  #polling = false;
  #enabled = false;
  /** {@link suspend} ended a run that the driver had broken. */
  #wasBroken = false;
  #poll: NodeJS.Timeout | undefined;

  /** @param place where the queue may run instead. */
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
    this.#queue = new Virtqueue(space, INITIAL_SIZE, log, poller, place);
  }

  /** Whether requests are taken, or would be but for {@link pause}. */
  get running(): boolean {
    return this.#queue.running;
  }

  get inFlight(): number {
    return this.#queue.inFlight;
  }

  /** Whether the ring is another thread's at the moment. */
  get isElsewhere(): boolean {
    return this.#queue.isElsewhere;
  }

  get isIdle(): boolean {
    return this.#queue.isIdle;
  }

  /** Goes on after {@link pause}, with memory that was added meanwhile. */
  resumeWithMemory(): void {
    this.#queue.memoryAdded();
    if (this.#enabled) this.#queue.resume();
  }

  /** After {@link pause}: when no further request is taken. */
  whenPaused(): Promise<void> {
    return this.#queue.whenPaused();
  }

  /** After {@link pause}: when nothing is in flight. */
  whenIdle(): Promise<void> {
    return this.#queue.whenIdle();
  }

  /** @param log the dirty log, where one is in use. */
  setFeatures(features: bigint, log: DirtyLog | undefined): void {
    this.#queue.dirtyLog = log;
    this.#queue.features = features;
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

  /** The ring must not be running. */
  setAddresses({ descriptor, available, used, log, logAddress }: VringAddresses): void {
    this.#attempt('SET_VRING_ADDR', () => {
      this.#queue.setAddresses(descriptor, available, used, log ? logAddress : undefined);
    });
    this.#addressed = true;
    this.#startIfReady('SET_VRING_ADDR');
  }

  /** Takes the descriptor; with none, the ring is looked at from time to time. */
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

  /** Takes no further requests. */
  pause(): void {
    this.#queue.pause();
  }

  /** Lets go of the ring until {@link restart}. What is still in flight is lost to the guest. */
  suspend(): void {
    this.#wasBroken ||= this.#queue.broken;
    this.#queue.stop();
  }

  /** Goes on at the same place, with memory and addresses looked up anew. */
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
   * Back to the state of a new connection, but for the call and error descriptors: QEMU sends the
   * latter only once.
   */
  reset(): void {
    this.stop();
    this.#queue.base = 0;
    this.#sized = false;
    this.#addressed = false;
    this.#enabled = false;
  }

  /** For good. */
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
    if (on) this.#poll ??= setInterval(() => this.#queue.kick(), POLL_INTERVAL);
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
  return fd === undefined ? undefined : new OwnedFd(fd.take());
}
