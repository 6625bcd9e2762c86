import { promisify } from 'node:util';
import type { Backend } from '../backend/index.js';
import { fromNodeFs, type NodeFs, type NodeStats } from './node-fs.js';
import type { OpenPath } from './path-backend.js';
import type { PathNode } from './path-nodes.js';

type Done<T> = (error: Error | null, result: T) => void;

/** What is used of a `VirtualFileSystem` of `node:vfs`. */
export interface NodeVfs {
  readonly promises: Omit<NodeFs, 'open' | 'statfs'>;
  open(path: string, flags: number, mode: number, done: Done<number>): void;
  read(fd: number, into: Uint8Array, at: number, length: number, position: number, done: Done<number>): void;
  write(
    fd: number,
    bytes: Uint8Array,
    at: number,
    length: number,
    position: number,
    done: Done<number>,
  ): void;
  fstat(fd: number, options: { readonly bigint: true }, done: Done<NodeStats>): void;
  ftruncate(fd: number, size: number, done: Done<void>): void;
  close(fd: number, done: Done<void>): void;
}

/**
 * A backend over a file system of Node's experimental module `node:vfs` (Node 26.12 with
 * `--experimental-vfs`), whatever its provider: `fromNodeVfs(vfs.create())`. Its files have no
 * lasting inode numbers, so each path is a file of its own, and hard links are told apart. The
 * module has no fsync(2): guests are told that what they wrote is durable, which with a
 * `RealFSProvider` it is not.
 * @param root a directory in it that guests see as their root. Default: its own.
 */
export function fromNodeVfs(vfs: NodeVfs, root = '/'): Backend<PathNode, OpenPath> {
  const opened = promisify(vfs.open.bind(vfs));
  const read = promisify(vfs.read.bind(vfs));
  const write = promisify(vfs.write.bind(vfs));
  const fstat = promisify(vfs.fstat.bind(vfs));
  const ftruncate = promisify(vfs.ftruncate.bind(vfs));
  const close = promisify(vfs.close.bind(vfs));
  const open: NodeFs['open'] = async (path, flags, mode) => {
    const fd = await opened(path, flags, mode);
    return {
      read: async (into, at, length, position) => ({ bytesRead: await read(fd, into, at, length, position) }),
      write: async (bytes, at, length, position) => ({
        bytesWritten: await write(fd, bytes, at, length, position),
      }),
      stat: async (options) => numberless(await fstat(fd, options)),
      truncate: (size) => ftruncate(fd, size),
      datasync: async () => undefined,
      close: () => close(fd),
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
