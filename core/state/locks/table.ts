import { Errno } from '../../backend/index.js';
import { wouldDeadlock } from './deadlock.js';
import { RangeList } from './ranges.js';
import { type FileLocks, flockBlocker, type Owner, posixBlocker, type Waiter } from './records.js';
import { LockSession } from './session.js';
import {
  defaultLockLimits,
  type LockCompletion,
  type LockConflict,
  type LockLimits,
  type LockRequest,
  LockType,
  type LockTypeValue,
  OFFSET_MAX,
  PARKED,
} from './types.js';

/** How a table is set up. */
export interface LockTableOptions<N> {
  readonly limits?: Partial<LockLimits>;
  /** The table begins to refer to a node: it must not be forgotten. */
  readonly retain?: (node: N) => void;
  /** The table refers to the node no more. */
  readonly release?: (node: N) => void;
}

/** What a session keeps for the table. */
export interface SessionRecord<N> {
  readonly id: number;
  readonly owners: Map<bigint, Owner<N>>;
  readonly waiters: Map<bigint, Waiter<N>>;
  maxWaiters: number;
  locks: number;
  closed: boolean;
}

interface Touched<N> {
  readonly file: FileLocks<N>;
  readonly owner: Owner<N>;
}

/**
 * The locks of one export, shared by all its sessions: guests that share a file exclude each other.
 *
 * A request that conflicts with no held lock is granted at once, even where others wait (POSIX `fcntl`: only locks
 * that are held block). Waiting requests are granted in order of arrival, as soon as nothing held is in their way.
 */
export class LockTable<N> {
  readonly #options: LockTableOptions<N>;
  readonly #limits: LockLimits;
  readonly #files = new Map<N, FileLocks<N>>();
  readonly #sessions = new Map<number, SessionRecord<N>>();
  #locks = 0;
  #waiters = 0;
  /** Owners whose locks on a file became less: others may get theirs. */
  readonly #loosened: Touched<N>[] = [];
  /** Owners and files that may have nothing left. */
  readonly #touched: Touched<N>[] = [];
  /** Parked requests that have their result. */
  readonly #ended: { done: LockCompletion; errno: number }[] = [];
  #completing = false;

  constructor(options: LockTableOptions<N> = {}) {
    this.#options = options;
    this.#limits = { ...defaultLockLimits, ...options.limits };
  }

