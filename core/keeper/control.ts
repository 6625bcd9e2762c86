import {
  advancePromises,
  type Fd,
  type OwnedFd,
  ReceivedFd,
  type UnixConnection,
  watch,
  type Watch,
} from '../system/index.js';
import { EAGAIN, EINTR } from '../system/calls/negative-errno.js';

/** Descriptors that go with one `send`. */
const FDS_PER_SEND = 250;

/** The longest message in bytes. States go in memfds, not in messages. */
const MESSAGE_MAX_BYTES = 1 << 26;

/** How long a full socket is left alone before the next attempt. */
const RETRY_MS = 1;

/** Bytes before the JSON: its length and the number of descriptors, 32-bit little-endian. */
const HEAD_BYTES = 8;

/** Takes what comes over a control connection. */
export interface ControlReceiver {
  /** Descriptors that it does not `take()` are closed when it returns. */
  onMessage(message: unknown, fds: readonly OwnedFd[]): void;
  /** The other process is gone, or does not keep to the form. Called once. */
  onEnd(): void;
}

/** A connection between two processes that carries JSON and any number of descriptors. */
export class ControlConnection {
  readonly #connection: UnixConnection;
  readonly #receiver: ControlReceiver;
  readonly #watch: Watch;
  readonly #fds: OwnedFd[] = [];
  #received = Buffer.alloc(0);
  #sending: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(connection: UnixConnection, receiver: ControlReceiver) {
    this.#connection = connection;
    this.#receiver = receiver;
    this.#watch = watch(connection.fd, () => this.#read());
  }

  /**
   * Sends a message. The descriptors must stay open until the promise resolves; it does so too when
   * the other process is gone.
   */
  send(message: object, fds: readonly Fd[] = []): Promise<void> {
    const json = Buffer.from(JSON.stringify(message));
    const sends = Math.ceil(fds.length / FDS_PER_SEND);
    // Each send has at least one byte, so that a message has as many bytes as sends.
    const length = Math.max(json.length, sends);
    const bytes = Buffer.alloc(HEAD_BYTES + length, ' ');
    bytes.writeUInt32LE(length, 0);
    bytes.writeUInt32LE(fds.length, 4);
    json.copy(bytes, HEAD_BYTES);
    this.#sending = this.#sending.then(() => this.#sendAll(bytes, fds));
    return this.#sending;
  }

  /** Idempotent. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#watch.close();
    this.#connection.close();
    for (const fd of this.#fds.splice(0)) fd.close();
    this.#receiver.onEnd();
    advancePromises();
  }

  async #sendAll(bytes: Buffer, fds: readonly Fd[]): Promise<void> {
    let at = 0;
    let nextFd = 0;
    while (at < bytes.length && !this.#ended) {
      const some = fds.slice(nextFd, nextFd + FDS_PER_SEND);
      const isLast = nextFd + some.length >= fds.length;
      const sent = this.#connection.send(isLast ? bytes.subarray(at) : bytes.subarray(at, at + 1), some);
      if (sent > 0) {
        at += sent;
        nextFd += some.length;
      } else if (sent === EAGAIN || sent === EINTR) {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      } else {
        this.end();
      }
    }
  }

  #read(): void {
    const chunk = Buffer.alloc(65536);
    const count = this.#connection.recv(chunk, this.#fds);
    if (count === EAGAIN || count === EINTR) return;
    if (count <= 0) {
      this.end();
      return;
    }
    this.#received = Buffer.concat([this.#received, chunk.subarray(0, count)]);
    while (!this.#ended && this.#takeMessage());
    advancePromises();
  }

  /** @returns whether there was a whole message. */
  #takeMessage(): boolean {
    if (this.#received.length < HEAD_BYTES) return false;
    const length = this.#received.readUInt32LE(0);
    const count = this.#received.readUInt32LE(4);
    if (length > MESSAGE_MAX_BYTES) this.end();
    if (this.#received.length < HEAD_BYTES + length || this.#fds.length < count || this.#ended) return false;
    const text = this.#received.toString('utf8', HEAD_BYTES, HEAD_BYTES + length);
    this.#received = this.#received.subarray(HEAD_BYTES + length);
    const fds = this.#fds.splice(0, count);
    try {
      this.#receiver.onMessage(JSON.parse(text), fds);
    } catch {
      this.end();
    } finally {
      for (const fd of fds) fd.close();
    }
    return true;
  }
}

/** Takes a descriptor out of its message. Whose it is, and what a close waits for, is not known. */
export function kept(fd: OwnedFd): OwnedFd {
  return new ReceivedFd(fd.take());
}
