import {
  type AttributeChanges,
  type Context,
  creationMode,
  FileType,
  FsError,
  ModeBits,
  nameLength,
  RenameFlags,
  type Time,
} from '../../../core/backend/index.js';
import { Clock } from '../../../core/backend/clock.js';
import { ACCESS_ACL, DEFAULT_ACL, inherit, type Inherited, withoutSetId } from './acl.js';
import type { Arena } from '../content/arena.js';
import { History } from './history.js';
import { contentOf, entriesOf, Inode, pagesOf, SHORT_TARGET_BYTES } from './inode.js';
import type { Snapshot } from './snapshot.js';
import type { Space } from './space.js';
import { aclChmod, clearXattrs, dropCapabilities, store } from './xattrs.js';

const EEXIST = FsError.of('EEXIST');
const ENOENT = FsError.of('ENOENT');
const EINVAL = FsError.of('EINVAL');
const ENOTDIR = FsError.of('ENOTDIR');
const EISDIR = FsError.of('EISDIR');
const ENOSPC = FsError.of('ENOSPC');
const ENOTEMPTY = FsError.of('ENOTEMPTY');
const EPERM = FsError.of('EPERM');

/** What must be told of each change of a tree, so that it can be kept. */
export interface Recorder {
  /** An inode was made. */
  made(inode: Inode): void;
  /** An inode is about to change. */
  touched(inode: Inode): void;
  /** An inode is no more. */
  gone(inode: Inode): void;
  /** A name in a directory is that of another inode, or of none. */
  entry(parent: Inode, name: string, inode: Inode | undefined): void;
  /** A change is complete. */
  commit(): void;
}

/** Most names in a directory: what a JavaScript map can hold, with a margin. */
const MAX_ENTRIES = 16_000_000;

/** The creator of a new node: the part of a {@link Context} that the node takes over. */
export type Creator = Pick<
  Context,
  'uid' | 'gid' | 'umask' | 'groups' | 'setGroupIdChecked' | 'securityContext'
>;

/**
 * The tree of inodes and every change to it, with Linux's rules and tmpfs's figures. It knows no
 * paths and no open files, and checks no permissions. Every change calls {@link touch} first, so
 * that snapshots keep the former state.
 */
export class Tree {
  /** Replaced when the tree begins to be recorded. */
  arena: Arena;
  readonly space: Space;
  readonly clock = new Clock();
  readonly root: Inode;
  /** Inodes without a name that are still in use. */
  readonly orphans = new Set<Inode>();
  /** Its snapshots and its origin. */
  readonly history: History;
  /** Inodes by their numbers, while they are looked for so. Has removed ones, too. */
  byNumber: Map<number, Inode> | undefined;
  /** The last inode number assigned. Numbers are never reused. */
  lastIno: number;
  /** Keeps every change in memory that outlives the process, where that is wanted. */
  recorder: Recorder | undefined = undefined;

  constructor(arena: Arena, space: Space, origin?: Snapshot) {
    this.arena = arena;
    this.space = space;
    this.history = new History(this, origin);
    if (origin === undefined) {
      this.lastIno = 0;
      this.root = this.#make(FileType.DIRECTORY | 0o755, 0, 0);
      this.root.nlink = 2;
    } else {
      this.lastIno = origin.lastIno;
      space.share(origin.usage);
      this.root = this.history.adoptRoot(origin);
    }
    this.root.parent = this.root;
  }

  lookup(parent: Inode, name: string): Inode | undefined {
    const inode = entriesOf(parent).get(name);
    return inode === undefined || inode.owner === this ? inode : this.history.adopt(parent, name, inode);
  }

  /** Creates a file, directory, device, FIFO or socket. */
  create(parent: Inode, name: string, mode: number, rdev: number, creator: Creator): Inode {
    this.#checkFree(parent, name);
    const inode = this.#child(parent, mode, creator);
    inode.rdev = rdev;
    this.#enter(parent, name, inode);
    if (inode.entries !== undefined) {
      inode.nlink = 2;
      inode.parent = parent;
      parent.nlink += 1;
    }
    return inode;
  }

