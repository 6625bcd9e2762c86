/**
 * The shared layer between the FUSE protocol and the backends: what a guest's numbers stand for. A
 * backend sees only its own nodes and files. An {@link Export} has what all guests of one backend
 * share. A session (in `core/fuse`) adds its own lookup counts and handles. All of it is plain
 * data that can be saved and restored.
 *
 * - `export.ts`: a backend, and the tables that its guests share.
 * - `node-table.ts`, `identity.ts`, `ids.ts`: nodes, the ids and generations that guests know them
 *   by, and the types of these numbers.
 * - `lookup-counts.ts`, `handle-table.ts`: a guest's lookups, and its open files and directories.
 * - `directory-stream.ts`: a listing, which stays the same while a guest reads it.
 * - `remembered-nodes.ts`: nodes that guests have forgotten, and that are found by file handles.
 * - `keep-cache.ts`: whether a guest may keep a file's cached data when it opens the file again.
 * - `unfinished.ts`: long transfers that make room for other guests.
 * - `budgets.ts`: what all guests of the process share: heap for handles, descriptors.
 * - `journal/`: all of that in memory that outlives this process.
 * - `locks/`: POSIX record locks and BSD flock of all guests of an export.
 * - `saved-export.ts`, `saved-form.ts`: saving and restoring, and the form in which it is done.
 *   `migration.ts`: the same for one guest that moves to another host.
 */
export * from './directory-stream.js';
export * from './export.js';
export * from './keep-cache.js';
export * from './handle-table.js';
export * from './identity.js';
export type * from './ids.js';
export * from './journal/index.js';
export * from './locks/index.js';
export * from './lookup-counts.js';
export * from './node-table.js';
export type { RememberedNode } from './remembered-nodes.js';
export type { SavedHandle, SavedSession } from './saved-form.js';
export * from './saved-export.js';
export * from './migration.js';
export type { UnfinishedTransfer } from './unfinished.js';
export { descriptorBudget, handleBudget } from './budgets.js';
