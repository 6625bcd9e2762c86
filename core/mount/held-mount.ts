import { type OwnedFd, setNonBlocking } from '../system/index.js';
import { detachByFusermount, mountByFusermount, unmountByFusermount } from './fusermount.js';
import { detachDirectly, mountDirectly, unmountDirectly } from './direct-mount.js';
import { MountError } from './mount-error.js';
import { mountPoint } from './mount-point.js';
import { type GivenMount, makeRequestMemory } from './mount-server.js';
import type { MountFlags } from './options.js';

/** A mount that this process holds, and that others serve. It exists until {@link close}. */
export class HeldMount implements GivenMount {
  readonly device: OwnedFd;
  readonly requests: OwnedFd;
  readonly #directory: string;
  readonly #isDirect: boolean;
  #isMounted = true;

  private constructor(directory: string, device: OwnedFd, isDirect: boolean) {
    this.#directory = directory;
    this.#isDirect = isDirect;
    this.device = device;
    this.requests = makeRequestMemory();
    process.once('exit', this.#onExit);
  }

  /** Detaches the mount if the process ends without unmounting, so that no dead mount stays. */
  readonly #onExit = (): void => {
    this.close();
  };

  /**
   * The directory without symbolic links, on which something can be mounted.
   * @throws MountError
   */
  static place(directory: string): Promise<string> {
    return mountPoint(directory);
  }

  /**
   * Mounts. Whoever uses the mount waits until it is served.
   * @param directory as {@link place} gives it.
   * @throws MountError
   */
  static async open(directory: string, source: string, flags: Partial<MountFlags>): Promise<HeldMount> {
    const isDirect = process.geteuid!() === 0;
    const { allowOther = isDirect, readOnly = false, setuid = false, devices = false } = flags;
    const all = { allowOther, readOnly, setuid, devices };
    const device = await (isDirect ? mountDirectly : mountByFusermount)(directory, source, all);
    const code = setNonBlocking(device.value);
    if (code >= 0) return new HeldMount(directory, device, isDirect);
    device.close();
    await (isDirect ? unmountDirectly : unmountByFusermount)(directory);
    throw MountError.of('/dev/fuse', -code);
  }

  /**
   * Takes the mount out of the tree. If files are in use, they stay usable until {@link close}.
   * @throws MountError
   */
  async unmount(): Promise<void> {
    await (this.#isDirect ? unmountDirectly : unmountByFusermount)(this.#directory);
    this.#isMounted = false;
  }

  /** Somebody else has unmounted it. */
  wasUnmounted(): void {
    this.#isMounted = false;
  }

  /** Whoever still uses the mount gets ENOTCONN. Idempotent. */
  close(): void {
    process.off('exit', this.#onExit);
    this.device.close();
    this.requests.close();
    if (!this.#isMounted) return;
    this.#isMounted = false;
    (this.#isDirect ? detachDirectly : detachByFusermount)(this.#directory);
  }
}
