import type { LockSession } from './session.js';
import type { LockTable } from './table.js';
import { type LockCompletion, OFFSET_MAX, PARKED } from './request.js';

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
 * Restores a saved table into an empty one, before any session is opened.
 * @param findNode maps the saved form of a node to the node, or to undefined if it is gone: its
 * locks are then gone too.
 * @param completion returns the completion function of a parked request, or undefined if the guest
 * will ask again.
 * @throws RangeError for locks that contradict each other or exceed the table's limits.
 */
export function restoreLocks<N, K>(
  table: LockTable<N>,
  saved: SavedLocks<K>,
  findNode: (key: K) => N | undefined,
  completion: (waiter: SavedWaiter<K>) => LockCompletion | undefined,
): void {
  for (const lock of saved.locks) {
    const node = findNode(lock.node);
    if (node === undefined) continue;
    if (retake(table, node, lock) !== 0)
      throw new RangeError('saved locks contradict each other or the limits');
  }
  for (const waiter of saved.waiters) {
    const node = findNode(waiter.node);
    const done = completion(waiter);
    if (node === undefined || done === undefined) continue;
    const result = retake(table, node, waiter, BigInt(waiter.unique), done);
    if (result !== PARKED) done(result);
  }
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
    const range = { start: BigInt(lock.start), end: BigInt(lock.end) };
    const { owner, type, pid, handle } = lock;
    const request = { node, owner: BigInt(owner), type, ...range, pid, handle };
    return (lock.kind === 'posix' ? session.set(request) : session.flock(request)) !== 0;
  });
}

function retake<N, K>(
  table: LockTable<N>,
  node: N,
  { kind, session, owner, type, start, end, pid, handle }: SavedLock<K>,
  unique?: bigint,
  done?: LockCompletion,
): number {
  const range = { start: BigInt(start), end: BigInt(end) };
  const request = { node, owner: BigInt(owner), type, ...range, pid, handle };
  return table[kind](table.sessionRecord(session), request, unique, done);
}
