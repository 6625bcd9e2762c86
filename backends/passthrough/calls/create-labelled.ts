import type { Fd } from '../../../core/system/index.js';
import type { Context, SecurityContext } from '../../../core/backend/index.js';
import { AT, close, linkat, O, openat } from '../../../core/system/calls/files.js';
import { endImpersonation } from './impersonation.js';
import { at, putDescriptorPath } from './call-memory.js';
import type { Share } from '../share.js';
import { statDescriptor, statInoHigh, statInoLow, statMount } from './stat.js';
import { EISDIR, ENOENT, EOPNOTSUPP } from '../../../core/system/calls/negative-errno.js';

/**
 * Creates regular files that have their security context from the first moment on, also for
 * processes of the host: a file is made without a name (O_TMPFILE), labelled, and then linked.
 * Directories, symbolic links and special files cannot be made that way.
 */

/**
 * Creates a file under a name that must not exist yet.
 * @param fd a descriptor of the directory
 * @param name address of the name
 * @param flags as for openat(2)
 * @returns a descriptor opened with `flags`, or minus an errno. EOPNOTSUPP: the file system has no
 * O_TMPFILE.
 */
export function createLabelled(
  share: Share,
  fd: Fd,
  name: number,
  flags: number,
  mode: number,
  context: Context,
  label: SecurityContext,
): Fd {
  let file: Fd;
  share.impersonate(context);
  try {
    const nameless = (flags & ~O.ACCMODE) | O.RDWR | O.TMPFILE;
    file = openat(fd, at.here, nameless, mode);
    if (share.nodes.freeDescriptors(file)) file = openat(fd, at.here, nameless, mode);
  } finally {
    endImpersonation();
  }
  // open(2): EISDIR means that the kernel does not know O_TMPFILE, EOPNOTSUPP that the file system
  // does not.
  if (file < 0) return file === EISDIR ? (EOPNOTSUPP as Fd) : file;
  let code = share.xattrs.label(file, label);
  if (code >= 0) code = linkat(file, at.empty, fd, name, AT.EMPTY_PATH);
  // Without CAP_DAC_READ_SEARCH, linkat(2) refuses an empty path with ENOENT; a path below /proc
  // works.
  if (code === ENOENT) code = linkat(AT.FDCWD, putDescriptorPath(file), fd, name, AT.SYMLINK_FOLLOW);
  if (code < 0) {
    close(file);
    return code as Fd;
  }
  return reopen(file, fd, name, flags & ~O.TRUNC);
}

/**
 * Replaces a descriptor that was opened without a name by one that is opened with `flags` by name.
 * /proc would show the former as removed for ever. The former stays if the host has given the name
 * to another file meanwhile.
 */
function reopen(file: Fd, fd: Fd, name: number, flags: number): Fd {
  const named = openat(fd, name, O.PATH | O.NOFOLLOW, 0);
  if (named < 0) return file;
  const again = areSame(named, file) ? openat(AT.FDCWD, putDescriptorPath(named), flags, 0) : (-1 as Fd);
  close(named);
  if (again < 0) return file;
  close(file);
  return again;
}

function areSame(one: Fd, other: Fd): boolean {
  if (statDescriptor(one) < 0) return false;
  const [low, high, mount] = [statInoLow(), statInoHigh(), statMount()];
  return (
    statDescriptor(other) >= 0 && statInoLow() === low && statInoHigh() === high && statMount() === mount
  );
}
