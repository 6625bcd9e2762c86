import {
  type AttributeChanges,
  type Attributes,
  type Backend,
  type BackendHost,
  type Context,
  type Created,
  type DirectoryEntry,
  type Entry,
  FallocateMode,
  FileType,
  FsError,
  type FsStatistics,
  type GuestBuffer,
  OpenFlags,
  type Opened,
  WriteFlags,
} from '../../core/backend/index.js';
import { PAGE } from './chunk.js';
import type { Inode } from './inode.js';
import { blocksOf, contentOf, entriesOf, sizeOf, type Tree } from './tree.js';

const EEXIST = FsError.of('EEXIST');
const EINVAL = FsError.of('EINVAL');
const EOPNOTSUPP = FsError.of('EOPNOTSUPP');

/** An open file. All that a descriptor adds to its inode is whether it appends. */
interface OpenFile {
  readonly append: boolean;
}

const PLAIN: Opened<OpenFile> = { file: { append: false } };
const APPENDING: Opened<OpenFile> = { file: { append: true } };

/** A tree served to guests. Synchronous throughout, and answers with objects that are refilled at the next call. */
export class MemfsBackend implements Backend<Inode, OpenFile> {
  readonly semantics = { killPriv: true };
  readonly #tree: Tree;
  readonly #attributes = emptyAttributes();
  readonly #entry: { node: Inode; attributes: Attributes; file: OpenFile };

  constructor(tree: Tree) {
    this.#tree = tree;
    this.#entry = { node: tree.root, attributes: this.#attributes, file: PLAIN.file };
  }

  mount(_host: BackendHost): Inode {
    this.#tree.root.held = true;
    return this.#tree.root;
  }

  forget(node: Inode): void {
    node.held = false;
    this.#tree.reap(node);
  }

  lookup(parent: Inode, name: string): Entry<Inode> | undefined {
    const inode = this.#tree.lookup(parent, name);
    return inode === undefined ? undefined : this.#answer(inode);
  }

  getattr(node: Inode): Attributes {
    return this.#show(node);
  }

  setattr(node: Inode, changes: AttributeChanges): Attributes {
    this.#tree.change(node, changes);
    return this.#show(node);
  }

  readlink(node: Inode): string {
    if (node.target === undefined) throw EINVAL;
    return node.target;
  }

  mknod(parent: Inode, name: string, mode: number, rdev: number, context: Context): Entry<Inode> {
    const type = mode & FileType.MASK;
    const isDevice = type === FileType.CHARACTER || type === FileType.BLOCK;
    return this.#answer(this.#tree.create(parent, name, mode, isDevice ? rdev : 0, context));
  }

  mkdir(parent: Inode, name: string, mode: number, context: Context): Entry<Inode> {
    const type = FileType.DIRECTORY | (mode & ~FileType.MASK);
    return this.#answer(this.#tree.create(parent, name, type, 0, context));
  }

  symlink(parent: Inode, name: string, target: string, context: Context): Entry<Inode> {
    return this.#answer(this.#tree.symlink(parent, name, target, context));
  }

  link(node: Inode, parent: Inode, name: string): Entry<Inode> {
    this.#tree.link(node, parent, name);
    return this.#answer(node);
  }

  unlink(parent: Inode, name: string): void {
    this.#tree.unlink(parent, name);
  }

  rmdir(parent: Inode, name: string): void {
    this.#tree.rmdir(parent, name);
  }

  rename(
    parent: Inode,
    name: string,
    newParent: Inode,
    newName: string,
    flags: number,
    context: Context,
  ): void {
    this.#tree.rename(parent, name, newParent, newName, flags, context);
  }

  open(node: Inode, flags: number): Opened<OpenFile> {
    if ((flags & OpenFlags.TRUNC) !== 0) this.#tree.change(node, { size: 0 });
    return (flags & OpenFlags.APPEND) !== 0 ? APPENDING : PLAIN;
  }

  create(
    parent: Inode,
    name: string,
    mode: number,
    flags: number,
    context: Context,
  ): Created<Inode, OpenFile> {
    let inode = this.#tree.lookup(parent, name);
    if (inode === undefined) {
      inode = this.#tree.create(parent, name, FileType.REGULAR | (mode & ~FileType.MASK), 0, context);
    } else if ((flags & OpenFlags.EXCL) !== 0) throw EEXIST;
    else if ((flags & OpenFlags.TRUNC) !== 0) this.#tree.change(inode, { size: 0 });
    return this.#opened(inode, flags);
  }

