import type { Message } from '../memory/index.js';
import { type Log, ownMounts, type OwnedFd } from '../system/index.js';
import { BackingFiles } from './backing-files.js';
import { FuseDevice } from './fuse-device.js';
import { mountPoint } from './mount-point.js';
import { methods, mounted, type MountMethod, usualMethod } from './mounted.js';
import type { MountFlags } from './options.js';

/** The FUSE side, which serves a mount's requests. */
export interface MountSession {
  /**
   * Takes a request. Never throws. The request is answered by the message's `complete` or `fail`,
   * at once or later.
   */
  dispatch(message: Message): void;
  /**
   * Finishes or cancels requests in flight. Resolves when every request was answered.
   */
  drain(): Promise<void>;
  /** Ends the session for good. */
  close(): Promise<void>;
}

export interface MountOptions extends Partial<MountFlags> {
  /** Where to mount: a directory that exists. */
  readonly directory: string;
  /** The mount's source, as `df` for instance shows it. */
  readonly source: string;
  readonly log: Log;
  /** Called once, when it is mounted. @param files what the kernel may use itself. */
  openSession(files: BackingFiles): MountSession;
  /** Default: `direct` for root, else `fusermount`. */
  readonly method?: MountMethod;
}

/** After a mount was detached, its users have so long to close their files. */
const LINGER_MS = 2000;

/**
 * An export mounted on this host. This process's event loop answers everything that processes do in
 * the mount. So this process must never wait for its own mount.
 */
export class HostMount {
  /** The directory on which it is mounted, without symbolic links. */
  readonly directory: string;
  /**
   * Resolves when it is unmounted, by {@link unmount} or by somebody else, and its session is
   * closed. Rejects if closing fails.
   */
  readonly ended: Promise<void>;

  readonly #log: Log;
  readonly #method: MountMethod;
  readonly #session: MountSession;
  readonly #device: FuseDevice;
  #settle!: (end: Promise<void>) => void;
  #ending = false;
  #unmounting: Promise<void> | undefined;
  /** Takes the mount out of {@link ownMounts}. */
  readonly #leave: () => void;

  private constructor(
    directory: string,
    fd: OwnedFd,
    method: MountMethod,
    leave: () => void,
    options: MountOptions,
  ) {
    this.directory = directory;
    this.#leave = leave;
    this.#log = options.log;
    this.#method = method;
    this.ended = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#session = options.openSession(new BackingFiles(fd));
    const receiver = {
      dispatch: (message: Message) => this.#session.dispatch(message),
      ended: (errno: number) => this.#end(errno),
    };
    this.#device = new FuseDevice(fd, receiver, options.log);
    process.once('exit', this.#onExit);
  }

  /** Detaches the mount if the process ends without unmounting, so that no dead mount stays. */
  readonly #onExit = (): void => {
    this.#device.close();
    methods[this.#method].detach(this.directory);
  };

  /** Mounts and begins to serve. @throws MountError */
  static async open(options: MountOptions): Promise<HostMount> {
    const directory = await mountPoint(options.directory);
    const { source, method = usualMethod() } = options;
    const leave = ownMounts.enter(directory);
    try {
      return await mounted(
        directory,
        source,
        options,
        method,
        (fd) => new HostMount(directory, fd, method, leave, options),
      );
    } catch (error) {
      leave();
      throw error;
    }
  }

  /** Tells the kernel something that it did not ask for (`FUSE_NOTIFY_*`): a whole message. */
  notify(message: Uint8Array): void {
    this.#device.notify(message);
  }

  /**
   * Unmounts and ends the session. If files are in use, the mount is detached at once, and its
   * users lose these files after two seconds (EIO, ENOTCONN).
   * @throws MountError if it stays mounted; also what closing the session throws.
   */
  unmount(): Promise<void> {
    this.#unmounting ??= this.#unmount();
    return this.#unmounting;
  }

  async #unmount(): Promise<void> {
    if (!this.#ending) {
      await methods[this.#method].unmount(this.directory);
      const late = setTimeout(() => this.#end(0), LINGER_MS);
      void this.ended.finally(() => clearTimeout(late)).catch(() => undefined);
    }
    await this.ended;
  }

  #end(errno: number): void {
    if (this.#ending) return;
    this.#ending = true;
    process.off('exit', this.#onExit);
    if (errno === 0) this.#log.info({ directory: this.directory }, 'unmounted');
    else this.#log.error({ directory: this.directory, errno }, 'the mount failed');
    this.#settle(this.#close());
  }

  async #close(): Promise<void> {
    this.#device.stop();
    try {
      await this.#session.drain();
      await this.#session.close();
    } finally {
      this.#device.close();
      this.#leave();
    }
  }
}
