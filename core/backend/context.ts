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
   * answers to it rejects with EINTR.
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
