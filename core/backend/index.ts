/**
 * The contract between the engine and a file system. This room uses nothing else in the project,
 * and a backend of one's own nothing but this room.
 *
 * - `backend.ts`: the interface that a backend implements. `methods.ts`: its methods by name.
 * - `attributes.ts`, `buffer.ts`, `context.ts`, `flags.ts`, `names.ts`, `awaitable.ts`: the values
 *   that pass between the two. `errors.ts`: errors and their numbers. `metric.ts`: figures for
 *   monitoring.
 * - `plugin.ts`, `host.ts`: how a backend is found and configured, and what it is given.
 * - `wrap.ts`, `read-only.ts`: backends over another backend.
 * - `accelerator.ts`: optional, experimental: quicker ways for the engine.
 * - `pool-turns.ts`: the thread pool, dealt to the guests of all backends.
 * - `limits.ts`: of memory, and of what comes from other hosts. `clock.ts`: the time of day.
 * - `pauses.ts`, `in-turns.ts`: how long work makes room for others.
 * - `permission-bits.ts`: modes among a backend's options.
 */
export * from './attributes.js';
export * from './awaitable.js';
export * from './backend.js';
export * from './buffer.js';
export * from './context.js';
export * from './errors.js';
export * from './flags.js';
export * from './methods.js';
export * from './metric.js';
export * from './host.js';
export * from './names.js';
export * from './plugin.js';
export * from './read-only.js';
export * from './wrap.js';
