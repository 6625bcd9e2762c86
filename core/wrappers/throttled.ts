import { setTimeout } from 'node:timers/promises';
import {
  type Awaitable,
  type Backend,
  type BackendMethod,
  type Context,
  FsError,
  UsageError,
  wrap,
  wrapEach,
} from '../backend/index.js';

/** How fast a throttled file system is. A limit that is absent is none. */
export interface ThrottledOptions {
  /** Bytes that are read and written in a second, more than 0. */
  readonly bytesPerSecond?: number;
  /** Requests in a second, reads and writes included, more than 0. */
  readonly operationsPerSecond?: number;
  /** Whether each guest has the limits for itself, or all share them. Default: `all`. */
  readonly each?: 'guest' | 'all';
}

/** Methods that are no requests of guests, or must not fail. */
const FREE: ReadonlySet<BackendMethod> = new Set<BackendMethod>([
  'mount',
  'unmount',
  'save',
  'restore',
  'claim',
  'health',
  'resolve',
  'release',
]);

/**
 * The same file system with a limit on bytes and requests a second. A request that comes too early
 * waits; one that is given up meanwhile ends with EINTR. Data goes by `read` and `write` alone:
 * with a limit on bytes there is no other way to move it.
 * @throws UsageError for a limit of 0 or less, and where `inner` is no backend.
 */
export function throttled<N extends object, F>(
  inner: Backend<N, F>,
  { bytesPerSecond, operationsPerSecond, each = 'all' }: ThrottledOptions,
): Backend<N, F> {
  let backend = inner;
  if (operationsPerSecond !== undefined) {
    const pace = new Pace(operationsPerSecond, each, 'operationsPerSecond');
    backend = wrapEach(backend, (method, next, args) => {
      const context = args.at(-1);
      return FREE.has(method) ? next() : pace.inTurn(1, context as Context, next);
    });
  }
  if (bytesPerSecond === undefined) return backend;
  const pace = new Pace(bytesPerSecond, each, 'bytesPerSecond');
  return wrap(backend, {
    read: (next, node, file, buffer, offset, context) =>
      pace.inTurn(buffer.length, context, () => next(node, file, buffer, offset, context)),
    write: (next, node, file, buffer, offset, flags, context) =>
      pace.inTurn(buffer.length, context, () => next(node, file, buffer, offset, flags, context)),
  });
}

/** The longest time that a timer of Node's can have. */
const LONGEST_MS = 2 ** 31 - 1;

/** When the next may start, in milliseconds of `performance.now()`. */
interface Clock {
  freeAtMs: number;
}

/** Lets a number of units pass in a second. */
class Pace {
  readonly #perSecond: number;
  readonly #shared: Clock = { freeAtMs: 0 };
  readonly #byGuest: WeakMap<object, Clock> | undefined;

  constructor(perSecond: number, each: 'guest' | 'all', option: string) {
    if (!(perSecond > 0)) throw new UsageError(`${option} ${perSecond}: must be more than 0`);
    this.#perSecond = perSecond;
    this.#byGuest = each === 'guest' ? new WeakMap() : undefined;
  }

  /** Calls `go` as soon as it may start, which may be at once. */
  inTurn<T>(units: number, { guest, signal }: Context, go: () => Awaitable<T>): Awaitable<T> {
    const clock = this.#clock(guest);
    const now = performance.now();
    const waitMs = clock.freeAtMs - now;
    const takesMs = (units / this.#perSecond) * 1000;
    clock.freeAtMs = Math.max(clock.freeAtMs, now) + takesMs;
    if (waitMs <= 0) return go();
    return setTimeout(Math.min(waitMs, LONGEST_MS), undefined, { signal }).then(go, () => {
      clock.freeAtMs -= takesMs;
      throw FsError.of('EINTR');
    });
  }

  #clock(guest: object | undefined): Clock {
    if (guest === undefined || this.#byGuest === undefined) return this.#shared;
    let clock = this.#byGuest.get(guest);
    if (clock === undefined) this.#byGuest.set(guest, (clock = { freeAtMs: 0 }));
    return clock;
  }
}
