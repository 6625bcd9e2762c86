import { syscall } from '../calls/files.js';
import { NativeMemory } from '../memory/native-memory.js';
import { setNoNewPrivileges } from '../calls/credentials.js';
import { ENOSYS, EPERM } from '../calls/negative-errno.js';
import { readFileSync } from 'node:fs';
import { ALLOWED, CONDITIONAL, NAMING, OPENING, type SystemCall } from './allowed-calls.js';

/**
 * Filters of system calls, seccomp(2). The first is set at the start. It allows what the JavaScript
 * engine and a server of files use (`allowed-calls.ts`), or, where a backend runs other programs,
 * everything but what {@link REFUSED} has. The second comes when the daemon has started: then no
 * socket is made any more, and no memory becomes executable except the JavaScript engine's own.
 */

/** What is refused where other programs may run: those may need anything else. */
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
/** AUDIT_ARCH_AARCH64 and AUDIT_ARCH_X86_64, <linux/audit.h>. */
const ARCHITECTURE = arm64 ? 0xc00000b7 : 0xc000003e;
/** Numbers from here on are the x32 calls of x86-64. */
const X32 = 0x40000000;
/**
 * Calls from here on are younger than this list. They are not there, as on an older kernel: the C
 * library then uses what was before.
 */
const UNKNOWN = 470;

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

/** Instructions of classic BPF, <linux/bpf_common.h>. */
const LOAD = 0x20;
const JUMP = 0x05;
const EQUAL = 0x15;
const AT_LEAST = 0x35;
const MORE = 0x25;
const ANY_BIT = 0x45;
const RETURN = 0x06;
const AND = 0x54;
const ADD_X = 0x0c;
const TO_X = 0x07;
/** `struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }` */
const NUMBER = 0;
const ARCH = 4;
/** Offsets of the lower and the upper half of an argument. */
const low = (argument: number): number => 16 + 8 * argument;
const high = (argument: number): number => low(argument) + 4;
const CLONE_THREAD = 0x10000;
/** CLONE_NEW* of clone(2): a thread in namespaces of its own. */
const CLONE_NAMESPACES = 0x7e020000;
const PRIO_PROCESS = 0;
const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const IPPROTO_TCP = 6;
const IPPROTO_UDP = 17;
const NETLINK_ROUTE = 0;
/** The type of a socket, without its flags. */
const SOCK_TYPE = 0xf;
/** Commands by which a descriptor sends signals to a process that it names, fcntl(2). */
const SIGNALLING_COMMANDS = [8, 10, 15];
/** F_DUPFD and F_DUPFD_CLOEXEC. */
const DUPLICATING_COMMANDS = [0, 1030];
/** TIOCSTI and TIOCLINUX put text into a terminal; SIOCSPGRP, FIOSETOWN and FIOASYNC signal. */
const REFUSED_REQUESTS = [0x5412, 0x541c, 0x8902, 0x8901, 0x5452];
const PROT_EXEC = 4;
const PROT_WRITE_EXEC = 6;

type Instruction = readonly [code: number, yes: number, no: number, k: number];

const numberOf = ([, x64, arm]: SystemCall): number => (arm64 ? arm : x64);

/** Instructions for one call; others go past them. Nothing, where there is no such call. */
function when(call: SystemCall, ...body: readonly Instruction[]): readonly Instruction[] {
  const number = numberOf(call);
  if (number < 0) return [];
  // A conditional jump reaches 255 instructions.
  if (body.length < 256) return [[EQUAL, 0, body.length, number], ...body];
  return [[EQUAL, 1, 0, number], [JUMP, 0, 0, body.length], ...body];
}

const NOT_THERE: Instruction = [RETURN, 0, 0, ERRNO | -ENOSYS];
const PASS: Instruction = [RETURN, 0, 0, ALLOW];

/** Lets the call pass if half an argument is one of some values. */
function isOneOf(offset: number, values: readonly number[], refuse: Instruction): readonly Instruction[] {
  return [[LOAD, 0, 0, offset], ...values.flatMap((k): Instruction[] => [[EQUAL, 0, 1, k], PASS]), refuse];
}

