/** Words that both ends of a line see. */
const Word = {
  PASSED: 0,
  ANSWERED: 1,
  ENGINE_POLLS: 2,
  THREAD_POLLS: 3,
  NEXT: 4,
  STOPPED: 5,
  SIGNALLED: 6,
} as const;
const FIRST = 8;

/** Written instead of a length where a request could be neither understood nor answered. */
const FAILED = -1;

/**
 * What passes between the thread that serves a queue and the engine's thread: ids of chains one
 * way, ids and lengths of replies the other. A ring has so many chains at most that neither way can
 * overflow.
 */
class MailboxEnd {
  protected readonly words: Int32Array;
  protected readonly size: number;

  constructor(memory: SharedArrayBuffer, size: number) {
    this.words = new Int32Array(memory);
    this.size = size;
  }

  protected passedAt(count: number): number {
    return FIRST + (count & (this.size - 1));
  }

  protected answeredAt(count: number): number {
    return FIRST + this.size + 2 * (count & (this.size - 1));
  }
}

/**
 * Memory for a line.
 * @param size entries of the queue, a power of two.
 * @param base available index from which the thread goes on.
 */
export function mailboxMemory(size: number, base = 0): SharedArrayBuffer {
  const memory = new SharedArrayBuffer((FIRST + 3 * size) * 4);
  new Int32Array(memory)[Word.NEXT] = base;
  return memory;
}

/** The end that takes requests and answers them. */
export class EngineMailbox extends MailboxEnd {
  #taken = 0;
  #answered = 0;

  /** Requests that {@link take} would give. */
  get waiting(): number {
    return (Atomics.load(this.words, Word.PASSED) - this.#taken) | 0;
  }

  /** The next request's chain; there must be one. */
  take(): number {
    const id = this.words[this.passedAt(this.#taken)]!;
    this.#taken = (this.#taken + 1) | 0;
    return id;
  }

  /** @param written bytes of the reply, or nothing where there can be none. */
  answer(id: number, written: number | undefined): void {
    const at = this.answeredAt(this.#answered);
    this.words[at] = id;
    this.words[at + 1] = written ?? FAILED;
    this.#answered = (this.#answered + 1) | 0;
    Atomics.store(this.words, Word.ANSWERED, this.#answered);
  }

  /** The next available index that the thread would take. */
  get next(): number {
    return Atomics.load(this.words, Word.NEXT);
  }

  /** The thread is to serve nothing further, whatever it is just doing. */
  stop(): void {
    Atomics.store(this.words, Word.STOPPED, 1);
  }

  /** Whether the other end looks for answers by itself. */
  get isPolled(): boolean {
    return Atomics.load(this.words, Word.THREAD_POLLS) === 1;
  }

  /** From now on this end looks for requests by itself, or no longer. */
  setPolling(polls: boolean): void {
    // Before it looks for the last time: whoever passes something on afterwards tells. So each time
    // that this end was told must come to `look(false)`, whether it found something or not
    // (`Poller` does: it has all queues rest).
    Atomics.store(this.words, Word.SIGNALLED, 0);
    Atomics.store(this.words, Word.ENGINE_POLLS, polls ? 1 : 0);
  }
}

/** The end that passes requests on. */
export class ThreadMailbox extends MailboxEnd {
  #passed = 0;
  #collected = 0;

  /** The thread has taken a request. @returns false where it may not serve it any more. */
  take(): boolean {
    Atomics.store(this.words, Word.NEXT, (this.words[Word.NEXT]! + 1) & 0xffff);
    return Atomics.load(this.words, Word.STOPPED) === 0;
  }

  pass(id: number): void {
    this.words[this.passedAt(this.#passed)] = id;
    this.#passed = (this.#passed + 1) | 0;
    Atomics.store(this.words, Word.PASSED, this.#passed);
  }

  /** Passed on and not collected. */
  get pending(): number {
    return (this.#passed - this.#collected) | 0;
  }

  /** Whether there is an answer. */
  get ready(): boolean {
    return Atomics.load(this.words, Word.ANSWERED) !== this.#collected;
  }

  /** Takes the next answer; there must be one. */
  collect(answer: (id: number, written: number | undefined) => void): void {
    const at = this.answeredAt(this.#collected);
    this.#collected = (this.#collected + 1) | 0;
    const written = this.words[at + 1]!;
    answer(this.words[at]!, written === FAILED ? undefined : written);
  }

  /**
   * Whether the other end must be told of what was passed. To be asked after {@link pass}; it is
   * then taken as told.
   */
  get mustSignal(): boolean {
    if (Atomics.load(this.words, Word.ENGINE_POLLS) === 1) return false;
    return Atomics.exchange(this.words, Word.SIGNALLED, 1) === 0;
  }

  setPolling(polls: boolean): void {
    Atomics.store(this.words, Word.THREAD_POLLS, polls ? 1 : 0);
  }
}
