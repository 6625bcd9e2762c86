import { FileType, FsError, nameBytes, decodeName } from '../../core/backend/index.js';
import { Bytes } from './content/bytes.js';
import { CHUNK_BYTES } from './content/chunk.js';
import { Inode, pagesOf } from './tree/inode.js';
import type { Tree } from './tree/tree.js';
import { store } from './tree/xattrs.js';

/*
 * A tree as bytes, for a session's snapshot: every inode with its number, those that have no name
 * but are still open included, so that what a guest knew is found again. All numbers are
 * little-endian; sizes and times are float64, which holds every value exactly.
 *
 *   file    magic "MEMFS" u8 version, f64 generation, f64 last inode number, u32 inodes, inode…
 *   inode   f64 ino, u32 mode uid gid nlink rdev,
 *           f64 seconds and u32 nanoseconds of atime mtime ctime btime,
 *           u16 xattrs, xattr…, then by type:
 *           directory u32 entries, entry…
 *           symlink   u16 length, bytes
 *           regular   f64 size, u32 extents of data, extent…,
 *                     u32 allocations without data, (f64 from, f64 to)…
 *   xattr   u16 length, name, u32 length, value
 *   entry   u16 length, name, f64 ino
 *   extent  f64 from, f64 length, bytes
 */

const MAGIC = 'MEMFS';
const VERSION = 1;

/** What is saved besides the inodes. */
export interface Saved {
  readonly generation: number;
  readonly lastIno: number;
}

/** Every inode that has a name or is in use. */
export function allInodes(tree: Tree): Set<Inode> {
  const found = new Set<Inode>([tree.root, ...tree.orphans]);
  for (const inode of found) {
    if (inode.entries === undefined) continue;
    for (const name of inode.entries.keys()) found.add(tree.lookup(inode, name)!);
  }
  return found;
}

/** @throws RangeError if the result would be longer than an array can be. */
export function encodeTree(tree: Tree, { generation, lastIno }: Saved): Uint8Array {
  const inodes = allInodes(tree);
  const out = new Writer();
  out.bytes(Buffer.from(MAGIC));
  out.u8(VERSION);
  out.f64(generation);
  out.f64(lastIno);
  out.u32(inodes.size);
  for (const inode of inodes) encodeInode(inode, out);
  return out.finish();
}

function encodeInode(inode: Inode, out: Writer): void {
  out.f64(inode.ino);
  for (const field of [inode.mode, inode.uid, inode.gid, inode.nlink, inode.rdev]) out.u32(field);
  out.time(inode.atime, inode.atimeNsec);
  out.time(inode.mtime, inode.mtimeNsec);
  out.time(inode.ctime, inode.ctimeNsec);
  out.time(inode.btime, inode.btimeNsec);
  out.u16(inode.xattrs?.size ?? 0);
  for (const [name, value] of inode.xattrs ?? []) {
    out.name(name);
    out.u32(value.length);
    out.bytes(value);
  }
  if (inode.entries !== undefined) {
    out.u32(inode.entries.size);
    for (const [name, child] of inode.entries) {
      out.name(name);
      out.f64(child.ino);
    }
  } else if (inode.target !== undefined) out.name(inode.target);
  else if (inode.content !== undefined) encodeContent(inode.content, out);
}

function encodeContent(content: NonNullable<Inode['content']>, out: Writer): void {
  out.f64(content.size);
  const extents = [...content.extents()];
  out.u32(extents.length);
  for (const [from, to] of extents) {
    out.f64(from);
    out.f64(to - from);
    for (let at = from; at < to; at += CHUNK_BYTES) {
      const piece = new Uint8Array(Math.min(CHUNK_BYTES, to - at));
      content.read(new Bytes(piece), at);
      out.bytes(piece);
    }
  }
  const blanks = [...content.allocations()];
  out.u32(blanks.length);
  for (const [from, to] of blanks) {
    out.f64(from);
    out.f64(to);
  }
}

/**
 * Removes everything below the root.
 * @throws EBUSY while files without a name are in use.
 */
