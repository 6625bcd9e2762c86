import type { Fd } from '../../../core/system/index.js';
import { ModeBits } from '../../../core/backend/index.js';
import { chmod } from '../../../core/system/calls/files.js';
import { useFsetid } from './impersonation.js';
import { putDescriptorPath } from './call-memory.js';
import { statDescriptor, statMode } from './stat.js';

const SET_USER_ID = 0o4000;
const SET_GROUP_ID = 0o2000;
const GROUP_EXECUTE = 0o010;

/**
 * Clears the bits that a change of content by somebody without privilege clears: set-user-id, and
 * set-group-id where the group may execute (Linux fs/attr.c, setattr_should_drop_suidgid). The
 * host's kernel would take the daemon for the one who changes: it has CAP_FSETID, or without that
 * is not in the file's group, which clears set-group-id always.
 * @returns 0 or minus the errno.
 */
export function clearSetIds(fd: Fd): number {
  const code = statDescriptor(fd);
  if (code < 0) return code;
  const mode = statMode() & ModeBits.PERMISSIONS;
  let left = mode & ~SET_USER_ID;
  if ((mode & GROUP_EXECUTE) !== 0) left &= ~SET_GROUP_ID;
  if (left === mode) return 0;
  useFsetid(true);
  return chmod(putDescriptorPath(fd), left);
}
