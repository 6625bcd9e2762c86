import { Errno, LockHold } from '../../backend/index.js';
import { eachInTurns } from '../../backend/in-turns.js';
import { wouldDeadlock } from './deadlock.js';
import { FileRanges, type Range } from './file-ranges.js';
import { OwnerRanges } from './owner-ranges.js';
import {
  type Claim,
  type Elsewhere,
  type FileLocks,
  findBlocker,
  type Owner,
  type Waiter,
} from './records.js';
import { LockSession } from './session.js';
import { defaultLockLimits, type LockLimits } from './limits.js';
import {
  type LockCompletion,
  type LockConflict,
  type LockRequest,
  LockType,
  type LockTypeValue,
  OFFSET_MAX,
  PARKED,
} from './request.js';

/** How a table is set up. */
export interface LockTableOptions<N> {
  readonly limits?: Partial<LockLimits>;
  /** Called when the table begins to refer to a node, which must not be forgotten from then on. */
  readonly retain?: (node: N) => void;
  /** Called when the table no longer refers to a node. */
  readonly release?: (node: N) => void;
  /** Called when locks on a node, or requests for them, may have become less. */
  readonly loosened?: (node: N) => void;
}

/** A range that an owner has locked; with UNLOCK, one that is no longer. */
export interface LockChange<N> {
  readonly owner: Owner<N>;
  readonly type: number;
  readonly start: bigint;
  readonly end: bigint;
  /** Those of the owner's latest request, for all of its ranges. */
  readonly pid: number;
  readonly handle: number;
}

/** Told of changes of a {@link LockTable}. */
export interface LockObserver<N> {
  /** Ranges of one owner on a node differ in their starts. */
  changed(kind: 'posix' | 'flock', node: N, change: LockChange<N>): void;
}

/** A parked request, and one owner whose lock is in its way. */
export interface WaitingLock<N> {
  readonly node: N;
  readonly kind: 'posix' | 'flock';
  readonly type: number;
  readonly start: bigint;
  readonly end: bigint;
  /** The session that waits, and the process in its guest. */
  readonly session: number;
  readonly pid: number;
  readonly heldBySession: number;
  readonly heldByPid: number;
  /** When the request came, in milliseconds of `performance.now()`. */
  readonly since: number;
}

/** What a session keeps for the table. */
export interface SessionRecord<N> {
  readonly id: number;
  readonly owners: Map<bigint, Owner<N>>;
  readonly waiters: Map<bigint, Waiter<N>>;
  readonly elsewhere: Map<bigint, Elsewhere<N>>;
  maxWaiters: number;
  locks: number;
  closed: boolean;
}

/** Ranges of one owner that are dropped without a turn of the event loop, and such steps. */
const DROPPED_AT_ONCE = 256;
const STEPS_AT_ONCE = 16;

interface Touched<N> {
  readonly file: FileLocks<N>;
  readonly owner: Owner<N>;
}

/**
 * The locks of one export. All its sessions share them, so guests that use the same file exclude
 * each other.
 *
 * A request is granted at once if it conflicts with no lock that is held, even if other requests
 * wait (POSIX `fcntl`: only held locks block). Waiting requests are granted in order of arrival, as
 * soon as no held lock conflicts with them.
 */
export class LockTable<N> {
  readonly #options: LockTableOptions<N>;
  readonly #limits: LockLimits;
  readonly #files = new Map<N, FileLocks<N>>();
  readonly #sessions = new Map<number, SessionRecord<N>>();
  #locks = 0;
  #waiters = 0;
  #serial = 0;
  /** Owners that have given up some lock on a file: others may get theirs now. */
  readonly #loosened: Touched<N>[] = [];
  /** Owners and files that may have no locks and no parked requests left. */
  readonly #touched: Touched<N>[] = [];
  /** Parked requests whose results are known but not reported yet. */
  readonly #ended: { done: LockCompletion; errno: number }[] = [];
  #completing = false;
  observer: LockObserver<N> | undefined = undefined;

  constructor(options: LockTableOptions<N> = {}) {
    this.#options = options;
    this.#limits = { ...defaultLockLimits, ...options.limits };
  }

