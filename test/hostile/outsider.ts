import { spawnSync } from 'node:child_process';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { definePlugin, type BackendSpec, wrap } from 'virtiofs-kit';
import * as z from 'zod';

/*
 * A plugin of somebody who means harm. It claims to need what another backend needs, and when a
 * guest looks up `trespass` it tries what serving files has no business with, by system calls of
 * its own. It logs what it tried, and what of that got through. When a guest looks up `compile` it
 * makes machine code.
 *
 * A call that is refused gives EPERM, EACCES, EROFS or ENOSYS, a hidden path ENOENT. Most calls
 * are made with arguments that can do nothing: a kernel that would carry them out says EINVAL,
 * EFAULT or the like, and the call got through.
 */

const arm64 = process.arch === 'arm64';
const syscall = koffi.load(null).func(
  'syscall',
  'intptr_t',
  Array.from({ length: 7 }, () => 'intptr_t'),
) as unknown as (...given: number[]) => number;

const REFUSED: readonly number[] = [1, 13, 30, 38];
const ENOENT = 2;
const AT_FDCWD = -100;
const O_PATH = 0o10000000;
const [RDONLY, WRONLY, RDWR] = [0, 1, 2] as const;

/** Memory that stays where it is. */
function memory(bytes = 4096): { readonly address: number; readonly view: DataView } {
  const pointer: unknown = koffi.alloc('uint8_t', bytes);
  const view = new DataView(koffi.view(pointer, bytes));
  for (let i = 0; i < bytes; i++) view.setUint8(i, 0);
  return { address: Number(koffi.address(pointer)), view };
}

function text(words: string): number {
  const { address, view } = memory();
  Buffer.from(words).forEach((byte, i) => view.setUint8(i, byte));
  return address;
}

/** Numbers on x86-64 and arm64; -1 where there is no such call. */
type Call = readonly [x64: number, arm64: number];

/** @returns the result, or minus the errno. */
function call(numbers: Call, ...given: number[]): number {
  const number = numbers[arm64 ? 1 : 0];
  if (number < 0) return -38;
  const result = Number(syscall(...[number, ...given, 0, 0, 0, 0, 0, 0].slice(0, 7)));
  return result === -1 ? -koffi.errno() : result;
}

/** Whether the kernel would have carried it out. */
const reached = (result: number): boolean => !REFUSED.includes(-result);
/** As {@link reached}, of a path that may be hidden. */
const found = (result: number): boolean => result !== -ENOENT && reached(result);

const OPENAT: Call = [257, 56];
const CLOSE: Call = [3, 57];
const open = (path: string, flags: number, at = AT_FDCWD): number => call(OPENAT, at, text(path), flags);
/** Opens and closes. @returns what opening gave. */
function opening(path: string, flags: number, at = AT_FDCWD): number {
  const fd = open(path, flags, at);
  if (fd >= 0) call(CLOSE, fd);
  return fd;
}
const opens = (path: string, flags: number, at = AT_FDCWD): boolean => opening(path, flags, at) >= 0;

