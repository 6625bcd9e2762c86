/**
 * POSIX record locks and BSD flock of one export, across all its guests: who holds what ({@link
 * LockTable}), each guest's way to it ({@link LockSession}), requests that wait, deadlock
 * detection, and the saved form.
 */
export { LockSession } from './session.js';
export { restoreLocks, saveLocks } from './snapshot.js';
export { LockTable, type LockTableOptions } from './table.js';
export * from './types.js';