export function emptyTree(tree: Tree): void {
  // Nobody came for those that a state had without need.
  for (const orphan of tree.orphans) tree.reap(orphan);
  if (tree.orphans.size > 0) throw FsError.of('EBUSY');
  const above: [Inode, string][] = [];
  const directories: Inode[] = [tree.root];
  for (const directory of directories) {
    for (const name of directory.entries!.keys()) {
      const child = tree.lookup(directory, name)!;
      if (child.entries === undefined) tree.unlink(directory, name);
      else {
        above.push([directory, name]);
        directories.push(child);
      }
    }
  }
  for (const [directory, name] of above.toReversed()) tree.rmdir(directory, name);
}

/**
 * Fills an empty tree with what {@link encodeTree} wrote.
 * @throws EINVAL for other bytes; ENOSPC if they exceed the tree's limits. The tree is empty then.
 */
export function decodeTree(state: Uint8Array, tree: Tree): Saved {
  const inodes = new Map<number, Inode>();
  const { mode, nlink } = tree.root;
  const before = tree.space.copy();
  try {
    return decodeInto(state, tree, inodes);
  } catch (error) {
    for (const inode of inodes.values()) {
      inode.content?.clear(tree.arena);
      tree.orphans.delete(inode);
    }
    tree.root.entries!.clear();
    tree.root.xattrs = undefined;
    Object.assign(tree.root, { mode, nlink });
    tree.space.rewind(before);
    throw error;
  }
}

function decodeInto(state: Uint8Array, tree: Tree, inodes: Map<number, Inode>): Saved {
  const input = new Reader(state);
  if (Buffer.from(input.bytes(MAGIC.length)).toString() !== MAGIC || input.u8() !== VERSION)
    throw FsError.of('EINVAL');
  const generation = input.f64();
  const lastIno = input.f64();
  const count = input.u32();
  const names = new Map<Inode, number>();
  const directories: (readonly [Inode, readonly (readonly [string, number])[]])[] = [];
  for (let i = 0; i < count; i++) {
    const ino = input.f64();
    const mode = input.u32();
    const inode = ino === tree.root.ino ? tree.root : new Inode(tree, 0, ino, mode, tree.clock);
    if (inode.type !== (mode & FileType.MASK)) throw FsError.of('EINVAL');
    inode.mode = mode;
    if (inodes.has(ino)) throw FsError.of('EINVAL');
    if (inode !== tree.root) tree.space.takeInode();
    inodes.set(ino, inode);
    decodeInode(inode, input, tree, directories);
    if (inode.nlink === 0) tree.orphans.add(inode);
    else if (inode.entries === undefined) for (let n = 1; n < inode.nlink; n++) tree.space.takeInode();
  }
  const find = (ino: number): Inode => {
    const found = inodes.get(ino);
    if (found === undefined) throw FsError.of('EINVAL');
    return found;
  };
  for (const [inode, entries] of directories) {
    for (const [name, ino] of entries) {
      const child = find(ino);
      inode.entries!.set(name, child);
      names.set(child, (names.get(child) ?? 0) + 1);
      if (child.entries === undefined) continue;
      if (child.parent !== undefined) throw FsError.of('EINVAL');
      child.parent = inode;
    }
  }
  // What has more or fewer names than it says would never go away, or go too early.
  for (const inode of inodes.values())
    if (inode.entries === undefined && inode.nlink !== (names.get(inode) ?? 0)) throw FsError.of('EINVAL');
  const all = directories.map(([inode]) => inode);
  if (!areWithoutCircles(all, tree.root)) throw FsError.of('EINVAL');
  return { generation, lastIno };
}

/**
 * Whether the directories above each of these end at the root, or at a directory without a name.
 * Takes time by their number, however deep they are.
 */
export function areWithoutCircles(directories: Iterable<Inode>, root: Inode): boolean {
  const checked = new Set<Inode>([root]);
  for (const directory of directories) {
    const above = new Set<Inode>();
    for (let at: Inode | undefined = directory; at !== undefined && !checked.has(at); at = at.parent) {
      if (above.has(at)) return false;
      above.add(at);
    }
    for (const one of above) checked.add(one);
  }
  return true;
}

