import { performance } from 'node:perf_hooks';
import { type AddressSpace, BackOff } from '../memory/index.js';
import { hasEventsWaiting, signalOwed } from '../system/index.js';
import type { Completions, PolledQueue, Turn } from './queue-run.js';

/**
 * How long one turn of the event loop serves rings; the last drain may take longer. Then the event
 * loop does its other work.
 */
const TURN_TIME_MS = 1;

/**
 * So long a guest has the thread, before one of its requests makes room for other guests in the
 * midst of it.
 */
const SHARE_TIME_MS = 0.01;

/**
 * How often it is looked for what else the thread sleeps for, among it the guests of other pollers:
 * where there are other guests, and where there are none.
 */
const LOOK_TIME_MS = 0.02;
const LONE_LOOK_TIME_MS = 0.2;

/** The guests whose queues this thread serves, of all pollers, and how many queues each has. */
const guests = new Map<AddressSpace, number>();

/** Pollers that are to serve in a later turn: their guests' requests come without notification. */
let due = 0;

/** A request that goes on later. */
interface Unfinished {
  readonly queue: PolledQueue;
  readonly goOn: () => void;
}

/**
 * Serves queues that belong together. After a kick it drains them all. Before it lets the event
 * loop sleep, it may poll the rings for a moment. A request that comes while it polls saves the
 * guest a notification (an exit of its virtual machine) and this process a sleep. Together these
 * cost several times as much as a small request.
 *
 * Polling pays only if the guest that was served last soon asks again. Each time that it did not,
 * about twice as many pauses as before pass without polling, up to 63; a request of it that comes
 * in time resets that. If another guest asks meanwhile, that request is served, but it was not
 * worth the wait: several guests at work need the processors themselves.
 *
 * So an idle daemon sleeps. On a busy machine, where the guest cannot run while this process polls,
 * little time is lost. If polling lasts about as long as a sleep costs, the loss is at most that of
 * one more sleep.
 */
export class Poller implements Turn {
  /** Whether only one queue was ready when the queues were last looked at. */
  isAlone = true;
  /** How long rings are polled before sleeping, in milliseconds; 0 for never. */
  readonly #time: number;
  readonly #runs: PolledQueue[] = [];
  /** The guest that was served last; undefined if there were several in one round. */
  #served: AddressSpace | undefined;
  /** The queue with which the next round begins: whoever has just been served comes last. */
  #first = 0;
  /** The completions of the queues' services, each once. */
  #completions: readonly Completions[] = [];
  readonly #backOff = new BackOff();
  readonly #unfinished: Unfinished[] = [];
  /** Since when one guest has the thread (milliseconds); 0 before it was looked at. */
  #servedSince = 0;
  /** When it was last looked for what else the thread sleeps for. */
  #looked = 0;
  /** Whether something was found, for which this turn of the event loop ends. */
  #isOver = false;
  #serving = false;
  #scheduled = false;

  /** @param microseconds 0 to 1000. @throws RangeError */
  constructor(microseconds = 0) {
    if (!(microseconds >= 0 && microseconds <= 1000)) {
      throw new RangeError(`${microseconds} µs: rings are polled for 0 to 1000`);
    }
    this.#time = microseconds / 1000;
  }

  /** Begins to serve a queue. */
  add(run: PolledQueue): void {
    this.#runs.push(run);
    guests.set(run.space, (guests.get(run.space) ?? 0) + 1);
    this.#findCompletions();
  }

  remove(run: PolledQueue): void {
    const index = this.#runs.indexOf(run);
    if (index < 0) return;
    this.#runs.splice(index, 1);
    const left = guests.get(run.space)! - 1;
    if (left === 0) guests.delete(run.space);
    else guests.set(run.space, left);
    this.#findCompletions();
  }

