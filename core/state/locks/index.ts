/**
 * POSIX record locks and BSD flock of one export, across all its guests. {@link LockTable} has all
 * locks and parked requests, and a {@link LockSession} is one guest's view of it. `request.ts` has
 * what a request asks for, `records.ts` what the table keeps, `limits.ts` how much of it.
 * `file-ranges.ts` and `owner-ranges.ts` have the locked ranges, `deadlock.ts` the detection of
 * deadlocks, `saved-locks.ts` saves and restores. {@link HostLocks} has guests of other hosts keep
 * to them, where the backend can do that.
 */
export { holdOf, HostLocks } from './host-locks.js';
export { LockSession } from './session.js';
export * from './limits.js';
export * from './saved-locks.js';
export {
  LockTable,
  type LockChange,
  type LockObserver,
  type LockTableOptions,
  type WaitingLock,
} from './table.js';
export * from './request.js';
