import { syscall } from '../calls/files.js';
import { NativeMemory } from '../memory/native-memory.js';
import { setNoNewPrivileges } from '../calls/credentials.js';
import { ENOSYS, EPERM } from '../calls/errno.js';

/**
 * A filter of system calls, seccomp(2): what a server of files never needs and an intruder would
 * want is refused. All else passes, since a JavaScript engine's needs change with every version.
 */

/**
 * Numbers on x86-64 and arm64, <asm/unistd_64.h> and <asm-generic/unistd.h>; -1 where there is no
 * such call.
 */
type SystemCall = readonly [name: string, x64: number, arm64: number];

/** What starts other programs. */
const PROGRAMS: readonly SystemCall[] = [
  ['execve', 59, 221],
  ['execveat', 322, 281],
  ['fork', 57, -1],
  ['vfork', 58, -1],
];

const REFUSED: readonly SystemCall[] = [
  // Other processes.
  ['ptrace', 101, 117],
  ['process_vm_readv', 310, 270],
  ['process_vm_writev', 311, 271],
  ['pidfd_getfd', 438, 438],
  ['kcmp', 312, 272],
  // Mounts and namespaces.
  ['mount', 165, 40],
  ['umount2', 166, 39],
  ['pivot_root', 155, 41],
  ['chroot', 161, 51],
  ['open_tree', 428, 428],
  ['move_mount', 429, 429],
  ['fsopen', 430, 430],
  ['fsconfig', 431, 431],
  ['fsmount', 432, 432],
  ['fspick', 433, 433],
  ['mount_setattr', 442, 442],
  ['unshare', 272, 97],
  ['setns', 308, 268],
  // The kernel itself.
  ['init_module', 175, 105],
  ['finit_module', 313, 273],
  ['delete_module', 176, 106],
  ['kexec_load', 246, 104],
  ['kexec_file_load', 320, 294],
  ['bpf', 321, 280],
  ['perf_event_open', 298, 241],
  ['userfaultfd', 323, 282],
  ['io_uring_enter', 426, 426],
  ['io_uring_register', 427, 427],
  ['keyctl', 250, 219],
  ['add_key', 248, 217],
  ['request_key', 249, 218],
  ['memfd_secret', 447, 447],
  ['personality', 135, 92],
  ['modify_ldt', 154, -1],
  ['iopl', 172, -1],
  ['ioperm', 173, -1],
  ['syslog', 103, 116],
  ['lookup_dcookie', 212, 18],
  // The machine.
  ['reboot', 169, 142],
  ['swapon', 167, 224],
  ['swapoff', 168, 225],
  ['acct', 163, 89],
  ['quotactl', 179, 60],
  ['quotactl_fd', 443, 443],
  ['settimeofday', 164, 170],
  ['clock_settime', 227, 112],
  ['clock_adjtime', 305, 266],
  ['adjtimex', 159, 171],
  ['sethostname', 170, 161],
  ['setdomainname', 171, 162],
  ['vhangup', 153, 58],
];

const arm64 = process.arch === 'arm64';
const SYS_SECCOMP = arm64 ? 277 : 317;
const SYS_CLONE = arm64 ? 220 : 56;
const SYS_CLONE3 = 435;
const SYS_IO_URING_SETUP = 425;
/** AUDIT_ARCH_AARCH64 and AUDIT_ARCH_X86_64, <linux/audit.h>. */
const ARCHITECTURE = arm64 ? 0xc00000b7 : 0xc000003e;
/** Numbers from here on are the x32 calls of x86-64. */
const X32 = 0x40000000;

/**
 * What happens to a refused call: an error for the caller, a line in the kernel's log, a signal, or
 * the end.
 */
export type SeccompAction = 'errno' | 'log' | 'trap' | 'kill';

/** SECCOMP_RET_*, <linux/seccomp.h>. */
const ALLOW = 0x7fff0000;
const KILL_PROCESS = 0x80000000;
const ERRNO = 0x00050000;
const RETURNS: Record<SeccompAction, number> = {
  errno: ERRNO | -EPERM,
  log: 0x7ffc0000,
  trap: 0x00030000,
  kill: KILL_PROCESS,
};

