/**
 * Words that both ends share: how many requests were passed and answered so far, whether an end
 * polls, the thread's next available index, whether the queue was stopped, whether the engine's
 * thread was signalled, and how many answers the thread has returned to the guest.
 */
const Word = {
  PASSED: 0,
  ANSWERED: 1,
  ENGINE_POLLS: 2,
  THREAD_POLLS: 3,
  NEXT: 4,
  STOPPED: 5,
  SIGNALLED: 6,
  COLLECTED: 7,
} as const;
const FIRST = 8;

/** Stands for a reply's length where a request could not be answered at all. */
const FAILED = -1;

/**
 * A queue's mailbox in shared memory, between the thread that serves the queue and the engine's
 * thread. The thread passes requests on: the ids of their descriptor chains. The engine's thread
 * answers: an id and the length of the reply. A queue has at most `size` chains in flight, so
 * neither direction can overflow.
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
 * Memory for a mailbox.
 * @param size entries of the queue, a power of two.
 * @param base available index at which the thread begins.
 */
export function mailboxMemory(size: number, base = 0): SharedArrayBuffer {
  const memory = new SharedArrayBuffer((FIRST + 3 * size) * 4);
  new Int32Array(memory)[Word.NEXT] = base;
  return memory;
}

/** The engine thread's end: takes requests and answers them. */
export class EngineMailbox extends MailboxEnd {
  #taken = 0;
  #answered = 0;

  /** How many requests {@link take} can return now. */
  get waiting(): number {
    return (Atomics.load(this.words, Word.PASSED) - this.#taken) | 0;
  }

  /** Takes the next request, of which there must be one. @returns the id of its chain. */
  take(): number {
    const id = this.words[this.passedAt(this.#taken)]!;
    this.#taken = (this.#taken + 1) | 0;
    return id;
  }

  /** @param written bytes of the reply; undefined if the request could not be answered. */
  answer(id: number, written: number | undefined): void {
    const at = this.answeredAt(this.#answered);
    this.words[at] = id;
    this.words[at + 1] = written ?? FAILED;
    this.#answered = (this.#answered + 1) | 0;
    Atomics.store(this.words, Word.ANSWERED, this.#answered);
  }

  /** Whether every answer was returned to the guest. */
  get isCollected(): boolean {
    return Atomics.load(this.words, Word.COLLECTED) === this.#answered;
  }

  /** The available index that the thread takes next. */
  get next(): number {
    return Atomics.load(this.words, Word.NEXT);
  }

  /** From now on {@link ThreadMailbox.take} refuses: the thread serves nothing further. */
  stop(): void {
    Atomics.store(this.words, Word.STOPPED, 1);
  }

  /** Whether the thread polls for answers, so that it needs no signal. */
  get isPolled(): boolean {
    return Atomics.load(this.words, Word.THREAD_POLLS) === 1;
  }

  /** Says whether this end polls for requests, so that it needs no signal. */
  setPolling(polls: boolean): void {
    // Cleared before the last look: a request passed on after it is signalled again. A signal stays
    // set until then, so each one must lead to `setPolling(false)`, whether or not there was a
    // request. `Poller` sees to that: it lets all its queues rest.
    Atomics.store(this.words, Word.SIGNALLED, 0);
    Atomics.store(this.words, Word.ENGINE_POLLS, polls ? 1 : 0);
  }
}

/** The thread's end: passes requests on and collects their answers. */
export class ThreadMailbox extends MailboxEnd {
  #passed = 0;
  #collected = 0;
  #again: number;

  /** @param again requests that the thread takes first, which lie before its first index. */
  constructor(memory: SharedArrayBuffer, size: number, again = 0) {
    super(memory, size);
    this.#again = again;
  }

  /**
   * To be called for each request that the thread takes from the ring.
   * @returns false if the queue was stopped: the thread must not serve the request.
   */
  take(): boolean {
    if (this.#again > 0) this.#again -= 1;
    else Atomics.store(this.words, Word.NEXT, (this.words[Word.NEXT]! + 1) & 0xffff);
    return Atomics.load(this.words, Word.STOPPED) === 0;
  }

  pass(id: number): void {
    this.words[this.passedAt(this.#passed)] = id;
    this.#passed = (this.#passed + 1) | 0;
    Atomics.store(this.words, Word.PASSED, this.#passed);
  }

  /** Requests that were passed on and whose answers are not yet collected. */
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
    Atomics.store(this.words, Word.COLLECTED, this.#collected);
  }

  /**
   * Whether the engine's thread must be signalled. To be asked after {@link pass}. If it returns
   * true, the signal counts as sent and the caller must send it.
   */
  get mustSignal(): boolean {
    if (Atomics.load(this.words, Word.ENGINE_POLLS) === 1) return false;
    return Atomics.exchange(this.words, Word.SIGNALLED, 1) === 0;
  }

  setPolling(polls: boolean): void {
    Atomics.store(this.words, Word.THREAD_POLLS, polls ? 1 : 0);
  }
}
