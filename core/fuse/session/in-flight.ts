import type { Request } from './request.js';

/** How many INTERRUPTs are remembered whose request has not come yet. */
const EARLY_INTERRUPTS = 64;

/** The requests of a session that wait for a promise or a lock. */
export class InFlight {
  /** In no particular order; each request knows its index, `place`. */
  readonly #requests: Request[] = [];
  /** Interrupted ids whose request has not come: the low and the high half of each. */
  readonly #early: number[] = [];
  readonly #whenIdle: (() => void)[] = [];

  get size(): number {
    return this.#requests.length;
  }

  /** How many wait for something else than a lock. */
  get others(): number {
    return this.#requests.filter(({ lockId }) => lockId === undefined).length;
  }

  /** @returns whether the request was interrupted before it came. */
  add(request: Request): boolean {
    request.place = this.#requests.length;
    this.#requests.push(request);
    const early = this.#early;
    for (let i = 0; i < early.length; i += 2) {
      if (early[i] !== request.uniqueLow || early[i + 1] !== request.uniqueHigh) continue;
      early.splice(i, 2);
      return true;
    }
    return false;
  }

  remove(request: Request): void {
    const last = this.#requests.pop()!;
    if (last !== request) {
      this.#requests[request.place] = last;
      last.place = request.place;
    }
    if (this.#requests.length === 0) for (const done of this.#whenIdle.splice(0)) done();
  }

  /** The request of an id, given by its halves as signed numbers. */
  find(low: number, high: number): Request | undefined {
    return this.#requests.find((request) => request.uniqueLow === low && request.uniqueHigh === high);
  }

  /** Calls `visit` for each; it may end requests. */
  each(visit: (request: Request) => void): void {
    for (const request of this.#requests.slice()) visit(request);
  }

  /**
   * Remembers an interrupt that came before its request, as may happen between queues. {@link add}
   * reports it.
   */
  expect(low: number, high: number): void {
    if (this.#early.length === EARLY_INTERRUPTS * 2) this.#early.splice(0, 2);
    this.#early.push(low, high);
  }

  forgetExpected(): void {
    this.#early.length = 0;
  }

  /**
   * Waits until nothing is in flight.
   * @returns whether that came about within the timeout.
   */
  async idle(timeoutMs: number): Promise<boolean> {
    if (this.#requests.length === 0) return true;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), timeoutMs);
    });
    const idle = new Promise<true>((resolve) => {
      this.#whenIdle.push(() => resolve(true));
    });
    const result = await Promise.race([idle, late]);
    clearTimeout(timer);
    return result;
  }
}
