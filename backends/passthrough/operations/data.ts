import {
  type Context,
  type Created,
  type Entry,
  FileType,
  FsError,
  type GuestBuffer,
  OpenFlags,
  type Opened,
  WriteFlags,
} from '../../../core/backend/index.js';
import type { Awaitable } from '../../../core/backend/index.js';
import {
  AT,
  close,
  ftruncateLater,
  getStatusFlags,
  O,
  openat,
  preadv2Later,
  pwritev2,
  pwritev2Later,
  RWF,
  setStatusFlags,
  unlinkat,
} from '../../../core/system/calls/files.js';
import { descriptorLimit, type Fd, mustReadOn, readInto, writeFrom } from '../../../core/system/index.js';
import { endImpersonation, useFsetid } from '../calls/impersonation.js';
import { clearSetIds } from '../calls/set-ids.js';
import { gatherOperations } from '../batches/gather.js';
import { createLabelled } from '../calls/create-labelled.js';
import type { Node } from '../nodes/nodes.js';
import { OpenFile } from '../nodes/open-file.js';
import { turns } from '../../../core/backend/pool-turns.js';
import { at, putDescriptorPath, putName } from '../calls/call-memory.js';
import { statDescriptor, statIsLarge } from '../calls/stat.js';
import type { Share } from '../share.js';
import {
  EACCES,
  EEXIST,
  EMFILE,
  EOPNOTSUPP,
  EPERM,
  ESTALE,
} from '../../../core/system/calls/negative-errno.js';

/**
 * Reads of at most this many bytes are made at once, longer ones on the thread pool: only guests
 * with large pages send such.
 */
const INLINE_READ_BYTES = 2 ** 20;

/**
 * Descriptors from this number on are the daemon's reserve, a sixteenth of what it may have:
 * connections of guests take some, and whoever opens files through this backend, such as an
 * overlay, may not count them. The kernel gives the lowest number that is free.
 */
const FIRST_RESERVED = Math.floor((descriptorLimit() * 15) / 16);

