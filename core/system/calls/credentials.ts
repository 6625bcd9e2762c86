import { readFileSync } from 'node:fs';
import { syscall } from './files.js';
import { NativeMemory } from '../memory/native-memory.js';
import { EINVAL } from './negative-errno.js';

/**
 * Identity and privileges of the calling thread alone. The C library's own functions would change
 * all threads.
 */

const arm64 = process.arch === 'arm64';
const SYS_SETRESUID = arm64 ? 147 : 117;
const SYS_SETRESGID = arm64 ? 149 : 119;
const SYS_SETGROUPS = arm64 ? 159 : 116;
const SYS_CAPGET = arm64 ? 90 : 125;
const SYS_CAPSET = arm64 ? 91 : 126;
const SYS_PRCTL = arm64 ? 167 : 157;

/** An id of setresuid(2) that means "leave it as it is". A guest's id must not be this number. */
const KEEP = -1;

/**
 * Sets the thread's effective and file system user id.
 * @returns 0 or minus the errno (EINVAL: the id is 2^32-1, or not of this user namespace).
 */
export function setEffectiveUid(uid: number): number {
  return (uid | 0) === KEEP ? EINVAL : syscall(SYS_SETRESUID, KEEP, uid, KEEP);
}

/** Sets the thread's effective and file system group id. @returns as {@link setEffectiveUid}. */
export function setEffectiveGid(gid: number): number {
  return (gid | 0) === KEEP ? EINVAL : syscall(SYS_SETRESGID, KEEP, gid, KEEP);
}

const PR_GET_SECUREBITS = 27;
const PR_SET_SECUREBITS = 28;
const SECBIT_NO_SETUID_FIXUP = 1 << 2;

/**
 * From here on, changes of the thread's user ids leave its capabilities alone (capabilities(7),
 * SECBIT_NO_SETUID_FIXUP). Needs CAP_SETPCAP. @returns 0 or minus the errno.
 */
export function keepCapabilities(): number {
  const bits = syscall(SYS_PRCTL, PR_GET_SECUREBITS);
  if (bits < 0 || (bits & SECBIT_NO_SETUID_FIXUP) !== 0) return Math.min(bits, 0);
  return syscall(SYS_PRCTL, PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP);
}

const PR_SET_NO_NEW_PRIVS = 38;
const PR_CAPBSET_READ = 23;
const PR_CAPBSET_DROP = 24;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;

/**
 * No program that this thread executes from here on gains privileges.
 * @returns 0 or minus the errno.
 */
export function setNoNewPrivileges(): number {
  return syscall(SYS_PRCTL, PR_SET_NO_NEW_PRIVS, 1);
}

/**
 * Limits the capabilities of the programs that this thread executes from here on to `kept`.
 * @returns 0 or minus the errno (EPERM: no CAP_SETPCAP).
 */
export function boundCapabilities(kept: ReadonlySet<number>): number {
  for (let capability = 0; capability < 64; capability++) {
    if (kept.has(capability)) continue;
    const present = syscall(SYS_PRCTL, PR_CAPBSET_READ, capability);
    if (present < 0) break;
    const code = present === 0 ? 0 : syscall(SYS_PRCTL, PR_CAPBSET_DROP, capability);
    if (code < 0) return code;
  }
  syscall(SYS_PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
  return 0;
}

/** Numbers of capabilities(7) that are switched while serving. */
export const Capability = { FSETID: 4, SETGID: 6, SETUID: 7 } as const;

/**
 * Number of a capability by its name in lower case, without `cap_`.
 * @throws RangeError if there is none.
 */
export function capabilityNumber(name: string): number {
  const number = CAPABILITY_NAMES.indexOf(name.toLowerCase().replace(/^cap_/, ''));
  if (number < 0) throw new RangeError(`${name}: no such capability`);
  return number;
}

/** In the order of their numbers, <linux/capability.h>. */
const CAPABILITY_NAMES = (
  'chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service ' +
  'net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin ' +
  'sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override ' +
  'mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore'
).split(' ');

/**
 * `struct __user_cap_header_struct` (version 3, this thread), then two of `__user_cap_data_struct`,
 * capget(2).
 */
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

/**
 * Puts a permitted capability (0 to 31) of the thread into effect, or out of it.
 * @returns 0 or minus the errno.
 */
export function setCapability(capability: number, effective: boolean): number {
  if (!readCapabilities()) return -1;
  const bit = 1 << capability;
  memory.u32[2] = effective ? memory.u32[2]! | bit : memory.u32[2]! & ~bit;
  return syscall(SYS_CAPSET, HEADER, DATA);
}

/**
 * Switches CAP_FSETID of the thread that creates this object. Without that capability a write,
 * truncate or chown clears set-id bits, capabilities(7). Nothing is called if the capability is
 * already as wanted, which is the usual case: similar requests come one after another.
 */
export class FsetidSwitch {
  readonly #permitted: boolean;
  #effective = true;

  /**
   * Puts the capability into effect. A new thread inherits the state of the thread that created it,
   * where the capability may be off.
   */
  constructor() {
    this.#permitted = setCapability(Capability.FSETID, true) === 0 && hasCapability(Capability.FSETID);
  }

  use(wanted: boolean): void {
    if (wanted === this.#effective || !this.#permitted) return;
    if (setCapability(Capability.FSETID, wanted) === 0) this.#effective = wanted;
  }

  /** To be called when a change of user ids has put all permitted capabilities into effect. */
  wasRestored(): void {
    this.#effective = true;
  }
}

/** Sets the thread's supplementary groups, at most 512. @returns 0 or minus the errno. */
export function setGroups(groups: readonly number[]): number {
  if (groups.length > MAX_GROUPS) return EINVAL;
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