/** What a process asks of the kernel and of the machine, with arguments that do nothing. */
const CALLS: Readonly<Record<string, readonly [Call, ...number[]]>> = {
  mount: [[165, 40], 1, 1, 1],
  umount2: [[166, 39], 1, 0],
  pivot_root: [[155, 41], 1, 1],
  chroot: [[161, 51], 1],
  open_tree: [[428, 428], -1, 1, 0],
  move_mount: [[429, 429], -1, 1, -1, 1, 0],
  fsopen: [[430, 430], 1, 0],
  fsconfig: [[431, 431], -1, 0],
  fsmount: [[432, 432], -1, 0],
  fspick: [[433, 433], -1, 1],
  mount_setattr: [[442, 442], -1, 1, 0, 1, 32],
  unshare: [[272, 97], 0x10000000],
  'unshare of all': [[272, 97], 0x7e020000],
  setns: [[308, 268], -1, 0],
  init_module: [[175, 105], 1, 1, 1],
  finit_module: [[313, 273], -1, 1, 0],
  delete_module: [[176, 106], 1, 0],
  kexec_load: [[246, 104], 0, 0, 1, 0xffff],
  kexec_file_load: [[320, 294], -1, -1, 0, 1, 0],
  bpf: [[321, 280], 0, 1, 8],
  perf_event_open: [[298, 241], 1, 0, -1, -1, 0],
  userfaultfd: [[323, 282], 0xff00],
  io_uring_setup: [[425, 425], 1, 1],
  io_uring_enter: [[426, 426], -1, 0, 0, 0],
  io_uring_register: [[427, 427], -1, 0, 0, 0],
  keyctl: [[250, 219], 0, -3, 0],
  add_key: [[248, 217], 1, 1, 1, 1, -3],
  request_key: [[249, 218], 1, 1, 1, 0],
  memfd_secret: [[447, 447], 0xff],
  personality: [[135, 92], 0xffffffff],
  modify_ldt: [[154, -1], 0, 1, 8],
  iopl: [[172, -1], 0],
  ioperm: [[173, -1], 0, 1, 0],
  syslog: [[103, 116], 9, 1, 1],
  reboot: [[169, 142], 0, 0, 0],
  swapon: [[167, 224], 1, 0],
  swapoff: [[168, 225], 1],
  acct: [[163, 89], 1],
  quotactl: [[179, 60], 0x800100, 1, 0, 1],
  quotactl_fd: [[443, 443], -1, 0, 0, 0],
  settimeofday: [[164, 170], 1, 0],
  clock_settime: [[227, 112], 0, 1],
  clock_adjtime: [[305, 266], 0, 1],
  adjtimex: [[159, 171], 1],
  sethostname: [[170, 161], 1, 1],
  setdomainname: [[171, 162], 1, 1],
  fanotify_init: [[300, 262], 0xffff, 0],
  shmget: [[29, 194], 0, 0, 0o1600],
  'shmat, to execute': [[30, 196], -1, 0, 0o100000],
  semget: [[64, 190], 0, 0, 0o1600],
  msgget: [[68, 186], 1, 0],
  mq_open: [[240, 180], 1, 0],
  remap_file_pages: [[216, 234], 1, 1, 0, 0, 0],
  execve: [[59, 221], 1, 0, 0],
  execveat: [[322, 281], -1, 1, 0, 0, 0],
  'execveat of memory': [[322, 281], -1, 1, 0, 0, 0x1000],
  nfsservctl: [[180, 42], 0],
  process_mrelease: [[448, 448], -1, 0],
  process_madvise: [[440, 440], -1, 0, 0, 0, 0],
  pidfd_send_signal: [[424, 424], -1, 0, 0, 0],
  pidfd_getfd: [[438, 438], -1, 0, 0],
  set_mempolicy: [[238, 237], -1, 0, 0],
  mbind: [[237, 235], 1, 0, 0, 0, 0, 0],
  statmount: [[457, 457], 1, 1, 0, 0xff],
  listmount: [[458, 458], 1, 1, 0, 0xff],
  uselib: [[134, -1], 1],
  'x32 numbers': [[0x40000000 + 59, -1], 1, 0, 0],
  'a call of the future': [[900, 900], 0],
};