/** Lets the call pass unless half an argument is one of some values. */
function isNoneOf(offset: number, values: readonly number[], refuse: Instruction): readonly Instruction[] {
  return [[LOAD, 0, 0, offset], ...values.flatMap((k): Instruction[] => [[EQUAL, 0, 1, k], refuse]), PASS];
}

/** A kind of socket; protocol 0 is the usual one of the type. */
type SocketKind = readonly [family: number, type: number, protocols: readonly number[]];

/** Lets a socket be made if it is of one of some kinds. */
function socketOf(kinds: readonly SocketKind[], refuse: Instruction): readonly Instruction[] {
  const program = kinds.flatMap(([family, type, protocols]): Instruction[] => {
    const ofProtocols = protocols.flatMap((one): Instruction[] => [[EQUAL, 0, 1, one], PASS]);
    return [
      [LOAD, 0, 0, low(0)],
      [EQUAL, 0, ofProtocols.length + 4, family],
      [LOAD, 0, 0, low(1)],
      [AND, 0, 0, SOCK_TYPE],
      [EQUAL, 0, ofProtocols.length + 1, type],
      [LOAD, 0, 0, low(2)],
      ...ofProtocols,
    ];
  });
  return [...program, refuse];
}

const UNIX: readonly SocketKind[] = [[AF_UNIX, SOCK_STREAM, [0]]];
/**
 * Names are asked for by UDP; the C library asks by netlink for the machine's addresses. No other
 * protocols: Landlock's rules on TCP do not know of MPTCP and SCTP.
 */
const INTERNET: readonly SocketKind[] = [
  [AF_INET, SOCK_STREAM, [0, IPPROTO_TCP]],
  [AF_INET, SOCK_DGRAM, [0, IPPROTO_UDP]],
  [AF_INET6, SOCK_STREAM, [0, IPPROTO_TCP]],
  [AF_INET6, SOCK_DGRAM, [0, IPPROTO_UDP]],
  [AF_NETLINK, SOCK_RAW, [NETLINK_ROUTE]],
];

/**
 * A kernel without io_uring, whatever the action: libuv asks for it whenever it makes an event
 * loop, and does without where it is not there.
 */
const WITHOUT_IO_URING = when(CONDITIONAL.io_uring_setup, NOT_THERE);

/** Refuses what another architecture's numbers would name. */
function checkArchitecture(refuse: Instruction): Instruction[] {
  const program: Instruction[] = [
    [LOAD, 0, 0, ARCH],
    [EQUAL, 1, 0, ARCHITECTURE],
    [RETURN, 0, 0, KILL_PROCESS],
    [LOAD, 0, 0, NUMBER],
  ];
  if (!arm64) program.push([AT_LEAST, 0, 1, X32], refuse);
  return program;
}

/**
 * The filter for an action. A jump's distances count instructions that are left out.
 * @param network lets the process make sockets of the internet's families.
 * @param programs lets the process start other programs, under the same filter. Only what no
 * program should do is refused then.
 */