  symlink(parent: Inode, name: string, target: string, creator: Creator): Inode {
    this.#checkFree(parent, name);
    const pages = nameLength(target) > SHORT_TARGET_BYTES ? 1 : 0;
    if (this.space.freePages < pages) throw ENOSPC;
    this.space.takeTarget(target.length);
    let inode: Inode;
    try {
      inode = this.#child(parent, FileType.SYMLINK | 0o777, creator);
    } catch (error) {
      this.space.giveTarget(target.length);
      throw error;
    }
    this.space.takePages(pages);
    inode.target = target;
    this.#enter(parent, name, inode);
    return inode;
  }

  /** Creates a file without a name. */
  anonymous(parent: Inode, mode: number, creator: Creator): Inode {
    entriesOf(parent);
    const inode = this.#child(parent, mode, creator);
    inode.nlink = 0;
    this.orphans.add(inode);
    return inode;
  }

  link(inode: Inode, parent: Inode, name: string): void {
    if (inode.entries !== undefined) throw EPERM;
    this.#checkFree(parent, name);
    // A file without a name has paid for its inode already: its first name is free.
    if (inode.nlink > 0) this.space.takeInode();
    else this.orphans.delete(inode);
    this.clock.tick();
    this.touch(inode);
    inode.nlink += 1;
    inode.changed(this.clock);
    this.#enter(parent, name, inode);
  }

  unlink(parent: Inode, name: string): Inode {
    const inode = this.lookup(parent, name);
    if (inode === undefined) throw ENOENT;
    if (inode.entries !== undefined) throw EISDIR;
    this.clock.tick();
    this.#leave(parent, name);
    this.#unlinked(inode);
    return inode;
  }

  rmdir(parent: Inode, name: string): Inode {
    const inode = this.lookup(parent, name);
    if (inode === undefined) throw ENOENT;
    if (inode.entries === undefined) throw ENOTDIR;
    if (inode.entries.size > 0) throw ENOTEMPTY;
    this.clock.tick();
    this.#leave(parent, name);
    this.#removed(parent, inode);
    return inode;
  }

  /** Linux `vfs_rename` with `shmem_rename2`. `creator` is the creator of a whiteout. */
  rename(
    parent: Inode,
    name: string,
    newParent: Inode,
    newName: string,
    flags: number,
    creator: Creator,
  ): void {
    const { NOREPLACE, EXCHANGE, WHITEOUT } = RenameFlags;
    if ((flags & ~(NOREPLACE | EXCHANGE | WHITEOUT)) !== 0) throw EINVAL;
    const exchange = (flags & EXCHANGE) !== 0;
    if (exchange && (flags & (NOREPLACE | WHITEOUT)) !== 0) throw EINVAL;
    const inode = this.lookup(parent, name);
    const target = this.lookup(newParent, newName);
    if (inode === undefined || (exchange && target === undefined)) throw ENOENT;
    if ((flags & NOREPLACE) !== 0 && target !== undefined) throw EEXIST;
    if (inode.entries !== undefined && isWithin(newParent, inode)) throw EINVAL;
    if (target?.entries !== undefined && isWithin(parent, target)) throw exchange ? EINVAL : ENOTEMPTY;
    if (target === inode) return;
    if (newParent.nlink === 0) throw ENOENT;
    if (exchange) {
      this.#exchange(parent, name, inode, newParent, newName, target!);
      return;
    }
    if (target !== undefined) {
      if (inode.entries === undefined && target.entries !== undefined) throw EISDIR;
      if (inode.entries !== undefined && target.entries === undefined) throw ENOTDIR;
      if (target.entries !== undefined && target.entries.size > 0) throw ENOTEMPTY;
    }
    const whiteout = (flags & WHITEOUT) !== 0 ? this.#child(parent, FileType.CHARACTER, creator) : undefined;
    this.#move(parent, name, inode, newParent, newName, target, whiteout);
  }

