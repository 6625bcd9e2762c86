/**
 * The shared layer: what a guest's numbers stand for. Node ids, generations and lookup counts,
 * `fh`s, directory streams and locks live here, so that a backend sees only its own nodes and
 * files. An {@link Export} holds what all guests of one backend share; a session (in `core/fuse`)
 * has its own lookup counts and handles over it. All of it is plain data that can be saved and
 * restored.
 */
export * from './directory-stream.js';
export * from './export.js';
export * from './freshness.js';
export * from './handle-table.js';
export * from './identity.js';
export * from './locks/index.js';
export * from './lookup-counts.js';
export * from './node-table.js';
export type { SavedHandle, SavedSession } from './saved.js';
export * from './snapshot.js';
