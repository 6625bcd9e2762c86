import { FileType } from '../../core/backend/index.js';
import type { Clock } from './clock.js';
import { Content } from './content.js';

/** A file of any type. The engine holds these objects as nodes; a name is an entry of a directory's map. */
export class Inode {
  readonly ino: number;
  /** Type and permission bits. */
  mode: number;
  uid: number;
  gid: number;
  nlink = 1;
  /** Encoded as `makeDevice` does. */
  rdev = 0;

  atime: number;
  atimeNsec: number;
  mtime: number;
  mtimeNsec: number;
  ctime: number;
  ctimeNsec: number;
  readonly btime: number;
  readonly btimeNsec: number;

  /** Whether the engine refers to it: then it outlives its last name, until `forget`. */
  held = false;
  /** Descriptors of the host program. */
  descriptors = 0;

  /** Names in a directory. */
  readonly entries: Map<string, Inode> | undefined;
  /** Directory that holds this directory; itself for the root. */
  parent: Inode | undefined;
  /** Bytes of a regular file. */
  readonly content: Content | undefined;
  /** Target of a symbolic link. */
  target: string | undefined;
  xattrs: Map<string, Uint8Array> | undefined;

  constructor(ino: number, mode: number, uid: number, gid: number, clock: Clock) {
    const type = mode & FileType.MASK;
    this.ino = ino;
    this.mode = mode;
    this.uid = uid;
    this.gid = gid;
    this.atime = this.mtime = this.ctime = this.btime = clock.seconds;
    this.atimeNsec = this.mtimeNsec = this.ctimeNsec = this.btimeNsec = clock.nanoseconds;
    this.entries = type === FileType.DIRECTORY ? new Map() : undefined;
    this.parent = undefined;
    this.content = type === FileType.REGULAR ? new Content() : undefined;
    this.target = undefined;
    this.xattrs = undefined;
  }

  get type(): number {
    return this.mode & FileType.MASK;
  }

  /** The attributes changed. */
  changed(clock: Clock): void {
    this.ctime = clock.seconds;
    this.ctimeNsec = clock.nanoseconds;
  }

  /** The content changed. */
  modified(clock: Clock): void {
    this.mtime = this.ctime = clock.seconds;
    this.mtimeNsec = this.ctimeNsec = clock.nanoseconds;
  }
}
