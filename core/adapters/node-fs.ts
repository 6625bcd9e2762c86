import { constants as fileConstants } from 'node:fs';
import { constants } from 'node:os';
import type { Attributes, Backend, DirectoryEntry, FsStatistics } from '../backend/index.js';
import { FileType, FsError } from '../backend/index.js';
import { type OpenPath, pathBackend } from './path-backend.js';
import type { PathAttributes, PathFile, PathFileSystem } from './path-file-system.js';
import type { PathNode } from './path-nodes.js';

/** What `stat` and the like give. They are asked for `bigint`s, and may give numbers. */
export interface NodeStats {
  readonly dev: number | bigint;
  /** 0: each path is a file of its own. */
  readonly ino: number | bigint;
  readonly mode: number | bigint;
  readonly nlink: number | bigint;
  readonly uid: number | bigint;
  readonly gid: number | bigint;
  readonly rdev: number | bigint;
  readonly size: number | bigint;
  readonly blocks: number | bigint;
  readonly blksize: number | bigint;
  readonly atimeMs: number | bigint;
  readonly mtimeMs: number | bigint;
  readonly ctimeMs: number | bigint;
  readonly atimeNs?: bigint;
  readonly mtimeNs?: bigint;
  readonly ctimeNs?: bigint;
}

/** What is used of a `FileHandle`. */
export interface NodeFileHandle {
  read(
    into: Uint8Array,
    at: number,
    length: number,
    position: number,
  ): Promise<{ readonly bytesRead: number }>;
  write(
    bytes: Uint8Array,
    at: number,
    length: number,
    position: number,
  ): Promise<{ readonly bytesWritten: number }>;
  stat(options: { readonly bigint: true }): Promise<NodeStats>;
  truncate(size: number): Promise<void>;
  /** Absent: `datasync` does it. */
  sync?(): Promise<void>;
  datasync(): Promise<void>;
  close(): Promise<void>;
}

/** What is used of a `Dirent`. */
export interface NodeDirectoryEntry {
  readonly name: string | Uint8Array;
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

/** What `statfs` gives. */
export interface NodeStatfs {
  readonly bsize: number | bigint;
  readonly blocks: number | bigint;
  readonly bfree: number | bigint;
  readonly bavail: number | bigint;
  readonly files: number | bigint;
  readonly ffree: number | bigint;
}

/** What is used of `fs.promises`. */
export interface NodeFs {
  lstat(path: string, options: { readonly bigint: true }): Promise<NodeStats>;
  readdir(
    path: string,
    options: { readonly withFileTypes: true },
  ): Promise<readonly (NodeDirectoryEntry | string | Uint8Array)[]>;
  open(path: string, flags: number, mode: number): Promise<NodeFileHandle>;
  readlink(path: string): Promise<string | Uint8Array>;
  symlink(target: string, path: string): Promise<void>;
  link(path: string, newPath: string): Promise<void>;
  mkdir(path: string, mode: number): Promise<unknown>;
  unlink(path: string): Promise<void>;
  rmdir(path: string): Promise<void>;
  rename(path: string, newPath: string): Promise<void>;
  chmod(path: string, mode: number): Promise<void>;
  lchown(path: string, uid: number, gid: number): Promise<void>;
  lutimes(path: string, atime: number, mtime: number): Promise<void>;
  truncate(path: string, size: number): Promise<void>;
  /** Absent: guests see no figures of space. */
  statfs?(path: string): Promise<NodeStatfs>;
}

/**
 * A backend over what has the form of Node's `fs.promises`: `promises` of a memfs or ZenFS volume,
 * of `node:fs`, or of a program's own. Extended attributes, devices and holes are not in that form.
 * Times are kept as exactly as it keeps them.
 *
 * Not for a directory of this host that others may change: a directory that they replace by a
 * symbolic link leads out of it. The passthrough backend is safe from that.
 * @param root a directory in it that guests see as their root. Default: its own.
 */
export function fromNodeFs(fs: NodeFs, root = '/'): Backend<PathNode, OpenPath> {
  return pathBackend(new NodePaths(fs, root.replace(/\/+$/, '')));
}

/** Brings Node's form into ours. */
class NodePaths implements PathFileSystem {
  readonly #fs: NodeFs;
  readonly #root: string;
  readonly statfs?: (path: string) => Promise<FsStatistics>;