/** What is done to another process, which does nothing to it where it is let through. */
function toProcess(pid: number): Readonly<Record<string, readonly [Call, ...number[]]>> {
  const { address } = memory();
  const own = memory();
  own.view.setBigUint64(0, BigInt(address), true);
  own.view.setBigUint64(8, 8n, true);
  const others = memory();
  others.view.setBigUint64(0, 1n, true);
  others.view.setBigUint64(8, 8n, true);
  const set = memory();
  set.view.setUint8(0, 255);
  return {
    kill: [[62, 129], pid, 0],
    tkill: [[200, 130], pid, 0],
    tgkill: [[234, 131], pid, pid, 0],
    rt_sigqueueinfo: [[129, 138], pid, 0, address],
    rt_tgsigqueueinfo: [[297, 240], pid, pid, 0, address],
    pidfd_open: [[434, 434], pid, 0xff],
    ptrace: [[101, 117], 0x4206, pid, 0, 0xff00_0000],
    process_vm_readv: [[310, 270], pid, own.address, 1, others.address, 1, 0],
    process_vm_writev: [[311, 271], pid, own.address, 1, others.address, 1, 0],
    kcmp: [[312, 272], pid, pid, 0, 0, 0],
    prlimit64: [[302, 261], pid, 7, 0, address],
    sched_setaffinity: [[203, 122], pid, 8, set.address],
    sched_setscheduler: [[144, 119], pid, 99, address],
    sched_setparam: [[142, 118], pid, 0],
    sched_setattr: [[314, 274], pid, 0, 0],
    setpriority: [[141, 140], 0, pid, 20 - call([140, 141], 0, pid)],
    'setpriority of a group': [[141, 140], 1, 2 ** 30, 0],
    'setpriority of all of a user': [[141, 140], 2, 2 ** 30, 0],
    ioprio_set: [[251, 30], 1, pid, 0xffff],
    migrate_pages: [[256, 238], pid, 0, 0, 0],
    move_pages: [[279, 239], pid, 0, 0, 0, 0, 0],
    setpgid: [[109, 154], pid, -1],
    'fcntl, F_SETOWN': [[72, 25], 0, 8, pid],
    'fcntl, F_SETOWN_EX': [[72, 25], 0, 15, 1],
    'fcntl, F_SETSIG': [[72, 25], 0, 10, 99],
    'ioctl, FIOSETOWN': [[16, 29], 0, 0x8901, 1],
    'ioctl, SIOCSPGRP': [[16, 29], 0, 0x8902, 1],
    'ioctl, TIOCSTI': [[16, 29], 0, 0x5412, 1],
    'ioctl, TIOCLINUX': [[16, 29], 0, 0x541c, 1],
  };
}

/** Families, types and protocols of sockets. */
const SOCKETS: Readonly<Record<string, readonly [number, number, number]>> = {
  'unix datagrams': [1, 2, 0],
  'unix packets': [1, 5, 0],
  'TCP that Landlock does not know (MPTCP)': [2, 1, 262],
  SCTP: [2, 1, 132],
  'UDP-Lite': [2, 2, 136],
  ping: [2, 2, 1],
  'raw internet': [2, 3, 1],
  netfilter: [16, 3, 12],
  'kernel events': [16, 2, 15],
  'sockets of others (SOCK_DIAG)': [16, 3, 4],
  audit: [16, 3, 9],
  'generic netlink': [16, 3, 16],
  packets: [17, 3, 0],
  'kernel cryptography': [38, 5, 0],
  vsock: [40, 1, 0],
  XDP: [44, 3, 0],
  bluetooth: [31, 1, 0],
  CAN: [29, 3, 1],
  keys: [15, 3, 2],
};

