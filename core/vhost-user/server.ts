import { chmodSync, chownSync, lstatSync } from 'node:fs';
import { dirname } from 'node:path';
import {
  type Fd,
  type Log,
  SystemError,
  UnixConnection,
  UnixListener,
  watch,
  type Watch,
} from '../system/index.js';
import { Poller } from '../virtqueue/index.js';
import { VhostUserDevice, type DeviceOptions } from './device.js';
import { isListening } from './socket-options.js';

/** A socket cannot be served. The text says why, and what to do, in one line. */
export class ListenError extends Error {
  override readonly name = 'ListenError';
}

/** How a server listens, and what it serves. */
export interface ServerOptions extends DeviceOptions {
  /**
   * Path of the socket to make, or a descriptor that was inherited: a listening socket, or a
   * connected one.
   */
  readonly socket: { readonly path: string } | { readonly fd: number };
  /** Permission bits of the socket file, such as 0o660. Default: what the umask leaves. */
  readonly mode?: number | undefined;
  /** Group id of the socket file. */
  readonly group?: number | undefined;
  /** Makes the log of a connection. Default: the server's own. */
  openLog?(): Log;
  /** Milliseconds that a front-end may take to send its first message. Default 10,000. */
  readonly silence?: number | undefined;
  /**
   * Milliseconds after which a front-end without memory makes room for another one, where there is
   * none left. Default 60,000.
   */
  readonly idleness?: number | undefined;
  /** Front-ends served at a time; more are turned away. Default 16. */
  readonly maxConnections?: number | undefined;
  /**
   * Ends the server when its last front-end has gone, instead of waiting for the next one. Default
   * false.
   */
  readonly once?: boolean | undefined;
}

const DEFAULT_MAX_CONNECTIONS = 16;

/** A front-end that has sent nothing for so long is turned away. Milliseconds. */
const SILENCE = 10_000;

/**
 * A front-end without memory, so that its guest can ask nothing, makes room for another one after
 * this time if there is none left. Milliseconds.
 */
const IDLENESS = 60_000;

/** How long the server stops accepting connections after accept(2) has failed. */
const ACCEPT_PAUSE_MS = 200;

const Errno = {
  ENOENT: 2,
  EAGAIN: 11,
  EACCES: 13,
  ENOTDIR: 20,
  ENAMETOOLONG: 36,
  EADDRINUSE: 98,
  ECONNABORTED: 103,
};

/** Serves a tag to every front-end that connects, each with a device and a session of its own. */
export class VhostUserServer {
  readonly #options: ServerOptions;
  readonly #log: Log;
  /** Devices, and since when they are there; in that order. */
  readonly #devices = new Map<VhostUserDevice, number>();
  readonly #poller: Poller;
  /**
   * Resolves when the server has ended: by {@link close}, or by itself with `once` or a connected
   * descriptor.
   */
  readonly ended: Promise<void>;
  #end!: () => void;
  #listener: UnixListener | undefined;
  #watch: Watch | undefined;
  #pause: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;

