import type { Fd } from '../descriptors/fd.js';
import { close, O, open, syscall } from '../calls/files.js';
import { NativeMemory } from '../memory/native-memory.js';
import { EINVAL, ENOENT } from '../calls/negative-errno.js';

/**
 * Landlock, landlock(7). It restricts the calling thread to some paths, and with it the threads and
 * programs that this thread starts or executes. Other threads of the process stay unrestricted. So
 * a thread restricts itself, and then executes the program anew.
 */

const SYS_CREATE_RULESET = 444;
const SYS_ADD_RULE = 445;
const SYS_RESTRICT_SELF = 446;
const VERSION = 1;
const RULE_PATH_BENEATH = 1;

/** LANDLOCK_ACCESS_FS_*, <linux/landlock.h>. */
const ACCESS = {
  EXECUTE: 1 << 0,
  WRITE_FILE: 1 << 1,
  READ_FILE: 1 << 2,
  READ_DIR: 1 << 3,
  REFER: 1 << 13,
  TRUNCATE: 1 << 14,
  IOCTL_DEV: 1 << 15,
} as const;

const READ = ACCESS.EXECUTE | ACCESS.READ_FILE | ACCESS.READ_DIR;
/** Rights that a rule on a file may give; the others are about directories. */
const OF_FILES = ACCESS.EXECUTE | ACCESS.WRITE_FILE | ACCESS.READ_FILE | ACCESS.TRUNCATE | ACCESS.IOCTL_DEV;

/** LANDLOCK_ACCESS_NET_*, from version 4 on. */
const BIND_TCP = 1;
const CONNECT_TCP = 2;
/** LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and _SIGNAL, from version 6 on. */
const SCOPES = 3;

/** Rights that a version of the interface knows, as far as they matter here. */
function known(version: number): number {
  let bits = (1 << 13) - 1;
  if (version >= 2) bits |= ACCESS.REFER;
  if (version >= 3) bits |= ACCESS.TRUNCATE;
  if (version >= 5) bits |= ACCESS.IOCTL_DEV;
  return bits;
}

/** A path, with all below it, that stays reachable. */
export interface AllowedPath {
  readonly path: string;
  readonly write: boolean;
}

/**
 * Version of the kernel's interface, 1 or more, or minus the errno (ENOSYS, EOPNOTSUPP: no
 * Landlock).
 */
export function landlockVersion(): number {
  return syscall(SYS_CREATE_RULESET, 0, 0, VERSION);
}

/**
 * Restricts the calling thread to paths. Those that do not exist are left out. From version 4 on it
 * binds no TCP port either, and connects to none without `network`; from version 6 on it signals no
 * process and connects to no abstract socket that were not made under the same restriction.
 * @returns 0 or minus the errno; nothing is restricted then. No-new-privs must be set.
 */
export function restrictPaths(paths: readonly AllowedPath[], network: boolean): number {
  const version = landlockVersion();
  if (version < 0) return version;
  const handled = known(version);
  const memory = NativeMemory.allocate(64);
  memory.u32[0] = handled;
  // struct landlock_ruleset_attr { u64 handled_access_fs, handled_access_net, scoped; }
  memory.u32[2] = network ? BIND_TCP : BIND_TCP | CONNECT_TCP;
  memory.u32[4] = SCOPES;
  const size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
  const ruleset = syscall(SYS_CREATE_RULESET, memory.address, size) as Fd;
  try {
    if (ruleset < 0) return ruleset;
    for (const { path, write } of paths) {
      const code = addRule(ruleset, path, handled & (write ? -1 : READ), memory);
      if (code < 0) return code;
    }
    return syscall(SYS_RESTRICT_SELF, ruleset, 0);
  } finally {
    if (ruleset >= 0) close(ruleset);
    memory.free();
  }
}

let restricted = false;

/** Notes that this process was restricted before its program was executed. */
export function noteRestriction(): void {
  restricted = true;
}

/** Whether this process is known to be restricted. */
export function isRestricted(): boolean {
  return restricted;
}

/** `struct landlock_path_beneath_attr { u64 allowed_access; s32 parent_fd; }`, packed. */
function addRule(ruleset: Fd, path: string, access: number, memory: NativeMemory): number {
  const fd = open(path, O.PATH);
  if (fd < 0) return fd === ENOENT ? 0 : fd;
  memory.u32[0] = access;
  memory.u32[1] = 0;
  memory.i32[2] = fd;
  let code = syscall(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, memory.address);
  if (code === EINVAL) {
    memory.u32[0] = access & OF_FILES;
    code = syscall(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, memory.address);
  }
  close(fd);
  return code;
}