/** Files of the kernel by which a process governs the machine, or reads others. */
const KERNEL_FILES: Readonly<Record<string, number>> = {
  '/proc/sys/kernel/core_pattern': WRONLY,
  '/proc/sys/kernel/modprobe': WRONLY,
  '/proc/sys/vm/drop_caches': WRONLY,
  '/proc/sysrq-trigger': WRONLY,
  '/proc/kcore': RDONLY,
  '/proc/kmsg': RDONLY,
  '/proc/self/mem': RDWR,
  '/proc/thread-self/mem': RDWR,
  '/proc/self/oom_score_adj': WRONLY,
  '/proc/self/uid_map': WRONLY,
  '/proc/self/root/etc/shadow': RDONLY,
  '/proc/1/root/etc/shadow': RDONLY,
  '/proc/1/mem': RDONLY,
  '/proc/1/environ': RDONLY,
  '/proc/1/ns/mnt': RDONLY,
  '/sys/kernel/uevent_helper': WRONLY,
  '/sys/power/state': WRONLY,
  '/sys/fs/cgroup/cgroup.procs': WRONLY,
  '/sys/fs/cgroup/unified/cgroup.procs': WRONLY,
  '/etc/shadow': RDONLY,
  '/etc/passwd': WRONLY,
  '/etc': RDONLY,
  '/root': RDONLY,
  '/': RDONLY,
  '/dev/kvm': RDWR,
  '/dev/mem': RDONLY,
  '/dev/kmsg': RDONLY,
  '/dev/fuse': RDWR,
  '/dev/vda': RDONLY,
  '/dev/sda': RDONLY,
  '/dev/nvme0n1': RDONLY,
  '/dev/loop-control': RDWR,
  '/dev/net/tun': RDWR,
  '/dev/vhost-net': RDWR,
  '/dev/userfaultfd': RDWR,
  '/dev/uinput': WRONLY,
  '/dev/vsock': RDONLY,
  '/dev/ptmx': RDWR,
  '/dev/shm': RDONLY,
};

const SOCKET: Call = [41, 198];
const MMAP: Call = [9, 222];
const MPROTECT: Call = [10, 226];
const PKEY_MPROTECT: Call = [329, 288];
const MEMFD_CREATE: Call = [319, 279];
const READ_WRITE = 3;
const EXEC = 4;
const PRIVATE = 2;
const ANONYMOUS = 0x22;

/** Memory that is executable, of this process. */
function executable(folder: string): Readonly<Record<string, () => boolean>> {
  const map = (rights: number, flags: number, fd = -1): number => call(MMAP, 0, 4096, rights, flags, fd, 0);
  const file = (path: string): number => {
    writeFileSync(path, Buffer.alloc(4096));
    return open(path, RDONLY);
  };
  return {
    'writable and executable memory': () => reached(map(READ_WRITE | EXEC, ANONYMOUS)),
    'memory made executable': () => reached(call(MPROTECT, map(READ_WRITE, ANONYMOUS), 4096, 1 | EXEC)),
    'memory made executable, with a key': () =>
      reached(call(PKEY_MPROTECT, map(READ_WRITE, ANONYMOUS), 4096, 1 | EXEC, -1)),
    'a file in memory, executable': () => reached(map(1 | EXEC, PRIVATE, call(MEMFD_CREATE, text('x'), 0))),
    'a file of the share, executable': () => reached(map(1 | EXEC, PRIVATE, file(join(folder, 'code')))),
    'the program itself, once more': () => reached(map(1 | EXEC, PRIVATE, open('/proc/self/exe', RDONLY))),
  };
}

/** Numbers of <sys/socket.h>, and of fcntl(2). */
const AF_UNIX = 1;
const SOCKET_TYPES = { stream: 1, datagram: 2, packets: 5 };
const CONNECT: Call = [42, 203];
const SENDTO: Call = [44, 206];
const SENDMSG: Call = [46, 211];
const SENDMMSG: Call = [307, 269];
const DUPLICATES: readonly (readonly [Call, ...number[]])[] = [
  [[32, 23]],
  [[292, 24], 900, 0],
  [[72, 25], 0, 0],
  [[72, 25], 1030, 0],
];

