import type { AddressSpace } from '../memory/index.js';
import { dup } from '../system/calls/files.js';
import { type Fd, advancePromises, check } from '../system/index.js';
import {
  ChainMessage,
  type ChainOwner,
  type Completions,
  type DeviceRing,
  type QueueService,
  type Run,
  type StartingQueue,
} from '../virtqueue/index.js';
import type { EngineMailbox } from './mailbox.js';
import type { QueueNotice, Command, SharedRegion } from './messages.js';

/** How a run talks to its thread. */
export interface ThreadChannel {
  send(command: QueueCommand): void;
  /** Wakes the thread, which has answers to collect. */
  wake(): void;
}

/** A {@link Command} without the queue's number, which the channel adds. */
export type QueueCommand = Command extends infer O
  ? O extends { queue: number }
    ? Omit<O, 'queue'>
    : never
  : never;

/**
 * A queue that runs on another thread, as the engine's thread sees it. It serves the requests that
 * the thread passes on.
 */
export class RemoteRun implements Run, ChainOwner {
  broken = false;
  inFlight = 0;
  readonly isElsewhere = true;
  readonly hasReplies = true;
  readonly backlog: number[] = [];
  readonly completions: Completions | undefined;
  readonly #index: number;
  readonly #mailbox: EngineMailbox;
  readonly #ring: DeviceRing;
  readonly space: AddressSpace;
  readonly #service: QueueService;
  readonly #onBroken: (fields: object, reason: string) => void;
  readonly #channel: ThreadChannel;
  readonly #pool: ChainMessage[] = [];
  #paused: 'no' | 'asked' | 'paused' | 'idle' = 'no';
  /** Number of the last pause. Notices about earlier pauses are ignored. */
  #pause = 0;
  #over = false;
  #isLost = false;
  #draining = false;
  /** The request that was taken last. */
  #latest: ChainMessage | undefined;
  #untold = false;
  #onPaused: (() => void)[] = [];
  #onIdle: (() => void)[] = [];

  /** @param index the queue's number in its device. */
  constructor(index: number, queue: StartingQueue, mailbox: EngineMailbox, channel: ThreadChannel) {
    this.completions = queue.service.completions;
    this.#index = index;
    this.#mailbox = mailbox;
    this.#ring = queue.ring;
    this.space = queue.space;
    this.#service = queue.service;
    this.#onBroken = queue.onBroken;
    this.#channel = channel;
  }

  get taking(): boolean {
    return this.#paused === 'no' && !this.broken;
  }

  get base(): number {
    return this.#isLost ? this.#ring.given : this.#mailbox.next;
  }

  get ready(): boolean {
    return !this.#over && !this.#draining && this.#mailbox.waiting > 0;
  }