  /** Ranges held now by all sessions, and requests parked. */
  get counts(): { readonly locks: number; readonly waiters: number } {
    return { locks: this.#locks, waiters: this.#waiters };
  }

  /**
   * Admits a guest. A session that was restored is taken up with its locks and parked requests.
   * @param id tells sessions apart, also in the saved form.
   * @param maxWaiters parked requests of this session, where its transport allows less than the table's limit.
   */
  openSession(id: number, maxWaiters?: number): LockSession<N> {
    return new LockSession(this, this.sessionRecord(id, maxWaiters));
  }

  /** GETLK. @returns the conflict, nothing if the lock could be had, or a positive errno (EINVAL). */
  test(session: SessionRecord<N>, request: LockRequest<N>): LockConflict | undefined | number {
    if (!isValid(request)) return Errno.EINVAL;
    const file = this.#files.get(request.node);
    if (file === undefined || request.type === LockType.UNLOCK) return undefined;
    const own = session.owners.get(request.owner);
    for (const [owner, holding] of file.posix) {
      if (owner === own) continue;
      const range = holding.list.conflict(request.start, request.end, request.type);
      if (range === undefined) continue;
      const pid = owner.session === session.id ? holding.pid : 0;
      return { type: range.type as LockTypeValue, start: range.start, end: range.end, pid };
    }
    return undefined;
  }

  /** SETLK and, with `unique` and `done`, SETLKW. @returns 0, a positive errno, or PARKED. */
  posix(session: SessionRecord<N>, request: LockRequest<N>, unique?: bigint, done?: LockCompletion): number {
    if (!isValid(request)) return Errno.EINVAL;
    if (request.type === LockType.UNLOCK && !this.#files.get(request.node)?.posix.size) return 0;
    const file = this.#file(request.node);
    const owner = this.#owner(session, request.owner);
    const { start, end, type, pid, handle } = request;
    const blocker = type === LockType.UNLOCK ? undefined : posixBlocker(file, owner, start, end, type);
    let result: number;
    if (blocker === undefined) result = this.#grantPosix(session, file, owner, start, end, type, pid, handle);
    else if (done === undefined || unique === undefined) result = Errno.EAGAIN;
    else if (wouldDeadlock({ file, owner, start, end, type })) result = Errno.EDEADLK;
    else {
      const what = { kind: 'posix', file, owner, type, start, end, pid, handle } as const;
      result = this.#park(session, { ...what, unique, blocker, done });
    }
    this.#settle(file, owner);
    return result;
  }

  /**
   * flock. A conversion drops the lock that is held, lets those go ahead who waited for that, and then asks for the
   * new one; without waiting, a conversion that fails has lost the old lock (`flock(2)`, "Converting a lock is not
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
      if (held !== undefined) {
        this.#dropFlock(session, file, owner);
        this.#wakeAll();
      }
      if (type !== LockType.UNLOCK) {
        const blocker = flockBlocker(file, owner, type);
        if (blocker === undefined) result = this.#grantFlock(session, file, owner, type, pid, handle);
        else if (done === undefined || unique === undefined) result = Errno.EAGAIN;
        else {
          const range = { start: 0n, end: OFFSET_MAX };
          const what = { kind: 'flock', file, owner, type, ...range, pid, handle } as const;
          result = this.#park(session, { ...what, unique, blocker, done });
        }
      }
    }
    this.#settle(file, owner);
    return result;
  }

  /** Removes all record locks of an owner on a node. */
  dropOwner(session: SessionRecord<N>, node: N, ownerId: bigint): void {
    const file = this.#files.get(node);
    const owner = session.owners.get(ownerId);
    if (file === undefined || owner === undefined) return;
    this.#dropPosix(session, file, owner);
    this.#settle(file, owner);
  }

  /** Removes an owner's flock on a node. */
  dropFlock(session: SessionRecord<N>, node: N, ownerId: bigint): void {
    const file = this.#files.get(node);
    const owner = session.owners.get(ownerId);
    if (file === undefined || owner === undefined) return;
    this.#dropFlock(session, file, owner);
    this.#settle(file, owner);
  }

  /** Removes what a session still holds on a node through a handle that ends. */
  dropHandle(session: SessionRecord<N>, node: N, handle: number): void {
    const file = this.#files.get(node);
    if (file === undefined) return;
    for (const waiter of file.waiters) {
      if (waiter.owner.session !== session.id || waiter.handle !== handle) continue;
      this.#end(waiter, Errno.EBADF);
      this.#settle(file, waiter.owner);
    }
    for (const [owner, held] of file.flock) {
      if (owner.session !== session.id || held.handle !== handle) continue;
      this.#dropFlock(session, file, owner);
      this.#settle(file, owner);
    }
    for (const [owner, holding] of file.posix) {
      if (owner.session !== session.id || holding.handle !== handle) continue;
      this.#dropPosix(session, file, owner);
      this.#settle(file, owner);
    }
  }

  /** Ends one parked request. @returns whether it was there. */
  cancel(session: SessionRecord<N>, unique: bigint, errno: number): boolean {
    const waiter = session.waiters.get(unique);
    if (waiter === undefined) return false;
    this.#end(waiter, errno);
    this.#settle(waiter.file, waiter.owner);
    return true;
  }

  /** Ends a session: its parked requests first, then its locks. */
  closeSession(session: SessionRecord<N>, errno: number): void {
    session.closed = true;
    for (const unique of session.waiters.keys()) this.cancel(session, unique, errno);
    for (const owner of session.owners.values()) {
      for (const file of owner.files) {
        this.#dropPosix(session, file, owner);
        this.#dropFlock(session, file, owner);
        this.#settle(file, owner);
      }
    }
    this.#sessions.delete(session.id);
  }

  /** The files on which there are locks or parked requests. */
  files(): Iterable<FileLocks<N>> {
    return this.#files.values();
  }

  /** The record of a session, made if it is new. */
  sessionRecord(id: number, maxWaiters = this.#limits.sessionWaiters): SessionRecord<N> {
    let session = this.#sessions.get(id);
    if (session === undefined) {
      session = { id, owners: new Map(), waiters: new Map(), maxWaiters, locks: 0, closed: false };
      this.#sessions.set(id, session);
    }
    session.maxWaiters = maxWaiters;
    return session;
  }

  #file(node: N): FileLocks<N> {
    let file = this.#files.get(node);
    if (file === undefined) {
      file = { node, posix: new Map(), flock: new Map(), waiters: new Set() };
      this.#files.set(node, file);
      this.#options.retain?.(node);
    }
    return file;
  }

  #owner(session: SessionRecord<N>, id: bigint): Owner<N> {
    let owner = session.owners.get(id);
    if (owner === undefined) {
      owner = { session: session.id, id, files: new Set(), waits: new Set() };
      session.owners.set(id, owner);
    }
    return owner;
  }

