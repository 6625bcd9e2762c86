import { readFileSync } from 'node:fs';
import { syscall } from './files.js';
import { NativeMemory } from './native-memory.js';

/**
 * Identity and privileges of the calling thread alone. The C library's own functions would change all threads.
 */

const arm64 = process.arch === 'arm64';
const SYS_SETRESUID = arm64 ? 147 : 117;
const SYS_SETRESGID = arm64 ? 149 : 119;
const SYS_SETGROUPS = arm64 ? 159 : 116;
const SYS_CAPGET = arm64 ? 90 : 125;
const SYS_CAPSET = arm64 ? 91 : 126;
const SYS_PRCTL = arm64 ? 167 : 157;

const KEEP = -1;

/** Sets the thread's effective and file system user id. @returns 0 or minus the errno (EINVAL: not in this namespace). */
export function setEffectiveUid(uid: number): number {
  return syscall(SYS_SETRESUID, KEEP, uid, KEEP);
}

/** Sets the thread's effective and file system group id. @returns 0 or minus the errno. */
export function setEffectiveGid(gid: number): number {
  return syscall(SYS_SETRESGID, KEEP, gid, KEEP);
}

const PR_GET_SECUREBITS = 27;
const PR_SET_SECUREBITS = 28;
const SECBIT_NO_SETUID_FIXUP = 1 << 2;

/**
 * From here on, changes of the thread's user ids leave its capabilities alone (capabilities(7), SECBIT_NO_SETUID_FIXUP).
 * Needs CAP_SETPCAP. @returns 0 or minus the errno.
 */
export function keepCapabilities(): number {
  const bits = syscall(SYS_PRCTL, PR_GET_SECUREBITS);
  return bits < 0 ? bits : syscall(SYS_PRCTL, PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP);
}

/** Numbers of capabilities(7). */
export const Capability = {
  CHOWN: 0,
  DAC_OVERRIDE: 1,
  DAC_READ_SEARCH: 2,
  FOWNER: 3,
  FSETID: 4,
  KILL: 5,
  SETGID: 6,
  SETUID: 7,
  SETPCAP: 8,
  LINUX_IMMUTABLE: 9,
  NET_BIND_SERVICE: 10,
  IPC_LOCK: 14,
  SYS_CHROOT: 18,
  SYS_PTRACE: 19,
  SYS_ADMIN: 21,
  SYS_RESOURCE: 24,
  MKNOD: 27,
  AUDIT_WRITE: 29,
  SETFCAP: 31,
} as const;

/** `struct __user_cap_header_struct` (version 3, this thread), then two of `__user_cap_data_struct`, capget(2). */
const VERSION_3 = 0x20080522;
const memory = NativeMemory.allocate(4096);
const HEADER = memory.address;
const DATA = memory.address + 8;
const MAX_GROUPS = 512;
const GROUPS = memory.address + 64;

function readCapabilities(): boolean {
  memory.u32[0] = VERSION_3;
  memory.u32[1] = 0;
  return syscall(SYS_CAPGET, HEADER, DATA) === 0;
}

/** Whether the thread has a capability (0 to 31) in effect. */
export function hasCapability(capability: number): boolean {
  return readCapabilities() && (memory.u32[2]! & (1 << capability)) !== 0;
}

/** Puts a permitted capability (0 to 31) of the thread into effect, or out of it. @returns 0 or minus the errno. */
export function setCapability(capability: number, effective: boolean): number {
  if (!readCapabilities()) return -1;
  const bit = 1 << capability;
  memory.u32[2] = effective ? memory.u32[2]! | bit : memory.u32[2]! & ~bit;
  return syscall(SYS_CAPSET, HEADER, DATA);
}

/** Sets the thread's supplementary groups, at most 512. @returns 0 or minus the errno. */
export function setGroups(groups: readonly number[]): number {
  if (groups.length > MAX_GROUPS) return -22;
  memory.u32.set(groups, 16);
  return syscall(SYS_SETGROUPS, groups.length, GROUPS);
}

/** The process's supplementary groups. */
export function getGroups(): readonly number[] {
  const line = /^Groups:\s*(.*)$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'));
  return (line?.[1] ?? '')
    .trim()
    .split(' ')
    .filter((text) => text !== '')
    .map(Number);
}