  /**
   * Serves what was passed on up to now, and no more: the thread may pass requests on for ever.
   */
  drain(): boolean {
    if (this.#draining || this.#over) return false;
    this.#draining = true;
    const mailbox = this.#mailbox;
    mailbox.setPolling(true);
    try {
      for (let left = mailbox.waiting; left > 0 && !this.#over; left--)
        this.#dispatch(mailbox.take(), left - 1);
    } catch (error) {
      this.break({ err: error }, 'a request was not handled');
      if (this.#latest !== undefined && this.#latest.id >= 0) this.#latest.fail();
    } finally {
      this.#service.submit();
      this.#draining = false;
      this.#tell();
      if (this.inFlight > 0) advancePromises();
    }
    return false;
  }

  rest(): boolean {
    this.#mailbox.setPolling(false);
    return this.ready;
  }

  pause(): void {
    if (this.#paused !== 'no' || this.#over) return;
    this.#paused = 'asked';
    this.#pause += 1;
    this.#channel.send({ command: 'pause', pause: this.#pause });
  }

  whenPaused(): Promise<void> {
    if (this.#paused !== 'asked' || this.#over) return Promise.resolve();
    return new Promise((resolve) => this.#onPaused.push(resolve));
  }

  resume(): void {
    if (this.#paused === 'no' || this.broken || this.#over) return;
    this.#paused = 'no';
    this.#channel.send({ command: 'resume' });
    this.#release();
  }

  get isIdle(): boolean {
    return this.#over || (this.#paused === 'idle' && this.inFlight === 0);
  }

  whenIdle(): Promise<void> {
    if (this.isIdle) return Promise.resolve();
    return new Promise((resolve) => this.#onIdle.push(resolve));
  }

  async whenReturned(): Promise<void> {
    while (!this.#mailbox.isCollected && !this.#over && !this.#isLost)
      await new Promise((resolve) => setTimeout(resolve, 1));
  }

  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#mailbox.stop();
    this.#channel.send({ command: 'stop' });
    for (const message of this.#pool.splice(0)) message.close();
    this.inFlight = 0;
    this.#paused = 'idle';
    this.#release();
  }

  /** @throws SystemError if the descriptor cannot be duplicated for the thread. */
  setCall(fd: Fd): void {
    if (this.#isLost) return;
    this.#channel.send({ command: 'call', fd: fd < 0 ? (-1 as Fd) : check(dup(fd), 'dup') });
  }

  memoryAdded(): void {
    this.#channel.send({ command: 'memory', regions: regionsOf(this.space) });
  }

  /** Does nothing: a queue with a dirty log runs on the engine's thread. */
  logTo(): void {}

  giveBack(message: ChainMessage, written: number): void {
    this.#answer(message, written);
  }

  giveUp(message: ChainMessage): void {
    this.#answer(message, undefined);
  }

  /** What threads have passed on is short, or asynchronous. */
  readonly isThreadShared = false;

  isThreadWanted(): boolean {
    return false;
  }

  goOnLater(goOn: () => void): void {
    setImmediate(goOn);
  }

  putBack(message: ChainMessage): boolean {
    if (!this.#over) return false;
    this.backlog.push(message.id);
    message.close();
    return true;
  }

  #answer(message: ChainMessage, written: number | undefined): void {
    if (this.#over) {
      message.close();
      return;
    }
    this.#mailbox.answer(message.id, written);
    message.clear();
    this.#pool.push(message);
    this.inFlight -= 1;
    this.#untold = true;
    if (!this.#draining) this.#tell();
    if (this.isIdle) this.#release();
  }

  /** Handles a message of the thread. */
  notice(notice: QueueNotice): void {
    switch (notice.notice) {
      case 'paused':
        if (this.#paused !== 'asked' || notice.pause !== this.#pause) return;
        // Everything that was passed on before the pause is in the mailbox now. It is dispatched
        // here, so that whoever drains the session next waits for it too.
        this.drain();
        this.rest();
        this.#paused = 'paused';
        this.#release();
        break;
      case 'idle':
        if (this.#paused !== 'paused' || notice.pause !== this.#pause) return;
        this.#paused = 'idle';
        this.#release();
        break;
      case 'broken':
        this.break(notice.fields, notice.reason);
        break;
      default:
    }
  }

  /** The queue is broken: it takes no more requests. */
  break(fields: object, reason: string): void {
    if (this.broken || this.#over) return;
    // Requests that it has taken already must still end.
    this.pause();
    this.broken = true;
    this.#onBroken(fields, reason);
  }

  /**
   * The thread has ended, and its state is lost. Only the used ring tells how far it came. Whoever
   * continues from there serves some requests a second time. QEMU's front-end does the same when a
   * daemon dies (`virtio_queue_restore_last_avail_idx`).
   */
  lose(): void {
    this.break({}, 'its thread ended');
    this.#isLost = true;
    this.#paused = 'idle';
    this.#release();
  }

  #dispatch(id: number, following: number): void {
    const message = this.#pool.pop() ?? new ChainMessage(this, this.space, this.#index);
    message.id = id;
    this.#latest = message;
    this.inFlight += 1;
    // The thread has walked this chain before, so it fails here only if the guest has changed a
    // request in flight.
    if (!this.#ring.walk(id, message.readable, message.writable)) message.fail();
    else this.#service.dispatch(message, following);
  }

  #tell(): void {
    if (!this.#untold) return;
    this.#untold = false;
    if (!this.#mailbox.isPolled) this.#channel.wake();
  }

  #release(): void {
    if (this.#paused !== 'asked') for (const resolve of this.#onPaused.splice(0)) resolve();
    if (this.isIdle || this.#paused === 'no') for (const resolve of this.#onIdle.splice(0)) resolve();
    advancePromises();
  }
}

/** The regions of a guest's memory, in the form that a thread gets. */
export function regionsOf(space: AddressSpace): SharedRegion[] {
  return space.regions.map(({ mapping, guestAddress, userAddress }) => ({
    address: mapping.address,
    length: mapping.length,
    guestAddress,
    userAddress,
  }));
}
