import type { Fd } from '../../../core/system/index.js';
import {
  type Context,
  decodeName,
  type DirectoryEntry,
  FileType,
  FsError,
} from '../../../core/backend/index.js';
import { AT, O, close, getdents64, lockExclusively, openat } from '../../../core/system/calls/files.js';
import type { Node } from '../nodes/nodes.js';
import {
  at,
  bytes,
  DIRENT_AREA_BYTES,
  getLong,
  offset,
  putDescriptorPath,
  putTarget,
  words,
} from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { statDescriptor, statDeviceNumber, statIno, statName } from '../calls/stat.js';
import { EAGAIN, ENOENT } from '../../../core/system/calls/negative-errno.js';

/** Opens a known directory for reading. The caller closes the descriptor. @throws FsError */
export function openDirectory(share: Share, node: Node): Fd {
  const flags = O.RDONLY | O.DIRECTORY | O.NOFOLLOW;
  let fd = share.nodes.openByHandle(node, flags);
  if (fd < 0) fd = openat(AT.FDCWD, putDescriptorPath(share.descriptor(node)), O.RDONLY | O.DIRECTORY, 0);
  if (fd < 0) throw FsError.of(-fd);
  return fd;
}

/** Reading directories, and claiming one for a single mount. */
export function directoryOperations(share: Share) {
  return {
    /**
     * Locks the directory (`flock(2)`) until the share is closed. A file system without such locks
     * is not an error. @throws FsError EBUSY if it is locked already.
     */
    claim(directory: Node): void {
      const fd = openDirectory(share, directory);
      const code = lockExclusively(fd);
      if (code >= 0) {
        share.claims.push(fd);
        return;
      }
      close(fd);
      if (code === EAGAIN) throw FsError.of('EBUSY');
      share.log.debug({ errno: -code }, 'a directory cannot be locked on this file system');
    },

    readdir(node: Node, _context: Context): Iterable<DirectoryEntry> {
      return new Listing(share, openDirectory(share, node), node === share.root);
    },
  };
}

/**
 * The entries of one directory, read in pieces. The descriptor is closed after the last entry, or
 * by `return`.
 */
class Listing implements IterableIterator<DirectoryEntry> {
  readonly #share: Share;
  #fd: Fd;
  /** The directory's device, if its inode numbers are not shown as they are on the host. */
  readonly #device: number | undefined = undefined;
  #piece: DirectoryEntry[] = [];
  #next = 0;

  constructor(share: Share, fd: Fd, isRoot: boolean) {
    this.#share = share;
    this.#fd = fd;
    if (statDescriptor(fd) < 0) return;
    const self = shownNumber(share);
    if (!share.inodeNumbers.isOwn(statDeviceNumber())) this.#device = statDeviceNumber();
    // What is above the share is none of the guest's business: its root is in itself, as Linux's.
    const parent = isRoot ? self : statName(fd, putTarget('..')) < 0 ? 0 : shownNumber(share);
    this.#piece = [
      { name: '.', type: FileType.DIRECTORY, ino: self },
      { name: '..', type: FileType.DIRECTORY, ino: parent },
    ];
  }

  [Symbol.iterator](): this {
    return this;
  }

  next(): IteratorResult<DirectoryEntry, undefined> {
    if (this.#next === this.#piece.length && !this.#read()) return { done: true, value: undefined };
    return { done: false, value: this.#piece[this.#next++]! };
  }

  return(): IteratorResult<DirectoryEntry, undefined> {
    if (this.#fd >= 0) {
      close(this.#fd);
      this.#fd = -1 as Fd;
    }
    this.#piece = [];
    this.#next = 0;
    return { done: true, value: undefined };
  }

  /** Reads the next piece of the directory. @returns whether there is one. */
  #read(): boolean {
    this.#piece = [];
    this.#next = 0;
    while (this.#piece.length === 0) {
      if (this.#fd < 0) return false;
      const size = getdents64(this.#fd, at.dirents, DIRENT_AREA_BYTES);
      if (size <= 0) {
        this.return();
        // ENOENT: the directory was removed while it was open, and has no entries any more.
        if (size < 0 && size !== ENOENT) throw FsError.of(-size);
        return false;
      }
      decode(offset.dirents, offset.dirents + size, this.#piece);
      if (this.#device !== undefined) this.#piece = this.#piece.map((entry) => this.#renumbered(entry));
    }
    return true;
  }

  #renumbered(entry: DirectoryEntry): DirectoryEntry {
    return { ...entry, ino: this.#share.inodeNumbers.shown(this.#device!, entry.ino!) };
  }
}

/** The inode number of the stat result in call memory, as guests see it. */
function shownNumber({ inodeNumbers }: Share): number | bigint {
  const own = statIno();
  const device = statDeviceNumber();
  return inodeNumbers.isOwn(device) ? own : inodeNumbers.shown(device, own);
}

/**
 * Decodes `struct linux_dirent64`, getdents64(2): ino 8 bytes, off 8, reclen 2, type 1, name. `.`
 * and `..` are left out.
 */
function decode(start: number, end: number, into: DirectoryEntry[]): void {
  for (let from = start; from < end;) {
    const length = bytes[from + 16]! | (bytes[from + 17]! << 8);
    const first = from + 19;
    let last = first;
    while (bytes[last] !== 0) last += 1;
    const hidden =
      bytes[first] === 0x2e && (last === first + 1 || (last === first + 2 && bytes[first + 1] === 0x2e));
    if (!hidden)
      into.push({ name: decodeName(bytes, first, last), type: bytes[from + 18]! << 12, ino: inode(from) });
    from += length;
  }
}

function inode(from: number): number | bigint {
  const high = words[(from + 4) >>> 2]!;
  return high < 0x200000 ? getLong(from) : (BigInt(high) << 32n) | BigInt(words[from >>> 2]!);
}
