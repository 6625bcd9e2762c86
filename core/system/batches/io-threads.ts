import type { Fd } from '../descriptors/fd.js';
import { Worker } from 'node:worker_threads';
import type { CallList } from './call-list.js';
import { eventfd } from '../descriptors/eventfd.js';
import {
  ATTENDED,
  LISTS,
  COMMON_BYTES,
  Own,
  OWN_BYTES,
  ROOM,
  type ThreadData,
  WRAP,
} from './io-thread-state.js';
import type { OwnedFd } from '../descriptors/owned-fd.js';
import { type CloseWatch, watchSignals } from '../event-loop/own-sleep.js';
import { noteStart } from '../started-threads.js';
import { EIO } from '../calls/negative-errno.js';

/** A list of calls that a thread makes. */
export interface IoWork {
  readonly list: CallList;
  /** Called when the list has its results. Must not throw. */
  end(): void;
}

/** One thread, as the event loop's thread sees it. */
class Thread {
  readonly worker: Worker;
  readonly state: Int32Array;
  /** Lists that were given to the thread and not collected since, in order. */
  readonly work: IoWork[] = [];
  /** How many calls these lists have. */
  pending = 0;
  readonly ended: Promise<void>;
  readonly #places: Float64Array;
  /** The value of {@link Own.GIVEN}. */
  #given = 0;
  #collected = 0;

  constructor(common: SharedArrayBuffer, wake: Fd, onFailure: (thread: Thread, error: unknown) => void) {
    const own = new SharedArrayBuffer(OWN_BYTES);
    this.state = new Int32Array(own);
    this.#places = new Float64Array(own);
    const data: ThreadData = { own, common, wake };
    this.worker = new Worker(new URL('./io-thread.js', import.meta.url), { workerData: data });
    this.worker.unref();
    noteStart(this.worker);
    let failure: unknown = new Error('the thread ended');
    this.worker.once('error', (error) => {
      failure = error;
    });
    this.ended = new Promise((resolve) => {
      this.worker.once('exit', () => {
        if (this.#given < WRAP) onFailure(this, failure);
        resolve();
      });
    });
  }

  get hasRoom(): boolean {
    return this.work.length < ROOM && this.state[Own.READY] === 1;
  }

  give(work: IoWork, count: number): void {
    const place = LISTS + (this.#given % ROOM) * 2;
    this.#places[place] = work.list.address;
    this.#places[place + 1] = count;
    this.work.push(work);
    this.pending += count;
    this.#announce((this.#given + 1) % WRAP);
  }

  /** Whether {@link collect} would end something. */
  get ready(): boolean {
    return this.work.length > 0 && Atomics.load(this.state, Own.DONE) !== this.#collected;
  }

  /** Ends the lists that the thread has made. */
  collect(): void {
    while (this.ready) {
      this.pending -= this.#places[LISTS + (this.#collected % ROOM) * 2 + 1]!;
      this.#collected = (this.#collected + 1) % WRAP;
      this.work.shift()!.end();
    }
  }

  /** Lets the thread end when it has made its lists. */
  dismiss(): void {
    this.#announce(this.#given + WRAP);
  }

  #announce(given: number): void {
    this.#given = given;
    Atomics.store(this.state, Own.GIVEN, given);
    if (Atomics.load(this.state, Own.ASLEEP) === 1) Atomics.notify(this.state, Own.GIVEN);
  }
}

/**
 * Threads that make the reads and writes in lists of calls. Meanwhile the event loop's thread
 * serves other requests, on another processor. Calls and results lie in memory that all threads
 * share; nothing is copied, and no message is sent.
 *
 * Results are taken by {@link collect}: by the caller, or by the event loop, which an eventfd
 * wakes. Between {@link attend} and {@link rest} the caller polls, and nothing is woken.
 */
export class IoThreads {
  readonly #threads: Thread[];
  readonly #common = new Int32Array(new SharedArrayBuffer(COMMON_BYTES));
  readonly #wake: OwnedFd = eventfd();
  readonly #watch: CloseWatch;
  readonly #onFailure: (error: unknown) => void;

  /**
   * @param count threads to start, 1 or more.
   * @param onFailure called when a thread has ended by itself. Its calls fail with EIO.
   */
  constructor(count: number, onFailure: (error: unknown) => void) {
    this.#onFailure = onFailure;
    const shared = this.#common.buffer as SharedArrayBuffer;
    const fail = (thread: Thread, error: unknown): void => this.#failWork(thread, error);
    this.#threads = Array.from({ length: count }, () => new Thread(shared, this.#wake.value, fail));
    this.#watch = watchSignals(this.#wake.value, () => this.collect());
  }

  /** Calls whose results were not collected yet. */
  get pending(): number {
    let sum = 0;
    const threads = this.#threads;
    for (let i = 0; i < threads.length; i++) sum += threads[i]!.pending;
    return sum;
  }

  /** Whether {@link collect} would find something. */
  get ready(): boolean {
    const threads = this.#threads;
    for (let i = 0; i < threads.length; i++) if (threads[i]!.ready) return true;
    return false;
  }

  /** Whether a thread has room for a list. */
  get hasRoom(): boolean {
    const threads = this.#threads;
    for (let i = 0; i < threads.length; i++) if (threads[i]!.hasRoom) return true;
    return false;
  }

  /**
   * Gives a list to the thread that has the fewest. Its descriptors must stay open, and its memory
   * valid, until {@link IoWork.end}.
   * @returns false if no thread has room. Nothing was done then.
   */
  give(work: IoWork): boolean {
    let idlest: Thread | undefined;
    for (const thread of this.#threads) {
      if (thread.hasRoom && !(idlest !== undefined && idlest.work.length <= thread.work.length))
        idlest = thread;
    }
    if (idlest === undefined) return false;
    idlest.give(work, work.list.take());
    return true;
  }

  /** Ends the lists that threads have made. */
  collect(): void {
    const threads = this.#threads;
    for (let i = 0; i < threads.length; i++) threads[i]!.collect();
  }

  /** From now until {@link rest} the caller collects, so threads do not wake the event loop. */
  attend(): void {
    Atomics.store(this.#common, ATTENDED, 1);
  }

  /**
   * From now on threads wake the event loop.
   * @returns whether a list is ready already. The caller must collect it: no wake-up may come.
   */
  rest(): boolean {
    Atomics.store(this.#common, ATTENDED, 0);
    return this.ready;
  }

  /** Ends the threads, when they have made their lists. */
  async close(): Promise<void> {
    for (const thread of this.#threads) thread.dismiss();
    await Promise.all(this.#threads.map((thread) => thread.ended));
    this.collect();
    this.#watch.close();
    this.#wake.close();
  }

  /** Fails the lists of a thread that ended by itself. */
  #failWork(thread: Thread, error: unknown): void {
    thread.collect();
    thread.state[Own.READY] = 0;
    thread.pending = 0;
    const lost = thread.work.splice(0);
    for (const { list } of lost) list.fail(EIO);
    for (const work of lost) work.end();
    this.#onFailure(error);
  }
}