  /** How many ranges all sessions have locked, and how many requests are parked. */
  get counts(): { readonly locks: number; readonly waiters: number } {
    return { locks: this.#locks, waiters: this.#waiters };
  }

  /**
   * Opens a session for a guest. A restored session has its former locks and parked requests.
   * @param id the session's number, also in the saved form.
   * @param maxWaiters how many parked requests the session may have. Default: the table's limit.
   */
  openSession(id: number, maxWaiters?: number): LockSession<N> {
    return new LockSession(this, this.sessionRecord(id, maxWaiters));
  }

  /**
   * GETLK.
   * @returns a conflicting lock, undefined if there is none, or a positive errno (EINVAL).
   */
  test(session: SessionRecord<N>, request: LockRequest<N>): LockConflict | undefined | number {
    if (!isValid(request)) return Errno.EINVAL;
    const file = this.#files.get(request.node);
    if (file === undefined || request.type === LockType.UNLOCK) return undefined;
    const owner = session.owners.get(request.owner);
    const range = file.ranges.conflict(owner, request.start, request.end, request.type);
    if (range === undefined) return undefined;
    const pid = range.owner.session === session.id ? file.posix.get(range.owner)!.pid : 0;
    return { type: range.type as LockTypeValue, start: range.start, end: range.end, pid };
  }

  /** SETLK and, with `unique` and `done`, SETLKW. @returns 0, a positive errno, or PARKED. */
  posix(session: SessionRecord<N>, request: LockRequest<N>, unique?: bigint, done?: LockCompletion): number {
    if (!isValid(request)) return Errno.EINVAL;
    if (request.type === LockType.UNLOCK && !this.#files.get(request.node)?.posix.size) return 0;
    const file = this.#file(request.node);
    const owner = this.#owner(session, request.owner);
    const { type, start, end, pid, handle } = request;
    const claim: Claim<N> = { kind: 'posix', file, owner, type, start, end, pid, handle };
    const result = this.#claim(session, claim, unique, done);
    this.#settle(file, owner);
    return result;
  }

  /**
   * flock. A conversion releases the old lock, grants requests that waited for it, and then asks
   * for the new lock. If that fails, the old lock is lost (`flock(2)`: "Converting a lock is not
   * guaranteed to be atomic").
   * @returns 0, a positive errno, or PARKED.
   */
  flock(session: SessionRecord<N>, request: LockRequest<N>, unique?: bigint, done?: LockCompletion): number {
    const { type, pid, handle } = request;
    if (type !== LockType.READ && type !== LockType.WRITE && type !== LockType.UNLOCK) return Errno.EINVAL;
    if (type === LockType.UNLOCK && !this.#files.get(request.node)?.flock.size) return 0;
    const file = this.#file(request.node);
    const owner = this.#owner(session, request.owner);
    const held = file.flock.get(owner);
    let result = 0;
    if (held?.type !== type) {
      this.#dropFlock(session, file, owner);
      this.#wakeAll();
      const claim: Claim<N> = { kind: 'flock', file, owner, type, start: 0n, end: OFFSET_MAX, pid, handle };
      if (type !== LockType.UNLOCK) result = this.#claim(session, claim, unique, done);
    }
    this.#settle(file, owner);
    return result;
  }

  /**
   * Removes all record locks of an owner on a node.
   * @returns a promise if there are many.
   */
  dropOwner(session: SessionRecord<N>, node: N, ownerId: bigint): Promise<void> | undefined {
    const file = this.#files.get(node);
    const owner = session.owners.get(ownerId);
    if (file === undefined || owner === undefined) return undefined;
    return this.#dropAll(session, [{ file, owner }], () => ({ posix: true, flock: false }));
  }

  /** Removes an owner's flock on a node. */
  dropFlock(session: SessionRecord<N>, node: N, ownerId: bigint): void {
    const file = this.#files.get(node);
    const owner = session.owners.get(ownerId);
    if (file === undefined || owner === undefined) return;
    this.#dropFlock(session, file, owner);
    this.#settle(file, owner);
  }

  /**
   * Removes the locks and parked requests that a session has on a node through a closed handle.
   * @returns a promise if there are many.
   */
  dropHandle(session: SessionRecord<N>, node: N, handle: number): Promise<void> | undefined {
    for (const [unique, waiter] of session.elsewhere) {
      if (waiter.node === node && waiter.handle === handle) this.cancel(session, unique, Errno.EBADF);
    }
    const file = this.#files.get(node);
    if (file === undefined || session.owners.size === 0) return undefined;
    for (const waiter of file.waiters) {
      const { owner, handle: through } = waiter.claim;
      if (owner.session !== session.id || through !== handle) continue;
      this.#end(waiter, Errno.EBADF);
      this.#settle(file, owner);
    }
    // Other guests may have many on the same file, and this one on others.
    const owners =
      file.posix.size + file.flock.size < session.owners.size
        ? new Set([...file.posix.keys(), ...file.flock.keys()])
        : session.owners.values();
    const drops = (_file: FileLocks<N>, owner: Owner<N>): { posix: boolean; flock: boolean } => ({
      posix: file.posix.get(owner)?.handle === handle,
      flock: file.flock.get(owner)?.handle === handle,
    });
    const held: Touched<N>[] = [];
    for (const owner of owners) {
      if (owner.session !== session.id) continue;
      const { posix, flock } = drops(file, owner);
      if (posix || flock) held.push({ file, owner });
    }
    return this.#dropAll(session, held, drops);
  }

  /** Ends one parked request. @returns whether it was there. */
  cancel(session: SessionRecord<N>, unique: bigint, errno: number): boolean {
    const elsewhere = session.elsewhere.get(unique);
    if (elsewhere !== undefined) {
      this.arrived(session, unique);
      elsewhere.cancel(errno);
      return true;
    }
    const waiter = session.waiters.get(unique);
    if (waiter === undefined) return false;
    this.#end(waiter, errno);
    this.#settle(waiter.claim.file, waiter.claim.owner);
    return true;
  }

  /**
   * Ends a session: its parked requests first, then its locks.
   * @returns a promise if there are many.
   */
  closeSession(session: SessionRecord<N>, errno: number): Promise<void> | undefined {
    session.closed = true;
    for (const unique of [...session.waiters.keys(), ...session.elsewhere.keys()])
      this.cancel(session, unique, errno);
    const held: Touched<N>[] = [];
    for (const owner of session.owners.values()) for (const file of owner.files) held.push({ file, owner });
    const dropped = this.#dropAll(session, held, () => ({ posix: true, flock: true }));
    const end = (): void => void this.#sessions.delete(session.id);
    if (dropped !== undefined) return dropped.then(end);
    end();
    return undefined;
  }

  /**
   * Parks a request that waits for somebody outside of the table.
   * @returns 0 or a positive errno.
   */
  waitElsewhere(session: SessionRecord<N>, unique: bigint, waiter: Elsewhere<N>): number {
    if (session.waiters.has(unique) || session.elsewhere.has(unique)) return Errno.EINVAL;
    if (!this.#mayWait(session)) return Errno.ENOLCK;
    session.elsewhere.set(unique, waiter);
    this.#waiters += 1;
    return 0;
  }

  /** Ends what {@link waitElsewhere} has begun, if it is not ended. */
  arrived(session: SessionRecord<N>, unique: bigint): void {
    if (session.elsewhere.delete(unique)) this.#waiters -= 1;
  }

  /** What the locks on a node need, and those that are waited for here. */
  strongest(node: N): LockHold {
    const file = this.#files.get(node);
    if (file === undefined) return LockHold.NONE;
    // If several owners have a flock, all of these are shared.
    const [flock] = file.flock.values();
    if (file.ranges.hasExclusive || flock?.type === LockType.WRITE) return LockHold.EXCLUSIVE;
    for (const { claim } of file.waiters) if (claim.type === LockType.WRITE) return LockHold.EXCLUSIVE;
    const isLocked = file.posix.size > 0 || file.flock.size > 0 || file.waiters.size > 0;
    return isLocked ? LockHold.SHARED : LockHold.NONE;
  }

  /** The files on which there are locks or parked requests. */
  files(): Iterable<FileLocks<N>> {
    return this.#files.values();
  }

  /** The parked requests, those on one file in order of arrival. @param most how many of them. */
  waiting(most: number): readonly WaitingLock<N>[] {
    const found: WaitingLock<N>[] = [];
    for (const { node, posix, flock, waiters } of this.#files.values()) {
      for (const { claim, blocker, since } of waiters) {
        if (found.length === most) return found;
        const { kind, owner, type, start, end, pid } = claim;
        const held = kind === 'posix' ? posix.get(blocker) : flock.get(blocker);
        found.push({
          node,
          kind,
          type,
          start,
          end,
          session: owner.session,
          pid,
          heldBySession: blocker.session,
          heldByPid: held?.pid ?? 0,
          since,
        });
      }
    }
    return found;
  }

  /** The record of a session, made if it is new. */
  sessionRecord(id: number, maxWaiters = this.#limits.sessionWaiters): SessionRecord<N> {
    let session = this.#sessions.get(id);
    if (session === undefined) {
      const maps = { owners: new Map(), waiters: new Map(), elsewhere: new Map() };
      session = { id, ...maps, maxWaiters, locks: 0, closed: false };
      this.#sessions.set(id, session);
    }
    session.maxWaiters = maxWaiters;
    return session;
  }

  #file(node: N): FileLocks<N> {
    let file = this.#files.get(node);
    if (file === undefined) {
      const maps = { posix: new Map(), flock: new Map(), waiters: new Set<Waiter<N>>(), blocked: new Map() };
      file = { node, ...maps, ranges: new FileRanges() };
      this.#files.set(node, file);
      this.#options.retain?.(node);
    }
    return file;
  }

  #owner(session: SessionRecord<N>, id: bigint): Owner<N> {
    let owner = session.owners.get(id);
    if (owner === undefined) {
      owner = { serial: this.#serial++, session: session.id, id, files: new Set(), waits: new Set() };
      session.owners.set(id, owner);
    }
    return owner;
  }

  /** Grants a claim, or parks it if it may wait. @returns 0, a positive errno, or PARKED. */
  #claim(session: SessionRecord<N>, claim: Claim<N>, unique?: bigint, done?: LockCompletion): number {
    const blocker = findBlocker(claim);
    if (blocker === undefined) return this.#grant(session, claim);
    if (done === undefined || unique === undefined) return Errno.EAGAIN;
    if (claim.kind === 'posix' && wouldDeadlock(claim)) return Errno.EDEADLK;
    if (session.waiters.has(unique)) return Errno.EINVAL;
    if (!this.#mayWait(session)) return Errno.ENOLCK;
    const since = performance.now();
    const waiter: Waiter<N> = { claim, unique, sequence: this.#serial++, since, blocker, done };
    session.waiters.set(unique, waiter);
    claim.file.waiters.add(waiter);
    claim.owner.waits.add(waiter);
    this.#block(waiter, blocker);
    this.#waiters += 1;
    return PARKED;
  }

  #mayWait({ waiters, elsewhere, maxWaiters, closed }: SessionRecord<N>): boolean {
    if (closed || waiters.size + elsewhere.size >= maxWaiters) return false;
    return this.#waiters < this.#limits.totalWaiters;
  }

  #grant(session: SessionRecord<N>, claim: Claim<N>): number {
    return claim.kind === 'posix' ? this.#grantPosix(session, claim) : this.#grantFlock(session, claim);
  }

  #grantPosix(session: SessionRecord<N>, { file, owner, type, start, end, pid, handle }: Claim<N>): number {
    const holding = file.posix.get(owner) ?? { list: new OwnerRanges(owner, file.ranges), pid, handle };
    const change = holding.list.plan(start, end, type);
    const more = change.insert.length - change.remove;
    if (more > 0 && !this.#hasRoom(session, more)) return Errno.ENOLCK;
    const { observer } = this;
    if (observer !== undefined) {
      const by = type === LockType.UNLOCK ? holding : { pid, handle };
      const tell = (range: Range<Owner<N>>, now: number): void =>
        observer.changed('posix', file.node, { owner, type: now, start: range.start, end: range.end, ...by });
      for (const range of holding.list.ranges.slice(change.at, change.at + change.remove))
        tell(range, LockType.UNLOCK);
      for (const range of change.insert) tell(range, range.type);
    }
    holding.list.apply(change);
    this.#count(session, more);
    if (type !== LockType.UNLOCK) {
      holding.pid = pid;
      holding.handle = handle;
    }
    if (holding.list.ranges.length > 0) {
      file.posix.set(owner, holding);
      owner.files.add(file);
    } else {
      file.posix.delete(owner);
    }
    if (change.loosens) this.#loosened.push({ file, owner });
    return 0;
  }

  #grantFlock(session: SessionRecord<N>, { file, owner, type, pid, handle }: Claim<N>): number {
    const held = file.flock.get(owner);
    const more = held === undefined ? 1 : 0;
    if (more > 0 && !this.#hasRoom(session, more)) return Errno.ENOLCK;
    file.flock.set(owner, { type, pid, handle });
    this.observer?.changed('flock', file.node, { owner, type, start: 0n, end: OFFSET_MAX, pid, handle });
    owner.files.add(file);
    this.#count(session, more);
    if (held?.type === LockType.WRITE) this.#loosened.push({ file, owner });
    return 0;
  }

  /** Removes locks: few at once, more in turns of the event loop. */
  #dropAll(
    session: SessionRecord<N>,
    held: readonly Touched<N>[],
    drops: (file: FileLocks<N>, owner: Owner<N>) => { readonly posix: boolean; readonly flock: boolean },
  ): Promise<void> | undefined {
    const steps: (Touched<N> & { readonly isLast: boolean })[] = [];
    for (const { file, owner } of held) {
      const ranges = file.posix.get(owner)?.list.ranges.length ?? 0;
      const count = drops(file, owner).posix ? Math.ceil(ranges / DROPPED_AT_ONCE) : 1;
      for (let left = Math.max(1, count); left > 0; left--) steps.push({ file, owner, isLast: left === 1 });
    }
    const drop = (index: number): void => {
      const { file, owner, isLast } = steps[index]!;
      const { posix, flock } = drops(file, owner);
      // What was locked meanwhile goes with the last step.
      if (posix) this.#dropPosix(session, file, owner, isLast ? Infinity : DROPPED_AT_ONCE);
      if (!isLast) return;
      if (flock) this.#dropFlock(session, file, owner);
      this.#settle(file, owner);
    };
    return eachInTurns(0, steps.length, drop, STEPS_AT_ONCE);
  }

  /** @param most ranges that are removed. */
  #dropPosix(session: SessionRecord<N>, file: FileLocks<N>, owner: Owner<N>, most: number): void {
    const holding = file.posix.get(owner);
    if (holding === undefined) return;
    const removed = holding.list.removeLast(most);
    this.#count(session, -removed.length);
    const { pid, handle } = holding;
    if (this.observer !== undefined)
      for (const { start, end } of removed)
        this.observer.changed('posix', file.node, { owner, type: LockType.UNLOCK, start, end, pid, handle });
    if (holding.list.ranges.length > 0) return;
    file.posix.delete(owner);
    this.#loosened.push({ file, owner });
  }

