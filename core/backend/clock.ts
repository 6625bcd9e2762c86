/**
 * The time of day in nanoseconds: the wall clock's milliseconds (`Date.now`), refined by the
 * monotonic clock. It never leaves the wall clock's millisecond, so a step of the wall clock, or a
 * host that was suspended, takes effect at once; within a millisecond it does not go back.
 */
export class Clock {
  /** Seconds since 1970-01-01T00:00Z at the last {@link tick}. */
  seconds = 0;
  /** Nanoseconds within the second, 0 to 999,999,999. */
  nanoseconds = 0;
  #offset = performance.timeOrigin;
  #wall = Number.NaN;
  /** Nanoseconds within the wall clock's millisecond. */
  #within = 0;

  /** Reads the clocks. */
  tick(): void {
    const wall = Date.now();
    const monotonic = performance.now();
    let within = Math.floor((monotonic + this.#offset - wall) * 1_000_000);
    if (!(within >= 0 && within < 1_000_000)) {
      this.#offset = wall - monotonic;
      within = 0;
    }
    // The thread may have been held between the two readings, or they do not tell times apart.
    if (wall === this.#wall && within <= this.#within) within = Math.min(this.#within + 1, 999_999);
    this.#wall = wall;
    this.#within = within;
    const seconds = Math.floor(wall / 1000);
    this.seconds = seconds;
    this.nanoseconds = (wall - seconds * 1000) * 1_000_000 + within;
  }
}
