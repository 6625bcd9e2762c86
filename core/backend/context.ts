import { FileType, ModeBits } from './attributes.js';

/**
 * Who asks. A synchronous method must not keep the object beyond its return; one that returned a
 * promise may keep it until the promise settles.
 */
export interface Context {
  /** The caller's file-system user id in the guest. */
  readonly uid: number;
  /** The caller's file-system group id in the guest. */
  readonly gid: number;
  /**
   * The caller's process id in the guest; 0 where the kernel acts by itself (write-back,
   * read-ahead).
   */
  readonly pid: number;
  /**
   * The caller's umask for creations; 0 for all else, and where the guest has applied it already.
   */
  readonly umask: number;
  /**
   * Whether the guest's kernel has already taken set-group-id from the mode of a creation where the
   * caller may not give it (Linux since 6.0; told by FUSE 7.37). The mode is then to be set as it
   * is: the guest knows all groups of the caller, the host does not. False or absent: the backend
   * does it, see `creationMode`.
   */
  readonly setGroupIdChecked?: boolean;
  /** Supplementary groups that matter for a creation (FUSE_CREATE_SUPP_GROUP); mostly empty. */
  readonly groups: readonly number[];
  /**
   * Security context to set on a created node, as the guest's security module asks
   * (FUSE_SECURITY_CTX).
   */
  readonly securityContext: SecurityContext | undefined;
  /**
   * The answer to getattr is to have the time of birth, if there is one (FUSE_STATX): a backend
   * that has it at hand gives it always.
   */
  readonly birth?: boolean;
  /**
   * Aborted when the guest gives the request up (FUSE_INTERRUPT) or the session ends. A method that
   * answers to it rejects with EINTR: it has done nothing, and does nothing of the request later.
   * Others end with their result.
   */
  readonly signal: AbortSignal;
  /**
   * Whose request it is: one object for all requests of a guest, another for each guest. For turns
   * and budgets by guest. Absent for what the daemon does of its own accord.
   */
  readonly guest?: object;
}

/** For what the daemon does of its own accord, for no guest. */
export const DAEMON: Context = {
  uid: 0,
  gid: 0,
  pid: 0,
  umask: 0,
  groups: [],
  securityContext: undefined,
  signal: new AbortController().signal,
};

/** Extended attribute that must be there from the moment a node is created. */
export interface SecurityContext {
  /** Attribute name, such as `security.selinux`. */
  readonly name: string;
  /** The attribute's value, as the guest's security module made it. */
  readonly value: Uint8Array;
}

/**
 * The mode of what is made in a directory: without set-group-id where a group that inherits from
 * the directory may execute it, and the caller is not in that group (Linux fs/inode.c,
 * mode_strip_sgid). Unchanged where the guest's kernel has done so.
 * @param mode with type bits
 */
export function creationMode(
  mode: number,
  parent: { readonly mode: number; readonly gid: number },
  context: Pick<Context, 'uid' | 'gid' | 'groups' | 'setGroupIdChecked'>,
): number {
  const { SETGID } = ModeBits;
  const isExecutable = (mode & (SETGID | 0o010)) === (SETGID | 0o010);
  if (context.setGroupIdChecked === true || !isExecutable || (parent.mode & SETGID) === 0) return mode;
  const isDirectory = (mode & FileType.MASK) === FileType.DIRECTORY;
  const isMember = context.gid === parent.gid || context.groups.includes(parent.gid);
  return isDirectory || isMember || context.uid === 0 ? mode : mode & ~SETGID;
}