/**
 * Instructions of classic BPF, <linux/bpf_common.h>: BPF_LD|W|ABS, BPF_JMP|JEQ|K, JGE, JSET,
 * BPF_RET|K.
 */
const LOAD = 0x20;
const EQUAL = 0x15;
const AT_LEAST = 0x35;
const ANY_BIT = 0x45;
const RETURN = 0x06;
/** `struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }` */
const NUMBER = 0;
const ARCH = 4;
const FIRST_ARGUMENT = 16;
const CLONE_THREAD = 0x10000;

type Instruction = readonly [code: number, yes: number, no: number, k: number];

/**
 * A kernel without io_uring, whatever the action: libuv asks for it whenever it makes an event
 * loop, and does without where it is not there.
 */
const WITHOUT_IO_URING: readonly Instruction[] = [
  [EQUAL, 0, 1, SYS_IO_URING_SETUP],
  [RETURN, 0, 0, ERRNO | -ENOSYS],
];

/**
 * The filter for an action. A jump's distances count instructions that are left out.
 * @param programs lets the process start other programs, under the same filter.
 */
export function seccompProgram(action: SeccompAction, programs = false): readonly Instruction[] {
  const refuse = RETURNS[action];
  const program: Instruction[] = [
    [LOAD, 0, 0, ARCH],
    [EQUAL, 1, 0, ARCHITECTURE],
    [RETURN, 0, 0, KILL_PROCESS],
    [LOAD, 0, 0, NUMBER],
  ];
  if (!arm64) program.push([AT_LEAST, 0, 1, X32], [RETURN, 0, 0, refuse]);
  for (const [, x64, arm] of programs ? REFUSED : [...PROGRAMS, ...REFUSED]) {
    const number = arm64 ? arm : x64;
    if (number >= 0) program.push([EQUAL, 0, 1, number], [RETURN, 0, 0, refuse]);
  }
  program.push(...WITHOUT_IO_URING);
  if (!programs) {
    program.push(
      // The flags of clone3 lie in memory, where a filter can't look: the C library then uses
      // clone.
      [EQUAL, 0, 1, SYS_CLONE3],
      [RETURN, 0, 0, ERRNO | -ENOSYS],
      [EQUAL, 0, 3, SYS_CLONE],
      [LOAD, 0, 0, FIRST_ARGUMENT],
      [ANY_BIT, 1, 0, CLONE_THREAD],
      [RETURN, 0, 0, refuse],
    );
  }
  program.push([RETURN, 0, 0, ALLOW]);
  return program;
}

const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1;

/**
 * Puts the filter in force for every thread of the process, for good. Sets no-new-privs as well.
 * The program must have been executed after {@link hideIoUring}: libuv aborts where a ring that it
 * has is refused to it.
 * @param programs as of {@link seccompProgram}.
 * @returns 0, or minus the errno (ENOSYS, EINVAL: the kernel has no filters).
 */
export function refuseSystemCalls(action: SeccompAction, programs = false): number {
  return install(seccompProgram(action, programs), SECCOMP_FILTER_FLAG_TSYNC);
}

/**
 * No io_uring for the program that this thread executes next. Other threads of this program keep
 * theirs. Sets no-new-privs as well. @returns as {@link refuseSystemCalls}.
 */
export function hideIoUring(): number {
  return install([[LOAD, 0, 0, NUMBER], ...WITHOUT_IO_URING, [RETURN, 0, 0, ALLOW]], 0);
}

function install(program: readonly Instruction[], flags: number): number {
  const memory = NativeMemory.allocate(16 + program.length * 8);
  try {
    program.forEach(([code, yes, no, k], index) => {
      memory.u16[8 + index * 4] = code;
      memory.u8[16 + index * 8 + 2] = yes;
      memory.u8[16 + index * 8 + 3] = no;
      memory.u32[4 + index * 2 + 1] = k;
    });
    // struct sock_fprog { u16 len; struct sock_filter *filter; }
    const address = memory.address + 16;
    memory.u16[0] = program.length;
    memory.u32[2] = address >>> 0;
    memory.u32[3] = Math.floor(address / 2 ** 32);
    const code = setNoNewPrivileges();
    return code < 0 ? code : syscall(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, memory.address);
  } finally {
    memory.free();
  }
}