  constructor(fs: NodeFs, root: string) {
    this.#fs = fs;
    this.#root = root;
    if (fs.statfs !== undefined) this.statfs = (path) => figures(fs.statfs!(this.#at(path)));
  }

  #at(path: string): string {
    return `${this.#root}${path}`;
  }

  async stat(path: string): Promise<PathAttributes> {
    return attributes(await told(this.#fs.lstat(this.#at(path), { bigint: true })));
  }

  async list(path: string): Promise<readonly DirectoryEntry[]> {
    const entries = await told(this.#fs.readdir(this.#at(path), { withFileTypes: true }));
    return entries.map(directoryEntry);
  }

  async open(path: string, flags: number, mode: number): Promise<PathFile> {
    const handle = await told(this.#fs.open(this.#at(path), flags | fileConstants.O_NOFOLLOW, mode));
    return {
      read: async (into, position) => (await told(handle.read(into, 0, into.length, position))).bytesRead,
      write: async (bytes, position) =>
        (await told(handle.write(bytes, 0, bytes.length, position))).bytesWritten,
      stat: async () => attributes(await told(handle.stat({ bigint: true }))),
      truncate: (size) => told(handle.truncate(size)),
      sync: (dataOnly) => told((dataOnly ? undefined : handle.sync?.()) ?? handle.datasync()),
      close: () => told(handle.close()),
    };
  }

  async readlink(path: string): Promise<string> {
    return text(await told(this.#fs.readlink(this.#at(path))));
  }

  symlink(target: string, path: string): Promise<void> {
    return told(this.#fs.symlink(target, this.#at(path)));
  }

  link(path: string, newPath: string): Promise<void> {
    return told(this.#fs.link(this.#at(path), this.#at(newPath)));
  }

  async mkdir(path: string, mode: number): Promise<void> {
    await told(this.#fs.mkdir(this.#at(path), mode));
  }

  unlink(path: string): Promise<void> {
    return told(this.#fs.unlink(this.#at(path)));
  }

  rmdir(path: string): Promise<void> {
    return told(this.#fs.rmdir(this.#at(path)));
  }

  rename(path: string, newPath: string): Promise<void> {
    return told(this.#fs.rename(this.#at(path), this.#at(newPath)));
  }

  chmod(path: string, mode: number): Promise<void> {
    return told(this.#fs.chmod(this.#at(path), mode));
  }

  chown(path: string, uid: number, gid: number): Promise<void> {
    return told(this.#fs.lchown(this.#at(path), uid, gid));
  }

  utimes(path: string, atime: number, mtime: number): Promise<void> {
    return told(this.#fs.lutimes(this.#at(path), atime, mtime));
  }

  truncate(path: string, size: number): Promise<void> {
    return told(this.#fs.truncate(this.#at(path), size));
  }
}

async function figures(statfs: Promise<NodeStatfs>): Promise<FsStatistics> {
  const { bsize, blocks, bfree, bavail, files, ffree } = await told(statfs);
  return {
    blockSize: Number(bsize),
    blocks: Number(blocks),
    blocksFree: Number(bfree),
    blocksAvailable: Number(bavail),
    files: Number(files),
    filesFree: Number(ffree),
  };
}

/** Inode numbers are not shown, as there may be several devices. */
function attributes(stats: NodeStats): PathAttributes {
  const ino = BigInt(stats.ino);
  return {
    mode: Number(stats.mode),
    identity: ino > 0n ? `${stats.dev}:${ino}` : undefined,
    size: Number(stats.size),
    blocks: Number(stats.blocks),
    blksize: Number(stats.blksize),
    nlink: Number(stats.nlink),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    rdev: Number(stats.rdev),
    ...time('atime', stats.atimeMs, stats.atimeNs),
    ...time('mtime', stats.mtimeMs, stats.mtimeNs),
    ...time('ctime', stats.ctimeMs, stats.ctimeNs),
  };
}

function text(value: string | Uint8Array): string {
  return typeof value === 'string' ? value : Buffer.from(value).toString();
}

function directoryEntry(entry: NodeDirectoryEntry | string | Uint8Array): DirectoryEntry {
  if (typeof entry === 'string') return { name: entry, type: 0 };
  if (entry instanceof Uint8Array) return { name: text(entry), type: 0 };
  const name = text(entry.name);
  if (entry.isFile()) return { name, type: FileType.REGULAR };
  if (entry.isDirectory()) return { name, type: FileType.DIRECTORY };
  return { name, type: entry.isSymbolicLink() ? FileType.SYMLINK : 0 };
}

/** A time since the epoch, which may be before it. */
function time(
  name: 'atime' | 'mtime' | 'ctime',
  milliseconds: number | bigint,
  nanoseconds: bigint = BigInt(Math.round(Number(milliseconds) * 1e6)),
): Partial<Attributes> {
  const part = ((nanoseconds % NS) + NS) % NS;
  return { [name]: Number((nanoseconds - part) / NS), [`${name}Nsec`]: Number(part) };
}

const NS = 1_000_000_000n;

/** What a call gives, or its error as guests are told it. */
async function told<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const errno = (constants.errno as Readonly<Record<string, number>>)[code ?? ''];
    throw errno === undefined ? error : FsError.of(errno);
  }
}
