import type { OwnedFd } from '../system/index.js';
import { methods, mounted, type MountMethod, usualMethod } from './mounted.js';
import { type GivenMount, makeRequestMemory } from './mount-server.js';
import type { MountFlags } from './options.js';

/** A mount that this process holds, and that others serve. It exists until {@link close}. */
export class HeldMount implements GivenMount {
  readonly device: OwnedFd;
  readonly requests: OwnedFd;
  readonly #directory: string;
  readonly #method: MountMethod;
  #isMounted = true;

  private constructor(directory: string, given: GivenMount, method: MountMethod) {
    this.#directory = directory;
    this.#method = method;
    this.device = given.device;
    this.requests = given.requests;
    process.once('exit', this.#onExit);
  }

  /** Detaches the mount if the process ends without unmounting, so that no dead mount stays. */
  readonly #onExit = (): void => {
    this.close();
  };

  /**
   * Mounts. Whoever uses the mount waits until it is served.
   * @param directory as `mountPoint` gives it.
   * @throws MountError; SystemError if there is no memory for requests.
   */
  static async open(directory: string, source: string, flags: Partial<MountFlags>): Promise<HeldMount> {
    const method = usualMethod();
    const requests = makeRequestMemory();
    try {
      return await mounted(
        directory,
        source,
        flags,
        method,
        (device) => new HeldMount(directory, { device, requests }, method),
      );
    } catch (error) {
      requests.close();
      throw error;
    }
  }

  /**
   * Takes the mount out of the tree. If files are in use, they stay usable until {@link close}.
   * @throws MountError
   */
  async unmount(): Promise<void> {
    await methods[this.#method].unmount(this.#directory);
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
    methods[this.#method].detach(this.#directory);
  }
}