  private constructor(options: ServerOptions) {
    this.#options = options;
    this.#poller = new Poller(options.pollTime);
    this.#log = options.log;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /** Begins to serve. @throws ListenError if the socket can't be had. */
  static start(options: ServerOptions): VhostUserServer {
    const server = new VhostUserServer(options);
    const { socket } = options;
    if ('path' in socket) server.#listen(bindSocket(socket.path, options));
    else server.#adopt(socket.fd as Fd);
    return server;
  }

  /** Front-ends that are being served. */
  get connections(): number {
    return this.#devices.size;
  }

  /**
   * Stops listening, removes the socket file, and ends every device after its requests in flight.
   * Idempotent.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#stopListening();
    await Promise.all([...this.#devices.keys()].map((device) => device.close()));
    this.#end();
  }

  #listen(listener: UnixListener): void {
    this.#listener = listener;
    this.#watch = watch(listener.fd, () => this.#accept(listener));
  }

  #adopt(fd: Fd): void {
    let listening: boolean;
    try {
      listening = isListening(fd);
    } catch (error) {
      throw new ListenError(`--fd ${fd}: not an open socket; pass one that listens or is connected`, {
        cause: error,
      });
    }
    if (listening) this.#listen(UnixListener.adopt(fd));
    else this.#serve(UnixConnection.adopt(fd));
  }

  #stopListening(): void {
    clearTimeout(this.#pause);
    this.#watch?.close();
    this.#listener?.close();
    this.#listener = undefined;
  }

  #accept(listener: UnixListener): void {
    const connection = listener.accept();
    if (connection instanceof UnixConnection) {
      const limit = this.#options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
      if (this.#devices.size >= limit) this.#makeRoom();
      if (this.#devices.size < limit) {
        this.#serve(connection);
      } else {
        this.#log.warn({ limit }, 'a front-end was turned away: too many connections');
        connection.close();
      }
    } else if (connection !== -Errno.EAGAIN && connection !== -Errno.ECONNABORTED) {
      // Mostly EMFILE. The socket stays readable, so that without a pause this would spin.
      this.#log.error({ errno: -connection }, 'cannot accept a front-end');
      this.#watch?.pause();
      this.#pause = setTimeout(() => this.#watch?.resume(), ACCEPT_PAUSE_MS);
    }
  }

  /** Turns the front-end away that has been without memory for the longest, and too long. */
  #makeRoom(): void {
    const now = performance.now();
    for (const [device, since] of this.#devices) {
      if (now - since < (this.#options.idleness ?? IDLENESS)) return;
      if (device.hasMemory) continue;
      this.#devices.delete(device);
      this.#log.warn({}, 'a front-end without memory made room for another one');
      void device.close();
      return;
    }
  }

  #serve(connection: UnixConnection): void {
    let device: VhostUserDevice;
    try {
      const log = this.#options.openLog?.() ?? this.#log;
      device = new VhostUserDevice(connection, { ...this.#options, log }, this.#poller);
    } catch (error) {
      this.#log.error({ err: error }, 'cannot serve a front-end');
      connection.close();
      return;
    }
    this.#devices.set(device, performance.now());
    setTimeout(() => {
      if (!this.#devices.has(device) || device.hasSpoken) return;
      this.#log.warn({}, 'a front-end that sent nothing was turned away');
      void device.close();
    }, this.#options.silence ?? SILENCE).unref();
    this.#log.info({ connections: this.#devices.size }, 'a front-end connected');
    void this.#forgetWhenEnded(device);
  }

  async #forgetWhenEnded(device: VhostUserDevice): Promise<void> {
    await device.ended;
    this.#devices.delete(device);
    this.#log.info({ connections: this.#devices.size }, 'a front-end disconnected');
    const last = this.#devices.size === 0 && (this.#options.once === true || this.#listener === undefined);
    if (last) void this.close();
  }
}

/** Makes the socket file and listens on it. A stale one, on which nobody listens, is replaced. */
function bindSocket(path: string, options: ServerOptions): UnixListener {
  let listener: UnixListener | undefined;
  // The umask closes the moment between bind and chmod in which others could connect.
  const umask = options.mode === undefined ? undefined : process.umask(0o777 & ~options.mode);
  try {
    listener = UnixListener.listen(path);
    if (options.mode !== undefined) chmodSync(path, options.mode);
    if (options.group !== undefined) chownSync(path, -1, options.group);
    return listener;
  } catch (error) {
    listener?.close();
    throw new ListenError(`--socket-path ${path}: ${explain(path, error)}`, { cause: error });
  } finally {
    if (umask !== undefined) process.umask(umask);
  }
}

function explain(path: string, error: unknown): string {
  const directory = dirname(path);
  const errno = error instanceof SystemError ? error.errno : 0;
  switch (errno) {
    case Errno.EADDRINUSE:
      return lstatSync(path, { throwIfNoEntry: false })?.isSocket()
        ? 'another process listens on it; stop that one or choose another path'
        : 'there is a file that is not a socket; remove it or choose another path';
    case Errno.ENOENT:
      return `no such directory: ${directory}; create it first`;
    case Errno.ENOTDIR:
      return `${directory} is not a directory; choose another path`;
    case Errno.EACCES:
      return `no permission to create a socket in ${directory}; choose another path or another user`;
    case Errno.ENAMETOOLONG:
      return 'too long for a socket (107 bytes at most); choose a shorter path';
    default:
      return (error as Error).message;
  }
}
