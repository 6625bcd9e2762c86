import type { Completions, PolledQueue } from './queue-run.js';

/**
 * One turn of the event loop serves rings at most this long (ms), plus one drain; then others have
 * theirs.
 */
const TURN_TIME = 1;

/** After so many fruitless waits in a row their number is not doubled any more. */
const MOST_SKIPPED = 63;

/**
 * Serves the queues that belong together: after a kick it drains them all, and before it lets the
 * event loop sleep it may look on for a moment. A request that comes meanwhile spares the guest a
 * notification (an exit of its virtual machine) and this process a sleep, which together cost
 * several times a small request.
 *
 * Looking on pays only if the next request is near. Each time that nothing came, twice as many
 * pauses as before pass without it, up to 63; a request that came in time ends that. So an idle
 * daemon sleeps, and a busy machine, where the guest cannot run while this process looks, costs
 * little. A wait that costs what a sleep does is at worst twice as dear as the best choice.
 */
export class Poller {
  /** Milliseconds that rings are looked at before sleeping; 0 for never. */
  readonly #time: number;
  readonly #runs: PolledQueue[] = [];
  /** Those of the runs, each once. */
  #completions: readonly Completions[] = [];
  #skipped = 0;
  #skip = 0;
  #serving = false;
  #scheduled = false;

  /** @param microseconds 0 to 1000. @throws RangeError */
  constructor(microseconds = 0) {
    if (!(microseconds >= 0 && microseconds <= 1000)) {
      throw new RangeError(`${microseconds} µs: rings are polled for 0 to 1000`);
    }
    this.#time = microseconds / 1000;
  }

  /** Takes a queue's run among those served. */
  add(run: PolledQueue): void {
    this.#runs.push(run);
    this.#findCompletions();
  }

  remove(run: PolledQueue): void {
    const index = this.#runs.indexOf(run);
    if (index >= 0) this.#runs.splice(index, 1);
    this.#findCompletions();
  }

  /** Serves in a later turn of the event loop. */
  serveLater(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.serve();
    });
  }

  /** Serves all queues until they are empty, or the turn is over; then goes on in a later one. */
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
    for (let isLate = false; ;) {
      if (this.#drain() || isLate) return true;
      const found = this.#countReady() > 0 || (this.#mayLook() && this.#look());
      if (!found && !this.#rest() && !this.#leave()) return false;
      if (!found) this.#attend();
      isLate = performance.now() - begun > TURN_TIME;
    }
  }

  /**
   * Has each queue that is ready served: until it is empty, or where others are, what it has now.
   * @returns true if the turn is over.
   */
  #drain(): boolean {
    let over = false;
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) completions[i]!.collect();
    const isAlone = this.#countReady() === 1;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) {
      const run = runs[i]!;
      if (run.ready && run.drain(isAlone)) over = true;
    }
    return over;
  }

  #countReady(): number {
    let count = 0;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) if (runs[i]!.ready) count += 1;
    return count;
  }

  /**
   * What is in flight ends in a later turn of the event loop, and must not wait; unless it is
   * carried out beside this thread.
   */
  #mayLook(): boolean {
    if (this.#time === 0) return false;
    if (this.#skipped < this.#skip) {
      this.#skipped += 1;
      return false;
    }
    let waiting = 0;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) waiting += runs[i]!.inFlight;
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) waiting -= completions[i]!.pending;
    return waiting <= 0;
  }

  /** @returns whether a request came in time. */
  #look(): boolean {
    const runs = this.#runs;
    const completions = this.#completions;
    const end = performance.now() + this.#time;
    this.#skipped = 0;
    do {
      for (let i = 0; i < completions.length; i++) {
        if (!completions[i]!.ready) continue;
        this.#skip = 0;
        return true;
      }
      for (let i = 0; i < runs.length; i++) {
        if (!runs[i]!.ready) continue;
        this.#skip = 0;
        return true;
      }
    } while (performance.now() < end);
    this.#skip = Math.min(this.#skip * 2 + 1, MOST_SKIPPED);
    return false;
  }

  /** Asks for notifications. @returns true if requests came meanwhile, of which none may tell. */
  #rest(): boolean {
    let more = false;
    const runs = this.#runs;
    for (let i = 0; i < runs.length; i++) if (runs[i]!.rest()) more = true;
    return more;
  }

  /** Whoever carries requests out beside this thread need not wake it. */
  #attend(): void {
    const completions = this.#completions;
    for (let i = 0; i < completions.length; i++) completions[i]!.attend();
  }

  /** Ends what {@link #attend} began. @returns whether something is to be collected. */
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
