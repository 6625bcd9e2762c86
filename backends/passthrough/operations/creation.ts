import type { Fd } from '../../../core/system/index.js';
import {
  type Context,
  deviceMajor,
  deviceMinor,
  type Entry,
  FileType,
  FsError,
  RenameFlags,
  type SecurityContext,
} from '../../../core/backend/index.js';
import {
  AT,
  close,
  closeLater,
  linkat,
  mkdirat,
  mknodat,
  O,
  openat,
  renameat2,
  symlinkat,
  unlinkat,
} from '../../../core/system/calls/files.js';
import { endImpersonation } from '../calls/impersonation.js';
import { createLabelled } from '../calls/create-labelled.js';
import type { Node } from '../nodes/nodes.js';
import { at, putDescriptorPath, putName, putOtherName, putTarget } from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { statIsFreedLater, statLinks, statName } from '../calls/stat.js';
import { EACCES, ENOENT, EOPNOTSUPP, EXDEV } from '../../../core/system/calls/negative-errno.js';

/** A large file that is about to lose its last name. */
interface Leaving {
  readonly fd: Fd;
  /** If a guest knows it. */
  readonly node: Node | undefined;
}

/** Creating, linking, renaming and removing names. */
export function creationOperations(share: Share) {
  const { nodes } = share;

  /**
   * The entry of a name that was just created, with `code` as the result of the call. ENOENT: a
   * process of the host has removed it again.
   */
  function made(
    code: number,
    parent: Node,
    fd: Fd,
    path: number,
    name: string,
    context?: Context,
  ): Entry<Node> {
    if (code < 0) throw FsError.of(-code);
    const label = context?.securityContext;
    if (label !== undefined)
      return share.findFor(parent, fd, path, name, (found) => labelled(found, fd, path, label));
    const entry = share.find(parent, fd, path, name);
    if (entry === undefined) throw FsError.of('ENOENT');
    return entry;
  }

  /** Labels what was just made, or removes it again. */
  function labelled(entry: Entry<Node>, fd: Fd, path: number, label: SecurityContext): Entry<Node> {
    const failed = share.xattrs.label(share.descriptor(entry.node), label);
    if (failed < 0) {
      unlinkat(fd, path, 0);
      unlinkat(fd, path, AT.REMOVEDIR);
      throw FsError.of(-failed);
    }
    return entry;
  }

  /**
   * Called before a directory's name is removed. Guests that know the directory can still be in it,
   * but its handle will open nothing any more, so its descriptor is kept until they forget it.
   */
  function pinNamed(parent: Node, fd: Fd, path: number): void {
    const node = share.finder.known(parent, fd, path);
    if (node !== undefined) nodes.pin(node);
  }

  /**
   * Called before a file may lose its last name, where guests cache writes. A guest with an O_PATH
   * descriptor of the file sends the times of the removal later. If that failed, the next sync of
   * any file would report it.
   */
  function pinLastName(parent: Node, fd: Fd, path: number): void {
    if (share.options.writeback && statName(fd, path) >= 0 && statLinks() === 1) pinNamed(parent, fd, path);
  }

  /**
   * Opens a large file that may lose its last name, so that its room is freed when it is closed on
   * the thread pool, and not here.
   */
  function openLarge(parent: Node, fd: Fd, path: number): Leaving | undefined {
    if (statName(fd, path) < 0 || statLinks() !== 1 || !statIsFreedLater()) return undefined;
    const large = openat(fd, path, O.PATH | O.NOFOLLOW, 0);
    return large < 0 ? undefined : { fd: large, node: share.finder.known(parent, fd, path) };
  }

  /** What {@link openLarge} has opened is closed last of all. @param isGone whether its name is. */
  function leave({ fd, node }: Leaving, isGone: boolean): void {
    if (!isGone || node === undefined || !nodes.closeLast(node, fd)) void closeLater(fd);
  }

  function remove(parent: Node, name: string, flags: number): void {
    const fd = share.descriptor(parent);
    const path = putName(name);
    if (flags === AT.REMOVEDIR) pinNamed(parent, fd, path);
    else pinLastName(parent, fd, path);
    const large = flags === AT.REMOVEDIR ? undefined : openLarge(parent, fd, path);
    const code = unlinkat(fd, path, flags);
    if (large !== undefined) leave(large, code >= 0);
    if (code < 0) throw FsError.of(-code);
  }

  return {
    mknod(parent: Node, name: string, mode: number, rdev: number, context: Context): Entry<Node> {
      share.checkDevice(mode, rdev);
      const fd = share.descriptor(parent);
      const path = putName(name);
      const label = context.securityContext;
      if (label !== undefined && (mode & FileType.MASK) === FileType.REGULAR) {
        const file = createLabelled(share, fd, path, O.RDWR, mode & ~FileType.MASK, context, label);
        if (file >= 0) close(file);
        if (file !== EOPNOTSUPP) return made(file, parent, fd, path, name);
      }
      let code: number;
      share.impersonate(context);
      try {
        code = mknodat(fd, path, mode, hostDevice(rdev));
      } finally {
        endImpersonation();
      }
      return made(code, parent, fd, path, name, context);
    },

    mkdir(parent: Node, name: string, mode: number, context: Context): Entry<Node> {
      const fd = share.descriptor(parent);
      const path = putName(name);
      let code: number;
      share.impersonate(context);
      try {
        code = mkdirat(fd, path, mode);
      } finally {
        endImpersonation();
      }
      return made(code, parent, fd, path, name, context);
    },

    symlink(parent: Node, name: string, target: string, context: Context): Entry<Node> {
      const fd = share.descriptor(parent);
      const path = putName(name);
      const text = putTarget(target);
      let code: number;
      share.impersonate(context);
      try {
        code = symlinkat(text, fd, path);
      } finally {
        endImpersonation();
      }
      return made(code, parent, fd, path, name, context);
    },

    link(node: Node, parent: Node, name: string, _context: Context): Entry<Node> {
      const from = share.descriptor(node);
      const fd = share.descriptor(parent);
      const path = putName(name);
      let code = linkat(from, at.empty, fd, path, AT.EMPTY_PATH);
      if (code === EACCES || code === EXDEV) {
        const again = (named: Fd): number =>
          linkat(named, at.empty, share.descriptor(parent), putName(name), AT.EMPTY_PATH);
        code = share.finder.whileNamed(node, again) ?? code;
        putName(name);
      }
      // Without CAP_DAC_READ_SEARCH, linkat(2) refuses an empty path with ENOENT; a path below
      // /proc works.
      if (code === ENOENT)
        code = linkat(AT.FDCWD, putDescriptorPath(share.descriptor(node)), fd, path, AT.SYMLINK_FOLLOW);
      return made(code, parent, fd, path, name);
    },

    unlink(parent: Node, name: string, _context: Context): void {
      remove(parent, name, 0);
    },

    rmdir(parent: Node, name: string, _context: Context): void {
      remove(parent, name, AT.REMOVEDIR);
    },

    rename(
      parent: Node,
      name: string,
      newParent: Node,
      newName: string,
      flags: number,
      _context: Context,
    ): void {
      const from = share.descriptor(parent);
      const to = share.descriptor(newParent);
      const path = putName(name);
      const newPath = putOtherName(newName);
      const node = share.finder.known(parent, from, path);
      const exchanges = (flags & RenameFlags.EXCHANGE) !== 0;
      const other = exchanges ? share.finder.known(newParent, to, newPath) : undefined;
      const replaces = !exchanges && (flags & RenameFlags.NOREPLACE) === 0;
      // A directory can be replaced by a directory only.
      if (replaces && (node === undefined || nodes.fileType(node) === FileType.DIRECTORY))
        pinNamed(newParent, to, newPath);
      else if (replaces) pinLastName(newParent, to, newPath);
      const large = replaces ? openLarge(newParent, to, newPath) : undefined;
      share.finder.moves(node, newParent, newName);
      share.finder.moves(other, parent, name);
      const code = renameat2(from, path, to, newPath, flags);
      if (large !== undefined) leave(large, code >= 0);
      if (code < 0) throw FsError.of(-code);
      share.finder.moved(node, newParent, newName);
      share.finder.moved(other, parent, name);
    },
  };
}

/**
 * Converts a device number from FUSE's encoding to that of mknod(2) (glibc's `makedev`). The two
 * are equal below 2^32.
 */
function hostDevice(rdev: number): number {
  const major = deviceMajor(rdev);
  const minor = deviceMinor(rdev);
  return ((minor & 0xff) | (major << 8)) + (minor & 0xfff00) * 2 ** 12;
}
