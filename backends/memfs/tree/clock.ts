/**
 * The time of day in nanoseconds: the wall clock's milliseconds (`Date.now`), refined by the
 * monotonic clock. It never leaves the wall clock's millisecond, so a step of the wall clock takes
 * effect at once.
 */
export class Clock {
  /** Seconds since 1970-01-01T00:00Z at the last {@link tick}. */
  seconds = 0;
  /** Nanoseconds within the second, 0 to 999,999,999. */
  nanoseconds = 0;
  #offset = performance.timeOrigin;

  /** Reads the clocks. */
  tick(): void {
    const wall = Date.now();
    const monotonic = performance.now();
    let within = monotonic + this.#offset - wall;
    if (!(within >= 0 && within < 1)) {
      this.#offset = wall - monotonic;
      within = 0;
    }
    const seconds = Math.floor(wall / 1000);
    this.seconds = seconds;
    this.nanoseconds = (wall - seconds * 1000) * 1_000_000 + Math.floor(within * 1_000_000);
  }
}
