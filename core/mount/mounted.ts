import { type OwnedFd, setNonBlocking } from '../system/index.js';
import { detachByFusermount, mountByFusermount, unmountByFusermount } from './fusermount.js';
import { detachDirectly, mountDirectly, unmountDirectly } from './direct-mount.js';
import { MountError } from './mount-error.js';
import type { MountFlags } from './options.js';

/** `direct` is the system call, and the default for root. */
export type MountMethod = 'direct' | 'fusermount';

/** How a mount is made and taken away. */
export const methods = {
  direct: { mount: mountDirectly, unmount: unmountDirectly, detach: detachDirectly },
  fusermount: { mount: mountByFusermount, unmount: unmountByFusermount, detach: detachByFusermount },
} as const;

export function usualMethod(): MountMethod {
  return process.geteuid!() === 0 ? 'direct' : 'fusermount';
}

/**
 * Mounts, for `use`, which takes the non-blocking descriptor over. If that fails, it is closed, and
 * nothing stays mounted.
 * @param directory as `mountPoint` gives it.
 * @throws MountError, and what `use` throws.
 */
export async function mounted<T>(
  directory: string,
  source: string,
  flags: Partial<MountFlags>,
  method: MountMethod,
  use: (device: OwnedFd) => T,
): Promise<T> {
  const { allowOther = process.geteuid!() === 0, readOnly = false, setuid = false, devices = false } = flags;
  const { mount, unmount } = methods[method];
  const device = await mount(directory, source, { allowOther, readOnly, setuid, devices });
  try {
    const code = setNonBlocking(device.value);
    if (code < 0) throw MountError.of('/dev/fuse', -code);
    return use(device);
  } catch (error) {
    device.close();
    await unmount(directory);
    throw error;
  }
}