  /**
   * Applies changes, all or none.
   * @param opened whether the size is set through a descriptor. That counts as a change of content
   * even if the size stays the same.
   */
  change(inode: Inode, changes: AttributeChanges, opened: boolean): void {
    const { mode, uid, gid, size, atime, mtime, ctime } = changes;
    const clock = this.clock;
    const content = size === undefined ? undefined : contentOf(inode);
    clock.tick();
    this.touch(inode);
    if (content !== undefined) {
      const before = content.size;
      content.truncate(size!, this.arena, this.space);
      if (opened || before !== size) inode.modified(clock);
    }
    if (uid !== undefined) inode.uid = uid;
    if (gid !== undefined) inode.gid = gid;
    if ((uid !== undefined || gid !== undefined) && inode.entries === undefined) this.killPrivileges(inode);
    if (mode !== undefined) {
      inode.mode = (inode.mode & FileType.MASK) | (mode & ModeBits.PERMISSIONS);
      aclChmod(inode);
    }
    if (changes.killSuidGid === true) this.killPrivileges(inode);
    if (atime !== undefined) [inode.atime, inode.atimeNsec] = this.#time(atime);
    if (mtime !== undefined) [inode.mtime, inode.mtimeNsec] = this.#time(mtime);
    if (ctime !== undefined) [inode.ctime, inode.ctimeNsec] = this.#time(ctime);
    else if (content === undefined || mode !== undefined || uid !== undefined || gid !== undefined) {
      inode.changed(clock);
    }
  }

  /** Clears set-user-id, set-group-id of a group-executable file, and file capabilities. */
  killPrivileges(inode: Inode): void {
    inode.mode = withoutSetId(inode.mode);
    dropCapabilities(inode, this.space);
  }

  /** Must be called before any change to an inode, see {@link History.touch}. */
  touch(inode: Inode): void {
    this.history.touch(inode);
    this.recorder?.touched(inode);
  }

  /** Must be called at the end of a change. What was changed counts as a whole. */
  commit(): void {
    this.recorder?.commit();
  }

  /** Frees an inode if it has no name and is not in use. */
  reap(inode: Inode): void {
    if (inode.nlink > 0) return;
    if (inode.held || inode.descriptors > 0) {
      this.orphans.add(inode);
      return;
    }
    this.orphans.delete(inode);
    this.recorder?.gone(inode);
    this.space.givePages(pagesOf(inode));
    if (inode.content !== undefined) {
      this.space.contentHeapBytes -= inode.content.heapBytes;
      inode.content.clear(this.arena);
    }
    clearXattrs(inode, this.space);
    if (inode.target !== undefined) this.space.giveTarget(inode.target.length);
    this.space.giveInode();
  }

