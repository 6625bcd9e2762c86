import {
  type AttributeChanges,
  type Context,
  FileType,
  FsError,
  ModeBits,
  nameLength,
  RenameFlags,
  type Time,
} from '../../core/backend/index.js';
import type { Arena } from './arena.js';
import { Clock } from './clock.js';
import { Inode } from './inode.js';
import type { Space } from './space.js';

const EEXIST = FsError.of('EEXIST');
const ENOENT = FsError.of('ENOENT');
const EINVAL = FsError.of('EINVAL');
const ENOTDIR = FsError.of('ENOTDIR');
const EISDIR = FsError.of('EISDIR');
const ENOTEMPTY = FsError.of('ENOTEMPTY');
const EPERM = FsError.of('EPERM');

/** What a name adds to its directory's size, as on tmpfs (`BOGO_DIRENT_SIZE`). */
export const ENTRY_SIZE = 20;
/** Longest target that takes no page, as on tmpfs (`SHORT_SYMLINK_LEN` with the terminator). */
const SHORT_TARGET = 127;

/** Who creates: the part of a {@link Context} that a new node takes over. */
export type Creator = Pick<Context, 'uid' | 'gid' | 'umask'>;

/**
 * The tree of inodes and every change to it, with Linux's rules (and tmpfs's figures). It knows no paths, opens nothing
 * and checks no permissions.
 */
export class Tree {
  readonly arena: Arena;
  readonly space: Space;
  readonly clock = new Clock();
  readonly root: Inode;
  #lastIno = 0;

  constructor(arena: Arena, space: Space) {
    this.arena = arena;
    this.space = space;
    this.root = this.#make(FileType.DIRECTORY | 0o755, 0, 0);
    this.root.nlink = 2;
    this.root.parent = this.root;
  }

  lookup(parent: Inode, name: string): Inode | undefined {
    return entriesOf(parent).get(name);
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
    if (nameLength(target) > SHORT_TARGET) this.space.takePages(1);
    const inode = this.#child(parent, FileType.SYMLINK | 0o777, creator);
    inode.target = target;
    this.#enter(parent, name, inode);
    return inode;
  }

  /** Creates a file without a name. */
  anonymous(parent: Inode, mode: number, creator: Creator): Inode {
    entriesOf(parent);
    const inode = this.#child(parent, mode, creator);
    inode.nlink = 0;
    return inode;
  }

  link(inode: Inode, parent: Inode, name: string): void {
    if (inode.entries !== undefined) throw EPERM;
    this.#checkFree(parent, name);
    // A link to a file without a name takes over that file's own inode.
    if (inode.nlink > 0) this.space.takeInode();
    this.clock.tick();
    inode.nlink += 1;
    inode.changed(this.clock);
    this.#enter(parent, name, inode);
  }

  unlink(parent: Inode, name: string): Inode {
    const inode = entriesOf(parent).get(name);
    if (inode === undefined) throw ENOENT;
    if (inode.entries !== undefined) throw EISDIR;
    this.clock.tick();
    this.#leave(parent, name);
    this.#unlinked(inode);
    return inode;
  }

