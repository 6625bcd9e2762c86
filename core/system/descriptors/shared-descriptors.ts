import { libc } from '../calls/libc.js';

const closeFd = libc<(fd: number) => number>('close', 'int', ['int']);

/** Threads at most: {@link DescriptorUser.thread} is below. */
export const MOST_THREADS = 64;

/**
 * Descriptors of this number and above are not shown: they are few, and cost memory for each one
 * below.
 */
const DESCRIPTORS = 65_536;

/** A thread's turn has a cache line of its own. */
const LINE = 16;
const SERIALS = MOST_THREADS * LINE;

/** The last serial: a descriptor that was closed so often is not shown any more. */
const LAST_SERIAL = 0x7fffffff;

/** How long a descriptor waits to be looked at again, in milliseconds. */
const AGAIN = 1;

/** What a thread needs to know for a {@link DescriptorUse}. */
export interface DescriptorUser {
  readonly state: SharedArrayBuffer;
  /** Which of the threads it is. */
  readonly thread: number;
}

/** A descriptor that waits until threads have ended what they did when it was given up. */
interface Closing {
  readonly fd: number;
  /** The turns that were under way then. */
  readonly turns: readonly Turn[];
}

interface Turn {
  readonly thread: number;
  readonly turn: number;
}

/**
 * Descriptors of this process that other threads use for themselves, found in memory that all of
 * them see. One may be closed only when no thread is about to use its number, which may stand for
 * another file afterwards: threads use descriptors in turns, find them anew in each turn, and a
 * descriptor given up stays open until the turns that were under way are over (as in Linux's RCU).
 */
export class SharedDescriptors {
  #state: SharedArrayBuffer | undefined;
  #words: Int32Array = new Int32Array(0);
  /** Whether a thread may have seen it. */
  #shown = new Uint8Array(0);
  readonly #free = Array.from({ length: MOST_THREADS }, (_, index) => MOST_THREADS - 1 - index);
  readonly #joined = new Set<number>();
  #closing: Closing[] = [];
  #isWaiting = false;

  /** A thread begins. @throws RangeError for more than 64. */
  join(): DescriptorUser {
    if (this.#state === undefined) {
      this.#state = new SharedArrayBuffer((SERIALS + DESCRIPTORS) * 4);
      this.#words = new Int32Array(this.#state);
      this.#shown = new Uint8Array(DESCRIPTORS);
    }
    const thread = this.#free.pop();
    if (thread === undefined) throw new RangeError(`more than ${MOST_THREADS} threads`);
    this.#joined.add(thread);
    return { state: this.#state, thread };
  }

  /** A thread has ended, in whichever way. */
  leave({ thread }: DescriptorUser): void {
    Atomics.store(this.#words, thread * LINE, 0);
    this.#free.push(thread);
    this.#joined.delete(thread);
    this.#closeThose();
  }

  /**
   * A descriptor is going to be shown to threads.
   * @returns its serial, by which a thread knows that it was not closed since; or 0 where it can't
   * be shown.
   */
  show(fd: number): number {
    if (this.#joined.size === 0 || fd < 0 || fd >= DESCRIPTORS) return 0;
    const serial = this.#words[SERIALS + fd]! + 1;
    if (serial > LAST_SERIAL) return 0;
    this.#shown[fd] = 1;
    return serial;
  }

  /** Closes a descriptor that may have been shown: at once, or as soon as no thread uses it. */
  close(fd: number): void {
    if (this.#shown[fd] !== 1) {
      closeFd(fd);
      return;
    }
    this.#shown[fd] = 0;
    const words = this.#words;
    // From here on no turn that begins finds it; the store comes before the loads (both are
    // sequentially consistent).
    Atomics.store(words, SERIALS + fd, words[SERIALS + fd]! + 1);
    const turns: Turn[] = [];
    for (const thread of this.#joined) {
      const turn = Atomics.load(words, thread * LINE);
      if ((turn & 1) === 1) turns.push({ thread, turn });
    }
    if (turns.length === 0) closeFd(fd);
    else {
      this.#closing.push({ fd, turns });
      this.#lookLater();
    }
  }

  /** Descriptors that wait to be closed. */
  get pending(): number {
    return this.#closing.length;
  }

  /**
   * Waits a moment for those that wait to be closed: for a caller that can have no other
   * descriptors.
   * @returns whether there were some.
   */
  settle(): boolean {
    const { pending } = this;
    const end = performance.now() + AGAIN;
    while (this.#closing.length > 0 && performance.now() < end) this.#closeThose();
    return this.pending < pending;
  }

  #lookLater(): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    setTimeout(() => {
      this.#isWaiting = false;
      this.#closeThose();
      if (this.#closing.length > 0) this.#lookLater();
    }, AGAIN).unref();
  }

  /** Closes those whose turns are over. */
  #closeThose(): void {
    this.#closing = this.#closing.filter(({ fd, turns }) => {
      const isUsed = turns.some(({ thread, turn }) => Atomics.load(this.#words, thread * LINE) === turn);
      if (!isUsed) closeFd(fd);
      return isUsed;
    });
  }
}

/** Those of this process: numbers of descriptors are the process's. */
export const sharedDescriptors = new SharedDescriptors();

/**
 * Closes a descriptor that a backend's `backing` may have told: as soon as no thread uses it any
 * more.
 */
export function closeBacking(fd: number): void {
  sharedDescriptors.close(fd);
}

/** {@link SharedDescriptors.settle} */
export function settleBackings(): boolean {
  return sharedDescriptors.settle();
}

/** A thread's use of {@link SharedDescriptors}. */
export class DescriptorUse {
  /** Which of the threads this is. */
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
   * Begins a turn, if it is not in one: descriptors that are found current from here on stay open
   * until {@link leave}.
   */
  enter(): void {
    if ((this.#turn & 1) === 0) this.#change();
  }

  /** Ends the turn, if it is in one. */
  leave(): void {
    if ((this.#turn & 1) === 1) this.#change();
  }

  #change(): void {
    this.#turn = (this.#turn + 1) | 0;
    Atomics.store(this.#words, this.#at, this.#turn);
  }

  /**
   * Whether a descriptor was not given up since it was shown with this serial. To be asked within a
   * turn.
   */
  isCurrent(fd: number, serial: number): boolean {
    return Atomics.load(this.#words, SERIALS + fd) + 1 === serial;
  }
}