  #make(mode: number, uid: number, gid: number): Inode {
    this.space.takeInode();
    this.clock.tick();
    this.lastIno += 1;
    const inode = new Inode(this, this.history.epoch, this.lastIno, mode, this.clock);
    inode.uid = uid;
    inode.gid = gid;
    this.recorder?.made(inode);
    this.byNumber?.set(inode.ino, inode);
    return inode;
  }

  /** A new inode with the owner, group, mode and attributes that a child of `parent` gets. */
  #child(parent: Inode, mode: number, creator: Creator): Inode {
    const type = mode & FileType.MASK;
    let gid = creator.gid;
    let effective = creationMode(mode, parent, creator);
    if ((parent.mode & ModeBits.SETGID) !== 0) {
      gid = parent.gid;
      if (type === FileType.DIRECTORY) effective |= ModeBits.SETGID;
    }
    const defaultAcl = type === FileType.SYMLINK ? undefined : parent.xattrs?.get(DEFAULT_ACL);
    if (defaultAcl === undefined && creator.securityContext === undefined) {
      if (type !== FileType.SYMLINK) effective &= ~creator.umask;
      return this.#make(effective, creator.uid, gid);
    }
    const inherited = defaultAcl === undefined ? undefined : inherit(defaultAcl, effective);
    if (inherited !== undefined) effective = inherited.mode;
    else if (type !== FileType.SYMLINK) effective &= ~creator.umask;
    const inode = this.#make(effective, creator.uid, gid);
    this.#initialXattrs(inode, inherited, creator);
    return inode;
  }

  /** Sets the xattrs of a new inode. @throws ENOSPC, with the inode freed. */
  #initialXattrs(inode: Inode, inherited: Inherited | undefined, creator: Creator): void {
    const { space } = this;
    try {
      if (inherited?.access !== undefined) store(inode, ACCESS_ACL, inherited.access, space);
      if (inherited?.default !== undefined) store(inode, DEFAULT_ACL, inherited.default, space);
      const security = creator.securityContext;
      if (security !== undefined) store(inode, security.name, security.value.slice(), space);
    } catch (error) {
      this.recorder?.gone(inode);
      clearXattrs(inode, space);
      space.giveInode();
      throw error;
    }
  }

  #checkFree(parent: Inode, name: string): void {
    const entries = entriesOf(parent);
    if (entries.has(name)) throw EEXIST;
    if (parent.nlink === 0) throw ENOENT;
    if (entries.size >= MAX_ENTRIES) throw ENOSPC;
  }

  #enter(parent: Inode, name: string, inode: Inode): void {
    this.touch(parent);
    this.#setEntry(parent, name, inode);
    parent.modified(this.clock);
  }

  #leave(parent: Inode, name: string): void {
    this.touch(parent);
    this.#setEntry(parent, name, undefined);
    parent.modified(this.clock);
  }

  #setEntry(parent: Inode, name: string, inode: Inode | undefined): void {
    if (inode === undefined) parent.entries!.delete(name);
    else parent.entries!.set(name, inode);
    this.recorder?.entry(parent, name, inode);
  }

  /** Updates a file that is no directory after one of its names was removed. */
  #unlinked(inode: Inode): void {
    this.touch(inode);
    inode.nlink -= 1;
    inode.changed(this.clock);
    if (inode.nlink > 0) this.space.giveInode();
    else this.reap(inode);
  }

  /** Updates a directory and its parent after its name was removed. */
  #removed(parent: Inode, inode: Inode): void {
    this.touch(inode);
    parent.nlink -= 1;
    inode.nlink = 0;
    inode.changed(this.clock);
    this.reap(inode);
  }

  #exchange(
    parent: Inode,
    name: string,
    inode: Inode,
    newParent: Inode,
    newName: string,
    target: Inode,
  ): void {
    this.#touchAll(parent, inode, newParent, target);
    this.#setEntry(parent, name, target);
    this.#setEntry(newParent, newName, inode);
    this.#moved(inode, parent, newParent);
    this.#moved(target, newParent, parent);
  }

  #move(
    parent: Inode,
    name: string,
    inode: Inode,
    newParent: Inode,
    newName: string,
    target: Inode | undefined,
    whiteout: Inode | undefined,
  ): void {
    this.#touchAll(parent, inode, newParent);
    this.#setEntry(parent, name, whiteout);
    this.#setEntry(newParent, newName, inode);
    this.#moved(inode, parent, newParent);
    if (target?.entries !== undefined) this.#removed(newParent, target);
    else if (target !== undefined) this.#unlinked(target);
  }

  #touchAll(...inodes: Inode[]): void {
    this.clock.tick();
    for (const inode of inodes) this.touch(inode);
  }

  #moved(inode: Inode, from: Inode, to: Inode): void {
    if (inode.entries !== undefined && from !== to) {
      inode.parent = to;
      from.nlink -= 1;
      to.nlink += 1;
    }
    from.modified(this.clock);
    to.modified(this.clock);
    inode.changed(this.clock);
  }

  #time(time: Time | 'now'): [number, number] {
    return time === 'now' ? [this.clock.seconds, this.clock.nanoseconds] : [time.seconds, time.nanoseconds];
  }
}

/** Whether `inode` is `ancestor` or below it. */
function isWithin(inode: Inode, ancestor: Inode): boolean {
  for (let at = inode; at !== ancestor; at = at.parent!) {
    if (at.parent === at || at.parent === undefined) return false;
  }
  return true;
}
