import { Errno, FsError, LockHold, type Awaitable, type Context } from '../../backend/index.js';
import { type LockCompletion, LockType, type LockRequest, PARKED } from './request.js';
import type { LockSession } from './session.js';
import type { LockTable } from './table.js';

/** How a backend is asked for what guests' locks need: see `Backend.lock`. */
export type AskForHold<N> = (
  node: N,
  hold: LockHold,
  isWaiting: boolean,
  context: Context | undefined,
) => Awaitable<void>;

export interface HostLocksOptions<N> {
  readonly ask: AskForHold<N>;
  /** Called when a node begins to be referred to, which must not be forgotten from then on. */
  readonly retain: (node: N) => void;
  /** Called when it is no longer. */
  readonly release: (node: N) => void;
  /** Told why what was given up is not given up properly. */
  readonly report: (error: unknown) => void;
}

/** Milliseconds between two attempts of a request that waits: at first, and at most. */
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 500;
const PAUSE_GROWTH = 1.5;

/** What is held of a node. */
interface Held<N> {
  readonly node: N;
  hold: LockHold;
  /** Requests that are about to get their locks, by what they need. */
  readonly pending: Record<LockHold, number>;
  /** The question to the backend that is under way: there is one at a time. */
  asking: Promise<unknown> | undefined;
  /** The giving up that is under way: 0 or a positive errno. */
  lowering: Promise<number> | undefined;
}

/**
 * What an export holds at its backend, so that guests of other hosts keep to the locks of its own
 * guests. A guest's request gets what it needs there first, and then its lock in the
 * {@link LockTable}, where the guests of this export exclude each other.
 */
export class HostLocks<N> {
  readonly #table: LockTable<N>;
  readonly #options: HostLocksOptions<N>;
  readonly #held = new Map<N, Held<N>>();

  constructor(table: LockTable<N>, options: HostLocksOptions<N>) {
    this.#table = table;
    this.#options = options;
  }

  /**
   * GETLK for a file on which no guest of this export has a lock that conflicts.
   * @returns whether somebody else's is in the way.
   */
  async isTaken({ node, type }: LockRequest<N>, context: Context): Promise<boolean> {
    if (type === LockType.UNLOCK) return false;
    const held = this.#of(node);
    const hold = holdOf(type);
    held.pending[hold] += 1;
    try {
      await this.#raise(held, hold, false, context);
      return false;
    } catch (error) {
      if (isBusy(error)) return true;
      throw error;
    } finally {
      held.pending[hold] -= 1;
      void this.lower(node);
    }
  }

  /** SETLK. @returns 0 or a positive errno. */
  set(
    session: LockSession<N>,
    request: LockRequest<N>,
    isFlock: boolean,
    context: Context,
  ): Awaitable<number> {
    const claim = (): number => (isFlock ? session.flock(request) : session.set(request));
    const { node, type } = request;
    if (type !== LockType.READ && type !== LockType.WRITE) {
      const result = claim();
      const lowered = this.lower(node);
      return lowered === undefined || result !== 0 ? result : lowered;
    }
    return this.#claim(node, holdOf(type), false, context, claim);
  }

  /**
   * SETLKW for READ and WRITE. The request is parked while somebody else's lock is in the way, too.
   * @returns 0, a positive errno, or PARKED.
   */
  wait(
    session: LockSession<N>,
    request: LockRequest<N>,
    isFlock: boolean,
    unique: bigint,
    context: Context,
    done: LockCompletion,
  ): number {
    const { node, type, handle } = request;
    const cancelled = new AbortController();
    let isOver = false;
    const end = (errno: number): void => {
      if (isOver) return;
      isOver = true;
      done(errno);
    };
    const claim = (): number => {
      // From here on the table has it, or its result is known.
      session.arrived(unique);
      if (isOver) return 0;
      return isFlock ? session.flockWait(request, unique, end) : session.wait(request, unique, end);
    };
    const errno = session.waitElsewhere(unique, node, handle, (result) => {
      cancelled.abort();
      end(result);
    });
    if (errno !== 0) return errno;
    // The guest's request may be answered, and its context used again, before the backend is done.
    const own = { ...contextOf(context), signal: cancelled.signal };
    const result = this.#claim(node, holdOf(type), true, own, claim);
    if (typeof result === 'number') {
      session.arrived(unique);
      return result;
    }
    result.then(
      (value) => {
        session.arrived(unique);
        if (value !== PARKED) end(value);
      },
      (error: unknown) => {
        session.arrived(unique);
        end(errnoOf(error));
      },
    );
    return PARKED;
  }

  /**
   * Takes again what locks need that guests have since before a restart.
   * @param needs for each node
   * @returns those for which it can't be had.
   */
  async retake(needs: ReadonlyMap<N, LockHold>): Promise<ReadonlySet<N>> {
    const refused = new Set<N>();
    for (const [node, hold] of needs) {
      const held = this.#of(node);
      held.pending[hold] += 1;
      try {
        await this.#raise(held, hold, false, undefined);
      } catch (error) {
        this.#options.report(error);
        refused.add(node);
      } finally {
        held.pending[hold] -= 1;
      }
      if (refused.has(node)) this.#tidy(held);
    }
    return refused;
  }

