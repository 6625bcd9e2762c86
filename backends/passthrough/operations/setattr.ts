import type { Fd } from '../../../core/system/index.js';
import {
  type AttributeChanges,
  type Attributes,
  type Awaitable,
  type Context,
  FileType,
  FsError,
  type Time,
} from '../../../core/backend/index.js';
import {
  AT,
  chmod,
  close,
  fchmod,
  fchownat,
  ftruncate,
  ftruncateLater,
  O,
  openat,
  truncate,
  utimensat,
} from '../../../core/system/calls/files.js';
import { useFsetid } from '../calls/impersonation.js';
import { clearSetIds } from '../calls/set-ids.js';
import type { Node } from '../nodes/nodes.js';
import type { OpenFile } from '../nodes/open-file.js';
import { at, offset, putDescriptorPath, putLong } from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { turns } from '../../../core/backend/pool-turns.js';
import { statDescriptor, statIsLarge, statSize } from '../calls/stat.js';
import { settle } from './data.js';
import { EACCES } from '../../../core/system/calls/negative-errno.js';

/** An owner id that leaves the owner as it is, chown(2). */
const UNCHANGED_ID = 0xffffffff;
/** Special values of `tv_nsec`, utimensat(2). */
const UTIME_NOW = 0x3fffffff;
const UTIME_OMIT = 0x3ffffffe;

/** SETATTR. */
export function setattrOperations(share: Share) {
  function resize(node: Node, fd: Fd, size: number): number {
    if (share.nodes.fileType(node) !== FileType.REGULAR) throw FsError.of('EINVAL');
    const code = truncate(putDescriptorPath(fd), size);
    if (code !== EACCES) return code;
    return share.finder.whileNamed(node, (named) => truncate(putDescriptorPath(named), size)) ?? code;
  }

  /**
   * Cuts a large file on the thread pool.
   * @returns undefined if it is not large, or cannot be opened: to be resized at once then.
   */
  function cutLater(
    node: Node,
    size: number,
    file: OpenFile | undefined,
    context: Context,
  ): Promise<number> | undefined {
    if (share.nodes.fileType(node) !== FileType.REGULAR) return undefined;
    const fd = share.descriptor(node);
    if (statDescriptor(fd) < 0 || !statIsLarge() || size >= statSize()) return undefined;
    const cut = (writable: Fd) => turns.run(context, 'long', () => settle(ftruncateLater(writable, size)));
    if (file?.writable === true) return cut(file.fd);
    const opened = openat(AT.FDCWD, putDescriptorPath(fd), O.WRONLY, 0);
    return opened < 0 ? undefined : cut(opened).finally(() => close(opened));
  }

  return {
    setattr(
      node: Node,
      changes: AttributeChanges,
      file: OpenFile | undefined,
      context: Context,
    ): Awaitable<Attributes> {
      const { size } = changes;
      if (size === undefined) return change(node, changes);
      const cut = cutLater(node, size, file, context);
      if (cut !== undefined) return cut.then(() => change(node, changes));
      useFsetid(true);
      succeed(
        file?.writable === true ? ftruncate(file.fd, size) : resize(node, share.descriptor(node), size),
      );
      return change(node, changes);
    },
  };

  /** Changes all but the size, which has been changed. */
  function change(node: Node, changes: AttributeChanges): Attributes {
    const fd = share.descriptor(node);
    const { uid, gid, mode, size, atime, mtime } = changes;
    useFsetid(true);
    if (size !== undefined && changes.killSuidGid === true) succeed(clearSetIds(fd));
    if (size !== undefined || uid !== undefined || gid !== undefined) share.xattrs.dropCapabilities(fd);
    // The owner is set before the mode: a change of owner clears set-id bits, which the new mode
    // may set.
    if (uid !== undefined || gid !== undefined) {
      const owner = uid === undefined ? UNCHANGED_ID : share.uids.toHost(uid);
      const group = gid === undefined ? UNCHANGED_ID : share.gids.toHost(gid);
      succeed(fchownat(fd, at.empty, owner, group, AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW));
    }
    if (mode !== undefined) {
      succeed(node.open === undefined ? chmod(putDescriptorPath(fd), mode) : fchmod(fd, mode));
    }
    if (atime !== undefined || mtime !== undefined) {
      putTime(offset.times, atime);
      putTime(offset.times + 16, mtime);
      succeed(utimensat(fd, at.empty, at.times, AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW));
    }
    succeed(statDescriptor(fd));
    return share.attributes();
  }
}

function succeed(code: number): void {
  if (code < 0) throw FsError.of(-code);
}

function putTime(start: number, time: Time | 'now' | undefined): void {
  putLong(start, typeof time === 'object' ? time.seconds : 0);
  putLong(start + 8, time === undefined ? UTIME_OMIT : time === 'now' ? UTIME_NOW : time.nanoseconds);
}
