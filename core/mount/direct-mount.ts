import { constants, openSync } from 'node:fs';
import { type Fd, deferred, OwnedFd } from '../system/index.js';
import { MountError } from './mount-error.js';
import type { MountFlags } from './options.js';
import { native, UMOUNT } from '../system/calls/libc-functions.js';
import { EBUSY, EINVAL } from '../system/calls/negative-errno.js';

/*
 * Mount and unmount run on another thread. Meanwhile the kernel may send requests to the file
 * system that is mounted or unmounted, or to another one of this process in which the directory
 * lies. This thread must be free to answer them.
 */
const mount = deferred(native.mount);
const umount2 = deferred(native.umount2);

/** Flags of mount(2). */
const MS_RDONLY = 1;
const MS_NOSUID = 2;
const MS_NODEV = 4;

/**
 * The type of the file system. The kernel shows what follows the dot, and ignores it otherwise.
 */
const TYPE = 'fuse.virtiofs-kit';

/** Opens `/dev/fuse`, non-blocking. @throws MountError */
export function openDevice(): OwnedFd {
  try {
    return new OwnedFd(openSync('/dev/fuse', constants.O_RDWR | constants.O_NONBLOCK) as Fd);
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
  // The options of a mount (Linux Documentation/filesystems/fuse.rst). `rootmode` is the mode of
  // the root, in octal.
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
 * Unmounts. If files are in use, the mount is detached from the tree, and they stay usable.
 * @throws MountError
 */
export async function unmountDirectly(directory: string): Promise<void> {
  let code = await umount2(directory, UMOUNT.NOFOLLOW);
  if (code === EBUSY) code = await umount2(directory, UMOUNT.NOFOLLOW | UMOUNT.DETACH);
  // EINVAL: the mount is gone already.
  if (code < 0 && code !== EINVAL) throw MountError.of(`unmount ${directory}`, -code);
}

/**
 * Detaches a mount whose connection is closed. That does not wait, since no request is sent over a
 * closed connection.
 */
export function detachDirectly(directory: string): void {
  native.umount2(directory, UMOUNT.NOFOLLOW | UMOUNT.DETACH);
}
