import {
  advancePromises,
  type Fd,
  watch,
  type OwnedFd,
  type UnixConnection,
  type Watch,
} from '../system/index.js';
import { decodeHeader, HEADER_SIZE, type Header, MAX_REGIONS, ProtocolError } from './messages.js';
import { EAGAIN, ECONNRESET, EINTR } from '../system/calls/negative-errno.js';

/** The stream has failed: the front-end is gone, or does not read its replies. */
export class ChannelError extends Error {
  override readonly name = 'ChannelError';
}

/** A message from the stream, not decoded. */
export interface RawMessage {
  readonly header: Header;
  /** A copy: the front-end can't change it. */
  readonly payload: Uint8Array;
  /**
   * Descriptors that came along. Those that the receiver does not `take()` are closed when it is
   * done.
   */
  readonly fds: readonly OwnedFd[];
}

/** Receives the messages of a channel. */
export interface ChannelReceiver {
  /**
   * Handles a message. If it returns a promise, nothing is read until that settles. An exception
   * ends the channel.
   */
  onMessage(message: RawMessage): void | Promise<void>;
  /**
   * The stream has ended. Called once. `error` is absent if the front-end has closed it between two
   * messages.
   */
  onEnd(error: Error | undefined): void;
}

/**
 * The stream of messages on a connection. It frames messages and passes them on one at a time, each
 * with its descriptors. It never reads beyond the end of a message, so that the descriptors
 * received so far belong to that message.
 */
export class Channel {
  readonly #connection: UnixConnection;
  readonly #receiver: ChannelReceiver;
  readonly #watch: Watch;
  readonly #head = new Uint8Array(HEADER_SIZE);
  #header: Header | undefined;
  #payload = new Uint8Array(0);
  /** Bytes read of the header, or of the payload once the header is complete. */
  #filled = 0;
  #fds: OwnedFd[] = [];
  #ended = false;
  /** Whether a whole message has come. */
  hasReceived = false;

  constructor(connection: UnixConnection, receiver: ChannelReceiver) {
    this.#connection = connection;
    this.#receiver = receiver;
    this.#watch = watch(connection.fd, () => this.#read());
  }

  /**
   * Sends a reply. If the socket has no room for all of it, the channel ends: a front-end that does
   * not read its replies is not served.
   */
  send(bytes: Uint8Array, fds: readonly Fd[] = []): void {
    if (this.#ended) return;
    const sent = this.#connection.send(bytes, fds);
    if (sent === bytes.length) return;
    const reason = sent < 0 && sent !== EAGAIN ? `errno ${-sent}` : 'it does not read its replies';
    this.end(new ChannelError(`cannot send to the front-end: ${reason}`));
  }

  /** Closes the connection and what came with an unfinished message. Idempotent. */
  end(error?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#watch.close();
    this.#connection.close();
    this.#closeFds();
    this.#receiver.onEnd(error);
  }

  /** Reads further bytes of the current message, and passes it on once it is complete. */
  #read(): void {
    try {
      const target = this.#header === undefined ? this.#head : this.#payload;
      if (!this.#fill(target)) return;
      if (this.#header === undefined) {
        this.#header = decodeHeader(this.#head);
        this.#payload = new Uint8Array(this.#header.size);
        this.#filled = 0;
        if (this.#header.size > 0 && !this.#fill(this.#payload)) return;
      }
      this.#deliver(this.#header);
    } catch (error) {
      this.end(error as Error);
    }
  }

  /** @returns whether `target` is full now. */
  #fill(target: Uint8Array): boolean {
    const count = this.#connection.recv(target.subarray(this.#filled), this.#fds);
    if (count === EAGAIN || count === EINTR) return false;
    if (count <= 0) {
      const within = this.#filled > 0 || this.#header !== undefined;
      const gone = count === 0 || count === ECONNRESET;
      if (gone && !within) this.end();
      else
        this.end(
          new ChannelError(gone ? 'the connection ended within a message' : `recvmsg: errno ${-count}`),
        );
      return false;
    }
    if (this.#fds.length > MAX_REGIONS) {
      throw new ProtocolError(
        `${this.#fds.length} file descriptors with one message, more than ${MAX_REGIONS}`,
      );
    }
    this.#filled += count;
    return this.#filled === target.length;
  }

  #deliver(header: Header): void {
    this.hasReceived = true;
    const message = { header, payload: this.#payload, fds: this.#fds };
    const done = this.#receiver.onMessage(message);
    if (done === undefined) {
      this.#next();
      return;
    }
    this.#watch.pause();
    advancePromises();
    void this.#resumeAfter(done);
  }

  async #resumeAfter(done: Promise<void>): Promise<void> {
    try {
      await done;
      this.#next();
      if (!this.#ended) this.#watch.resume();
    } catch (error) {
      this.end(error as Error);
    }
  }

  #next(): void {
    this.#closeFds();
    this.#header = undefined;
    this.#filled = 0;
  }

  #closeFds(): void {
    for (const fd of this.#fds) fd.close();
    this.#fds = [];
  }
}
