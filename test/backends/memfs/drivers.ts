import { createHash } from 'node:crypto';
import type { MemfsBackend } from '../../../backends/memfs/backend.js';
import type { Inode } from '../../../backends/memfs/tree/inode.js';
import {
  type Context,
  decodeName,
  type Entry,
  FileType,
  FsError,
  makeDevice,
  nameBytes,
  OpenFlags,
  RenameFlags,
} from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/index.js';
import * as files from '../../../core/system/calls/files.js';
import * as xattrs from '../../../core/system/calls/xattrs.js';
import { type Fd, NativeMemory } from '../../../core/system/index.js';
import { caller, host } from './support.js';
import { entriesOf } from '../../support/listings.js';

const { AT, O } = files;

/**
 * What two file systems must agree on about one file. Of times, only whether they have changed is
 * compared.
 */
export interface ComparedAttributes {
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly blocks: number;
  readonly rdev: string;
}

export interface Stat extends ComparedAttributes {
  readonly ino: number;
  readonly atime: string;
  readonly mtime: string;
  readonly ctime: string;
}

/**
 * A file system driven by paths below its root, as root without permission checks. Errors are
 * thrown as {@link FsError}.
 */
export interface Driver {
  lstat(path: string): Stat;
  list(path: string): string[];
  readlink(path: string): string;
  mknod(path: string, mode: number, umask: number): void;
  mkdir(path: string, mode: number, umask: number): void;
  symlink(path: string, target: string): void;
  link(from: string, to: string): void;
  unlink(path: string): void;
  rmdir(path: string): void;
  rename(from: string, to: string, flags: number): void;
  chmod(path: string, mode: number): void;
  chown(path: string, uid: number, gid: number): void;
  truncate(path: string, size: number): void;
  utimes(path: string, atime: number, mtime: number): void;
  setxattr(path: string, name: string, value: Uint8Array, flags: number): void;
  removexattr(path: string, name: string): void;
  xattrs(path: string): string[];
  /** Opens a regular file. @returns a handle. */
  open(path: string): number;
  tmpfile(directory: string, mode: number): number;
  linkHandle(handle: number, to: string): void;
  close(handle: number): void;
  fstat(handle: number): Stat;
  read(handle: number, offset: number, length: number): Uint8Array;
  write(handle: number, offset: number, bytes: Uint8Array): number;
  ftruncate(handle: number, size: number): void;
  fallocate(handle: number, mode: number, offset: number, length: number): void;
  seek(handle: number, offset: number, whence: 'data' | 'hole'): number;
  copy(from: number, offset: number, to: number, toOffset: number, length: number): number;
  statfs(): {
    readonly blocks: number;
    readonly free: number;
    readonly files: number;
    readonly filesFree: number;
  };
}

/** The start and end of each run of data in a file. */
export function extents(driver: Driver, handle: number): string {
  const found: string[] = [];
  for (let at = 0; ;) {
    try {
      const start = driver.seek(handle, at, 'data');
      at = driver.seek(handle, start, 'hole');
      found.push(`${start}-${at}`);
    } catch {
      return found.join(' ');
    }
  }
}

export function digest(driver: Driver, handle: number, size: number): string {
  const hash = createHash('sha1');
  for (let at = 0; at < size; at += 1 << 20)
    hash.update(driver.read(handle, at, Math.min(1 << 20, size - at)));
  return hash.digest('hex');
}

function check<Result extends number>(value: Result): Result {
  if (value < 0) throw FsError.of(-value);
  return value;
}

const text = NativeMemory.allocate(1 << 16);
const area = NativeMemory.allocate(1 << 21);

/** Places strings in native memory. */
function strings(...values: string[]): number[] {
  let at = 0;
  return values.map((value) => {
    const bytes = nameBytes(value);
    text.u8.set(bytes, at);
    text.u8[at + bytes.length] = 0;
    const address = text.address + at;
    at += bytes.length + 1;
    return address;
  });
}

/** A directory of this machine, by system calls. */
export class HostDriver implements Driver {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  lstat(path: string): Stat {
    const [address] = strings(this.#at(path));
    check(files.statx(AT.FDCWD, address!, AT.SYMLINK_NOFOLLOW, files.STATX.BASIC, area.address));
    return statOf();
  }

