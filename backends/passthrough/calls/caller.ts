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
 * The identity under which this thread acts. Creations are made as the guest's caller, so that the
 * new file is its from the first moment; all else as the daemon, since the guest's kernel has
 * checked permissions. The thread keeps its capabilities meanwhile: the guest's supplementary
 * groups, which the host doesn't know, must not make a creation fail.
 */

const own: { uid: number; gid: number; groups: readonly number[] } = { uid: 0, gid: 0, groups: [] };
let prepared = false;
let mayChange = false;
/** Capabilities stay in effect while the thread has another user's id. */
let keeps = false;
let fsetid: FsetidSwitch | undefined;
let formerMask = 0;
let changedUid = false;
let changedGid = false;
let changedGroups = false;

/** Finds out what this thread may do. To be called before the functions below. */
export function prepare(): void {
  if (prepared) return;
  prepared = true;
  own.uid = process.geteuid!();
  own.gid = process.getegid!();
  own.groups = getGroups();
  mayChange = hasCapability(Capability.SETUID) && hasCapability(Capability.SETGID);
  keeps = mayChange && keepCapabilities() === 0;
  fsetid = new FsetidSwitch();
}

/**
 * Whether files can be given to the guest's users at all: a daemon without privilege makes all of
 * them its own.
 */
export function actsForOthers(): boolean {
  return mayChange;
}

/**
 * Begins a creation as a guest's caller; {@link resume} ends it, in a `finally`.
 * @throws FsError EPERM or EINVAL, nothing changed, where the host does not allow this identity.
 */
export function become(uid: number, gid: number, context: Context): void {
  formerMask = umask(context.umask);
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
    // Without CAP_FSETID the kernel drops set-group-id where the caller is not in the group, as it
    // would in the guest.
    if (keeps || !changedUid) useFsetid(uid === 0);
    return;
  }
  resume();
  throw FsError.of(-code);
}

/** Ends what {@link become} began. */
export function resume(): void {
  if (changedUid) {
    insist(setEffectiveUid(own.uid));
    changedUid = false;
    // Back to uid 0 without SECBIT_NO_SETUID_FIXUP, all permitted capabilities are effective again.
    if (!keeps) fsetid?.wasRestored();
  }
  if (changedGid) {
    insist(setEffectiveGid(own.gid));
    changedGid = false;
  }
  if (changedGroups) {
    insist(setGroups(own.groups));
    changedGroups = false;
  }
  umask(formerMask);
}

/** A thread stuck with a guest's identity must not go on. */
function insist(code: number): void {
  if (code < 0) process.abort();
}

/** Whether the thread acts with CAP_FSETID, see {@link FsetidSwitch}. */
export function useFsetid(wanted: boolean): void {
  fsetid?.use(wanted);
}
