import type { Fd } from './fd.js';
import { native } from '../calls/libc-functions.js';

/** The most threads. {@link DescriptorUser.thread} is below it. */
export const MOST_THREADS = 64;

/**
 * Descriptors of this number and above cannot be published. The table has a place for each number
 * below, which costs memory.
 */
const DESCRIPTORS = 65_536;

/** Words of a cache line. Each thread's turn has one of its own. */
const LINE = 16;
const SERIALS = MOST_THREADS * LINE;

/** The last serial. A descriptor number that was closed so often is not published any more. */
const LAST_SERIAL = 0x7fffffff;

/** Time between two checks of the descriptors that wait to be closed. */
const RETRY_MS = 1;

/** What a thread needs for its {@link DescriptorUse}. */
export interface DescriptorUser {
  readonly state: SharedArrayBuffer;
  /** The thread's number. */
  readonly thread: number;
}

/**
 * A descriptor that is closed once the turns have ended that were under way when it was given up.
 */
interface Closing {
  readonly fd: Fd;
  /** The turns that were under way at that time. */
  readonly turns: readonly Turn[];
}

interface Turn {
  readonly thread: number;
  readonly turn: number;
}

/**
 * Descriptors of this process that other threads use directly. They find them in shared memory. A
 * descriptor may be closed only when no thread is about to use its number, which may then stand for
 * another file. So threads use descriptors in turns, and look them up again in each turn. A
 * descriptor that is given up stays open until the turns that were under way have ended (as in
 * Linux's RCU).
 */
export class SharedDescriptors {
  #state: SharedArrayBuffer | undefined;
  #words: Int32Array = new Int32Array(0);
  /** By descriptor: 1 if it was published, so that a thread may use it. */
  #published = new Uint8Array(0);
  readonly #free = Array.from({ length: MOST_THREADS }, (_, index) => MOST_THREADS - 1 - index);
  readonly #joined = new Set<number>();
  #closing: Closing[] = [];
  #isWaiting = false;

  /** Registers a thread. @throws RangeError if there are 64 already. */
  join(): DescriptorUser {
    if (this.#state === undefined) {
      this.#state = new SharedArrayBuffer((SERIALS + DESCRIPTORS) * 4);
      this.#words = new Int32Array(this.#state);
      this.#published = new Uint8Array(DESCRIPTORS);
    }
    const thread = this.#free.pop();
    if (thread === undefined) throw new RangeError(`more than ${MOST_THREADS} threads`);
    this.#joined.add(thread);
    return { state: this.#state, thread };
  }

  /** Removes a thread, which must have ended. */
  leave({ thread }: DescriptorUser): void {
    Atomics.store(this.#words, thread * LINE, 0);
    this.#free.push(thread);
    this.#joined.delete(thread);
    this.#closeUnused();
  }

  /**
   * Publishes a descriptor to threads.
   * @returns its serial, by which a thread can check that it was not closed since. 0 if it cannot
   * be published.
   */
  publish(fd: Fd): number {
    if (this.#joined.size === 0 || fd < 0 || fd >= DESCRIPTORS) return 0;
    const serial = this.#words[SERIALS + fd]! + 1;
    if (serial > LAST_SERIAL) return 0;
    this.#published[fd] = 1;
    return serial;
  }

  /** Closes a descriptor, as soon as no thread uses it. If it was not published, at once. */
  close(fd: Fd): void {
    if (this.#published[fd] !== 1) {
      native.close(fd);
      return;
    }
    this.#published[fd] = 0;
    const words = this.#words;
    // From here on no new turn finds the descriptor. The store comes before the loads below, since
    // both are sequentially consistent.
    Atomics.store(words, SERIALS + fd, words[SERIALS + fd]! + 1);
    const turns: Turn[] = [];
    for (const thread of this.#joined) {
      const turn = Atomics.load(words, thread * LINE);
      if ((turn & 1) === 1) turns.push({ thread, turn });
    }
    if (turns.length === 0) native.close(fd);
    else {
      this.#closing.push({ fd, turns });
      this.#retryLater();
    }
  }

  /** Descriptors that wait to be closed. */
  get pending(): number {
    return this.#closing.length;
  }

  /**
   * Waits up to a millisecond for turns to end, and closes the descriptors that wait for them. For
   * a caller that needs a descriptor when the process has none left.
   * @returns whether any was closed.
   */
  settle(): boolean {
    const { pending } = this;
    const end = performance.now() + RETRY_MS;
    while (this.#closing.length > 0 && performance.now() < end) this.#closeUnused();
    return this.pending < pending;
  }

  #retryLater(): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    setTimeout(() => {
      this.#isWaiting = false;
      this.#closeUnused();
      if (this.#closing.length > 0) this.#retryLater();
    }, RETRY_MS).unref();
  }

  /** Closes the descriptors whose turns have ended. */
  #closeUnused(): void {
    this.#closing = this.#closing.filter(({ fd, turns }) => {
      const isUsed = turns.some(({ thread, turn }) => Atomics.load(this.#words, thread * LINE) === turn);
      if (!isUsed) native.close(fd);
      return isUsed;
    });
  }
}

/** The one instance: descriptors are numbered for the whole process. */
export const sharedDescriptors = new SharedDescriptors();

/**
 * Closes a descriptor that a backend's `backing` may have returned, as soon as no thread uses it.
 * It takes a plain number, as authors of backends have it.
 */
export function closeBacking(fd: number): void {
  sharedDescriptors.close(fd as Fd);
}

/** {@link SharedDescriptors.settle} */
export function settleBackings(): boolean {
  return sharedDescriptors.settle();
}

/** A thread's use of {@link SharedDescriptors}. */
export class DescriptorUse {
  /** This thread's number. */
  readonly thread: number;
  readonly #words: Int32Array;
  readonly #at: number;
  #turn = 0;

  constructor({ state, thread }: DescriptorUser) {
    this.#words = new Int32Array(state);
    this.thread = thread;
    this.#at = thread * LINE;
    this.#turn = this.#words[this.#at]!;
  }

  /**
   * Begins a turn, if the thread is not in one. Descriptors that {@link isCurrent} confirms stay
   * open until {@link leave}.
   */
  enter(): void {
    if ((this.#turn & 1) === 0) this.#change();
  }

  /** Ends the turn, if the thread is in one. */
  leave(): void {
    if ((this.#turn & 1) === 1) this.#change();
  }

  #change(): void {
    this.#turn = (this.#turn + 1) | 0;
    Atomics.store(this.#words, this.#at, this.#turn);
  }

  /**
   * Whether a descriptor was not given up since it was published with this serial. To be asked
   * within a turn.
   */
  isCurrent(fd: Fd, serial: number): boolean {
    return Atomics.load(this.#words, SERIALS + fd) + 1 === serial;
  }
}
