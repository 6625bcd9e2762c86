import type { Message } from '../memory/index.js';
import { type Log, OwnedFd } from '../system/index.js';
import { BUFFER_BYTES, FuseDevice } from './fuse-device.js';
import type { MountSession } from './host-mount.js';
import { MAX_SLOTS, RequestSlots } from './request-slots.js';

/** The session of a mount that another process holds. */
export interface KeptMountSession extends MountSession {
  /** Called after some requests were dispatched. */
  submit(): void;
  /** Waits until all requests in flight wait for locks. @returns how many there are. */
  quiesce(): Promise<number>;
  /** Puts those requests back. */
  withdraw(): void;
}

/** A mount that somebody has made and holds. */
export interface GivenMount {
  /** An open, non-blocking `/dev/fuse`. */
  readonly device: OwnedFd;
  /** Memory for requests, which {@link makeRequestMemory} has made. */
  readonly requests: OwnedFd;
}

/** How many requests of such a mount may wait for locks, so that others have room. */
export const MAX_KEPT_WAITERS = MAX_SLOTS / 2;

/** Makes memory in which the requests of a mount outlive the process that reads them. */
export function makeRequestMemory(): OwnedFd {
  return RequestSlots.make(BUFFER_BYTES);
}

/** A mount that somebody else holds, as it is served here. */
export class KeptMount {
  readonly session: KeptMountSession;
  /** Resolves when it is unmounted, or is not served here any more. */
  readonly ended: Promise<void>;
  readonly #device: FuseDevice;
  #isUnmounted = false;
  #hasSuccessor = false;
  #settle!: () => void;
  #closing: Promise<void> | undefined;

  constructor({ device, requests }: GivenMount, session: KeptMountSession, log: Log) {
    this.session = session;
    this.ended = new Promise((resolve) => {
      this.#settle = resolve;
    });
    const receiver = {
      dispatch: (message: Message) => session.dispatch(message),
      dispatched: () => session.submit(),
      ended: (errno: number) => this.#end(errno, log),
    };
    this.#device = new FuseDevice(device, receiver, log, new RequestSlots(requests, BUFFER_BYTES));
    this.#device.begin();
  }

  /** Whether it was unmounted, or has failed. */
  get isUnmounted(): boolean {
    return this.#isUnmounted;
  }

  /** Tells the kernel something that it did not ask for (`FUSE_NOTIFY_*`): a whole message. */
  notify(message: Uint8Array): void {
    this.#device.notify(message);
  }

  /**
   * Reads no more requests, and waits until those in flight are answered, but for those that wait
   * for locks: the process that follows finds them.
   * @throws Error if requests do not end in time. All goes on then.
   */
  async stopForSuccessor(): Promise<readonly number[]> {
    this.#device.stop();
    this.#hasSuccessor = true;
    const waiting = await this.session.quiesce();
    const others = this.#device.inFlight - waiting;
    if (others <= 0) return [];
    this.goOn();
    throw new Error(`${others} requests do not end`);
  }

  /** After {@link stopForSuccessor}, if there will be none. */
  goOn(): void {
    this.#hasSuccessor = false;
    this.#device.goOn();
  }

  /** Ends the session and lets the mount go. Whoever holds it may go on with it. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#device.stop();
    if (this.#hasSuccessor) this.session.withdraw();
    try {
      await this.session.drain();
      await this.session.close();
    } finally {
      this.#device.close();
      this.#settle();
    }
  }

  #end(errno: number, log: Log): void {
    if (errno !== 0) log.error({ errno }, 'the mount failed');
    this.#isUnmounted = true;
    // The backend's owner is told by `ended`.
    this.close().catch((err: unknown) => log.error({ err }, 'a session did not end cleanly'));
  }
}

/** Serves a mount that somebody else has made, and holds. */
export class MountServer {
  /** Resolves after {@link close}. */
  readonly ended: Promise<void>;
  readonly #log: Log;
  #mount: KeptMount | undefined;
  #end!: () => void;

  constructor(log: Log) {
    this.#log = log;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /** Serves a mount. What is in flight of a former process is served first. */
  adopt(given: GivenMount, session: KeptMountSession): KeptMount {
    this.#mount = new KeptMount(given, session, this.#log);
    return this.#mount;
  }

  get sessions(): KeptMountSession[] {
    return this.#mount === undefined ? [] : [this.#mount.session];
  }

  get connections(): number {
    return this.sessions.length;
  }

  /** Idempotent. */
  async close(): Promise<void> {
    await this.#mount?.close();
    this.#end();
  }
}
