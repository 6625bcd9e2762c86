import type { Counters } from './counters.js';

/** How much guests may do in a second. What is absent has no limit. */
export interface RateLimits {
  /** Bytes that all guests together read and write, above 0. */
  readonly bytesPerSecond?: number | undefined;
  /** Requests of all guests together, above 0. */
  readonly operationsPerSecond?: number | undefined;
  /** Bytes that each guest reads and writes, above 0. */
  readonly guestBytesPerSecond?: number | undefined;
  /** Requests of each guest, above 0. */
  readonly guestOperationsPerSecond?: number | undefined;
}

/** What was not used may be used later, up to that of so many milliseconds. */
const SAVED_MS = 100;

/** A longer time would be none to Node's timers. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * A token bucket that may be overdrawn: a request begins while something is in it, and takes what
 * it then needs, which is known at its end only. Over time no more is taken than flows in.
 */
class Bucket {
  /** Units a millisecond; Infinity: no limit. */
  #perMs = Infinity;
  #level = 0;
  #at = performance.now();

  /** @param perSecond above 0; undefined: no limit. */
  set(perSecond: number | undefined): void {
    this.#flow();
    this.#perMs = (perSecond ?? Infinity) / 1000;
    this.#level = Math.min(this.#level, this.#perMs * SAVED_MS);
    if (this.#perMs === Infinity) this.#level = 0;
  }

  get isLimited(): boolean {
    return this.#perMs !== Infinity;
  }

  /** Milliseconds until a request may begin; 0: now. */
  get waitMs(): number {
    if (this.#perMs === Infinity) return 0;
    if (this.#level <= 0) this.#flow();
    return this.#level > 0 ? 0 : -this.#level / this.#perMs + 1e-3;
  }

  take(units: number): void {
    if (this.#perMs !== Infinity) this.#level -= units;
  }

  #flow(): void {
    const now = performance.now();
    if (this.#perMs !== Infinity)
      this.#level = Math.min(this.#level + (now - this.#at) * this.#perMs, this.#perMs * SAVED_MS);
    this.#at = now;
  }
}

/** What {@link GuestPace} needs of a request. */
export interface PacedRequest {
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
  /** When it came: milliseconds of `performance.now()`. */
  since: number;
}

/** What {@link GuestPace} needs of its session. */
export interface PacedSession<R extends PacedRequest> {
  readonly counters: Counters;
  /** Reads a request's arguments again, and serves it. Never throws. */
  resume(request: R): void;
}

/** What {@link ExportPace} needs of a guest. */
interface PacedGuest {
  readonly held: number;
  readonly waitMs: number;
  set(limits: RateLimits): void;
  beginNext(): boolean;
}

/** The pace of an export's guests, which may change at any time. */
export class ExportPace {
  readonly bytes = new Bucket();
  readonly operations = new Bucket();
  readonly #guests = new Set<PacedGuest>();
  #limits: RateLimits = {};
  /** Guests whose requests are held back: the one whose turn is next comes first. */
  readonly #waiting = new Set<PacedGuest>();
  #timer: NodeJS.Timeout | undefined;
  /** When the timer ends: milliseconds of `performance.now()`. */
  #due = 0;

  constructor(limits: RateLimits = {}) {
    this.set(limits);
  }

  set(limits: RateLimits): void {
    this.#limits = limits;
    this.bytes.set(limits.bytesPerSecond);
    this.operations.set(limits.operationsPerSecond);
    for (const guest of this.#guests) guest.set(limits);
    if (this.#waiting.size > 0) this.#advance();
  }

  /** The pace of one more guest, until {@link leave}. */
  join<R extends PacedRequest>(session: PacedSession<R>): GuestPace<R> {
    const guest = new GuestPace(this, session);
    guest.set(this.#limits);
    this.#guests.add(guest);
    return guest;
  }

  leave(guest: PacedGuest): void {
    this.#guests.delete(guest);
  }

  /** A guest has requests that wait. */
  wait(guest: PacedGuest): void {
    this.#waiting.add(guest);
    const { waitMs } = guest;
    // Timers know whole milliseconds.
    if (this.#timer === undefined || performance.now() + waitMs < this.#due - 1) this.#advanceIn(waitMs);
  }

  #advanceIn(waitMs: number): void {
    clearTimeout(this.#timer);
    this.#due = performance.now() + waitMs;
    // Sockets keep the process, not what is waited for.
    this.#timer = setTimeout(() => this.#advance(), Math.min(waitMs, LONGEST_MS)).unref();
  }

  #advance(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    // One request of each guest at a time, so that those of one do not take all.
    for (let begun = true; begun;) {
      begun = false;
      const turn = [...this.#waiting];
      for (const guest of turn) {
        if (guest.waitMs > 0 || !guest.beginNext()) continue;
        // Only who has begun goes to the end: the next turn may come with the next timer.
        this.#waiting.delete(guest);
        if (guest.held > 0) this.#waiting.add(guest);
        begun = true;
      }
    }
    for (const guest of this.#waiting) if (guest.held === 0) this.#waiting.delete(guest);
    if (this.#waiting.size === 0) return;
    this.#advanceIn(Math.min(...Array.from(this.#waiting, ({ waitMs }) => waitMs)));
  }
}

/** The pace of one guest: its own, and that of all. Holds back what comes too early. */
export class GuestPace<R extends PacedRequest> {
  readonly #export: ExportPace;
  readonly #session: PacedSession<R>;
  readonly #bytes = new Bucket();
  readonly #operations = new Bucket();
  #isLimited = false;
  /** In the order in which they begin. */
  #requests: R[] = [];

  constructor(shared: ExportPace, session: PacedSession<R>) {
    this.#export = shared;
    this.#session = session;
  }

  /** Whether there is no limit, and nothing waits: a request needs not be held. */
  get isOpen(): boolean {
    return !this.#isLimited && this.#requests.length === 0;
  }

  /** How many requests are held back. */
  get held(): number {
    return this.#requests.length;
  }

  set({ guestBytesPerSecond, guestOperationsPerSecond }: RateLimits): void {
    this.#bytes.set(guestBytesPerSecond);
    this.#operations.set(guestOperationsPerSecond);
    const { bytes, operations } = this.#export;
    this.#isLimited = [bytes, operations, this.#bytes, this.#operations].some(({ isLimited }) => isLimited);
  }

  /** Milliseconds until a request may begin; 0: now. */
  get waitMs(): number {
    const { bytes, operations } = this.#export;
    return Math.max(bytes.waitMs, operations.waitMs, this.#bytes.waitMs, this.#operations.waitMs);
  }

  /** A request has come. @returns whether it is held back; else it begins. */
  hold(request: R): boolean {
    if (this.isOpen) return false;
    if (this.#requests.length === 0 && this.waitMs === 0) {
      this.#begun();
      return false;
    }
    request.since = performance.now();
    this.#requests.push(request);
    this.#session.counters.heldBack += 1;
    this.#export.wait(this);
    return true;
  }

  /** Begins the next request that waits. @returns whether there was one. */
  beginNext(): boolean {
    const request = this.#requests.shift();
    if (request === undefined) return false;
    this.#session.counters.heldBackMs += performance.now() - request.since;
    this.#begun();
    this.#session.resume(request);
    return true;
  }

  /** Has all begin now: what they take is owed. */
  release(): void {
    while (this.beginNext());
  }

  /** Content was read or written. */
  moved(bytes: number): void {
    this.#export.bytes.take(bytes);
    this.#bytes.take(bytes);
  }

  /** Takes a request out that is held back, by the halves of its `unique`. */
  remove(low: number, high: number): R | undefined {
    const at = this.#requests.findIndex(
      ({ uniqueLow, uniqueHigh }) => uniqueLow === low && uniqueHigh === high,
    );
    return at < 0 ? undefined : this.#requests.splice(at, 1)[0];
  }

  /** Takes all out. */
  removeAll(): R[] {
    return this.#requests.splice(0);
  }

  /** The guest is gone. */
  end(): void {
    this.#export.leave(this);
  }

  #begun(): void {
    this.#export.operations.take(1);
    this.#operations.take(1);
  }
}
