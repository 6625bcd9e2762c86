import { constants, openSync } from 'node:fs';
import { deferred, libc, OwnedFd } from '../system/index.js';
import { MountError } from './mount-error.js';
import type { MountFlags } from './options.js';

/*
 * These calls run on another thread: the kernel may ask the file system that is being mounted or
 * unmounted (or one that this process serves, and in which the directory lies), and this thread
 * must be there to answer.
 */
const mount = deferred(
  libc<(source: string, target: string, type: string, flags: number, data: string) => number>(
    'mount',
    'int',
    ['str', 'str', 'str', 'uint64_t', 'str'],
  ),
);
const umountNow = libc<(target: string, flags: number) => number>('umount2', 'int', ['str', 'int']);
const umount2 = deferred(umountNow);

/** Flags of mount(2) and umount2(2). */
const MS_RDONLY = 1;
const MS_NOSUID = 2;
const MS_NODEV = 4;
const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;
const EBUSY = 16;
const EINVAL = 22;

/**
 * The kernel's name of the file system type: what comes after the dot is shown and has no meaning
 * to it.
 */
const TYPE = 'fuse.virtiofs-kit';

/** Opens `/dev/fuse`, non-blocking. @throws MountError */
export function openDevice(): OwnedFd {
  try {
    return new OwnedFd(openSync('/dev/fuse', constants.O_RDWR | constants.O_NONBLOCK));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV') {
      throw new MountError('/dev/fuse is not there: load the module with modprobe fuse');
    }
    throw new MountError(`/dev/fuse: ${code}: this user may not mount`);
  }
}

/** Mounts by the system call. Needs CAP_SYS_ADMIN. @throws MountError */
export async function mountDirectly(directory: string, source: string, flags: MountFlags): Promise<OwnedFd> {
  const fd = openDevice();
  // A mount's options, Linux Documentation/filesystems/fuse.rst; rootmode is the octal mode of the
  // root.
  const options = [`fd=${fd.value}`, 'rootmode=40000', 'user_id=0', 'group_id=0', 'default_permissions'];
  if (flags.allowOther) options.push('allow_other');
  let bits = 0;
  if (flags.readOnly) bits |= MS_RDONLY;
  if (!flags.setuid) bits |= MS_NOSUID;
  if (!flags.devices) bits |= MS_NODEV;
  const code = await mount(source, directory, TYPE, bits, options.join(','));
  if (code === 0) return fd;
  fd.close();
  throw MountError.of(`mount ${directory}`, -code);
}

/**
 * Unmounts; where files are still in use, takes the mount out of the tree and lets them go on.
 * @throws MountError
 */
export async function unmountDirectly(directory: string): Promise<void> {
  let code = await umount2(directory, UMOUNT_NOFOLLOW);
  if (code === -EBUSY) code = await umount2(directory, UMOUNT_NOFOLLOW | MNT_DETACH);
  // EINVAL: nothing is mounted there any more.
  if (code < 0 && code !== -EINVAL) throw MountError.of(`unmount ${directory}`, -code);
}

/**
 * Takes a mount whose connection is closed out of the tree, at once: with nobody to answer, nothing
 * waits.
 */
export function detachDirectly(directory: string): void {
  umountNow(directory, UMOUNT_NOFOLLOW | MNT_DETACH);
}