/** What reaches a unix socket of somebody else. @param path abstract where `@` begins it. */
function peers(path: string): Readonly<Record<string, () => boolean>> {
  const { address, view } = memory();
  view.setUint16(0, AF_UNIX, true);
  Buffer.from(path).forEach((byte, i) => view.setUint8(2 + i, byte));
  if (path.startsWith('@')) view.setUint8(2, 0);
  const length = 2 + Buffer.byteLength(path);
  // struct msghdr, with an address and a byte, as the first part of a struct mmsghdr; struct iovec.
  const message = memory();
  message.view.setBigUint64(0, BigInt(address), true);
  message.view.setUint32(8, length, true);
  message.view.setBigUint64(16, BigInt(message.address + 128), true);
  message.view.setBigUint64(24, 1n, true);
  message.view.setBigUint64(128, BigInt(address), true);
  message.view.setBigUint64(136, 1n, true);
  const connects = (fd: number): boolean => call(CONNECT, fd, address, length) === 0;
  const sends = (fd: number): boolean =>
    [
      call(SENDTO, fd, address, 1, 0x40, address, length),
      call(SENDMSG, fd, message.address, 0x40),
      call(SENDMMSG, fd, message.address, 1, 0x40),
    ].some((result) => result > 0);
  const there = (attempt: (fd: number) => boolean): boolean =>
    readdirSync('/proc/self/fd').some((fd) => attempt(Number(fd)));
  const duplicates = (attempt: (fd: number) => boolean): boolean =>
    there((fd) =>
      DUPLICATES.some(([numbers, ...given]) => {
        const other = call(numbers, fd, ...given);
        const isThrough = other >= 0 && attempt(other);
        if (other >= 0) call(CLOSE, other);
        return isThrough;
      }),
    );
  const made = (attempt: (fd: number) => boolean): boolean =>
    Object.values(SOCKET_TYPES).some((type) => {
      const fd = call(SOCKET, AF_UNIX, type, 0);
      return fd >= 0 && attempt(fd);
    });
  return {
    'connect a socket that is there': () => there(connects),
    'connect a duplicate of one': () => duplicates(connects),
    'connect a new socket': () => made(connects),
    'send by a socket that is there': () => there(sends),
    'send by a duplicate of one': () => duplicates(sends),
    'send by a new socket': () => made(sends),
  };
}

interface Places {
  /** Folders with `secret`, which are nothing of the daemon's. */
  readonly outside: readonly string[];
  /** Folders in which the daemon makes files. */
  readonly own: readonly string[];
  /** Addresses of unix sockets that are others'; `@` for the byte 0 of an abstract one. */
  readonly peer: readonly string[];
}

