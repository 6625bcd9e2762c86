import { Errno } from '../../backend/index.js';
import type { LockTable, SessionRecord } from './table.js';
import type { LockCompletion, LockConflict, LockRequest } from './request.js';

/**
 * One guest's locks, in the {@link LockTable} of its export. Results are 0, PARKED or a positive
 * errno. PARKED: `done` will be called once, later. EINVAL: a request that no Linux guest sends.
 * EAGAIN: a conflict. EDEADLK: waiting would be a deadlock. ENOLCK: a limit is reached.
 */
export class LockSession<N> {
  readonly #table: LockTable<N>;
  readonly #record: SessionRecord<N>;

  constructor(table: LockTable<N>, record: SessionRecord<N>) {
    this.#table = table;
    this.#record = record;
  }

  get id(): number {
    return this.#record.id;
  }

  /** How many ranges this session has locked, and how many of its requests are parked. */
  get counts(): { readonly locks: number; readonly waiters: number } {
    const { locks, waiters, elsewhere } = this.#record;
    return { locks, waiters: waiters.size + elsewhere.size };
  }

  /** GETLK. @returns a conflicting lock, undefined if there is none, or a positive errno. */
  test(request: LockRequest<N>): LockConflict | undefined | number {
    return this.#table.test(this.#record, request);
  }

  /** SETLK: locks or unlocks without waiting. @returns 0, or a positive errno. */
  set(request: LockRequest<N>): number {
    return this.#table.posix(this.#record, request);
  }

  /**
   * SETLKW: locks as soon as there is no conflict.
   * @param unique the request's id.
   * @returns 0, a positive errno, or PARKED.
   */
  wait(request: LockRequest<N>, unique: bigint, done: LockCompletion): number {
    return this.#table.posix(this.#record, request, unique, done);
  }

  /** SETLK with FUSE_LK_FLOCK: flock with LOCK_NB. @returns 0, or a positive errno. */
  flock(request: LockRequest<N>): number {
    return this.#table.flock(this.#record, request);
  }

  /** SETLKW with FUSE_LK_FLOCK. @returns 0, a positive errno, or PARKED. */
  flockWait(request: LockRequest<N>, unique: bigint, done: LockCompletion): number {
    return this.#table.flock(this.#record, request, unique, done);
  }

  /**
   * Parks a request that waits for somebody outside of the table, until {@link arrived}.
   * @param cancel ends it with an errno.
   * @returns 0 or a positive errno.
   */
  waitElsewhere(unique: bigint, node: N, handle: number, cancel: LockCompletion): number {
    return this.#table.waitElsewhere(this.#record, unique, { node, handle, cancel });
  }

  /** A request does not wait for somebody outside of the table any more. */
  arrived(unique: bigint): void {
    this.#table.arrived(this.#record, unique);
  }

  /**
   * FLUSH: a process has closed a descriptor of the file. That releases all its record locks on the
   * file (POSIX `close`).
   * @returns a promise if there are many.
   */
  releaseOwner(node: N, owner: bigint): Promise<void> | undefined {
    return this.#table.dropOwner(this.#record, node, owner);
  }

  /** RELEASE with FUSE_RELEASE_FLOCK_UNLOCK. */
  releaseFlock(node: N, owner: bigint): void {
    this.#table.dropFlock(this.#record, node, owner);
  }

  /**
   * RELEASE: drops the locks that were set through this `fh` and are still held. A process's locks
   * are gone by then, since its FLUSH. Locks of open file descriptions (`fcntl`, F_OFD_SETLK) end
   * only here: Linux sends nothing else when they end (`fs/fuse/file.c`, `fuse_setlk`).
   * @returns a promise if there are many.
   */
  releaseHandle(node: N, handle: number): Promise<void> | undefined {
    return this.#table.dropHandle(this.#record, node, handle);
  }

  /** INTERRUPT: ends a parked request with EINTR. @returns whether it was parked. */
  interrupt(unique: bigint): boolean {
    return this.#table.cancel(this.#record, unique, Errno.EINTR);
  }

  /** The ids of this session's parked requests, in order of arrival. */
  waiting(): readonly bigint[] {
    return [...this.#record.waiters.keys(), ...this.#record.elsewhere.keys()];
  }

  /** Ends all parked requests of this session with `errno`. Its locks stay. */
  cancelAll(errno: number): void {
    for (const unique of this.waiting()) this.#table.cancel(this.#record, unique, errno);
  }

  /**
   * Ends the session: its parked requests end with `errno`, and its locks are released.
   * @returns a promise if there are many.
   */
  close(errno: number): Promise<void> | undefined {
    return this.#table.closeSession(this.#record, errno);
  }
}