  #dropFlock(session: SessionRecord<N>, file: FileLocks<N>, owner: Owner<N>): void {
    if (!file.flock.delete(owner)) return;
    this.#count(session, -1);
    const gone = { owner, type: LockType.UNLOCK, start: 0n, end: OFFSET_MAX, pid: 0, handle: 0 };
    this.observer?.changed('flock', file.node, gone);
    this.#loosened.push({ file, owner });
  }

  /**
   * Retries, in order of arrival, the requests that released locks have blocked. A granted request
   * may release a lock too; then those that it has blocked are retried as well.
   */
  #wakeAll(): void {
    const due: Waiter<N>[] = [];
    for (;;) {
      if (this.#loosened.length > 0) {
        for (const { file, owner } of this.#loosened) due.push(...(file.blocked.get(owner) ?? []));
        this.#loosened.length = 0;
        due.sort((a, b) => b.sequence - a.sequence);
      }
      const waiter = due.pop();
      if (waiter === undefined) return;
      if (waiter.claim.file.waiters.has(waiter)) this.#retry(waiter);
    }
  }

  #retry(waiter: Waiter<N>): void {
    const { claim } = waiter;
    const blocker = findBlocker(claim);
    if (blocker === undefined) {
      this.#unpark(waiter);
      this.#ended.push({
        done: waiter.done,
        errno: this.#grant(this.#sessions.get(claim.owner.session)!, claim),
      });
    } else if (blocker !== waiter.blocker) {
      if (claim.kind === 'posix' && wouldDeadlock(claim)) return this.#end(waiter, Errno.EDEADLK);
      this.#unblock(waiter);
      this.#block(waiter, blocker);
    }
  }

  #block(waiter: Waiter<N>, blocker: Owner<N>): void {
    const { blocked } = waiter.claim.file;
    const others = blocked.get(blocker);
    if (others === undefined) blocked.set(blocker, new Set([waiter]));
    else others.add(waiter);
    waiter.blocker = blocker;
  }

  #unblock(waiter: Waiter<N>): void {
    const { blocked } = waiter.claim.file;
    const others = blocked.get(waiter.blocker)!;
    others.delete(waiter);
    if (others.size === 0) blocked.delete(waiter.blocker);
  }

  #unpark(waiter: Waiter<N>): void {
    const { file, owner } = waiter.claim;
    this.#unblock(waiter);
    this.#sessions.get(owner.session)!.waiters.delete(waiter.unique);
    file.waiters.delete(waiter);
    owner.waits.delete(waiter);
    this.#waiters -= 1;
    this.#touched.push({ file, owner });
  }

  #end(waiter: Waiter<N>, errno: number): void {
    this.#unpark(waiter);
    this.#ended.push({ done: waiter.done, errno });
  }

  /**
   * Ends a step: grants parked requests where that is possible now, removes empty records, and
   * reports the results of parked requests in order.
   */
  #settle(file: FileLocks<N>, owner: Owner<N>): void {
    this.#touched.push({ file, owner });
    this.#wakeAll();
    for (let next = this.#touched.pop(); next !== undefined; next = this.#touched.pop()) this.#tidy(next);
    if (this.#completing) return;
    this.#completing = true;
    for (let i = 0; i < this.#ended.length; i++) this.#ended[i]!.done(this.#ended[i]!.errno);
    this.#ended.length = 0;
    this.#completing = false;
  }

  #tidy({ file, owner }: Touched<N>): void {
    if (!file.posix.has(owner) && !file.flock.has(owner)) owner.files.delete(file);
    if (owner.files.size === 0 && owner.waits.size === 0) {
      const session = this.#sessions.get(owner.session);
      if (session?.owners.get(owner.id) === owner) session.owners.delete(owner.id);
    }
    if (file.posix.size === 0 && file.flock.size === 0 && file.waiters.size === 0) {
      if (this.#files.get(file.node) !== file) return;
      this.#files.delete(file.node);
    }
    this.#options.loosened?.(file.node);
    if (!this.#files.has(file.node)) this.#options.release?.(file.node);
  }

  #hasRoom(session: SessionRecord<N>, more: number): boolean {
    if (session.closed) return false;
    return session.locks + more <= this.#limits.sessionLocks && this.#locks + more <= this.#limits.totalLocks;
  }

  #count(session: SessionRecord<N>, more: number): void {
    session.locks += more;
    this.#locks += more;
  }
}

/**
 * Whether a request is valid. Linux checks the same before a request comes to FUSE, but a hostile
 * guest may send anything.
 */
function isValid<N>({ type, start, end }: LockRequest<N>): boolean {
  const known = type === LockType.READ || type === LockType.WRITE || type === LockType.UNLOCK;
  return known && start >= 0n && start <= end && end <= OFFSET_MAX;
}