  rmdir(parent: Inode, name: string): Inode {
    const inode = entriesOf(parent).get(name);
    if (inode === undefined) throw ENOENT;
    if (inode.entries === undefined) throw ENOTDIR;
    if (inode.entries.size > 0) throw ENOTEMPTY;
    this.clock.tick();
    this.#leave(parent, name);
    this.#removed(parent, inode);
    return inode;
  }

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
    if ((flags & EXCHANGE) !== 0 && (flags & (NOREPLACE | WHITEOUT)) !== 0) throw EINVAL;
    const from = entriesOf(parent);
    const to = entriesOf(newParent);
    const inode = from.get(name);
    if (inode === undefined) throw ENOENT;
    const target = to.get(newName);
    if ((flags & EXCHANGE) !== 0 && target === undefined) throw ENOENT;
    if ((flags & NOREPLACE) !== 0 && target !== undefined) throw EEXIST;
    if (inode.entries !== undefined && isWithin(newParent, inode)) throw EINVAL;
    if (target?.entries !== undefined && isWithin(parent, target)) {
      throw (flags & EXCHANGE) !== 0 ? EINVAL : ENOTEMPTY;
    }
    if (target === inode) return;
    if ((flags & EXCHANGE) !== 0) this.#exchange(parent, name, inode, newParent, newName, target!);
    else {
      if (target !== undefined) {
        if (inode.entries === undefined && target.entries !== undefined) throw EISDIR;
        if (inode.entries !== undefined && target.entries === undefined) throw ENOTDIR;
        if (target.entries !== undefined && target.entries.size > 0) throw ENOTEMPTY;
      }
      const whiteout =
        (flags & WHITEOUT) !== 0 ? this.#child(parent, FileType.CHARACTER, creator) : undefined;
      this.#move(parent, name, inode, newParent, newName, target, whiteout);
    }
  }

  /** Applies changes, all or none. */
  change(inode: Inode, changes: AttributeChanges): void {
    const { mode, uid, gid, size, atime, mtime, ctime } = changes;
    const clock = this.clock;
    clock.tick();
    if (size !== undefined) {
      const content = contentOf(inode);
      const before = content.size;
      content.truncate(size, this.arena, this.space);
      if (before !== size || mtime === undefined) inode.modified(clock);
    }
    if (uid !== undefined || gid !== undefined) {
      if (uid !== undefined) inode.uid = uid;
      if (gid !== undefined) inode.gid = gid;
      if (inode.entries === undefined) this.clearSetId(inode);
    }
    if (mode !== undefined) inode.mode = (inode.mode & FileType.MASK) | (mode & ModeBits.PERMISSIONS);
    if (changes.killSuidGid === true) this.clearSetId(inode);
    inode.changed(clock);
    if (atime !== undefined) [inode.atime, inode.atimeNsec] = this.#time(atime);
    if (mtime !== undefined) [inode.mtime, inode.mtimeNsec] = this.#time(mtime);
    if (ctime !== undefined) [inode.ctime, inode.ctimeNsec] = this.#time(ctime);
  }

  /** Clears set-user-id, and set-group-id of a group-executable file. */
  clearSetId(inode: Inode): void {
    const { SETUID, SETGID } = ModeBits;
    inode.mode &= (inode.mode & 0o010) !== 0 ? ~(SETUID | SETGID) : ~SETUID;
  }

  /** Frees an inode that has no name and no user any more. */
  reap(inode: Inode): void {
    if (inode.nlink > 0 || inode.held || inode.descriptors > 0) return;
    inode.content?.clear(this.arena, this.space);
    if (inode.target !== undefined && nameLength(inode.target) > SHORT_TARGET) this.space.pages -= 1;
    this.space.giveInode();
  }

  #make(mode: number, uid: number, gid: number): Inode {
    this.space.takeInode();
    this.clock.tick();
    this.#lastIno += 1;
    return new Inode(this.#lastIno, mode, uid, gid, this.clock);
  }

  /** A new inode with the owner, group and set-group-id that a child of `parent` gets. */
  #child(parent: Inode, mode: number, creator: Creator): Inode {
    let effective = mode & ~creator.umask;
    let gid = creator.gid;
    if ((parent.mode & ModeBits.SETGID) !== 0) {
      gid = parent.gid;
      if ((mode & FileType.MASK) === FileType.DIRECTORY) effective |= ModeBits.SETGID;
    }
    return this.#make(effective, creator.uid, gid);
  }

  #checkFree(parent: Inode, name: string): void {
    const entries = entriesOf(parent);
    if (parent.nlink === 0) throw ENOENT;
    if (entries.has(name)) throw EEXIST;
  }

  #enter(parent: Inode, name: string, inode: Inode): void {
    parent.entries!.set(name, inode);
    parent.modified(this.clock);
  }

  #leave(parent: Inode, name: string): void {
    parent.entries!.delete(name);
    parent.modified(this.clock);
  }

  /** A name of a file that is no directory is gone. */
  #unlinked(inode: Inode): void {
    inode.nlink -= 1;
    inode.changed(this.clock);
    if (inode.nlink > 0) this.space.giveInode();
    else this.reap(inode);
  }

  /** A directory's name is gone. */
  #removed(parent: Inode, inode: Inode): void {
    parent.nlink -= 1;
    inode.nlink = 0;
    inode.changed(this.clock);
    this.reap(inode);
  }

  #exchange(a: Inode, aName: string, aInode: Inode, b: Inode, bName: string, bInode: Inode): void {
    this.clock.tick();
    a.entries!.set(aName, bInode);
    b.entries!.set(bName, aInode);
    this.#reparent(aInode, a, b);
    this.#reparent(bInode, b, a);
    this.#moved(aInode, a, b);
    bInode.changed(this.clock);
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
    this.clock.tick();
    if (whiteout === undefined) parent.entries!.delete(name);
    else parent.entries!.set(name, whiteout);
    newParent.entries!.set(newName, inode);
    this.#reparent(inode, parent, newParent);
    this.#moved(inode, parent, newParent);
    if (target?.entries !== undefined) this.#removed(newParent, target);
    else if (target !== undefined) this.#unlinked(target);
  }

  #reparent(inode: Inode, from: Inode, to: Inode): void {
    if (inode.entries === undefined || from === to) return;
    inode.parent = to;
    from.nlink -= 1;
    to.nlink += 1;
  }

  #moved(inode: Inode, from: Inode, to: Inode): void {
    from.modified(this.clock);
    to.modified(this.clock);
    inode.changed(this.clock);
  }

  #time(time: Time | 'now'): [number, number] {
    return time === 'now' ? [this.clock.seconds, this.clock.nanoseconds] : [time.seconds, time.nanoseconds];
  }
}

/** @throws ENOTDIR */
export function entriesOf(inode: Inode): Map<string, Inode> {
  if (inode.entries === undefined) throw ENOTDIR;
  return inode.entries;
}

/** @throws EISDIR for a directory, EINVAL for what has no content. */
export function contentOf(inode: Inode): NonNullable<Inode['content']> {
  if (inode.content === undefined) throw inode.entries === undefined ? EINVAL : EISDIR;
  return inode.content;
}

/** Whether `inode` is `ancestor` or below it. */
function isWithin(inode: Inode, ancestor: Inode): boolean {
  for (let at = inode; ; at = at.parent!) {
    if (at === ancestor) return true;
    if (at.parent === at || at.parent === undefined) return false;
  }
}

/** Bytes that `stat` shows. */
export function sizeOf(inode: Inode): number {
  if (inode.content !== undefined) return inode.content.size;
  if (inode.entries !== undefined) return inode.entries.size * ENTRY_SIZE;
  return inode.target === undefined ? 0 : nameLength(inode.target);
}

/** Units of 512 bytes that `stat` shows. */
export function blocksOf(inode: Inode): number {
  if (inode.content !== undefined) return inode.content.pages * 8;
  return inode.target !== undefined && nameLength(inode.target) > SHORT_TARGET ? 8 : 0;
}
