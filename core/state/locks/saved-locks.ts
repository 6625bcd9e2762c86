import type { LockSession } from './session.js';
import type { LockTable } from './table.js';
import { type LockRequest, OFFSET_MAX } from './request.js';

/** The saved form of a lock. 64-bit numbers are decimal strings, so that JSON can hold them. */
export interface SavedLock<K> {
  readonly kind: 'posix' | 'flock';
  readonly session: number;
  readonly node: K;
  readonly owner: string;
  readonly type: number;
  readonly start: string;
  readonly end: string;
  readonly pid: number;
  readonly handle: number;
}

/** The saved form of a parked request. */
export interface SavedWaiter<K> extends SavedLock<K> {
  /** The request's id, decimal. */
  readonly unique: string;
}

/**
 * The saved form of a table: locks and parked requests, in order. `K` is the saved form of a node.
 */
export interface SavedLocks<K> {
  readonly locks: readonly SavedLock<K>[];
  readonly waiters: readonly SavedWaiter<K>[];
}

/**
 * A table as plain data.
 * @param saveNode maps a node to its saved form.
 * @param session of which alone locks are saved. Default: of all.
 */
export function saveLocks<N, K>(
  table: LockTable<N>,
  saveNode: (node: N) => K,
  session?: number,
): SavedLocks<K> {
  const locks: SavedLock<K>[] = [];
  const waiters: SavedWaiter<K>[] = [];
  const isOther = (owner: { readonly session: number }): boolean =>
    session !== undefined && owner.session !== session;
  for (const file of table.files()) {
    const holders = [
      ...file.posix.keys(),
      ...file.flock.keys(),
      ...[...file.waiters].map((one) => one.claim.owner),
    ];
    if (holders.every(isOther)) continue;
    const node = saveNode(file.node);
    for (const [owner, { list, pid, handle }] of file.posix) {
      if (isOther(owner)) continue;
      const holder = {
        kind: 'posix',
        session: owner.session,
        node,
        owner: `${owner.id}`,
        pid,
        handle,
      } as const;
      for (const { type, start, end } of list.ranges) {
        locks.push({ ...holder, type, start: `${start}`, end: `${end}` });
      }
    }
    for (const [owner, { type, pid, handle }] of file.flock) {
      if (isOther(owner)) continue;
      const holder = {
        kind: 'flock',
        session: owner.session,
        node,
        owner: `${owner.id}`,
        pid,
        handle,
      } as const;
      locks.push({ ...holder, type, start: '0', end: `${OFFSET_MAX}` });
    }
    for (const { claim, unique } of file.waiters) {
      const { kind, owner, type, start, end, pid, handle } = claim;
      if (isOther(owner)) continue;
      const holder = { kind, session: owner.session, node, owner: `${owner.id}`, pid, handle };
      waiters.push({ ...holder, type, start: `${start}`, end: `${end}`, unique: `${unique}` });
    }
  }
  return { locks, waiters };
}

/**
 * Takes the saved locks of all sessions again, in an empty table and in the order in which they are
 * saved. Requests that waited are not restored: their guests' requests come again.
 * @param findNode maps the saved form of a node to the node, or to undefined if it is gone: its
 * locks are then gone too, as are the handles that they were set through.
 * @returns locks that cannot be had: they exclude each other, or the limits are lower now.
 */
export function restoreLocks<N, K>(
  table: LockTable<N>,
  locks: readonly SavedLock<K>[],
  findNode: (key: K) => N | undefined,
): SavedLock<K>[] {
  return locks.filter((lock) => {
    const node = findNode(lock.node);
    if (node === undefined) return false;
    return table[lock.kind](table.sessionRecord(lock.session), requestOf(node, lock)) !== 0;
  });
}

/**
 * Takes a session's saved locks again, in the order in which they are saved.
 * @param find maps the saved form of a node to the node; undefined if it is gone.
 * @returns those that cannot be had.
 */
export function retakeLocks<N, K>(
  session: LockSession<N>,
  locks: readonly SavedLock<K>[],
  find: (key: K) => N | undefined,
): SavedLock<K>[] {
  return locks.filter((lock) => {
    const node = find(lock.node);
    if (node === undefined) return true;
    const request = requestOf(node, lock);
    return (lock.kind === 'posix' ? session.set(request) : session.flock(request)) !== 0;
  });
}

function requestOf<N>(node: N, { owner, type, start, end, pid, handle }: SavedLock<unknown>): LockRequest<N> {
  return { node, owner: BigInt(owner), type, start: BigInt(start), end: BigInt(end), pid, handle };
}