  tmpfile(parent: Inode, mode: number, flags: number, context: Context): Created<Inode, OpenFile> {
    const inode = this.#tree.anonymous(parent, FileType.REGULAR | (mode & ~FileType.MASK), context);
    return this.#opened(inode, flags);
  }

  read(node: Inode, _file: OpenFile, buffer: GuestBuffer, offset: number): number {
    return contentOf(node).read(buffer, offset);
  }

  write(node: Inode, file: OpenFile, buffer: GuestBuffer, offset: number, flags: number): number {
    const { arena, space, clock } = this.#tree;
    const content = contentOf(node);
    const at = file.append && (flags & WriteFlags.CACHE) === 0 ? content.size : offset;
    const written = content.write(buffer, at, arena, space);
    if ((flags & WriteFlags.KILL_SUIDGID) !== 0) this.#tree.clearSetId(node);
    clock.tick();
    node.modified(clock);
    return written;
  }

  fsync(): void {}

  fsyncdir(): void {}

  syncfs(): void {}

  *readdir(node: Inode): Iterable<DirectoryEntry> {
    for (const [name, inode] of entriesOf(node)) {
      yield { name, type: inode.mode & FileType.MASK, ino: inode.ino };
    }
  }

  statfs(): FsStatistics {
    const { maxPages, pages, maxInodes, inodes } = this.#tree.space;
    return {
      blockSize: PAGE,
      blocks: maxPages,
      blocksFree: maxPages - pages,
      files: maxInodes,
      filesFree: maxInodes - inodes,
    };
  }

  fallocate(node: Inode, _file: OpenFile, mode: number, offset: number, length: number): void {
    const { arena, space, clock } = this.#tree;
    const { KEEP_SIZE, PUNCH_HOLE } = FallocateMode;
    const content = contentOf(node);
    if (mode === (PUNCH_HOLE | KEEP_SIZE)) content.punch(offset, offset + length, arena, space);
    else if (mode === 0 || mode === KEEP_SIZE) {
      content.allocate(offset, offset + length, arena, space);
      if (mode === 0 && offset + length > content.size) content.size = offset + length;
    } else throw EOPNOTSUPP;
    clock.tick();
    node.modified(clock);
  }

  lseek(node: Inode, _file: OpenFile, offset: number, whence: 'data' | 'hole'): number {
    const content = contentOf(node);
    return whence === 'data' ? content.nextData(offset) : content.nextHole(offset);
  }

  #answer(inode: Inode): Entry<Inode> {
    inode.held = true;
    this.#show(inode);
    this.#entry.node = inode;
    return this.#entry;
  }

  #opened(inode: Inode, flags: number): Created<Inode, OpenFile> {
    this.#answer(inode);
    this.#entry.file = (flags & OpenFlags.APPEND) !== 0 ? APPENDING.file : PLAIN.file;
    return this.#entry;
  }

  #show(inode: Inode): Attributes {
    const shown = this.#attributes;
    shown.ino = inode.ino;
    shown.mode = inode.mode;
    shown.size = sizeOf(inode);
    shown.blocks = blocksOf(inode);
    shown.nlink = inode.nlink;
    shown.uid = inode.uid;
    shown.gid = inode.gid;
    shown.rdev = inode.rdev;
    shown.atime = inode.atime;
    shown.atimeNsec = inode.atimeNsec;
    shown.mtime = inode.mtime;
    shown.mtimeNsec = inode.mtimeNsec;
    shown.ctime = inode.ctime;
    shown.ctimeNsec = inode.ctimeNsec;
    shown.btime = inode.btime;
    shown.btimeNsec = inode.btimeNsec;
    return shown;
  }
}

function emptyAttributes(): Attributes {
  return {
    mode: 0,
    ino: 0,
    size: 0,
    blocks: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: PAGE,
    atime: 0,
    atimeNsec: 0,
    mtime: 0,
    mtimeNsec: 0,
    ctime: 0,
    ctimeNsec: 0,
    btime: 0,
    btimeNsec: 0,
  };
}