  list(path: string): string[] {
    return this.#with(path, O.RDONLY | O.DIRECTORY, (fd) => {
      const names: string[] = [];
      for (let length; (length = check(files.getdents64(fd, area.address, 1 << 16))) > 0;) {
        for (let at = 0; at < length; at += area.u8[at + 16]! | (area.u8[at + 17]! << 8)) {
          const end = area.u8.indexOf(0, at + 19);
          const name = decodeName(area.u8, at + 19, end);
          if (name !== '.' && name !== '..') names.push(name);
        }
      }
      return names.sort();
    });
  }

  readlink(path: string): string {
    const [address] = strings(this.#at(path));
    return decodeName(area.u8, 0, check(files.readlinkat(AT.FDCWD, address!, area.address, 8192)));
  }

  mknod(path: string, mode: number, umask: number): void {
    const device = (mode & FileType.MASK) === FileType.CHARACTER ? makeDevice(5, 300) : 0;
    this.#masked(umask, () => files.mknodat(AT.FDCWD, strings(this.#at(path))[0]!, mode, device));
  }

  mkdir(path: string, mode: number, umask: number): void {
    this.#masked(umask, () => files.mkdirat(AT.FDCWD, strings(this.#at(path))[0]!, mode));
  }

  symlink(path: string, target: string): void {
    const [from, to] = strings(target, this.#at(path));
    check(files.symlinkat(from!, AT.FDCWD, to!));
  }

  link(from: string, to: string): void {
    const [a, b] = strings(this.#at(from), this.#at(to));
    check(files.linkat(AT.FDCWD, a!, AT.FDCWD, b!, 0));
  }

  unlink(path: string): void {
    check(files.unlinkat(AT.FDCWD, strings(this.#at(path))[0]!, 0));
  }

  rmdir(path: string): void {
    check(files.unlinkat(AT.FDCWD, strings(this.#at(path))[0]!, AT.REMOVEDIR));
  }

  rename(from: string, to: string, flags: number): void {
    const [a, b] = strings(this.#at(from), this.#at(to));
    check(files.renameat2(AT.FDCWD, a!, AT.FDCWD, b!, flags));
  }

  chmod(path: string, mode: number): void {
    this.#node(path, (node) => files.chmod(node, mode));
  }

  chown(path: string, uid: number, gid: number): void {
    const [address] = strings(this.#at(path));
    check(files.fchownat(AT.FDCWD, address!, uid, gid, AT.SYMLINK_NOFOLLOW));
  }

  truncate(path: string, size: number): void {
    this.#node(path, (node) => files.truncate(node, size));
  }

  utimes(path: string, atime: number, mtime: number): void {
    const [address] = strings(this.#at(path));
    const words = new BigInt64Array(area.u8.buffer, area.u8.byteOffset, 4);
    words.set([BigInt(atime), 1n, BigInt(mtime), 2n]);
    check(files.utimensat(AT.FDCWD, address!, area.address, AT.SYMLINK_NOFOLLOW));
  }

  setxattr(path: string, name: string, value: Uint8Array, flags: number): void {
    area.u8.set(value);
    this.#node(path, (node, named) => xattrs.setxattr(node, named, area.address, value.length, flags), name);
  }

  removexattr(path: string, name: string): void {
    this.#node(path, (node, named) => xattrs.removexattr(node, named), name);
  }

  xattrs(path: string): string[] {
    const length = this.#node(path, (node) => xattrs.listxattr(node, area.address, 65536));
    const names = decodeName(area.u8, 0, length).split('\0').slice(0, -1).sort();
    return names.map((name) => {
      const size = this.#node(path, (node, named) => xattrs.getxattr(node, named, area.address, 65536), name);
      return `${name}=${Buffer.from(area.u8.subarray(0, size)).toString('hex')}`;
    });
  }

  open(path: string): number {
    return check(files.openat(AT.FDCWD, strings(this.#at(path))[0]!, O.RDWR | O.NOFOLLOW, 0));
  }

  tmpfile(directory: string, mode: number): number {
    return this.#masked(0, () =>
      files.openat(AT.FDCWD, strings(this.#at(directory))[0]!, O.TMPFILE | O.RDWR, mode),
    );
  }

  linkHandle(handle: Fd, to: string): void {
    const [a, b] = strings(`/proc/self/fd/${handle}`, this.#at(to));
    check(files.linkat(AT.FDCWD, a!, AT.FDCWD, b!, AT.SYMLINK_FOLLOW));
  }

  close(handle: Fd): void {
    check(files.close(handle));
  }

  fstat(handle: Fd): Stat {
    check(files.statx(handle, strings('')[0]!, AT.EMPTY_PATH, files.STATX.BASIC, area.address));
    return statOf();
  }

  read(handle: Fd, offset: number, length: number): Uint8Array {
    const count = this.#iov(length, (iov) => files.preadv2(handle, iov, 1, offset, 0));
    return area.u8.slice(0, count);
  }

  write(handle: Fd, offset: number, bytes: Uint8Array): number {
    area.u8.set(bytes);
    return this.#iov(bytes.length, (iov) => files.pwritev2(handle, iov, 1, offset, 0));
  }

  ftruncate(handle: Fd, size: number): void {
    check(files.ftruncate(handle, size));
  }

  fallocate(handle: Fd, mode: number, offset: number, length: number): void {
    check(files.fallocate(handle, mode, offset, length));
  }

  seek(handle: Fd, offset: number, whence: 'data' | 'hole'): number {
    return check(files.lseek(handle, offset, whence === 'data' ? 3 : 4));
  }

  copy(from: Fd, offset: number, to: Fd, toOffset: number, length: number): number {
    const words = new BigInt64Array(area.u8.buffer, area.u8.byteOffset, 2);
    words.set([BigInt(offset), BigInt(toOffset)]);
    return check(files.copyFileRange(from, area.address, to, area.address + 8, length));
  }

  statfs(): { blocks: number; free: number; files: number; filesFree: number } {
    return this.#with('', O.RDONLY, (fd) => {
      check(files.fstatfs(fd, area.address));
      const words = new BigInt64Array(area.u8.buffer, area.u8.byteOffset, 15);
      const [, , blocks, free, , inodes, inodesFree] = [...words].map(Number);
      return { blocks: blocks!, free: free!, files: inodes!, filesFree: inodesFree! };
    });
  }

  #at(path: string): string {
    return path === '' ? this.#root : `${this.#root}/${path}`;
  }

  #masked(umask: number, call: () => number): number {
    const before = files.umask(umask);
    const result = call();
    files.umask(before);
    return check(result);
  }

  #iov(length: number, call: (iov: number) => number): number {
    const at = 1 << 20;
    const words = new BigUint64Array(area.u8.buffer, area.u8.byteOffset + at, 2);
    words.set([BigInt(area.address), BigInt(length)]);
    return check(call(area.address + at));
  }

  #with<T>(path: string, flags: number, use: (fd: Fd) => T): T {
    const fd = check(files.openat(AT.FDCWD, strings(this.#at(path))[0]!, flags | O.NOFOLLOW, 0));
    try {
      return use(fd);
    } finally {
      files.close(fd);
    }
  }

  /** Makes a call with a path that stands for the node itself. No link at its end is followed. */
  #node(path: string, call: (node: number, name: number) => number, name = ''): number {
    return this.#with(path, O.PATH, (fd) => {
      const [node, named] = strings(`/proc/self/fd/${fd}`, name);
      return check(call(node!, named!));
    });
  }
}

function statOf(): Stat {
  const view = new DataView(area.u8.buffer, area.u8.byteOffset, 256);
  const time = (at: number): string => `${view.getBigInt64(at, true)}.${view.getUint32(at + 8, true)}`;
  return {
    mode: view.getUint16(28, true),
    nlink: view.getUint32(16, true),
    uid: view.getUint32(20, true),
    gid: view.getUint32(24, true),
    ino: Number(view.getBigUint64(32, true)),
    size: Number(view.getBigUint64(40, true)),
    blocks: Number(view.getBigUint64(48, true)),
    rdev: `${view.getUint32(128, true)}:${view.getUint32(132, true)}`,
    atime: time(64),
    ctime: time(96),
    mtime: time(112),
  };
}

const scratch = hostBuffer(1 << 20);

/**
 * The backend, called as the engine calls it for a guest's kernel, which walks the path and checks
 * what it can itself.
 */
export class MemfsDriver implements Driver {
  readonly #fs: MemfsBackend;
  readonly #root: Inode;
  readonly #handles = new Map<number, Inode>();
  #nextHandle = 1;

  constructor(fs: MemfsBackend) {
    this.#fs = fs;
    this.#root = fs.mount(host);
  }

  lstat(path: string): Stat {
    return this.#stat(this.#find(path));
  }

  list(path: string): string[] {
    return entriesOf(this.#fs.readdir(this.#find(path)))
      .map((entry) => entry.name)
      .sort();
  }

  readlink(path: string): string {
    return this.#fs.readlink(this.#find(path));
  }

  mknod(path: string, mode: number, umask: number): void {
    const [parent, name] = this.#parent(path);
    this.#know(this.#fs.mknod(parent, name, mode, makeDevice(5, 300), caller({ umask })));
  }

  mkdir(path: string, mode: number, umask: number): void {
    const [parent, name] = this.#parent(path);
    this.#know(this.#fs.mkdir(parent, name, mode & 0o1777, caller({ umask })));
  }

  symlink(path: string, target: string): void {
    const [parent, name] = this.#parent(path);
    this.#know(this.#fs.symlink(parent, name, target, context));
  }

  link(from: string, to: string): void {
    const node = this.#find(from);
    const [parent, name] = this.#parent(to);
    if (this.#lookup(parent, name) !== undefined) throw FsError.of('EEXIST');
    this.#fs.link(node, parent, name);
  }

  unlink(path: string): void {
    this.#fs.unlink(...this.#parent(path));
    this.#forgetAll();
  }

  rmdir(path: string): void {
    this.#fs.rmdir(...this.#parent(path));
    this.#forgetAll();
  }

  rename(from: string, to: string, flags: number): void {
    const { NOREPLACE, EXCHANGE, WHITEOUT } = RenameFlags;
    if ((flags & EXCHANGE) !== 0 && (flags & (NOREPLACE | WHITEOUT)) !== 0) throw FsError.of('EINVAL');
    const [parent, name] = this.#parent(from);
    const [newParent, newName] = this.#parent(to);
    this.#fs.rename(parent, name, newParent, newName, flags, context);
    this.#forgetAll();
  }

  chmod(path: string, mode: number): void {
    const node = this.#find(path);
    if (node.type === FileType.SYMLINK) throw FsError.of('EOPNOTSUPP');
    this.#fs.setattr(node, { mode }, undefined);
  }

  chown(path: string, uid: number, gid: number): void {
    this.#fs.setattr(this.#find(path), { uid, gid }, undefined);
  }

  truncate(path: string, size: number): void {
    this.#fs.setattr(this.#find(path), { size }, undefined);
  }

  utimes(path: string, atime: number, mtime: number): void {
    const changes = {
      atime: { seconds: atime, nanoseconds: 1 },
      mtime: { seconds: mtime, nanoseconds: 2 },
    };
    this.#fs.setattr(this.#find(path), changes, undefined);
  }

  setxattr(path: string, name: string, value: Uint8Array, flags: number): void {
    const node = this.#find(path);
    checkUserXattr(node, name);
    this.#fs.setxattr(node, name, value, flags, false);
  }

  removexattr(path: string, name: string): void {
    const node = this.#find(path);
    checkUserXattr(node, name);
    this.#fs.removexattr(node, name);
  }

  xattrs(path: string): string[] {
    const node = this.#find(path);
    const names = [...this.#fs.listxattr(node, context)].sort();
    return names.map((name) => `${name}=${Buffer.from(this.#fs.getxattr(node, name)!).toString('hex')}`);
  }

  open(path: string): number {
    const node = this.#find(path);
    return this.#handle(node);
  }

  tmpfile(directory: string, mode: number): number {
    return this.#handle(this.#fs.tmpfile(this.#find(directory), mode, OpenFlags.READ_WRITE, context).node);
  }

  linkHandle(handle: Fd, to: string): void {
    const [parent, name] = this.#parent(to);
    if (this.#lookup(parent, name) !== undefined) throw FsError.of('EEXIST');
    const node = this.#node(handle);
    // Linux `vfs_link`: a file without a name gets one only if it was made by O_TMPFILE.
    if (node.nlink === 0 && !this.#temporary.has(node)) throw FsError.of('ENOENT');
    this.#fs.link(node, parent, name);
    this.#temporary.delete(node);
  }

  close(handle: Fd): void {
    this.#node(handle);
    this.#handles.delete(handle);
    this.#forgetAll();
  }

  fstat(handle: Fd): Stat {
    return this.#stat(this.#node(handle));
  }

  read(handle: Fd, offset: number, length: number): Uint8Array {
    const count = this.#fs.read(this.#node(handle), file, scratch.slice(0, length), offset);
    return scratch.bytes.slice(0, count);
  }

  write(handle: Fd, offset: number, bytes: Uint8Array): number {
    if (bytes.length === 0) return 0;
    scratch.put(0, bytes);
    return this.#fs.write(this.#node(handle), file, scratch.slice(0, bytes.length), offset, 0);
  }

  ftruncate(handle: Fd, size: number): void {
    this.#fs.setattr(this.#node(handle), { size }, file);
  }

  fallocate(handle: Fd, mode: number, offset: number, length: number): void {
    this.#fs.fallocate(this.#node(handle), file, mode, offset, length, context);
  }

  seek(handle: Fd, offset: number, whence: 'data' | 'hole'): number {
    return this.#fs.lseek(this.#node(handle), file, offset, whence);
  }

  copy(from: Fd, offset: number, to: Fd, toOffset: number, length: number): number {
    const source = this.#node(from);
    const target = this.#node(to);
    // Linux `generic_copy_file_checks`.
    const count = Math.max(0, Math.min(length, this.fstat(from).size - offset));
    const overlap = offset < toOffset + count && toOffset < offset + count;
    if (source === target && overlap) throw FsError.of('EINVAL');
    return this.#fs.copyFileRange(source, file, offset, target, file, toOffset, length, context);
  }

  statfs(): { blocks: number; free: number; files: number; filesFree: number } {
    const { blocks = 0, blocksFree = 0, files: inodes = 0, filesFree = 0 } = this.#fs.statfs();
    return { blocks, free: blocksFree, files: inodes, filesFree };
  }

  /** Files of O_TMPFILE that have had no name yet. */
  readonly #temporary = new Set<Inode>();
  /** Every node that the backend gave out, as an engine's table would hold it. */
  readonly #known = new Set<Inode>();

  #handle(node: Inode): number {
    if (node.nlink === 0) this.#temporary.add(node);
    this.#known.add(node);
    this.#handles.set(this.#nextHandle, node);
    return this.#nextHandle++;
  }

  #node(handle: Fd): Inode {
    const node = this.#handles.get(handle);
    if (node === undefined) throw FsError.of('EBADF');
    return node;
  }

  /** The guest forgets what it does not have open. */
  #forgetAll(): void {
    const open = new Set(this.#handles.values());
    for (const node of this.#known) {
      if (open.has(node) || node === this.#root) continue;
      this.#known.delete(node);
      this.#fs.forget(node);
    }
  }

  #know(entry: Entry<Inode>): Inode {
    this.#known.add(entry.node);
    return entry.node;
  }

  #lookup(parent: Inode, name: string): Inode | undefined {
    const entry = this.#fs.lookup(parent, name);
    return entry === undefined ? undefined : this.#know(entry);
  }

  #find(path: string): Inode {
    if (path === '') return this.#root;
    const [parent, name] = this.#parent(path);
    const found = this.#lookup(parent, name);
    if (found === undefined) throw FsError.of('ENOENT');
    return found;
  }

  #parent(path: string): [Inode, string] {
    const parts = path.split('/');
    const name = parts.pop()!;
    let node = this.#root;
    for (const part of parts) {
      const found = this.#lookup(node, part);
      // The links that the tests make point nowhere.
      if (found === undefined || found.type === FileType.SYMLINK) throw FsError.of('ENOENT');
      node = found;
      if (node.type !== FileType.DIRECTORY) throw FsError.of('ENOTDIR');
    }
    return [node, name];
  }

  #stat(node: Inode): Stat {
    const a = this.#fs.getattr(node);
    const rdev = a.rdev ?? 0;
    return {
      mode: a.mode,
      nlink: a.nlink!,
      uid: a.uid!,
      gid: a.gid!,
      size: a.size!,
      blocks: a.blocks!,
      ino: Number(a.ino),
      rdev: `${(rdev >>> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`,
      atime: `${a.atime}.${a.atimeNsec}`,
      mtime: `${a.mtime}.${a.mtimeNsec}`,
      ctime: `${a.ctime}.${a.ctimeNsec}`,
    };
  }
}

/** Linux `xattr_permission`: only files and directories have attributes of users. */
function checkUserXattr(node: Inode, name: string): void {
  const allowed = node.type === FileType.REGULAR || node.type === FileType.DIRECTORY;
  if (name.startsWith('user.') && !allowed) throw FsError.of('EPERM');
}

const context: Context = caller();
const file = { append: false, noAtime: false };