export function seccompProgram(
  action: SeccompAction,
  { programs = false, network = false } = {},
): readonly Instruction[] {
  const refuse: Instruction = [RETURN, 0, 0, RETURNS[action]];
  const program = checkArchitecture(refuse);
  program.push(...WITHOUT_IO_URING);
  if (programs) {
    for (const call of REFUSED) program.push(...when(call, refuse));
    return [...program, PASS];
  }
  const { clone, clone3, kill, tgkill, prlimit64, socket, socketpair, ioctl, fcntl } = CONDITIONAL;
  const { sched_setaffinity, sched_setscheduler, sched_setparam, setpriority } = CONDITIONAL;
  const itself = (argument: number): readonly Instruction[] =>
    isOneOf(low(argument), [0, process.pid], refuse);
  for (const call of ALLOWED) program.push(...when(call, PASS));
  program.push(
    // The flags of clone3 lie in memory, where a filter can't look: the C library then uses clone.
    ...when(clone3, NOT_THERE),
    ...when(
      clone,
      [LOAD, 0, 0, low(0)],
      [ANY_BIT, 0, 1, CLONE_NAMESPACES],
      refuse,
      [ANY_BIT, 0, 1, CLONE_THREAD],
      PASS,
      refuse,
    ),
    ...when(kill, ...isOneOf(low(0), [process.pid], refuse)),
    ...when(tgkill, ...isOneOf(low(0), [process.pid], refuse)),
    ...[prlimit64, sched_setaffinity, sched_setscheduler, sched_setparam].flatMap((call) =>
      when(call, ...itself(0)),
    ),
    ...when(setpriority, [LOAD, 0, 0, low(0)], [EQUAL, 1, 0, PRIO_PROCESS], refuse, ...itself(1)),
    ...when(socket, ...socketOf(network ? [...UNIX, ...INTERNET] : UNIX, refuse)),
    ...when(socketpair, ...socketOf(UNIX, refuse)),
    ...when(ioctl, ...isNoneOf(low(1), REFUSED_REQUESTS, refuse)),
    ...when(fcntl, ...isNoneOf(low(1), SIGNALLING_COMMANDS, refuse)),
    [AT_LEAST, 0, 1, UNKNOWN],
    NOT_THERE,
    refuse,
  );
  return program;
}

/** What a daemon goes on to need when it has started. */
export interface SealOptions {
  /** It connects to other machines. */
  readonly network: boolean;
  /** It compiles WebAssembly or loads native libraries. */
  readonly machineCode: boolean;
  /** It makes further unix sockets to listen on. */
  readonly listens: boolean;
  /**
   * A socket of datagrams, which is only written to. Such a socket could send to others, whatever
   * it is connected to.
   */
  readonly notifier?: number | undefined;
}

const find = (name: string): SystemCall => ALLOWED.find(([known]) => known === name)!;

/** A range of addresses. */
export interface AddressRange {
  readonly start: number;
  readonly end: number;
}

/** The filter of a daemon that has started. Memory outside `code` does not become executable. */
export function sealProgram(
  action: SeccompAction,
  { network, machineCode, listens, notifier }: SealOptions,
  code: readonly AddressRange[],
): readonly Instruction[] {
  const refuse: Instruction = [RETURN, 0, 0, RETURNS[action]];
  const program = checkArchitecture(refuse);
  if (notifier !== undefined) {
    const isIt: readonly Instruction[] = [[LOAD, 0, 0, low(0)], [EQUAL, 0, 1, notifier], refuse];
    const again: Instruction = [LOAD, 0, 0, NUMBER];
    for (const name of NAMING) program.push(...when(find(name), ...isIt, again));
    const copies = DUPLICATING_COMMANDS.flatMap((k): Instruction[] => [[EQUAL, 0, 1, k], refuse]);
    program.push(
      ...when(
        CONDITIONAL.fcntl,
        [LOAD, 0, 0, low(0)],
        [EQUAL, 0, copies.length + 1, notifier],
        [LOAD, 0, 0, low(1)],
        ...copies,
        again,
      ),
    );
  }
  for (const name of OPENING) {
    const call = name === 'socket' || name === 'socketpair' ? CONDITIONAL[name] : find(name);
    if (name === 'connect' && network) continue;
    if (name === 'socket') {
      const kinds = [...(listens ? UNIX : []), ...(network ? INTERNET : [])];
      program.push(...when(call, ...socketOf(kinds, refuse)));
    } else if (name === 'connect' || name === 'socketpair' || !listens) program.push(...when(call, refuse));
  }
  const ranges = code.flatMap((range) => ownMemory(range));
  const check = (mask: number, passing: readonly Instruction[]): Instruction[] => [
    [LOAD, 0, 0, low(2)],
    [AND, 0, 0, mask],
    [EQUAL, 1, 0, mask],
    PASS,
    ...passing,
    refuse,
  ];
  // What is made for machine code is writable first, and executable later. So only what is both
  // from the start can be refused to one who goes on to make some.
  const mask = machineCode ? PROT_WRITE_EXEC : PROT_EXEC;
  program.push(...when(find('mmap'), ...check(mask, ranges)));
  if (!machineCode) {
    for (const name of ['mprotect', 'pkey_mprotect'])
      program.push(...when(find(name), ...check(mask, ranges)));
  }
  return [...program, PASS];
}

