import { randomInt } from 'node:crypto';
import { accelerate } from '../../core/backend/accelerator.js';
import {
  type AttributeChanges,
  type Attributes,
  andThen,
  type Awaitable,
  type Backend,
  type BackendHost,
  type NodeChange,
  type Context,
  type Created,
  type DirectoryEntry,
  type Entry,
  FileType,
  FsError,
  type FsStatistics,
  gauge,
  type GuestBuffer,
  type Metric,
  type NodeKey,
  OpenFlags,
  type Opened,
  WriteFlags,
  newAttributes,
} from '../../core/backend/index.js';
import { allocating, copyRange } from './content/allocation.js';
import { PAGE_BYTES } from './content/chunk.js';
import { inTurns } from '../../core/backend/in-turns.js';
import { type Keys, VolumeContents } from './lasting/contents.js';
import { contentOf, entriesOf, type Inode, pagesOf, sizeOf } from './tree/inode.js';
import { allInodes, decodeTree, emptyTree, encodeTree } from './saved-state.js';
import type { Tree } from './tree/tree.js';
import { getXattr, listXattrs, removeXattr, setXattr } from './tree/xattrs.js';

const EEXIST = FsError.of('EEXIST');
const EINVAL = FsError.of('EINVAL');
const ESTALE = FsError.of('ESTALE');
const ENOENT = FsError.of('ENOENT');

/**
 * A key is an inode number below 2^32 with a generation of 20 bits above it. Beyond 2^32 inode
 * numbers keys still differ.
 */
const GENERATION_UNIT = 2 ** 32;
const MAX_GENERATION = 2 ** 20;

/** How long inodes can be found by their numbers quickly, after the first was. Milliseconds. */
const RESOLVING_MS = 1000;

/**
 * What a descriptor adds to its inode. There are only four such objects, shared by all descriptors.
 */
interface OpenFile {
  /** Opened with O_APPEND: writes go to the end. */
  readonly append: boolean;
  /** Opened with O_NOATIME: reads do not set the access time. */
  readonly noAtime: boolean;
}

const OPENED: readonly Opened<OpenFile>[] = [0, 1, 2, 3].map((bits) => ({
  file: { append: (bits & 1) !== 0, noAtime: (bits & 2) !== 0 },
}));

function opened(flags: number): Opened<OpenFile> {
  return OPENED[((flags & OpenFlags.APPEND) !== 0 ? 1 : 0) | ((flags & OpenFlags.NOATIME) !== 0 ? 2 : 0)]!;
}

/**
 * Seconds after which a read sets the access time even if the file has not changed since (Linux
 * `relatime`).
 */
const ATIME_AGE_SECONDS = 86_400;

/**
 * Serves a tree to guests. All methods are synchronous, and answers are objects that the next call
 * refills.
 */
export class MemfsBackend implements Backend<Inode, OpenFile> {
  /** A node is the file itself, which `inodes` bounds. */
  readonly nodeBytes = 0;
  readonly semantics = { killPriv: true, posixAcl: true, securityContext: true };
  readonly #tree: Tree;
  #host: BackendHost | undefined = undefined;
  readonly #attributes = { ...newAttributes(), blksize: PAGE_BYTES };
  readonly #keys: Keys = { generation: randomInt(1, MAX_GENERATION) };
  /** Keeps the volume where the process is killed. A fork's content is not its own. */
  readonly #contents: VolumeContents | undefined;
  readonly #entry: { node: Inode; attributes: Attributes; file: OpenFile };

