import type { Backend } from '../backend/index.js';
import { fromNodeFs, type NodeFs, type NodeStats } from './node-fs.js';
import type { OpenPath } from './path-backend.js';
import type { PathNode } from './path-nodes.js';

/** What is used of a `VirtualFileSystem` of `node:vfs`. */
export interface NodeVfs {
  readonly promises: Omit<NodeFs, 'open' | 'statfs'>;
  openSync(path: string, flags: number, mode: number): number;
  readSync(fd: number, into: Uint8Array, at: number, length: number, position: number): number;
  writeSync(fd: number, bytes: Uint8Array, at: number, length: number, position: number): number;
  fstatSync(fd: number, options: { readonly bigint: true }): NodeStats;
  ftruncateSync(fd: number, size: number): void;
  closeSync(fd: number): void;
}

/**
 * A backend over a file system of Node's experimental module `node:vfs` (Node 26.12 with
 * `--experimental-vfs`), whatever its provider: `fromNodeVfs(vfs.create())`. Its files have no
 * lasting inode numbers, so each path is a file of its own, and hard links are told apart.
 * @param root a directory in it that guests see as their root. Default: its own.
 */
export function fromNodeVfs(vfs: NodeVfs, root = '/'): Backend<PathNode, OpenPath> {
  const open: NodeFs['open'] = async (path, flags, mode) => {
    const fd = vfs.openSync(path, flags, mode);
    return {
      read: async (into, at, length, position) => ({
        bytesRead: vfs.readSync(fd, into, at, length, position),
      }),
      write: async (bytes, at, length, position) => ({
        bytesWritten: vfs.writeSync(fd, bytes, at, length, position),
      }),
      stat: async (options) => numberless(vfs.fstatSync(fd, options)),
      truncate: async (size) => vfs.ftruncateSync(fd, size),
      // Memory and archives have nothing to make durable.
      datasync: async () => undefined,
      close: async () => vfs.closeSync(fd),
    };
  };
  const { promises } = vfs;
  const lstat: NodeFs['lstat'] = async (path, options) => numberless(await promises.lstat(path, options));
  return fromNodeFs({ ...promises, lstat, open }, root);
}

/** Each call of stat gives another number. */
function numberless(stats: NodeStats): NodeStats {
  return Object.assign(stats, { ino: 0 });
}