const HALF = 2 ** 32;

/** Lets a call pass whose first two arguments, address and length, lie in a range. */
function ownMemory({ start, end }: AddressRange): readonly Instruction[] {
  // A filter compares 32 bits: a range is as many as there are such bounds in it, and one more.
  const parts: AddressRange[] = [];
  for (let first = start; first < end; first = parts.at(-1)!.end)
    parts.push({ start: first, end: Math.min(end, (Math.floor(first / HALF) + 1) * HALF) });
  return parts.flatMap(({ start: first, end: after }) => {
    const last = Math.min(after - Math.floor(first / HALF) * HALF, HALF - 1);
    // Each test that fails goes on behind the last of these.
    const tests: Instruction[] = [
      [LOAD, 0, 0, high(0)],
      [EQUAL, 0, 10, Math.floor(first / HALF)],
      [LOAD, 0, 0, high(1)],
      [EQUAL, 0, 8, 0],
      [LOAD, 0, 0, low(0)],
      [AT_LEAST, 0, 6, first % HALF],
      [TO_X, 0, 0, 0],
      [LOAD, 0, 0, low(1)],
      [MORE, 3, 0, after - first],
      [ADD_X, 0, 0, 0],
      // Before such a bound the last page is left out, so that the sum fits.
      [MORE, 1, 0, last],
      PASS,
    ];
    return tests;
  });
}

/**
 * Where the JavaScript engine has its machine code: around each executable mapping that no file
 * backs, what it has reserved for more.
 */
export function codeRanges(): AddressRange[] {
  const lines = readFileSync('/proc/self/maps', 'latin1').trimEnd().split('\n');
  const mappings = lines.map((line) => {
    const [, start, end, rights, path] = /^(\w+)-(\w+) (\S+) \S+ \S+ \S+ *(.*)$/.exec(line)!;
    return {
      start: Number.parseInt(start!, 16),
      end: Number.parseInt(end!, 16),
      rights: rights!,
      path: path!,
    };
  });
  const ranges: AddressRange[] = [];
  for (const [index, { rights, path }] of mappings.entries()) {
    if (!rights.includes('x') || path !== '') continue;
    let [first, last] = [index, index];
    const isOwn = ({ start, end, rights: may, path: file }: (typeof mappings)[number]): boolean =>
      file === '' && (may.startsWith('---') || may.includes('x') || end - start <= HEADER);
    while (first > 0 && mappings[first - 1]!.end === mappings[first]!.start && isOwn(mappings[first - 1]!))
      first--;
    while (mappings[last + 1]?.start === mappings[last]!.end && isOwn(mappings[last + 1]!)) last++;
    const range = { start: mappings[first]!.start, end: mappings[last]!.end };
    if (!ranges.some(({ start }) => start === range.start)) ranges.push(range);
  }
  return ranges;
}

/** Bytes of the writable part at the begin of a piece of machine code, at most. */
const HEADER = 0x10000;

const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1;

/**
 * Puts the first filter in force for every thread of the process, for good. Sets no-new-privs, too.
 * The program must have been executed after {@link hideIoUring}: libuv aborts where a ring that it
 * has is refused to it.
 * @param options as of {@link seccompProgram}.
 * @returns 0, or minus the errno (ENOSYS, EINVAL: the kernel has no filters).
 */
export function refuseSystemCalls(
  action: SeccompAction,
  options: { readonly programs: boolean; readonly network: boolean },
): number {
  return install(seccompProgram(action, options), SECCOMP_FILTER_FLAG_TSYNC);
}

/**
 * Puts the second filter in force for every thread, for good.
 * @returns as {@link refuseSystemCalls}.
 */
export function sealSystemCalls(action: SeccompAction, options: SealOptions): number {
  return install(sealProgram(action, options, codeRanges()), SECCOMP_FILTER_FLAG_TSYNC);
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