/** What changes files that are not the daemon's, or reaches them by detours. */
function files(outside: string, own: readonly string[]): Readonly<Record<string, () => boolean>> {
  const secret = join(outside, 'secret');
  const [folder] = own as [string];
  const how = memory();
  const attribute = text('user.x');
  const handle = memory();
  const openat2 = (path: string, at: number, resolve: bigint): number => {
    how.view.setBigUint64(16, resolve, true);
    return call([437, 437], at, text(path), how.address, 24);
  };
  const byPath = (path: string): number => open(path, O_PATH);
  const byHandle = (through: string): boolean => {
    handle.view.setUint32(0, 128, true);
    const known = call([303, 264], AT_FDCWD, text(secret), handle.address, handle.address + 1024, 0);
    return known === 0 && call([304, 265], open(through, RDONLY), handle.address, RDONLY) >= 0;
  };
  const device = (place: string): boolean => {
    const path = join(place, 'device');
    // /dev/null: where it can be opened, so can the disk.
    const made = call([259, 33], AT_FDCWD, text(path), 0o20666, 0x103);
    return made === 0 && opens(path, RDWR);
  };
  const descriptors = (): string[] => readdirSync('/proc/self/fd');
  return {
    'read it': () => opens(secret, RDONLY),
    'read it by openat2': () => openat2(secret, AT_FDCWD, 0n) >= 0,
    'read it by openat2, as if its folder were the root': () =>
      openat2('/secret', byPath(outside), 0x10n) >= 0,
    'read it beneath a descriptor': () => openat2('secret', byPath(outside), 0x08n) >= 0,
    'read it through a descriptor of its path': () => opens(`/proc/self/fd/${byPath(secret)}`, RDONLY),
    'read it by a link': () => {
      const link = join(folder, 'link');
      call([266, 36], text(secret), AT_FDCWD, text(link));
      return opens(link, RDONLY);
    },
    'give it a name in the share': () =>
      call([265, 37], AT_FDCWD, text(secret), AT_FDCWD, text(join(folder, 'name')), 0) === 0,
    'give it a name by a descriptor': () =>
      call(
        [265, 37],
        AT_FDCWD,
        text(`/proc/self/fd/${byPath(secret)}`),
        AT_FDCWD,
        text(join(folder, 'second')),
        0x400,
      ) === 0,
    'move it into the share': () =>
      call([316, 276], AT_FDCWD, text(secret), AT_FDCWD, text(join(folder, 'moved')), 0) === 0,
    'exchange it': () =>
      call([316, 276], AT_FDCWD, text(secret), AT_FDCWD, text(join(folder, 'file')), 2) === 0,
    'cut it': () => call([76, 45], text(secret), 0) === 0,
    'write it': () => opens(secret, WRONLY),
    'remove it': () => call([263, 35], AT_FDCWD, text(secret), 0) === 0,
    'make a directory beside it': () => call([258, 34], AT_FDCWD, text(join(outside, 'd')), 0o700) === 0,
    'make a device beside it': () =>
      call([259, 33], AT_FDCWD, text(join(outside, 'n')), 0o20666, 0x103) === 0,
    'make a link beside it': () => call([266, 36], text('x'), AT_FDCWD, text(join(outside, 'l'))) === 0,
    'change its mode': () => call([268, 53], AT_FDCWD, text(secret), 0o644) === 0,
    'change its mode through a descriptor of its path': () =>
      call([268, 53], AT_FDCWD, text(`/proc/self/fd/${byPath(secret)}`), 0o644) === 0,
    'change its owner': () => call([260, 54], AT_FDCWD, text(secret), 0, 0, 0) === 0,
    'change its owner through a descriptor': () =>
      call([260, 54], byPath(secret), text(''), 0, 0, 0x1000) === 0,
    'change its times': () => call([280, 88], AT_FDCWD, text(secret), 0, 0) === 0,
    'give it an attribute': () => call([188, 5], text(secret), attribute, attribute, 1, 0) === 0,
    'read it by handle through the share': () => byHandle(folder),
    'read it by handle through the root': () => byHandle('/'),
    'read it by handle through its folder': () => byHandle(outside),
    'read it by handle through /proc': () => byHandle('/proc'),
    'read it by handle through /usr': () => byHandle('/usr'),
    ...Object.fromEntries(own.map((place, i) => [`open a device in folder ${i}`, () => device(place)])),
    'leave a directory that is open': () =>
      descriptors().some((fd) => opens('../../../../../../../../etc/shadow', RDONLY, Number(fd))),
    'open anew, for writing, what is open': () =>
      descriptors().some((fd) => {
        let path;
        try {
          path = readlinkSync(`/proc/self/fd/${fd}`);
        } catch {
          return false;
        }
        const isOwn = [...own, '/dev/', '/memfd:'].some((place) => path.startsWith(place));
        return path.startsWith('/') && !isOwn && opens(`/proc/self/fd/${fd}`, RDWR);
      }),
  };
}

/** Where an attempt has got through, the next one finds the secret as it was. */
function restore(folder: string): void {
  try {
    writeFileSync(join(folder, 'secret'), 'secret');
  } catch {
    // It has not been changed.
  }
}

