import { engineSlot } from '../../../core/backend/accelerator.js';
import { FileType, FsError, nameLength } from '../../../core/backend/index.js';
import type { Clock } from '../../../core/backend/clock.js';
import { Content } from '../content/content.js';

const EINVAL = FsError.of('EINVAL');
const EISDIR = FsError.of('EISDIR');
const ENOTDIR = FsError.of('ENOTDIR');

/**
 * Bytes that each name, including `.` and `..`, adds to its directory's size, as on tmpfs
 * (`BOGO_DIRENT_SIZE`).
 */
const ENTRY_BYTES = 20;
/**
 * Longest symbolic link target in bytes that takes no page, as on tmpfs (`SHORT_SYMLINK_LEN` with
 * the terminator).
 */
export const SHORT_TARGET_BYTES = 127;

/**
 * A file of any type. The engine uses these objects as nodes. Names are entries of a directory's
 * map.
 */
export class Inode {
  [engineSlot] = -1;
  /**
   * The tree that the inode belongs to. A fork's directories contain inodes of its origin until
   * they are used.
   */
  readonly owner: object;
  /** The tree's epoch when the inode was created, or was last kept for a snapshot. */
  epoch: number;
  readonly ino: number;
  /** Type and permission bits. */
  mode: number;
  uid = 0;
  gid = 0;
  nlink = 1;
  /** Encoded as `makeDevice` does. */
  rdev = 0;

  atime: number;
  atimeNsec: number;
  mtime: number;
  mtimeNsec: number;
  ctime: number;
  ctimeNsec: number;
  btime: number;
  btimeNsec: number;

  /** Whether the engine refers to it. It then outlives its last name, until `forget`. */
  held = false;
  /** Number of the host program's open descriptors. */
  descriptors = 0;
  /** Whether the tree's recorder keeps it. */
  isRecorded = false;
  /** Whether it has changed since the recorder has written it. */
  isDirty = false;
  /** Names of xattrs that have changed since then. */
  changedXattrs: Set<string> | undefined = undefined;

  /** Names in a directory. */
  entries: Map<string, Inode> | undefined;
  /** Parent of a directory; the root's is itself. */
  parent: Inode | undefined = undefined;
  /** Bytes of a regular file. */
  content: Content | undefined;
  /** Target of a symbolic link. */
  target: string | undefined = undefined;
  xattrs: Map<string, Uint8Array> | undefined = undefined;

  constructor(owner: object, epoch: number, ino: number, mode: number, clock: Clock) {
    const type = mode & FileType.MASK;
    this.owner = owner;
    this.epoch = epoch;
    this.ino = ino;
    this.mode = mode;
    this.atime = this.mtime = this.ctime = this.btime = clock.seconds;
    this.atimeNsec = this.mtimeNsec = this.ctimeNsec = this.btimeNsec = clock.nanoseconds;
    this.entries = type === FileType.DIRECTORY ? new Map() : undefined;
    this.content = type === FileType.REGULAR ? new Content() : undefined;
  }

  get type(): number {
    return this.mode & FileType.MASK;
  }

  /** Records a change of attributes. */
  changed(clock: Clock): void {
    this.ctime = clock.seconds;
    this.ctimeNsec = clock.nanoseconds;
  }

  /** Records a change of content. */
  modified(clock: Clock): void {
    this.mtime = this.ctime = clock.seconds;
    this.mtimeNsec = this.ctimeNsec = clock.nanoseconds;
  }

  /**
   * Copies another inode's attributes, entries and xattrs. The chunks of the content are shared.
   */
  assume(other: Inode): void {
    this.mode = other.mode;
    this.uid = other.uid;
    this.gid = other.gid;
    this.nlink = other.nlink;
    this.rdev = other.rdev;
    this.atime = other.atime;
    this.atimeNsec = other.atimeNsec;
    this.mtime = other.mtime;
    this.mtimeNsec = other.mtimeNsec;
    this.ctime = other.ctime;
    this.ctimeNsec = other.ctimeNsec;
    this.btime = other.btime;
    this.btimeNsec = other.btimeNsec;
    this.entries = other.entries === undefined ? undefined : new Map(other.entries);
    this.content = other.content?.clone();
    this.target = other.target;
    this.xattrs = other.xattrs === undefined ? undefined : new Map(other.xattrs);
  }
}

/** @throws ENOTDIR */
export function entriesOf(inode: Inode): Map<string, Inode> {
  if (inode.entries === undefined) throw ENOTDIR;
  return inode.entries;
}

/** @throws EISDIR for a directory, EINVAL for other files without content. */
export function contentOf(inode: Inode): Content {
  if (inode.content === undefined) throw inode.entries === undefined ? EINVAL : EISDIR;
  return inode.content;
}

/** Size in bytes, as `stat` shows it. */
export function sizeOf(inode: Inode): number {
  if (inode.content !== undefined) return inode.content.size;
  if (inode.entries !== undefined) return (inode.entries.size + 2) * ENTRY_BYTES;
  return inode.target === undefined ? 0 : nameLength(inode.target);
}

/** Pages of 4 KiB that an inode takes. */
export function pagesOf(inode: Inode): number {
  if (inode.content !== undefined) return inode.content.pages;
  return inode.target !== undefined && nameLength(inode.target) > SHORT_TARGET_BYTES ? 1 : 0;
}