  /**
   * Gives up what no lock of a node needs any more.
   * @returns a promise of 0 or a positive errno where that takes time; undefined if it is done.
   */
  lower(node: N): Promise<number> | undefined {
    const held = this.#held.get(node);
    if (held === undefined) return undefined;
    if (held.lowering !== undefined) return held.lowering;
    if (this.#needed(held) >= held.hold) {
      this.#tidy(held);
      return undefined;
    }
    held.lowering = this.#lower(held).finally(() => {
      held.lowering = undefined;
      // What was given up meanwhile has found this under way.
      void this.lower(node);
    });
    return held.lowering;
  }

  /** Waits until all that was given up is given up. */
  async settled(): Promise<void> {
    await Promise.all([...this.#held.values()].map(({ lowering }) => lowering));
  }

  async #lower(held: Held<N>): Promise<number> {
    return this.#alone(held, async () => {
      const needed = this.#needed(held);
      if (needed >= held.hold) return 0;
      try {
        await this.#options.ask(held.node, needed, false, undefined);
        return 0;
      } catch (error) {
        this.#options.report(error);
        return errnoOf(error);
      } finally {
        held.hold = needed;
      }
    });
  }

  #of(node: N): Held<N> {
    let held = this.#held.get(node);
    if (held === undefined) {
      const pending = { [LockHold.NONE]: 0, [LockHold.SHARED]: 0, [LockHold.EXCLUSIVE]: 0 };
      held = { node, hold: LockHold.NONE, pending, asking: undefined, lowering: undefined };
      this.#held.set(node, held);
      this.#options.retain(node);
    }
    return held;
  }

  #tidy(held: Held<N>): void {
    const isUsed = held.hold !== LockHold.NONE || held.asking !== undefined || held.lowering !== undefined;
    if (isUsed || this.#needed(held) !== LockHold.NONE || this.#held.get(held.node) !== held) return;
    this.#held.delete(held.node);
    this.#options.release(held.node);
  }

  /** What the locks of guests need, those that are waited for included. */
  #needed({ node, pending }: Held<N>): LockHold {
    if (pending[LockHold.EXCLUSIVE] > 0) return LockHold.EXCLUSIVE;
    const locked = this.#table.strongest(node);
    return pending[LockHold.SHARED] > 0 && locked === LockHold.NONE ? LockHold.SHARED : locked;
  }

  /** Gets what a lock needs, then the lock. What the lock does not get is given up again. */
  #claim(
    node: N,
    hold: LockHold,
    isWaiting: boolean,
    context: Context,
    claim: () => number,
  ): Awaitable<number> {
    const held = this.#of(node);
    held.pending[hold] += 1;
    const claimed = (): number => {
      const result = claim();
      held.pending[hold] -= 1;
      void this.lower(node);
      return result;
    };
    const failed = (error: unknown): number => {
      held.pending[hold] -= 1;
      void this.lower(node);
      return errnoOf(error);
    };
    let raised: Awaitable<void>;
    try {
      raised = isWaiting ? this.#patiently(held, hold, context) : this.#raise(held, hold, false, context);
    } catch (error) {
      return failed(error);
    }
    return raised instanceof Promise ? raised.then(claimed, failed) : claimed();
  }

  /** Asks again while somebody else's lock is in the way. @throws EINTR */
  #patiently(held: Held<N>, hold: LockHold, context: Context): Awaitable<void> {
    let first: Awaitable<void>;
    try {
      first = this.#raise(held, hold, true, context);
    } catch (error) {
      if (!isBusy(error)) throw error;
      first = Promise.reject(error);
    }
    return first instanceof Promise ? this.#again(first, held, hold, context) : undefined;
  }

  async #again(first: Promise<void>, held: Held<N>, hold: LockHold, context: Context): Promise<void> {
    let attempt = first;
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * PAUSE_GROWTH, LONGEST_PAUSE_MS)) {
      try {
        return await attempt;
      } catch (error) {
        if (!isBusy(error)) throw error;
      }
      // Two hosts that wait for the same lock do not ask in step.
      await pause(pauseMs * (0.5 + Math.random()), context.signal);
      attempt = Promise.resolve(this.#raise(held, hold, true, context));
    }
  }

  /** @throws EAGAIN where somebody else's lock is in the way. */
  #raise(held: Held<N>, hold: LockHold, isWaiting: boolean, context: Context | undefined): Awaitable<void> {
    const ask = (): Awaitable<void> => {
      // What is held already goes on being held.
      const all = hold > held.hold ? hold : held.hold;
      const asked = this.#options.ask(held.node, all, isWaiting, context);
      if (!(asked instanceof Promise)) {
        held.hold = all;
        return undefined;
      }
      return asked.then(() => void (held.hold = all));
    };
    if (held.asking !== undefined) return this.#alone(held, async () => ask());
    const asked = ask();
    if (asked instanceof Promise) return this.#alone(held, () => asked);
    return undefined;
  }

  /** Runs one question to the backend of a node after the other. */
  #alone<T>(held: Held<N>, work: () => Promise<T>): Promise<T> {
    const before = held.asking;
    const result = before === undefined ? work() : before.then(work);
    const over = result.then(
      () => undefined,
      () => undefined,
    );
    held.asking = over;
    void over.then(() => {
      if (held.asking === over) held.asking = undefined;
      this.#tidy(held);
    });
    return result;
  }
}

/** What a lock of a type needs. */
export function holdOf(type: number): LockHold {
  return type === LockType.WRITE ? LockHold.EXCLUSIVE : LockHold.SHARED;
}

function isBusy(error: unknown): boolean {
  return error instanceof FsError && error.code === 'EAGAIN';
}

function errnoOf(error: unknown): number {
  return error instanceof FsError ? error.errno : Errno.EIO;
}

function contextOf({ uid, gid, pid, umask, groups, securityContext }: Context): Omit<Context, 'signal'> {
  return { uid, gid, pid, umask, groups, securityContext };
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    if (signal.aborted) done();
    else signal.addEventListener('abort', done);
  });
  if (signal.aborted) throw FsError.of('EINTR');
}