  /** Serves in a later turn of the event loop. */
  serveLater(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    due += 1;
    const serve = (): void => {
      this.#scheduled = false;
      due -= 1;
      this.serve();
    };
    // The thread's own sleep is an immediate, too, and comes after those that are there already.
    if (this.#isOver) setImmediate(() => setImmediate(serve));
    else setImmediate(serve);
  }

  /**
   * Serves all queues until they are empty. If the turn ends before that, a later turn continues.
   */
  serve(): void {
    if (this.#serving) return;
    this.#serving = true;
    try {
      this.#attend();
      if (this.#serve()) this.serveLater();
    } finally {
      this.#serving = false;
      if (this.#leave()) this.serveLater();
    }
  }

  /** @returns true if the turn is over before the rings are empty. */
  #serve(): boolean {
    const begun = performance.now();
    this.#looked = begun;
    this.#isOver = false;
    for (let isLate = false; ;) {
      if (this.#drain() || this.#isOver || isLate) return true;
      const found =
        this.#countReady() > 0 || this.#unfinished.length > 0 || (this.#mayPoll() && this.#poll());
      if (!found && !this.#rest() && !this.#leave()) return false;
      if (!found) this.#attend();
      const now = performance.now();
      isLate = now - begun > TURN_TIME_MS || this.isOver(now);
    }
  }

  /**
   * Drains each queue that is ready. If several are, each is served only the requests that are in
   * its ring now, and no longer than for a moment.
   * @returns true if the turn is over.
   */
  #drain(): boolean {
    let over = false;
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) completions[i]!.collect();
    if (this.#unfinished.length > 0) this.#goOn();
    this.isAlone = this.#countReady() === 1;
    const runs = this.#runs;
    const first = this.#first;
    // What a guest sent there before a request is done before it: what it forgets gives room.
    for (let i = 0; i < runs.length; i++) {
      const run = runs[i]!;
      if (!run.hasReplies && run.ready && !this.#isUnfinished(run) && run.drain()) over = true;
    }
    let served: AddressSpace | undefined;
    let isOne = true;
    for (let i = 0; i < runs.length; i++) {
      const at = (first + i) % runs.length;
      const run = runs[at]!;
      if (!run.hasReplies || !run.ready || this.#isUnfinished(run)) continue;
      this.#first = at + 1;
      this.#servedSince = 0;
      if (run.drain()) over = true;
      if (served !== undefined && served !== run.space) isOne = false;
      served = run.space;
    }
    if (served !== undefined) this.#served = isOne ? served : undefined;
    return over;
  }

  /** Whether a guest has made room in the midst of a request: its others come after that. */
  #isUnfinished({ space }: PolledQueue): boolean {
    const unfinished = this.#unfinished;
    for (let i = 0; i < unfinished.length; i++) if (unfinished[i]!.queue.space === space) return true;
    return false;
  }

  /** Goes on with the requests that have made room for others. */
  #goOn(): void {
    signalOwed();
    for (const { goOn } of this.#unfinished.splice(0)) {
      this.#servedSince = 0;
      goOn();
    }
  }

  goOnLater(queue: PolledQueue, goOn: () => void): void {
    this.#unfinished.push({ queue, goOn });
    if (!this.#serving) this.serveLater();
  }

  get isShared(): boolean {
    return guests.size > 1;
  }

  isWantedByOthers(queue: PolledQueue): boolean {
    if (guests.size <= 1) return false;
    const now = performance.now();
    if (this.#servedSince === 0) this.#servedSince = now;
    if (now - this.#servedSince < SHARE_TIME_MS) return false;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) if (runs[i]!.space !== queue.space && runs[i]!.ready) return true;
    const unfinished = this.#unfinished;
    for (let i = 0; i < unfinished.length; i++) if (unfinished[i]!.queue.space !== queue.space) return true;
    return this.isOver(now);
  }

  isOver(now: number): boolean {
    if (now - this.#looked < (guests.size > 1 ? LOOK_TIME_MS : LONE_LOOK_TIME_MS)) return this.#isOver;
    this.#looked = now;
    if (due > (this.#scheduled ? 1 : 0) || hasEventsWaiting()) this.#isOver = true;
    return this.#isOver;
  }

  isCalm(space: AddressSpace): boolean {
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) {
      const run = runs[i]!;
      if (run.space === space && (run.inFlight > 0 || run.isElsewhere)) return false;
    }
    return true;
  }

  isWantedBeside(queue: PolledQueue): boolean {
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) if (runs[i] !== queue && runs[i]!.ready) return true;
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) {
      if (completions[i] !== queue.completions && completions[i]!.ready) return true;
    }
    return false;
  }

  #countReady(): number {
    let count = 0;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) if (runs[i]!.ready) count += 1;
    return count;
  }

  /**
   * Whether polling is allowed now. Requests in flight end in a later turn of the event loop, which
   * must not be delayed. Those that other threads carry out do not count.
   */
  #mayPoll(): boolean {
    if (this.#time === 0) return false;
    if (this.#backOff.skips()) return false;
    let waiting = 0;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) waiting += runs[i]!.inFlight;
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) waiting -= completions[i]!.pending;
    return waiting <= 0;
  }

  /** Polls the rings. @returns whether a request came in time. */
  #poll(): boolean {
    const runs = this.#runs;
    const completions = this.#completions;
    signalOwed();
    let end = performance.now() + this.#time;
    let isLonger = false;
    do {
      for (let i = 0; i < completions.length; i++) {
        if (!completions[i]!.ready) continue;
        this.#backOff.tried(true);
        return true;
      }
      for (let i = 0; i < runs.length; i++) {
        const run = runs[i]!;
        if (!run.ready) continue;
        if (run.hasReplies) {
          this.#backOff.tried(run.space === this.#served);
          return true;
        }
        // Nobody waits for it: it is not what the rings are polled for. But the guest is awake.
        if (this.#isUnfinished(run)) continue;
        if (run.drain()) return true;
        if (!isLonger) end = performance.now() + this.#time;
        isLonger = true;
      }
    } while (performance.now() < end);
    this.#backOff.tried(false);
    return false;
  }

  /**
   * Asks for notifications.
   * @returns true if requests came just before that. No notification comes for them.
   */
  #rest(): boolean {
    let more = false;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) if (runs[i]!.rest()) more = true;
    return more;
  }

  /** Tells threads that carry out requests that they need not wake this thread. */
  #attend(): void {
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) completions[i]!.attend();
  }

  /** Ends {@link #attend}. @returns whether there are completions to collect. */
  #leave(): boolean {
    let more = false;
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) if (completions[i]!.rest()) more = true;
    return more;
  }

  #findCompletions(): void {
    const all = this.#runs.flatMap(({ completions }) => (completions === undefined ? [] : [completions]));
    this.#completions = [...new Set(all)];
  }
}
