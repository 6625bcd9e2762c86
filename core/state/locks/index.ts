/**
 * POSIX record locks and BSD flock of one export, across all its guests. {@link LockTable} has all
 * locks and parked requests, and a {@link LockSession} is one guest's view of it. `file-ranges.ts`
 * and `owner-ranges.ts` have the locked ranges, `deadlock.ts` the detection of deadlocks,
 * `snapshot.ts` saves and restores.
 */
export { LockSession } from './session.js';
export { restoreLocks, saveLocks } from './snapshot.js';
export { LockTable, type LockTableOptions } from './table.js';
export * from './types.js';