  constructor(tree: Tree) {
    this.#tree = tree;
    this.#entry = { node: tree.root, attributes: this.#attributes, file: OPENED[0]!.file };
    const contents = tree.history.isFork ? undefined : new VolumeContents(tree, this.#keys);
    this.#contents = contents;
    const recovery = contents === undefined ? {} : { contents, recover: (key: NodeKey) => this.resolve(key) };
    accelerate(this, { slots: true, ...recovery }, MemfsBackend.prototype);
  }

  /** Whether what the volume has outlives the process. */
  get isKept(): boolean {
    return this.#contents?.isKept === true;
  }

  /** Called where the volume cannot be recovered, and is not used any more. */
  set onLost(lost: () => void) {
    if (this.#contents !== undefined) this.#contents.onLost = lost;
  }

  /** Called at the end of service. */
  onUnmount: (() => Awaitable<void>) | undefined;

  /** The host program has changed something. */
  changed(directory: Inode, change: NodeChange): void {
    this.#host?.changed?.(directory, change);
  }

  mount(host: BackendHost): Inode {
    this.#host = host;
    if (this.isKept) this.#contents!.mounted(host.log);
    else this.#tree.arena.source = (length) => host.createBuffer(length);
    this.#tree.root.held = true;
    return this.#tree.root;
  }

  unmount(): Awaitable<void> {
    return this.onUnmount?.();
  }

  /** Saves the whole tree with its inode numbers, including open files without a name. */
  save(): Uint8Array {
    return encodeTree(this.#tree, { generation: this.#keys.generation, lastIno: this.#tree.lastIno });
  }

  /**
   * What the tree had before goes.
   * @throws EINVAL if `save` did not write this; ENOSPC if it exceeds the limits; EBUSY while a
   * file without a name is in use. The tree is empty then.
   */
  restore(state: Uint8Array): void {
    const replace = (): void => {
      emptyTree(this.#tree);
      const { generation, lastIno } = decodeTree(state, this.#tree);
      this.#keys.generation = generation;
      this.#tree.lastIno = lastIno;
    };
    this.#tree.byNumber = undefined;
    if (this.#contents === undefined) replace();
    else this.#contents.replace(replace);
  }

  /** The inode number, which a volume never gives twice, with the volume's generation above it. */
  key(node: Inode): number {
    return this.#keys.generation * GENERATION_UNIT + node.ino;
  }

  resolve(key: NodeKey): Inode {
    const ino = Number(key) - this.#keys.generation * GENERATION_UNIT;
    const inode = this.isKept ? this.#contents!.inode(ino) : this.#numbered(ino);
    if (inode === undefined || (inode.nlink === 0 && !this.#tree.orphans.has(inode))) throw ESTALE;
    inode.held = true;
    return inode;
  }

  #numbered(ino: number): Inode | undefined {
    const tree = this.#tree;
    let inodes = tree.byNumber;
    if (inodes === undefined) {
      inodes = new Map(Array.from(allInodes(tree), (inode) => [inode.ino, inode] as const));
      tree.byNumber = inodes;
      // Keys are resolved together, after a restart. Other guests have turns meanwhile.
      setTimeout(() => {
        if (tree.byNumber === inodes) tree.byNumber = undefined;
      }, RESOLVING_MS).unref();
    }
    return inodes.get(ino);
  }

  forget(node: Inode): void {
    node.held = false;
    if (node.nlink > 0) return;
    this.#tree.reap(node);
    this.#tree.commit();
  }

  lookup(parent: Inode, name: string): Entry<Inode> | undefined {
    const inode = this.#tree.lookup(parent, name);
    return inode === undefined ? undefined : this.#answer(inode);
  }

  parent(node: Inode): Inode {
    const { parent } = node;
    if (parent === undefined || node.nlink === 0) throw ENOENT;
    parent.held = true;
    return parent;
  }

  getattr(node: Inode): Attributes {
    return this.#show(node);
  }

  setattr(node: Inode, changes: AttributeChanges, file: OpenFile | undefined): Attributes {
    this.#changing(() => this.#tree.change(node, changes, file !== undefined));
    return this.#show(node);
  }

  readlink(node: Inode): string {
    if (node.target === undefined) throw EINVAL;
    this.#accessed(node);
    return node.target;
  }

  mknod(parent: Inode, name: string, mode: number, rdev: number, context: Context): Entry<Inode> {
    const type = mode & FileType.MASK;
    const isDevice = type === FileType.CHARACTER || type === FileType.BLOCK;
    return this.#made(this.#tree.create(parent, name, mode, isDevice ? rdev : 0, context));
  }

  mkdir(parent: Inode, name: string, mode: number, context: Context): Entry<Inode> {
    const type = FileType.DIRECTORY | (mode & ~FileType.MASK);
    return this.#made(this.#tree.create(parent, name, type, 0, context));
  }

  symlink(parent: Inode, name: string, target: string, context: Context): Entry<Inode> {
    return this.#made(this.#tree.symlink(parent, name, target, context));
  }

  link(node: Inode, parent: Inode, name: string): Entry<Inode> {
    this.#tree.link(node, parent, name);
    return this.#made(node);
  }

  unlink(parent: Inode, name: string): void {
    this.#tree.unlink(parent, name);
    this.#tree.commit();
  }

  rmdir(parent: Inode, name: string): void {
    this.#tree.rmdir(parent, name);
    this.#tree.commit();
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
    this.#tree.commit();
  }

  open(node: Inode, flags: number): Opened<OpenFile> {
    if ((flags & OpenFlags.TRUNC) !== 0) this.#changing(() => this.#tree.change(node, { size: 0 }, true));
    return opened(flags);
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
    else if ((flags & OpenFlags.TRUNC) !== 0) this.#tree.change(inode, { size: 0 }, true);
    this.#tree.commit();
    return this.#opened(inode, flags);
  }

  tmpfile(parent: Inode, mode: number, flags: number, context: Context): Created<Inode, OpenFile> {
    const inode = this.#tree.anonymous(parent, FileType.REGULAR | (mode & ~FileType.MASK), context);
    this.#tree.commit();
    return this.#opened(inode, flags);
  }

  read(node: Inode, file: OpenFile, buffer: GuestBuffer, offset: number): number {
    const count = contentOf(node).read(buffer, offset);
    if (!file.noAtime) this.#accessed(node);
    return count;
  }

  write(node: Inode, file: OpenFile, buffer: GuestBuffer, offset: number, flags: number): number {
    const { arena, space, clock } = this.#tree;
    const content = contentOf(node);
    const at = file.append && (flags & WriteFlags.CACHE) === 0 ? content.size : offset;
    this.#tree.touch(node);
    if ((flags & WriteFlags.KILL_SUIDGID) !== 0) this.#tree.killPrivileges(node);
    clock.tick();
    node.modified(clock);
    try {
      return content.write(buffer, at, arena, space);
    } finally {
      this.#tree.commit();
    }
  }

  fsync(): void {}

  fsyncdir(): void {}

  syncfs(): void {}

  *readdir(node: Inode): Iterable<DirectoryEntry> {
    this.#accessed(node);
    const entries = entriesOf(node);
    // A map's iterator goes on to what is added meanwhile, and renamed names are added: a program
    // that renames what it lists would never end. Those that were there at first come first.
    let left = entries.size;
    yield { name: '.', type: node.type, ino: node.ino };
    yield { name: '..', type: node.type, ino: node.parent?.ino ?? 0 };
    for (const [name, inode] of entries) {
      if (left === 0) return;
      left -= 1;
      yield { name, type: inode.type, ino: inode.ino };
    }
  }

  metrics(): Metric[] {
    const { pages, inodes, maxPages, maxInodes } = this.#tree.space;
    return [
      gauge('used_bytes', 'Bytes of content.', pages * PAGE_BYTES),
      gauge('size_bytes', 'Bytes of content that there may be.', maxPages * PAGE_BYTES),
      gauge('used_inodes', 'Inodes in use, with the room of extended attributes.', inodes),
      gauge('max_inodes', 'Inodes that there may be.', maxInodes),
    ];
  }

  statfs(): FsStatistics {
    const { maxPages, freePages, maxInodes, freeInodes } = this.#tree.space;
    return {
      blockSize: PAGE_BYTES,
      blocks: maxPages,
      blocksFree: freePages,
      files: maxInodes,
      filesFree: freeInodes,
    };
  }

  getxattr(node: Inode, name: string): Uint8Array | undefined {
    return getXattr(node, name);
  }

  listxattr(node: Inode, context: Context): readonly string[] {
    return listXattrs(node, context.uid === 0);
  }

  setxattr(node: Inode, name: string, value: Uint8Array, flags: number, killSgid: boolean): void {
    this.#changeXattrs(node, () => setXattr(node, name, value, flags, killSgid, this.#tree.space));
  }

  removexattr(node: Inode, name: string): void {
    this.#changeXattrs(node, () => removeXattr(node, name, this.#tree.space));
  }

  fallocate(
    node: Inode,
    _file: OpenFile,
    mode: number,
    offset: number,
    length: number,
    context: Context,
  ): Awaitable<void> {
    const { arena, space, clock } = this.#tree;
    const steps = allocating(contentOf(node), mode, offset, length, arena, space);
    return andThen(
      inTurns(steps, () => {
        this.#tree.commit();
        this.#tree.touch(node);
      }),
      () => {
        this.#tree.touch(node);
        if (context.uid !== 0) this.#tree.killPrivileges(node);
        clock.tick();
        node.modified(clock);
        this.#tree.commit();
      },
    );
  }

  copyFileRange(
    node: Inode,
    _file: OpenFile,
    offset: number,
    toNode: Inode,
    _toFile: OpenFile,
    toOffset: number,
    length: number,
    context: Context,
  ): number {
    const { arena, space, clock } = this.#tree;
    this.#tree.touch(toNode);
    const target = contentOf(toNode);
    try {
      const copied = copyRange(contentOf(node), offset, target, toOffset, length, arena, space);
      if (copied > 0) {
        if (context.uid !== 0) this.#tree.killPrivileges(toNode);
        clock.tick();
        toNode.modified(clock);
      }
      return copied;
    } finally {
      this.#tree.commit();
    }
  }

  lseek(node: Inode, _file: OpenFile, offset: number, whence: 'data' | 'hole'): number {
    const content = contentOf(node);
    return whence === 'data' ? content.nextData(offset) : content.nextHole(offset);
  }

  /** Linux `relatime_need_update`: the guest's kernel leaves the access time to the file system. */
  #accessed(inode: Inode): void {
    const { clock } = this.#tree;
    const { atime, atimeNsec } = inode;
    const modified = atime < inode.mtime || (atime === inode.mtime && atimeNsec <= inode.mtimeNsec);
    const changed = atime < inode.ctime || (atime === inode.ctime && atimeNsec <= inode.ctimeNsec);
    if (!modified && !changed && clock.seconds - atime < ATIME_AGE_SECONDS) return;
    clock.tick();
    this.#tree.recorder?.touched(inode);
    inode.atime = clock.seconds;
    inode.atimeNsec = clock.nanoseconds;
    this.#tree.commit();
  }

  #changeXattrs(inode: Inode, change: () => void): void {
    this.#tree.touch(inode);
    this.#changing(() => {
      change();
      this.#tree.clock.tick();
      inode.changed(this.#tree.clock);
    });
  }

  /** Makes a change that may fail when it is made in part. */
  #changing(change: () => void): void {
    try {
      change();
    } finally {
      this.#tree.commit();
    }
  }

  /** Answers a request that has made something. */
  #made(inode: Inode): Entry<Inode> {
    this.#tree.commit();
    return this.#answer(inode);
  }

  #answer(inode: Inode): Entry<Inode> {
    inode.held = true;
    this.#show(inode);
    this.#entry.node = inode;
    return this.#entry;
  }

  #opened(inode: Inode, flags: number): Created<Inode, OpenFile> {
    this.#answer(inode);
    this.#entry.file = opened(flags).file;
    return this.#entry;
  }

  #show(inode: Inode): Attributes {
    const shown = this.#attributes;
    shown.ino = inode.ino;
    shown.mode = inode.mode;
    shown.size = sizeOf(inode);
    shown.blocks = pagesOf(inode) * (PAGE_BYTES / 512);
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
