import type { Backend, FsStatistics } from '../backend/index.js';
import { FileType, FsError, OpenFlags } from '../backend/index.js';
import { type OpenPath, pathBackend } from './path-backend.js';
import {
  type PathAttributes,
  type PathFile,
  type PathFileSystem,
  unlessMissing,
} from './path-file-system.js';
import type { PathNode } from './path-nodes.js';

/** Ends an operation: 0, or a negative errno, and what it gives. */
type Done<Result extends readonly unknown[] = []> = (code: number, ...result: Partial<Result>) => void;

/** What `getattr` gives. */
export interface FuseStat {
  readonly mode: number;
  readonly size?: number;
  readonly nlink?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly rdev?: number;
  readonly blocks?: number;
  /** A Date, or milliseconds since the epoch. */
  readonly atime?: Date | number;
  readonly mtime?: Date | number;
  readonly ctime?: Date | number;
}

/** What `statfs` gives, in the words of statvfs(3). */
export interface FuseStatfs {
  readonly bsize?: number;
  readonly frsize?: number;
  readonly blocks?: number;
  readonly bfree?: number;
  readonly bavail?: number;
  readonly files?: number;
  readonly ffree?: number;
  readonly namemax?: number;
}

/**
 * Operations in the form of the npm package `fuse-native`: each ends by its callback, with a
 * negative errno for an error. `read` and `write` give the number of bytes instead. `init`,
 * `access`, `opendir` and the like are never called.
 */
export interface FuseOperations {
  getattr(path: string, done: Done<[FuseStat]>): void;
  readdir?(path: string, done: Done<[readonly string[]]>): void;
  open?(path: string, flags: number, done: Done<[number]>): void;
  create?(path: string, mode: number, done: Done<[number]>): void;
  read?(path: string, fd: number, into: Buffer, length: number, position: number, done: Done): void;
  write?(path: string, fd: number, bytes: Buffer, length: number, position: number, done: Done): void;
  fgetattr?(path: string, fd: number, done: Done<[FuseStat]>): void;
  ftruncate?(path: string, fd: number, size: number, done: Done): void;
  fsync?(path: string, dataOnly: boolean, fd: number, done: Done): void;
  flush?(path: string, fd: number, done: Done): void;
  release?(path: string, fd: number, done: Done): void;
  readlink?(path: string, done: Done<[string]>): void;
  symlink?(target: string, path: string, done: Done): void;
  link?(path: string, newPath: string, done: Done): void;
  mkdir?(path: string, mode: number, done: Done): void;
  mknod?(path: string, mode: number, rdev: number, done: Done): void;
  unlink?(path: string, done: Done): void;
  rmdir?(path: string, done: Done): void;
  rename?(path: string, newPath: string, done: Done): void;
  chmod?(path: string, mode: number, done: Done): void;
  chown?(path: string, uid: number, gid: number, done: Done): void;
  /** Milliseconds since the epoch. */
  utimens?(path: string, atime: number, mtime: number, done: Done): void;
  truncate?(path: string, size: number, done: Done): void;
  statfs?(path: string, done: Done<[FuseStatfs]>): void;
  getxattr?(path: string, name: string, position: number, done: Done<[Buffer]>): void;
  listxattr?(path: string, done: Done<[readonly string[]]>): void;
  setxattr?(path: string, name: string, value: Buffer, position: number, flags: number, done: Done): void;
  removexattr?(path: string, name: string, done: Done): void;
}

/**
 * A backend over an object of operations as programs have it for `fuse-native` or `fuse-bindings`.
 * Hard links are files of their own, as these have no inode numbers; so is a file that was renamed
 * by others. Removed files stay readable if their operations go by `fd`.
 */
export function fromFuseOperations(operations: FuseOperations): Backend<PathNode, OpenPath> {
  return pathBackend(paths(operations));
}