  #grantPosix(
    session: SessionRecord<N>,
    file: FileLocks<N>,
    owner: Owner<N>,
    start: bigint,
    end: bigint,
    type: number,
    pid: number,
    handle: number,
  ): number {
    const holding = file.posix.get(owner) ?? { list: new RangeList(), pid, handle };
    const change = holding.list.plan(start, end, type);
    const more = change.insert.length - change.remove;
    if (more > 0 && !this.#hasRoom(session, more)) return Errno.ENOLCK;
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

  #grantFlock(
    session: SessionRecord<N>,
    file: FileLocks<N>,
    owner: Owner<N>,
    type: number,
    pid: number,
    handle: number,
  ): number {
    const held = file.flock.get(owner);
    const more = held === undefined ? 1 : 0;
    if (more > 0 && !this.#hasRoom(session, more)) return Errno.ENOLCK;
    file.flock.set(owner, { type, pid, handle });
    owner.files.add(file);
    this.#count(session, more);
    if (held?.type === LockType.WRITE) this.#loosened.push({ file, owner });
    return 0;
  }

  #dropPosix(session: SessionRecord<N>, file: FileLocks<N>, owner: Owner<N>): void {
    const holding = file.posix.get(owner);
    if (holding === undefined) return;
    file.posix.delete(owner);
    this.#count(session, -holding.list.ranges.length);
    this.#loosened.push({ file, owner });
  }

  #dropFlock(session: SessionRecord<N>, file: FileLocks<N>, owner: Owner<N>): void {
    if (!file.flock.delete(owner)) return;
    this.#count(session, -1);
    this.#loosened.push({ file, owner });
  }

  /** Tries again, in order of arrival, what the loosened locks were in the way of, and what that loosens. */
  #wakeAll(): void {
    for (let next = this.#loosened.pop(); next !== undefined; next = this.#loosened.pop()) {
      if (next.file.waiters.size === 0) continue;
      const { file, owner } = next;
      for (const waiter of file.waiters) if (waiter.blocker === owner) this.#retry(waiter);
    }
  }

  #retry(waiter: Waiter<N>): void {
    const { kind, file, owner, type, start, end, pid, handle } = waiter;
    const blocker =
      kind === 'posix' ? posixBlocker(file, owner, start, end, type) : flockBlocker(file, owner, type);
    if (blocker !== undefined) {
      waiter.blocker = blocker;
      if (kind === 'posix' && wouldDeadlock(waiter)) this.#end(waiter, Errno.EDEADLK);
      return;
    }
    const session = this.#sessions.get(owner.session)!;
    this.#unpark(waiter);
    const errno =
      kind === 'posix'
        ? this.#grantPosix(session, file, owner, start, end, type, pid, handle)
        : this.#grantFlock(session, file, owner, type, pid, handle);
    this.#ended.push({ done: waiter.done, errno });
  }

  #park(session: SessionRecord<N>, waiter: Waiter<N>): number {
    if (
      session.closed ||
      session.waiters.size >= session.maxWaiters ||
      this.#waiters >= this.#limits.totalWaiters
    ) {
      return Errno.ENOLCK;
    }
    if (session.waiters.has(waiter.unique)) return Errno.EINVAL;
    session.waiters.set(waiter.unique, waiter);
    waiter.file.waiters.add(waiter);
    waiter.owner.waits.add(waiter);
    this.#waiters += 1;
    return PARKED;
  }

  #unpark(waiter: Waiter<N>): void {
    const session = this.#sessions.get(waiter.owner.session)!;
    session.waiters.delete(waiter.unique);
    waiter.file.waiters.delete(waiter);
    waiter.owner.waits.delete(waiter);
    this.#waiters -= 1;
    this.#touched.push(waiter);
  }

  #end(waiter: Waiter<N>, errno: number): void {
    this.#unpark(waiter);
    this.#ended.push({ done: waiter.done, errno });
  }

  /** Ends a step: wakes who can go on, drops what is empty, and tells those whose waiting is over, in order. */
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
    if (file.posix.size > 0 || file.flock.size > 0 || file.waiters.size > 0) return;
    if (this.#files.get(file.node) !== file) return;
    this.#files.delete(file.node);
    this.#options.release?.(file.node);
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

/** Linux checks the same of `struct flock` before FUSE sees it; a hostile guest may send anything. */
function isValid<N>({ type, start, end }: LockRequest<N>): boolean {
  const known = type === LockType.READ || type === LockType.WRITE || type === LockType.UNLOCK;
  return known && start >= 0n && start <= end && end <= OFFSET_MAX;
}
