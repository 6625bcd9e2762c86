import { type Fd, type Log, UnixConnection, UnixListener, watch, type Watch } from '../system/index.js';
import { Poller } from '../virtqueue/index.js';
import { VhostUserDevice, type DeviceOptions, type DeviceSession } from './device.js';
import { bindSocket, ListenError, type ListenOptions } from './listen.js';
import { isListeningSocket } from './socket-options.js';

/** How a server listens, and what it serves. */
export interface ServerOptions extends DeviceOptions, ListenOptions {
  /**
   * Path of the socket to make, or a descriptor that was inherited: a listening socket, or a
   * connected one. `given`: connections come by {@link VhostUserServer.adopt}.
   */
  readonly socket: { readonly path: string } | { readonly fd: number } | 'given';
  /** Makes the log of a connection. Default: the server's own. */
  openLog?(): Log;
  /** Called when a front-end has connected. It must not throw. */
  onConnected?(): void;
  /** Called when a front-end has gone. It must not throw. */
  onDisconnected?(): void;
  /** How long a front-end may take to send its first message. Default 10,000. */
  readonly silenceMs?: number | undefined;
  /**
   * After how long a front-end without memory makes room for another one, where there is
   * none left. Default 60,000.
   */
  readonly idleMs?: number | undefined;
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
const SILENCE_MS = 10_000;

/**
 * A front-end without memory, so that its guest can ask nothing, makes room for another one after
 * this time if there is none left. Milliseconds.
 */
const IDLE_MS = 60_000;

/**
 * To take a front-end, its memory and its end costs the thread about half a millisecond: one that
 * connects anew without end gets a tenth of it. Milliseconds.
 */
const REST_MS = 5;

/** How long the server stops accepting connections after accept(2) has failed. */
const ACCEPT_PAUSE_MS = 200;

const Errno = { EAGAIN: 11, ECONNABORTED: 103 };

/** Serves a tag to every front-end that connects, each with a device and a session of its own. */
export class VhostUserServer {
  /** Front-ends that are served by all servers of the process. */
  static #everywhere = 0;
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
    if (socket === 'given') return server;
    if ('path' in socket) server.#listen(bindSocket(socket.path, options));
    else server.#inherit(socket.fd as Fd);
    return server;
  }

  /**
   * Serves a front-end whose connection somebody else has accepted.
   * @param own options of its own, in the place of the server's.
   * @returns its device; undefined if it could not be served, which was logged.
   */
  adopt(
    connection: UnixConnection,
    own: Pick<DeviceOptions, 'openSession' | 'session' | 'migration'>,
  ): VhostUserDevice | undefined {
    return this.#serve(connection, own);
  }

  /** The sessions of the front-ends that are being served. */
  get sessions(): DeviceSession[] {
    return [...this.#devices.keys()].map(({ session }) => session);
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

  #inherit(fd: Fd): void {
    let listening: boolean;
    try {
      listening = isListeningSocket(fd);
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
        if (VhostUserServer.#everywhere > 1) this.#rest(REST_MS);
      } else {
        this.#log.warn({ limit }, 'a front-end was turned away: too many connections');
        connection.close();
      }
    } else if (connection !== -Errno.EAGAIN && connection !== -Errno.ECONNABORTED) {
      // Mostly EMFILE. The socket stays readable, so that without a pause this would spin.
      this.#log.error({ errno: -connection }, 'cannot accept a front-end');
      this.#rest(ACCEPT_PAUSE_MS);
    }
  }

  /** Accepts nothing for a time. */
  #rest(ms: number): void {
    this.#watch?.pause();
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => this.#watch?.resume(), ms);
  }

  /** Turns the front-end away that has been without memory for the longest, and too long. */
  #makeRoom(): void {
    const now = performance.now();
    for (const [device, since] of this.#devices) {
      if (now - since < (this.#options.idleMs ?? IDLE_MS)) return;
      if (device.hasMemory) continue;
      this.#devices.delete(device);
      this.#log.warn({}, 'a front-end without memory made room for another one');
      void device.close();
      return;
    }
  }

  #serve(connection: UnixConnection, own: Partial<DeviceOptions> = {}): VhostUserDevice | undefined {
    let device: VhostUserDevice;
    try {
      const log = this.#options.openLog?.() ?? this.#log;
      device = new VhostUserDevice(connection, { ...this.#options, ...own, log }, this.#poller);
    } catch (error) {
      this.#log.error({ err: error }, 'cannot serve a front-end');
      connection.close();
      return undefined;
    }
    this.#devices.set(device, performance.now());
    VhostUserServer.#everywhere += 1;
    const silence = setTimeout(() => {
      if (!this.#devices.has(device) || device.hasSpoken) return;
      this.#log.warn({}, 'a front-end that sent nothing was turned away');
      void device.close();
    }, this.#options.silenceMs ?? SILENCE_MS).unref();
    this.#log.info({ connections: this.connections }, 'a front-end connected');
    this.#options.onConnected?.();
    void this.#forgetWhenEnded(device, silence);
    return device;
  }

  async #forgetWhenEnded(device: VhostUserDevice, silence: NodeJS.Timeout): Promise<void> {
    await device.ended;
    // It would keep the ended device until it is due.
    clearTimeout(silence);
    this.#devices.delete(device);
    VhostUserServer.#everywhere -= 1;
    this.#log.info({ connections: this.connections }, 'a front-end disconnected');
    this.#options.onDisconnected?.();
    const { once, socket } = this.#options;
    const isOnlyOne = socket !== 'given' && this.#listener === undefined;
    const last = this.#devices.size === 0 && (once === true || isOnlyOne);
    if (last) void this.close();
  }
}
