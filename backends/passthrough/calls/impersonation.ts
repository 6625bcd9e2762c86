import { type Context, FsError } from '../../../core/backend/index.js';
import {
  Capability,
  FsetidSwitch,
  getGroups,
  hasCapability,
  keepCapabilities,
  setEffectiveGid,
  setEffectiveUid,
  setGroups,
} from '../../../core/system/calls/credentials.js';
import { umask } from '../../../core/system/calls/files.js';

/**
 * The identity under which this thread makes system calls. Files are created as the guest's caller,
 * so that they have the right owner from the first moment. Everything else is done as the daemon,
 * because the guest's kernel has checked permissions. The thread keeps its capabilities while it
 * impersonates: the host does not know all of the guest's groups, and a creation must not fail for
 * that.
 */

const own: { uid: number; gid: number; groups: readonly number[]; umask: number } = {
  uid: 0,
  gid: 0,
  groups: [],
  umask: 0,
};
let prepared = false;
let mayChange = false;
/** Whether the capabilities stay effective while the thread has another user id. */
let keeps = false;
let fsetid: FsetidSwitch | undefined;
let changedMask = false;
let changedUid = false;
let changedGid = false;
let changedGroups = false;

/** Finds out what this thread may do. Must be called before the functions below. */
export function prepare(): void {
  if (prepared) return;
  prepared = true;
  own.uid = process.geteuid!();
  own.gid = process.getegid!();
  own.groups = getGroups();
  own.umask = umask(0o077);
  umask(own.umask);
  mayChange = hasCapability(Capability.SETUID) && hasCapability(Capability.SETGID);
  keeps = mayChange && keepCapabilities() === 0;
  fsetid = new FsetidSwitch();
}

/**
 * Whether files can be created as the guest's users. A daemon without privilege creates all files
 * as its own user.
 */
export function canImpersonate(): boolean {
  return mayChange;
}

/**
 * Takes the identity of a guest's caller, given by ids of the host. {@link endImpersonation} ends
 * it, in a `finally`.
 * @throws FsError EPERM or EINVAL, with nothing changed, if the host does not allow this identity.
 */
export function impersonate(uid: number, gid: number, context: Context): void {
  changedMask = context.umask !== own.umask;
  if (changedMask) umask(context.umask);
  if (!mayChange) return;
  let code = 0;
  if (context.groups.length > 0) {
    code = setGroups(context.groups);
    changedGroups = code === 0;
  }
  if (code === 0 && gid !== own.gid) {
    code = setEffectiveGid(gid);
    changedGid = code === 0;
  }
  if (code === 0 && uid !== own.uid) {
    code = setEffectiveUid(uid);
    changedUid = code === 0;
  }
  if (code === 0) {
    // Without CAP_FSETID the kernel drops the set-group-id bit where the caller is not in the
    // group. A guest's kernel that has done so itself knows more groups.
    if (keeps || !changedUid) useFsetid(uid === 0 || context.setGroupIdChecked === true);
    return;
  }
  endImpersonation();
  throw FsError.of(-code);
}

/** Gives the thread the daemon's identity again. */
export function endImpersonation(): void {
  if (changedUid) {
    abortOnFailure(setEffectiveUid(own.uid));
    changedUid = false;
    // Without SECBIT_NO_SETUID_FIXUP the return to uid 0 makes all permitted capabilities effective
    // again.
    if (!keeps) fsetid?.wasRestored();
  }
  if (changedGid) {
    abortOnFailure(setEffectiveGid(own.gid));
    changedGid = false;
  }
  if (changedGroups) {
    abortOnFailure(setGroups(own.groups));
    changedGroups = false;
  }
  if (changedMask) {
    umask(own.umask);
    changedMask = false;
  }
}

/** Ends the process: a thread that keeps a guest's identity must not serve others. */
function abortOnFailure(code: number): void {
  if (code < 0) process.abort();
}

/**
 * Sets whether the thread acts with CAP_FSETID, see {@link FsetidSwitch}. Without it, writes and
 * changes of owner clear set-id bits.
 */
export function useFsetid(wanted: boolean): void {
  fsetid?.use(wanted);
}
