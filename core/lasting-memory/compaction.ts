import type { RecordLog } from './log.js';

/**
 * A log is compacted when it has more words than `SMALL_WORDS`, and more than `GROWTH` times as
 * many as the present state takes; or before it fills half of its part.
 */
const SMALL_WORDS = 1 << 12;
const GROWTH = 3;

/**
 * A compaction goes on a little with each record that is written: `PACE` words for each word of it,
 * and at least `LEAST_WORDS`.
 */
const PACE = 4;
const LEAST_WORDS = 64;

/** Writes a log anew, a little at a time, so that no request waits for it. */
export class Compaction {
  readonly #log: RecordLog;
  readonly #everything: () => Iterator<void>;
  readonly #boundary: () => void;
  #pass: Iterator<void> | undefined;
  /** Where the log stood when the pass was last driven, and its length when one was complete. */
  #driven: number;
  #needed: number;

  /**
   * @param everything writes all that there is, with a pause after each small part.
   * @param boundary makes valid what was written.
   */
  constructor(log: RecordLog, everything: () => Iterator<void>, boundary: () => void) {
    this.#log = log;
    this.#everything = everything;
    this.#boundary = boundary;
    this.#driven = log.position;
    this.#needed = log.length;
    // A process was killed in the middle of one.
    if (log.isHalved) this.#pass = everything();
  }

  /** The log has what is needed now, and nothing else. */
  written(): void {
    this.#needed = this.#log.length;
    this.#driven = this.#log.position;
  }

  /** Goes on. What was written and is not valid must be so at the end of a change. */
  collect(): void {
    const log = this.#log;
    if (this.#pass === undefined) {
      const many = Math.max(SMALL_WORDS, GROWTH * this.#needed);
      if (log.length <= Math.min(many, log.capacity >>> 1)) return;
      this.#boundary();
      log.turn();
      this.#driven = log.position;
      this.#pass = this.#everything();
    }
    const until = log.position + Math.max(LEAST_WORDS, PACE * (log.position - this.#driven));
    while (log.position < until) {
      if (this.#pass.next().done !== true) continue;
      this.#boundary();
      log.leave();
      this.#pass = undefined;
      this.#needed = log.length;
      break;
    }
    this.#boundary();
    this.#driven = log.position;
  }
}