/** Opening, creating, reading and writing files. */
export function dataOperations(share: Share) {
  const { nodes, options } = share;
  const passed =
    O.ACCMODE | O.TRUNC | O.APPEND | O.DSYNC | O.SYNC | O.NOATIME | (options.allowDirectIo ? O.DIRECT : 0);

  /**
   * The flags for the host's open. A file that the guest opens only for writing is opened for
   * reading too: with a write-back cache the guest's kernel reads the rest of a page through the
   * same handle.
   */
  function hostFlags(flags: number): number {
    const kept = flags & passed;
    return (kept & O.ACCMODE) === O.WRONLY ? (kept & ~O.ACCMODE) | O.RDWR : kept;
  }

  function enter(node: Node, fd: Fd, flags: number): OpenFile {
    const { nowait, inMemory } = share.mountOf(node);
    const isRegular = nodes.fileType(node) === FileType.REGULAR;
    return OpenFile.enter(nodes, node, fd, {
      nowait,
      append: (flags & O.APPEND) !== 0,
      synchronous: (flags & (O.DSYNC | O.SYNC)) !== 0 && !(inMemory && isRegular),
      writable: (flags & O.ACCMODE) !== O.RDONLY,
      cached: isRegular && (flags & O.DIRECT) === 0,
    });
  }

  function reopen(node: Node, flags: number): Fd {
    if (nodes.hasHandle(node)) {
      const fd = share.finder.reopen(node, flags);
      if (fd !== ESTALE) return fd;
    }
    const path = putDescriptorPath(share.descriptor(node));
    const fd = openat(AT.FDCWD, path, flags, 0);
    return nodes.freeDescriptors(fd) ? openat(AT.FDCWD, path, flags, 0) : fd;
  }

  function openNode(node: Node, guestFlags: number): OpenFile {
    const type = nodes.fileType(node);
    if (type !== FileType.REGULAR && options.specialFiles === 'refuse') {
      throw FsError.of(type === FileType.DIRECTORY ? 'EISDIR' : 'ENXIO');
    }
    const flags = hostFlags(guestFlags) | (type === FileType.REGULAR ? 0 : O.NONBLOCK);
    useFsetid(true);
    let fd = reopen(node, flags);
    // open(2) allows O_NOATIME only to the file's owner. The guest's kernel has checked that the
    // caller is; for a daemon that is not, it is a mere wish.
    if (fd === EPERM && (flags & O.NOATIME) !== 0) fd = reopen(node, flags & ~O.NOATIME);
    // A daemon without privilege may have permission to write but not to read.
    if (fd === EACCES) fd = reopen(node, guestFlags & passed);
    if (fd < 0) throw FsError.of(-fd);
    if (fd >= FIRST_RESERVED) {
      close(fd);
      throw FsError.of('EMFILE');
    }
    return enter(node, fd, flags);
  }

  /** Whether the kernel takes long to free the room of a file. */
  function isLarge(node: Node): boolean {
    if (nodes.fileType(node) !== FileType.REGULAR) return false;
    return statDescriptor(share.descriptor(node)) >= 0 && statIsLarge();
  }

  /**
   * Whether a file is to be cut after it was opened. What is open for reading only cannot be cut:
   * the host's open does it.
   */
  function cutsLater(node: Node, flags: number): boolean {
    return (flags & O.TRUNC) !== 0 && (flags & O.ACCMODE) !== O.RDONLY && isLarge(node);
  }

  /** Cuts a large file that was just opened, on the thread pool. It is closed if that fails. */
  async function cutLater(node: Node, file: OpenFile, context: Context): Promise<void> {
    try {
      await turns.run(context, 'long', () => settle(ftruncateLater(file.fd, 0)));
    } catch (error) {
      file.leave(nodes, node);
      throw error;
    }
  }

  /** Labels a new file, where it has no label yet. @returns 0 or minus the errno. */
  function finishNew(file: Fd, label: Context['securityContext']): number {
    if (file >= FIRST_RESERVED) return EMFILE;
    return label === undefined ? 0 : share.xattrs.label(file, label);
  }

  return {
    held: (file: OpenFile): number => file.fd,

    adoptFile(node: Node, fd: number, flags: number): OpenFile {
      return enter(node, fd as Fd, hostFlags(flags));
    },

    open(node: Node, flags: number, context: Context): Awaitable<Opened<OpenFile>> {
      if (!cutsLater(node, flags)) return { file: openNode(node, flags) };
      const file = openNode(node, flags & ~O.TRUNC);
      return cutLater(node, file, context).then(() => ({ file }));
    },

    create(
      parent: Node,
      name: string,
      mode: number,
      guestFlags: number,
      context: Context,
    ): Awaitable<Created<Node, OpenFile>> {
      const fd = share.descriptor(parent);
      const path = putName(name);
      const flags = hostFlags(guestFlags);
      const label = context.securityContext;
      let file = EOPNOTSUPP as Fd;
      if (label !== undefined) file = createLabelled(share, fd, path, flags, mode, context, label);
      const isPlain = file === EOPNOTSUPP;
      if (isPlain) {
        share.impersonate(context);
        try {
          const made = flags | O.CREAT | O.EXCL | O.NOFOLLOW;
          file = openat(fd, path, made, mode);
          if (nodes.freeDescriptors(file)) file = openat(fd, path, made, mode);
        } finally {
          endImpersonation();
        }
      }
      if (file === EEXIST && (guestFlags & OpenFlags.EXCL) === 0) {
        return share.findFor(parent, fd, path, name, (found) => {
          const { node } = found;
          if (!cutsLater(node, guestFlags))
            return { node, attributes: found.attributes, file: openNode(node, guestFlags) };
          const opened = openNode(node, guestFlags & ~O.TRUNC);
          const attributes = { ...found.attributes, size: 0, blocks: 0 };
          return cutLater(node, opened, context).then(() => ({ node, attributes, file: opened }));
        });
      }
      if (file < 0) throw FsError.of(-file);
      const failed = finishNew(file, isPlain ? label : undefined);
      if (failed < 0) {
        close(file);
        unlinkat(fd, path, 0);
        throw FsError.of(-failed);
      }
      return created(parent, name, file, flags);
    },

    tmpfile(parent: Node, mode: number, guestFlags: number, context: Context): Created<Node, OpenFile> {
      const fd = share.descriptor(parent);
      const flags = hostFlags(guestFlags) | (guestFlags & O.EXCL);
      let file: Fd;
      share.impersonate(context);
      try {
        file = openat(fd, at.here, flags | O.TMPFILE, mode);
        if (nodes.freeDescriptors(file)) file = openat(fd, at.here, flags | O.TMPFILE, mode);
      } finally {
        endImpersonation();
      }
      if (file < 0) throw FsError.of(-file);
      const failed = finishNew(file, context.securityContext);
      if (failed < 0) {
        close(file);
        throw FsError.of(-failed);
      }
      return created(parent, '', file, flags);
    },

    read(
      node: Node,
      file: OpenFile,
      buffer: GuestBuffer,
      offset: number,
      context: Context,
    ): Awaitable<number> {
      if (buffer.length > INLINE_READ_BYTES) return readLater(file, buffer, offset, 0, context);
      const { nowait } = file;
      const count = readInto(file.fd, buffer, offset, nowait);
      return count === buffer.length ? count : finishRead(node, file, buffer, offset, count, nowait, context);
    },

    write(
      _node: Node,
      file: OpenFile,
      buffer: GuestBuffer,
      offset: number,
      flags: number,
      context: Context,
    ): Awaitable<number> {
      const clears = (flags & WriteFlags.KILL_SUIDGID) !== 0;
      useFsetid(!clears);
      share.xattrs.dropCapabilities(file.fd);
      if (file.append && (flags & WriteFlags.CACHE) !== 0) return writeAt(file, buffer, offset);
      if (file.synchronous) {
        // The pool's threads have CAP_FSETID, so the kernel would leave the bits.
        const code = clears ? clearSetIds(file.fd) : 0;
        if (code < 0) throw FsError.of(-code);
        const { iov, iovCount } = buffer;
        return turns.run(context, 'short', () => settle(pwritev2Later(file.fd, iov, iovCount, offset, 0)));
      }
      const count = writeFrom(file.fd, buffer, offset);
      if (count < 0) throw FsError.of(-count);
      return count;
    },

    ...gatherOperations(share, finishRead),

    release(node: Node, file: OpenFile): void {
      file.leave(nodes, node);
    },
  };

  /**
   * Finishes a read whose call returned `count`: fewer bytes than asked for, or minus an errno.
   * @param nowait the `preadv2` flags of that call.
   * @throws FsError
   */
  function finishRead(
    node: Node,
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    count: number,
    nowait: number,
    context: Context,
  ): Awaitable<number> {
    if (nowait === 0) {
      if (count < 0) throw FsError.of(-count);
      return count;
    }
    // The file system (tmpfs, for example) does not know these flags. Files that are opened later
    // on this mount go without them from the start.
    if (count === EOPNOTSUPP && nodes.fileType(node) === FileType.REGULAR) share.mountOf(node).nowait = 0;
    return readOn(file, buffer, offset, count, context);
  }

  function created(parent: Node, name: string, fd: Fd, flags: number): Created<Node, OpenFile> {
    let entry: Entry<Node>;
    try {
      entry = share.adopt(parent, fd, name);
    } catch (error) {
      close(fd);
      throw error;
    }
    return { node: entry.node, attributes: entry.attributes, file: enter(entry.node, fd, flags) };
  }
}

