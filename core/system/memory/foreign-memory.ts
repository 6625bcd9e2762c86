import type { Fd } from '../descriptors/fd.js';
import { readdirSync, readFileSync } from 'node:fs';
import { AT, statx, STATX_FIELD } from '../calls/files.js';
import { result } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { NativeMemory } from './native-memory.js';

/*
 * What kind of file a descriptor from another process is. The file system of the file is not asked,
 * because that of a stopped FUSE or network server would never answer.
 */

const MFD_CLOEXEC = 1;
const MFD_HUGETLB = 4;
const MFD_HUGE_SHIFT = 26;
const AT_STATX_DONT_SYNC = 0x4000;

/** Types of file systems whose files are in memory. */
const IN_MEMORY = new Set(['tmpfs', 'ramfs', 'hugetlbfs', 'devtmpfs']);

/** Ids and devices of the kernel's own mounts, on which memfds lie. */
const internal = { mounts: new Set<string>(), devices: new Set<string>() };

const scratch = NativeMemory.allocate(4096);
const EMPTY = scratch.address;
const TARGET = scratch.address + 256;

/**
 * Checks that a descriptor is shared memory: a memfd, or a file of a file system in memory. No call
 * here waits for a server.
 * @returns why it is not, or undefined.
 */
export function whyNotMemory(fd: Fd): string | undefined {
  const mount = mountOf(fd);
  if (mount === undefined) return 'it is not open';
  learnInternal();
  if (internal.mounts.has(mount)) return undefined;
  const mounts = readMounts();
  const known = mounts.find(({ id }) => id === mount);
  if (known !== undefined) return IN_MEMORY.has(known.type) ? undefined : `it lies on ${known.type}`;
  // A mount of another namespace, such as a virtual machine monitor's. Its device may be known.
  const device = deviceOf(fd);
  if (internal.devices.has(device)) return undefined;
  const same = mounts.find((other) => other.device === device);
  return same !== undefined && IN_MEMORY.has(same.type)
    ? undefined
    : 'it lies on a file system that is not known here';
}

/**
 * A text that is the same for descriptors of one file, and differs for two files: mount and inode
 * number. Undefined if the descriptor is not open, or the kernel is older than 5.14.
 */
export function fileIdentity(fd: Fd): string | undefined {
  try {
    const text = readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
    const inode = /^ino:\s*(\d+)/m.exec(text)?.[1];
    return inode === undefined ? undefined : `${/^mnt_id:\s*(\d+)/m.exec(text)?.[1]}:${inode}`;
  } catch {
    return undefined;
  }
}

/** Id of the file's mount, /proc/self/fdinfo, proc(5). The kernel does not ask the file system. */
function mountOf(fd: Fd): string | undefined {
  try {
    return /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
  } catch {
    return undefined;
  }
}

/** Device of the file system, as the kernel has it cached (statx(2), AT_STATX_DONT_SYNC). */
function deviceOf(fd: Fd): string {
  const code = statx(fd, EMPTY, AT.EMPTY_PATH | AT_STATX_DONT_SYNC, 0, TARGET);
  const words = scratch.u32.subarray(256 / 4);
  return code < 0 ? '' : `${words[STATX_FIELD.DEV_MAJOR / 4]}:${words[STATX_FIELD.DEV_MINOR / 4]}`;
}

interface Mount {
  readonly id: string;
  readonly device: string;
  readonly type: string;
}

/** The mounts of this namespace, proc_pid_mountinfo(5). */
function readMounts(): Mount[] {
  return readFileSync('/proc/self/mountinfo', 'latin1')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const fields = line.split(' ');
      return { id: fields[0]!, device: fields[2]!, type: fields[fields.indexOf('-', 6) + 1]! };
    });
}

/** Makes a memfd of each kind, and notes its mount and device. */
function learnInternal(): void {
  if (internal.mounts.size > 0) return;
  for (const flags of [0, MFD_HUGETLB, ...hugePages()]) {
    const fd = result(native.memfdCreate('virtiofs-kit', MFD_CLOEXEC | flags)) as Fd;
    if (fd < 0) continue;
    const mount = mountOf(fd);
    if (mount !== undefined) internal.mounts.add(mount);
    internal.devices.add(deviceOf(fd));
    native.close(fd);
  }
}

/** Flags of memfd_create(2) for the sizes of huge pages that this host has. */
function hugePages(): number[] {
  try {
    return readdirSync('/sys/kernel/mm/hugepages').map((name) => {
      const kibibytes = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? 0);
      return MFD_HUGETLB | (Math.log2(kibibytes * 1024) << MFD_HUGE_SHIFT);
    });
  } catch {
    return [];
  }
}
