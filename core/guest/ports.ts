import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { PORTS, type PortName } from './qemu.js';

/** The host's ends of a guest's ports: sockets in a folder. QEMU connects to each of them once. */
export class Ports {
  readonly #servers: Server[] = [];
  readonly #sockets = new Map<PortName, Socket>();
  #resolveConnected = (): void => {};
  /** Resolves when QEMU has connected to every port. */
  readonly connected = new Promise<void>((resolve) => {
    this.#resolveConnected = resolve;
  });

  /** Listens on every port's socket. */
  static async listen(folder: string): Promise<Ports> {
    const ports = new Ports();
    await Promise.all([...PORTS, 'console' as const].map((name) => ports.#listen(folder, name)));
    return ports;
  }

  /** Ports that are streams already, in the order of `names`. */
  static of(names: readonly PortName[], sockets: readonly Socket[]): Ports {
    const ports = new Ports();
    for (const [index, name] of names.entries()) {
      const socket = sockets[index]!;
      socket.on('error', () => socket.destroy());
      ports.#sockets.set(name, socket);
    }
    ports.#resolveConnected();
    return ports;
  }

  #listen(folder: string, name: PortName): Promise<void> {
    const server = createServer({ pauseOnConnect: true }, (socket) => {
      // An error means that QEMU has ended. Those who wait on the port notice that themselves.
      socket.on('error', () => socket.destroy());
      this.#sockets.set(name, socket);
      server.close();
      if (this.#sockets.size === PORTS.length + 1) this.#resolveConnected();
    });
    this.#servers.push(server);
    return new Promise((resolve, reject) => {
      server.once('error', reject).listen(join(folder, `${name}.sock`), resolve);
    });
  }

  /** The socket of a port. QEMU has connected to it before the guest runs. */
  get(name: PortName): Socket {
    const socket = this.#sockets.get(name);
    if (socket === undefined) throw new Error(`QEMU has not connected the port ${name}`);
    return socket;
  }

  close(): void {
    for (const server of this.#servers) server.close();
    for (const socket of this.#sockets.values()) socket.destroy();
  }
}

/**
 * Copies a command's output from a port to `sink`, at the sink's speed, until the token comes that
 * the guest prints after the output. Resolves when the token has come or the port is closed.
 */
export function passUntil(socket: Socket, token: string, sink: Writable): Promise<void> {
  const mark = Buffer.from(token);
  let held = Buffer.alloc(0);
  return new Promise((resolve) => {
    const end = (): void => {
      socket.off('data', onData).off('close', onClose).pause();
      sink.off('drain', onDrain).off('error', onDrain);
      resolve();
    };
    const pass = (bytes: Buffer): void => {
      if (bytes.length > 0 && sink.writable && !sink.write(bytes)) socket.pause();
    };
    const onDrain = (): void => void socket.resume();
    const onClose = (): void => {
      pass(held);
      end();
    };
    const onData = (chunk: Buffer): void => {
      const bytes = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
      const at = bytes.indexOf(mark);
      const keep = at < 0 ? overlap(bytes, mark) : 0;
      pass(bytes.subarray(0, at < 0 ? bytes.length - keep : at));
      held = Buffer.from(bytes.subarray(bytes.length - keep));
      if (at >= 0) end();
    };
    socket.on('data', onData).on('close', onClose).resume();
    sink.on('drain', onDrain).on('error', onDrain);
    if (socket.destroyed) onClose();
  });
}

/** The length of the longest end of `bytes` that may be the beginning of a token. */
export function overlap(bytes: Buffer, mark: Buffer): number {
  for (let length = Math.min(bytes.length, mark.length - 1); length > 0; length--) {
    if (bytes.subarray(bytes.length - length).equals(mark.subarray(0, length))) return length;
  }
  return 0;
}
