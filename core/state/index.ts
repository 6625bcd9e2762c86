/**
 * The shared layer between the FUSE protocol and the backends: what a guest's numbers stand for.
 * Node ids, generations, lookup counts, `fh`s, directory streams and locks live here, so that a
 * backend sees only its own nodes and files. An {@link Export} has what all guests of one backend
 * share. A session (in `core/fuse`) adds its own lookup counts and handles. All of it is plain data
 * that can be saved and restored (`snapshot.ts`, `saved.ts`).
 *
 * - `locks/`: POSIX record locks and BSD flock of all guests of an export.
 */
export * from './directory-stream.js';
export * from './export.js';
export * from './freshness.js';
export * from './handle-table.js';
export * from './identity.js';
export type * from './ids.js';
export * from './locks/index.js';
export * from './lookup-counts.js';
export * from './node-table.js';
export type { SavedHandle, SavedSession } from './saved.js';
export * from './snapshot.js';
export { descriptorBudget, handleBudget } from './budget.js';