/** What gets through of all that is tried. @param network whether it may use the internet. */
function trespass({ outside, own, peer }: Places, network: boolean): { tried: number; through: string[] } {
  const attempts: Record<string, () => boolean> = {};
  for (const [name, [numbers, ...given]] of Object.entries(CALLS))
    attempts[name] = () => reached(call(numbers, ...given));
  for (const [whose, pid] of Object.entries({ 'the parent': process.ppid, init: 1 }))
    for (const [name, [numbers, ...given]] of Object.entries(toProcess(pid)))
      attempts[`${name}: ${whose}`] = () => reached(call(numbers, ...given));
  for (const [name, [family, type, protocol]] of Object.entries(SOCKETS))
    attempts[`socket: ${name}`] = () => reached(call(SOCKET, family, type, protocol));
  if (!network) {
    attempts['socket: TCP'] = () => reached(call(SOCKET, 2, 1, 0));
    attempts['socket: UDP'] = () => reached(call(SOCKET, 2, 2, 0));
    attempts['socket: netlink'] = () => reached(call(SOCKET, 16, 3, 0));
    attempts['connect'] = () => reached(call([42, 203], -1, 1, 16));
  }
  attempts['socket: unix'] = () => reached(call(SOCKET, 1, 1, 0));
  attempts['bind'] = () => reached(call([49, 200], -1, 1, 16));
  attempts['a pair of sockets'] = () => reached(call([53, 199], 1, 1, 0, memory().address));
  for (const [i, path] of peer.entries())
    for (const [name, attempt] of Object.entries(peers(path))) attempts[`${name}: peer ${i}`] = attempt;
  attempts['listen'] = () => reached(call([50, 201], -1, 1));
  attempts['start a program'] = () => spawnSync('/bin/true').error === undefined;
  for (const [path, flags] of Object.entries(KERNEL_FILES)) {
    attempts[`open ${path}`] = () => found(opening(path, flags));
  }
  for (const [path, flags] of [
    [`/proc/${process.ppid}/mem`, RDWR],
    [`/proc/${process.ppid}/environ`, RDONLY],
    [`/proc/${process.ppid}/fd/0`, RDONLY],
    [`/proc/${process.ppid}/cwd`, RDONLY],
  ] as const) {
    attempts[`open ${path.replace(/\d+/, 'parent')}`] = () => opens(path, flags);
  }
  for (const [i, folder] of outside.entries()) {
    for (const [name, attempt] of Object.entries(files(folder, own))) {
      attempts[`${name}: place ${i}`] = () => {
        restore(folder);
        return attempt();
      };
    }
  }
  Object.assign(attempts, executable(own[0]!));
  const through: string[] = [];
  for (const [name, attempt] of Object.entries(attempts)) if (attempt()) through.push(name);
  return { tried: Object.keys(attempts).length, through };
}

/** A function that adds. */
const ADD = Buffer.from(
  '0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b',
  'hex',
);

/** What is used of the global `WebAssembly`, for which Node's types have nothing. */
interface Engine {
  readonly Module: new (code: Uint8Array) => object;
  readonly Instance: new (module: object) => {
    readonly exports: { add(a: number, b: number): number };
  };
}

function compile(): number {
  const { Module, Instance } = (globalThis as unknown as { WebAssembly: Engine }).WebAssembly;
  return new Instance(new Module(ADD)).exports.add(20, 22);
}

interface Options extends Places {
  readonly as: BackendSpec;
  readonly network: boolean;
  readonly machineCode: boolean;
}

export default definePlugin<Options>({
  name: 'outsider',
  description: 'tries what a confined daemon cannot do',
  options: z.strictObject({
    as: z.looseObject({ type: z.string() }).describe('whose needs it has').meta({ placeholder: 'YAML' }),
    outside: z.array(z.string()).describe('folders with a secret'),
    own: z.array(z.string()).describe('folders of the daemon'),
    peer: z.array(z.string()).default([]).describe("addresses of others' sockets"),
    network: z.boolean().default(false).describe('whether it may connect to others'),
    machineCode: z.boolean().default(false).describe('whether it says that it makes machine code'),
  }),
  async create({ network, outside, own, peer }, { createBackend, log }) {
    const places = { outside, own, peer };
    return wrap(await createBackend({ type: 'memfs' }), {
      lookup(next, parent, name, context) {
        if (name === 'trespass') log.info({ ...trespass(places, network) }, 'trespassed');
        if (name === 'compile') log.info({ sum: compile() }, 'compiled');
        return next(parent, name, context);
      },
    });
  },
  needs: ({ as, machineCode }) => ({ paths: [], backends: [as], machineCode }),
});
