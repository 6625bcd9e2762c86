import { Errno } from '../../backend/index.js';
import type { LockTable, SessionRecord } from './table.js';
import type { LockCompletion, LockConflict, LockRequest } from './types.js';

/**
 * One guest's way to the {@link LockTable} of its export. Results are 0 or a positive errno: EINVAL
 * for a request that no Linux guest sends, EAGAIN for a conflict, EDEADLK, ENOLCK beyond the
 * limits; PARKED where `done` will be called later, once.
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

  /** Ranges that this session holds now, and its parked requests. */
  get counts(): { readonly locks: number; readonly waiters: number } {
    return { locks: this.#record.locks, waiters: this.#record.waiters.size };
  }

  /** GETLK: the lock in the way, nothing if there is none, or a positive errno. */
  test(request: LockRequest<N>): LockConflict | undefined | number {
    return this.#table.test(this.#record, request);
  }

  /** SETLK: locks or unlocks at once. @returns 0, or a positive errno. */
  set(request: LockRequest<N>): number {
    return this.#table.posix(this.#record, request);
  }

  /**
   * SETLKW: locks when nothing is in the way any more.
   * @param unique the request's id.
   * @returns 0, errno or PARKED.
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
   * FLUSH: a process closed a descriptor of the file, which ends all its record locks on it (POSIX
   * `close`).
   */
  releaseOwner(node: N, owner: bigint): void {
    this.#table.dropOwner(this.#record, node, owner);
  }

  /** RELEASE with FUSE_RELEASE_FLOCK_UNLOCK. */
  releaseFlock(node: N, owner: bigint): void {
    this.#table.dropFlock(this.#record, node, owner);
  }

  /**
   * RELEASE: drops what is still held through this `fh`. Locks of open file descriptions (`fcntl`,
   * F_OFD_SETLK) go only here, for Linux announces their end in no other way (`fs/fuse/file.c`,
   * `fuse_setlk`: nothing is sent on close); a process's locks were dropped at its FLUSH before.
   */
  releaseHandle(node: N, handle: number): void {
    this.#table.dropHandle(this.#record, node, handle);
  }

  /** INTERRUPT: ends a parked request with EINTR. @returns whether it was parked. */
  interrupt(unique: bigint): boolean {
    return this.#table.cancel(this.#record, unique, Errno.EINTR);
  }

  /** Ends all parked requests of this session with `errno`, as before a reset; locks stay. */
  cancelAll(errno: number): void {
    for (const unique of this.#record.waiters.keys()) this.#table.cancel(this.#record, unique, errno);
  }

  /** Ends the session: parked requests with `errno`, then all its locks. */
  close(errno: number): void {
    this.#table.closeSession(this.#record, errno);
  }
}