function decodeInode(
  inode: Inode,
  input: Reader,
  tree: Tree,
  directories: (readonly [Inode, readonly (readonly [string, number])[]])[],
): void {
  inode.uid = input.u32();
  inode.gid = input.u32();
  inode.nlink = input.u32();
  inode.rdev = input.u32();
  [inode.atime, inode.atimeNsec] = input.time();
  [inode.mtime, inode.mtimeNsec] = input.time();
  [inode.ctime, inode.ctimeNsec] = input.time();
  [inode.btime, inode.btimeNsec] = input.time();
  for (let left = input.u16(); left > 0; left--) {
    const name = input.name();
    store(inode, name, input.bytes(input.u32()).slice(), tree.space);
  }
  if (inode.entries !== undefined) {
    const entries = Array.from({ length: input.u32() }, () => [input.name(), input.f64()] as const);
    directories.push([inode, entries]);
  } else if (inode.type === FileType.SYMLINK) {
    inode.target = input.name();
    tree.space.takeTarget(inode.target.length);
    tree.space.takePages(pagesOf(inode));
  } else if (inode.content !== undefined) decodeContent(inode.content, input, tree);
}

function decodeContent(content: NonNullable<Inode['content']>, input: Reader, { arena, space }: Tree): void {
  const size = input.f64();
  for (let left = input.u32(); left > 0; left--) {
    const from = input.f64();
    const bytes = input.bytes(input.f64());
    if (content.write(new Bytes(bytes), from, arena, space) < bytes.length) throw FsError.of('ENOSPC');
  }
  for (let left = input.u32(); left > 0; left--) content.allocate(input.f64(), input.f64(), arena, space);
  content.size = size;
}

class Writer {
  #buffer = Buffer.allocUnsafe(1 << 16);
  #at = 0;

  /** Reserves bytes. May replace the buffer, so call it before using that. */
  #room(count: number): number {
    const at = this.#at;
    this.#at += count;
    if (this.#at > this.#buffer.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(this.#at, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, at);
      this.#buffer = grown;
    }
    return at;
  }

  u8(value: number): void {
    const at = this.#room(1);
    this.#buffer.writeUInt8(value, at);
  }

  u16(value: number): void {
    const at = this.#room(2);
    this.#buffer.writeUInt16LE(value, at);
  }

  u32(value: number): void {
    const at = this.#room(4);
    this.#buffer.writeUInt32LE(value, at);
  }

  f64(value: number): void {
    const at = this.#room(8);
    this.#buffer.writeDoubleLE(value, at);
  }

  time(seconds: number, nanoseconds: number): void {
    this.f64(seconds);
    this.u32(nanoseconds);
  }

  name(name: string): void {
    const bytes = nameBytes(name);
    this.u16(bytes.length);
    this.bytes(bytes);
  }

  bytes(bytes: Uint8Array): void {
    const at = this.#room(bytes.length);
    this.#buffer.set(bytes, at);
  }

  finish(): Uint8Array {
    return this.#buffer.subarray(0, this.#at);
  }
}

class Reader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #skip(count: number): number {
    const at = this.#at;
    if (!(count >= 0 && at + count <= this.#buffer.length)) throw FsError.of('EINVAL');
    this.#at += count;
    return at;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#skip(1));
  }

  u16(): number {
    return this.#buffer.readUInt16LE(this.#skip(2));
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#skip(4));
  }

  f64(): number {
    const value = this.#buffer.readDoubleLE(this.#skip(8));
    if (!Number.isSafeInteger(value)) throw FsError.of('EINVAL');
    return value;
  }

  time(): [number, number] {
    return [this.f64(), this.u32()];
  }

  name(): string {
    return decodeName(this.bytes(this.u16()));
  }

  bytes(length: number): Uint8Array {
    const at = this.#skip(length);
    return this.#buffer.subarray(at, at + length);
  }
}
