/**
 * Backends over other backends, to be put together: each takes a backend and gives one. All are
 * made by `wrap` of the contract, and nothing passes them by.
 *
 * - `logged.ts`, `throttled.ts`: a line for each call; bytes and requests a second.
 * - `cached/`: names, attributes and content in memory, for backends that are slow to answer.
 *   `known.ts` is what is kept of a node, `budget.ts` how much.
 * - `encrypted/`: what the inner backend has is encrypted. `layout.ts` is the form of files,
 *   `content.ts` reads and writes it; `names.ts`, `links.ts`: names and targets; `keys.ts`,
 *   `sealing.ts`: keys and ciphers.
 * - `quota/`: how much there may be. `usage.ts` counts it.
 * - `routed/`: a tree of several backends, and what is hidden or read-only in it. `points.ts` has
 *   the paths, `tree.ts` the nodes.
 * - `watched/`: programs in guests hear of changes from outside. `events.ts`: what waits for them.
 * - `plugins.ts`: some of them as kinds of backend, for configuration files.
 * - `nodes-in-use.ts`, `turns.ts`, `buffers.ts`: what several of them need.
 */
export { readOnly } from '../backend/index.js';
export { cached, type CachedOptions } from './cached/cached.js';
export { encrypted, type EncryptedOptions, type SealedFile } from './encrypted/encrypted.js';
export { encryptionKeyFrom, newEncryptionKey, readEncryptionKey } from './encrypted/keys.js';
export { logged, type LoggedOptions } from './logged.js';
export { quota, type QuotaOptions } from './quota/quota.js';
export { type PathRule, routed, type RoutedNode, type RoutedOptions } from './routed/routed.js';
export { watched, type WatchedOptions } from './watched/watched.js';
export { throttled, type ThrottledOptions } from './throttled.js';