/**
 * Finishes a read that was not allowed to wait for the disk: it ended at the end of the file, or at
 * pages that are not in memory. Those are read on the thread pool.
 */
function readOn(
  file: OpenFile,
  buffer: GuestBuffer,
  offset: number,
  count: number,
  context: Context,
): Awaitable<number> {
  if (count === EOPNOTSUPP) {
    file.nowait = 0;
    const again = readInto(file.fd, buffer, offset, 0);
    if (again < 0) throw FsError.of(-again);
    return again;
  }
  if (!mustReadOn(file.fd, offset, count)) {
    if (count < 0) throw FsError.of(-count);
    return count;
  }
  return readLater(file, buffer, offset, Math.max(count, 0), context);
}

/** Reads on the thread pool what comes after the first `done` bytes. */
function readLater(
  file: OpenFile,
  buffer: GuestBuffer,
  offset: number,
  done: number,
  context: Context,
): Promise<number> {
  const rest = done === 0 ? buffer : buffer.slice(done);
  return turns.run(context, 'short', async () => {
    const more = await preadv2Later(file.fd, rest.iov, rest.iovCount, offset + done, 0);
    if (more >= 0) return done + more;
    if (done > 0) return done;
    throw FsError.of(-more);
  });
}

/**
 * Writes at `offset` to a file that was opened to append. Such writes carry pages of a shared
 * mapping, which the guest's kernel sends through any handle of the file.
 */
function writeAt(file: OpenFile, buffer: GuestBuffer, offset: number): number {
  let count = pwritev2(file.fd, buffer.iov, buffer.iovCount, offset, RWF.NOAPPEND);
  if (count === EOPNOTSUPP) {
    // Before Linux 6.9, which brought RWF_NOAPPEND.
    const flags = getStatusFlags(file.fd);
    setStatusFlags(file.fd, flags & ~O.APPEND);
    count = writeFrom(file.fd, buffer, offset);
    setStatusFlags(file.fd, flags);
  }
  if (count < 0) throw FsError.of(-count);
  return count;
}

/** Awaits the result of a call on the thread pool. @throws FsError if it is minus an errno. */
export async function settle(pending: Promise<number>): Promise<number> {
  const value = await pending;
  if (value < 0) throw FsError.of(-value);
  return value;
}
