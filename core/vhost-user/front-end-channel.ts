import {
  type Fd,
  advancePromises,
  UnixConnection,
  watch,
  type OwnedFd,
  type Watch,
} from '../system/index.js';
import {
  encodeMessage,
  HEADER_SIZE,
  HeaderFlags,
  MAX_PAYLOAD_BYTES,
  Request,
  requestName,
  type RequestName,
} from './messages.js';
import { EAGAIN, EINTR } from '../system/calls/negative-errno.js';

/** The daemon has refused a message, has broken the protocol, or has gone away. */
export class FrontEndError extends Error {
  override readonly name = 'FrontEndError';
}

/** A reply with the descriptors that came with it. Whoever gets it closes them. */
export interface FrontEndReply {
  readonly payload: Uint8Array;
  readonly fds: readonly OwnedFd[];
}

interface Waiter {
  readonly request: number;
  resolve(reply: FrontEndReply): void;
  reject(error: Error): void;
}

/**
 * The front-end's end of the message stream. It sends messages. Replies come in the order of the
 * messages.
 */
export class FrontEndChannel {
  readonly #connection: UnixConnection;
  readonly #watch: Watch;
  readonly #waiting: Waiter[] = [];
  readonly #onEnd: (error: FrontEndError) => void;
  #received = new Uint8Array(0);
  /** Descriptors that came since the last reply. */
  readonly #fds: OwnedFd[] = [];
  #ended: FrontEndError | undefined;
  /** Whether REPLY_ACK was negotiated. Every command then asks for an acknowledgement. */
  acknowledged = false;

  /** @param onEnd called once, when the daemon has closed the stream or broken the protocol. */
  constructor(connection: UnixConnection, onEnd: (error: FrontEndError) => void) {
    this.#connection = connection;
    this.#onEnd = onEnd;
    this.#watch = watch(connection.fd, () => this.#read());
  }

  /**
   * Sends a message.
   * @param request its name, or its number if the message is another front-end's, passed on.
   * @throws FrontEndError if the stream has ended.
   */
  send(request: RequestName | number, payload: Uint8Array, fds: readonly Fd[] = [], flags = 0): void {
    if (this.#ended !== undefined) throw this.#ended;
    const bytes = encodeMessage(numberOf(request), flags, payload);
    const sent = this.#connection.send(bytes, fds);
    if (sent === bytes.length) return;
    const reason = sent < 0 ? `errno ${-sent}` : 'it does not read';
    throw this.end(`cannot send ${requestName(numberOf(request))} to the daemon: ${reason}`);
  }

  /**
   * Sends a message and waits for its reply.
   * @param request as for {@link send}.
   * @throws FrontEndError if the stream ends before the reply.
   */
  exchange(
    request: RequestName | number,
    payload: Uint8Array,
    fds: readonly Fd[] = [],
    flags = 0,
  ): Promise<FrontEndReply> {
    return new Promise((resolve, reject) => {
      this.send(request, payload, fds, flags);
      this.#waiting.push({ request: numberOf(request), resolve, reject });
    });
  }

  /**
   * Sends a message that has a reply of its own, and waits for it. Descriptors of the reply are
   * closed.
   * @returns the reply's payload.
   */
  async call(name: RequestName, payload: Uint8Array, fds: readonly Fd[] = []): Promise<Uint8Array> {
    const reply = await this.exchange(name, payload, fds);
    for (const fd of reply.fds) fd.close();
    return reply.payload;
  }

  /**
   * Sends a message that has no reply of its own. If REPLY_ACK was negotiated, waits for the
   * acknowledgement.
   */
  async command(name: RequestName, payload: Uint8Array, fds: readonly Fd[] = []): Promise<void> {
    if (!this.acknowledged) {
      this.send(name, payload, fds);
      return;
    }
    const reply = await this.exchange(name, payload, fds, HeaderFlags.NEED_REPLY);
    for (const fd of reply.fds) fd.close();
    if (reply.payload.length !== 8 || reply.payload.some((byte) => byte !== 0)) {
      throw new FrontEndError(`the daemon refused ${name}`);
    }
  }

  /**
   * Reads the connection now, for a caller that keeps the event loop busy.
   * @returns whether the connection is still open.
   */
  poll(): boolean {
    if (this.#ended === undefined) this.#read();
    return this.#ended === undefined;
  }

  /** Closes the connection, and rejects all waiting calls with the reason. Idempotent. */
  end(reason: string): FrontEndError {
    if (this.#ended !== undefined) return this.#ended;
    const error = new FrontEndError(reason);
    this.#ended = error;
    this.#watch.close();
    this.#connection.close();
    for (const fd of this.#fds.splice(0)) fd.close();
    for (const waiter of this.#waiting.splice(0)) waiter.reject(error);
    this.#onEnd(error);
    return error;
  }

  #read(): void {
    const chunk = new Uint8Array(HEADER_SIZE + MAX_PAYLOAD_BYTES);
    const count = this.#connection.recv(chunk, this.#fds);
    if (count === EAGAIN || count === EINTR) return;
    if (count <= 0) {
      this.end('the daemon closed the connection');
    } else {
      this.#received = Buffer.concat([this.#received, chunk.subarray(0, count)]);
      while (this.#ended === undefined && this.#takeReply());
    }
    advancePromises();
  }

  /** Passes the next reply on. @returns whether there was a whole one. */
  #takeReply(): boolean {
    if (this.#received.length < HEADER_SIZE) return false;
    const view = new DataView(this.#received.buffer, this.#received.byteOffset);
    const request = view.getUint32(0, true);
    const flags = view.getUint32(4, true);
    const end = HEADER_SIZE + view.getUint32(8, true);
    const waiter = this.#waiting[0];
    const name = requestName(request);
    if (
      end > HEADER_SIZE + MAX_PAYLOAD_BYTES ||
      (flags & ~HeaderFlags.NEED_REPLY) !== (HeaderFlags.VERSION | HeaderFlags.REPLY)
    ) {
      this.end(`the daemon sent a malformed reply to ${name}`);
      return false;
    }
    if (waiter?.request !== request) {
      this.end(`the daemon sent a reply to ${name} that nobody waits for`);
      return false;
    }
    if (this.#received.length < end) return false;
    this.#waiting.shift();
    waiter.resolve({ payload: this.#received.slice(HEADER_SIZE, end), fds: this.#fds.splice(0) });
    this.#received = this.#received.subarray(end);
    return true;
  }
}

function numberOf(request: RequestName | number): number {
  return typeof request === 'number' ? request : Request[request];
}