function paths(ops: FuseOperations): PathFileSystem {
  const stat = async (path: string): Promise<PathAttributes> =>
    attributes(await call<FuseStat>((done) => ops.getattr(path, done)));

  async function descriptor(path: string, flags: number, mode: number): Promise<number> {
    const isThere = (flags & OpenFlags.CREAT) === 0 || (await unlessMissing(stat(path))) !== undefined;
    if (!isThere && ops.create !== undefined) return call<number>((done) => ops.create!(path, mode, done));
    if (isThere && (flags & OpenFlags.EXCL) !== 0) throw FsError.of('EEXIST');
    const empties = isThere && (flags & OpenFlags.TRUNC) !== 0;
    if (empties && ops.truncate === undefined && ops.ftruncate === undefined) throw FsError.of('EPERM');
    if (!isThere) {
      if (ops.mknod === undefined) throw FsError.of('EPERM');
      await call((done) => ops.mknod!(path, FileType.REGULAR | mode, 0, done));
    }
    if (empties && ops.truncate !== undefined) await call((done) => ops.truncate!(path, 0, done));
    const rest = flags & ~(OpenFlags.CREAT | OpenFlags.EXCL | OpenFlags.TRUNC);
    const fd = ops.open === undefined ? 0 : await call<number>((done) => ops.open!(path, rest, done));
    if (empties && ops.truncate === undefined) {
      const { truncate, close } = file(path, fd);
      await truncate!(0).catch(async (error: unknown) => {
        await close().catch(() => undefined);
        throw error;
      });
    }
    return fd;
  }

  const file = (path: string, fd: number): PathFile => ({
    ...(ops.read && {
      read: (into, position) => count((done) => ops.read!(path, fd, into, into.length, position, done)),
    }),
    ...(ops.write && {
      write: (bytes, position) => count((done) => ops.write!(path, fd, bytes, bytes.length, position, done)),
    }),
    ...(ops.fgetattr && {
      stat: async () => attributes(await call<FuseStat>((done) => ops.fgetattr!(path, fd, done))),
    }),
    ...(ops.ftruncate && {
      truncate: (size) => call((done) => ops.ftruncate!(path, fd, size, done)),
    }),
    ...(ops.fsync && { sync: (dataOnly) => call((done) => ops.fsync!(path, dataOnly, fd, done)) }),
    ...(ops.flush && { flush: () => call((done) => ops.flush!(path, fd, done)) }),
    close: async () => {
      if (ops.release !== undefined) await call((done) => ops.release!(path, fd, done));
    },
  });

  return {
    stat,
    ...(ops.readdir && {
      list: async (path) => {
        const names = await call<readonly string[]>((done) => ops.readdir!(path, done));
        return names.map((name) => ({ name, type: 0 }));
      },
    }),
    ...((ops.open ?? ops.read) && {
      open: async (path, flags, mode) => file(path, await descriptor(path, flags, mode)),
    }),
    ...(ops.readlink && { readlink: (path) => call<string>((done) => ops.readlink!(path, done)) }),
    ...(ops.symlink && { symlink: (target, path) => call((done) => ops.symlink!(target, path, done)) }),
    ...(ops.link && { link: (path, newPath) => call((done) => ops.link!(path, newPath, done)) }),
    ...(ops.mkdir && { mkdir: (path, mode) => call((done) => ops.mkdir!(path, mode, done)) }),
    ...(ops.mknod && { mknod: (path, mode, rdev) => call((done) => ops.mknod!(path, mode, rdev, done)) }),
    ...(ops.unlink && { unlink: (path) => call((done) => ops.unlink!(path, done)) }),
    ...(ops.rmdir && { rmdir: (path) => call((done) => ops.rmdir!(path, done)) }),
    ...(ops.rename && { rename: (path, newPath) => call((done) => ops.rename!(path, newPath, done)) }),
    ...(ops.chmod && { chmod: (path, mode) => call((done) => ops.chmod!(path, mode, done)) }),
    ...(ops.chown && { chown: (path, uid, gid) => call((done) => ops.chown!(path, uid, gid, done)) }),
    ...(ops.utimens && {
      utimes: (path, atime, mtime) => call((done) => ops.utimens!(path, atime * 1000, mtime * 1000, done)),
    }),
    ...(ops.truncate && { truncate: (path, size) => call((done) => ops.truncate!(path, size, done)) }),
    ...(ops.statfs && {
      statfs: async (path) => statistics(await call<FuseStatfs>((done) => ops.statfs!(path, done))),
    }),
    ...(ops.getxattr && {
      getxattr: (path, name) => call<Buffer>((done) => ops.getxattr!(path, name, 0, done)),
    }),
    ...(ops.listxattr && {
      listxattr: (path) => call<readonly string[]>((done) => ops.listxattr!(path, done)),
    }),
    ...(ops.setxattr && {
      setxattr: (path, name, value, flags) =>
        call((done) => ops.setxattr!(path, name, Buffer.from(value), 0, flags, done)),
    }),
    ...(ops.removexattr && {
      removexattr: (path, name) => call((done) => ops.removexattr!(path, name, done)),
    }),
  };
}

/** Calls an operation. A negative number in its answer is its error. */
function call<Result = void>(operation: (done: Done<[Result]>) => void): Promise<Result> {
  return new Promise((resolve, reject) =>
    operation((code, result) => {
      if (code < 0) reject(errorOf(code));
      else resolve(result as Result);
    }),
  );
}

/** What is no errno is EIO: nobody would catch what is thrown in a program's callback. */
function errorOf(code: number): FsError {
  return FsError.of(Number.isInteger(code) && code >= -4095 ? -code : 'EIO');
}

/** Calls one of the operations that answer by how many bytes there were. */
function count(operation: (done: Done) => void): Promise<number> {
  return new Promise((resolve, reject) =>
    operation((code) => {
      if (code < 0) reject(errorOf(code));
      else resolve(code);
    }),
  );
}

function attributes(stat: FuseStat): PathAttributes {
  return {
    mode: stat.mode,
    size: stat.size,
    nlink: stat.nlink,
    uid: stat.uid,
    gid: stat.gid,
    rdev: stat.rdev,
    blocks: stat.blocks,
    atime: seconds(stat.atime),
    mtime: seconds(stat.mtime),
    ctime: seconds(stat.ctime ?? stat.mtime),
  };
}

function seconds(time: Date | number | undefined): number {
  return Number(time ?? 0) / 1000;
}

function statistics(stat: FuseStatfs): FsStatistics {
  const { frsize, bsize, blocks = 0, bfree = 0, files = 0, ffree = 0 } = stat;
  return {
    blockSize: frsize ?? bsize ?? 4096,
    blocks,
    blocksFree: bfree,
    blocksAvailable: stat.bavail ?? bfree,
    files,
    filesFree: ffree,
    nameMax: stat.namemax ?? 255,
  };
}
