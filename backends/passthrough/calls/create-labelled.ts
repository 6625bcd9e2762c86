import type { Context, SecurityContext } from '../../../core/backend/index.js';
import { AT, close, linkat, O, openat } from '../../../core/system/calls/files.js';
import { resume } from './caller.js';
import { at, putDescriptorPath } from './call-memory.js';
import type { Share } from '../share.js';
import { statDescriptor, statInoHigh, statInoLow, statMount } from './stat.js';

/**
 * Regular files that nobody sees without their security context, the host's own processes neither:
 * a file gets it while it has no name. Directories, symbolic links and special files cannot be made
 * so.
 */

const ENOENT = -2;
const EISDIR = -21;
const EOPNOTSUPP = -95;

/**
 * Makes a file of a name that must not exist yet.
 * @param fd a descriptor of the directory
 * @param name address of the name
 * @param flags as for openat(2)
 * @returns a descriptor opened with `flags`, or minus an errno: EOPNOTSUPP where the file system
 * has no files without a name.
 */
export function createLabelled(
  share: Share,
  fd: number,
  name: number,
  flags: number,
  mode: number,
  context: Context,
  label: SecurityContext,
): number {
  let file: number;
  share.become(context);
  try {
    const nameless = (flags & ~O.ACCMODE) | O.RDWR | O.TMPFILE;
    file = openat(fd, at.here, nameless, mode);
    if (share.nodes.shed(file)) file = openat(fd, at.here, nameless, mode);
  } finally {
    resume();
  }
  // EISDIR: the kernel does not know O_TMPFILE, or the file system does not, open(2).
  if (file < 0) return file === EISDIR ? EOPNOTSUPP : file;
  let code = share.label(file, label);
  if (code >= 0) code = linkat(file, at.empty, fd, name, AT.EMPTY_PATH);
  // Without CAP_DAC_READ_SEARCH an empty path is ENOENT, linkat(2); then by way of /proc.
  if (code === ENOENT) code = linkat(AT.FDCWD, putDescriptorPath(file), fd, name, AT.SYMLINK_FOLLOW);
  if (code < 0) {
    close(file);
    return code;
  }
  return reopen(file, fd, name, flags & ~O.TRUNC);
}

/**
 * A descriptor with `flags` in the place of one that was opened without a name, which /proc goes on
 * to show as removed. Where the host has given the name away meanwhile, the former stays.
 */
function reopen(file: number, fd: number, name: number, flags: number): number {
  const named = openat(fd, name, O.PATH | O.NOFOLLOW, 0);
  if (named < 0) return file;
  const again = areSame(named, file) ? openat(AT.FDCWD, putDescriptorPath(named), flags, 0) : -1;
  close(named);
  if (again < 0) return file;
  close(file);
  return again;
}

function areSame(one: number, other: number): boolean {
  if (statDescriptor(one) < 0) return false;
  const [low, high, mount] = [statInoLow(), statInoHigh(), statMount()];
  return (
    statDescriptor(other) >= 0 && statInoLow() === low && statInoHigh() === high && statMount() === mount
  );
}
