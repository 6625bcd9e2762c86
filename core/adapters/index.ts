/**
 * Backends of file systems that others wrote, each by one call.
 *
 * - `node-fs.ts`: what has the form of Node's `fs`: a memfs or ZenFS volume, `node:fs` itself.
 * - `node-vfs.ts`: file systems of Node's experimental module `node:vfs`.
 * - `fuse-operations.ts`: the operations that the npm packages `fuse-native` and `fuse-bindings`
 *   take.
 * - `webdav/`: a directory of a WebDAV server. `server.ts` makes the requests, `multistatus.ts`
 *   reads what PROPFIND answers, `draft.ts` keeps what was written and is not there yet.
 * - `path-file-system.ts`: the form that these are brought into, for file systems known by paths.
 *   `path-backend.ts` serves it. `path-nodes.ts`: which file has which path just now.
 */
export { fromFuseOperations, type FuseOperations } from './fuse-operations.js';
export { fromNodeFs, type NodeFileHandle, type NodeFs, type NodeStats } from './node-fs.js';
export { fromNodeVfs, type NodeVfs } from './node-vfs.js';
export { type OpenPath, pathBackend } from './path-backend.js';
export type { PathAttributes, PathFile, PathFileSystem } from './path-file-system.js';
export type { PathNode } from './path-nodes.js';
export type { WebdavOptions } from './webdav/server.js';
export { fromWebdav } from './webdav/webdav.js';
