import { libc, result } from '../calls/libc.js';
import { native, UMOUNT } from '../calls/libc-functions.js';
import { syscall } from '../calls/files.js';
import { NativeMemory } from '../memory/native-memory.js';

/** Mounts and a network of the calling thread alone, mount_namespaces(7), network_namespaces(7). */

const unshare = libc<(flags: number) => number>('unshare', 'int', ['int']);

const CLONE_NEWNS = 0x20000;
const CLONE_NEWNET = 0x40000000;
/** No set-id bits, no devices, no programs. */
const MS_INERT = 14;
const MS_REC = 0x4000;
const MS_SLAVE = 0x80000;
const SYS_MOUNT_SETATTR = 442;
const MS_BIND = 0x1000;
const AT_FDCWD = -100;
const AT_RECURSIVE = 0x8000;
const ATTR_RDONLY = 1;
const ATTR_NOSUID = 2;
const ATTR_NODEV = 4;

/**
 * Gives the thread a mount namespace of its own. Later mounts and unmounts of the host appear in
 * it; those of the thread do not appear on the host. Needs CAP_SYS_ADMIN.
 * @returns 0 or minus the errno. EINVAL: the root directory is no mount point, as in some chroots.
 * Mounts of the thread could then appear on the host.
 */
export function unshareMounts(): number {
  const code = result(unshare(CLONE_NEWNS));
  return code < 0 ? code : result(native.mount('none', '/', '', MS_REC | MS_SLAVE, ''));
}

/**
 * Takes a mount out of the thread's namespace, in which it would outlive the host's. Nothing if
 * there is none. To be used after {@link unshareMounts}.
 */
export function leaveMount(directory: string): void {
  native.umount2(directory, UMOUNT.DETACH | UMOUNT.NOFOLLOW);
}

/**
 * Covers /proc by one that shows only the processes which this one may trace: itself. To be used
 * after {@link unshareMounts}. @returns 0 or minus the errno.
 */
export function hideProcesses(): number {
  return result(native.mount('proc', '/proc', 'proc', MS_INERT, 'hidepid=4'));
}

/**
 * Gives the thread a network of its own, in which there is nothing: no addresses, and no abstract
 * unix sockets of others. Sockets that lie in a folder are reached as before. Needs CAP_SYS_ADMIN.
 * @returns 0 or minus the errno.
 */
export function unshareNetwork(): number {
  return result(unshare(CLONE_NEWNET));
}

/**
 * From here on nothing can be changed on any mount, by this process: not even attributes, of which
 * Landlock knows nothing. To be used after {@link unshareMounts}.
 * @returns 0 or minus the errno (ENOSYS before Linux 5.12).
 */
export function forbidChanges(): number {
  return setAttributes('/', AT_RECURSIVE, ATTR_RDONLY, 0);
}

/** Takes back {@link forbidChanges} for one mount. @param directory where it is mounted. */
export function allowChanges(directory: string): number {
  return setAttributes(directory, 0, 0, ATTR_RDONLY);
}

/**
 * From here on no device on this mount can be opened and no set-id bit is honoured, by this
 * process. To be used after {@link unshareMounts}.
 * @param directory where it is mounted.
 * @returns 0 or minus the errno (ENOSYS before Linux 5.12).
 */
export function forbidDevices(directory: string): number {
  return setAttributes(directory, 0, ATTR_NOSUID | ATTR_NODEV, 0);
}

/**
 * Makes a directory a mount, with all that is mounted below it. To be used after {@link
 * unshareMounts}, and only by a process that opens no files by handle: Landlock takes all that is
 * reached by handle through such a mount, even if it lies elsewhere on the file system, to lie
 * below the directory.
 * @returns 0 or minus the errno.
 */
export function mountOverItself(directory: string): number {
  return result(native.mount(directory, directory, '', MS_BIND | MS_REC, ''));
}

function setAttributes(directory: string, flags: number, set: number, cleared: number): number {
  const path = Buffer.from(`${directory}\0`);
  const memory = NativeMemory.allocate(32 + path.length);
  try {
    // struct mount_attr { u64 attr_set, attr_clr, propagation, userns_fd; }, then the path.
    memory.u32[0] = set;
    memory.u32[2] = cleared;
    memory.u8.set(path, 32);
    return syscall(SYS_MOUNT_SETATTR, AT_FDCWD, memory.address + 32, flags, memory.address, 32);
  } finally {
    memory.free();
  }
}
