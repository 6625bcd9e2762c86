import { advancePromises, type OwnedFd, type UnixConnection, watch, type Watch } from '../system/index.js';
import { EAGAIN, EINTR } from '../system/calls/errno.js';
import { encodeMessage, HEADER_SIZE, HeaderFlags, MAX_PAYLOAD, requestName } from '../vhost-user/messages.js';
import type { Said } from './setup.js';

/** The engine is gone, or has broken the protocol. */
export class LinkError extends Error {
  override readonly name = 'LinkError';
}

/** An engine's answer. Descriptors that are not `take`n are closed by the next exchange. */
export interface LinkReply {
  readonly payload: Uint8Array;
  readonly fds: readonly OwnedFd[];
}

interface Waiter {
  readonly request: number;
  resolve(reply: LinkReply): void;
  reject(error: LinkError): void;
}

/** One front-end's connection to an engine. One message at a time awaits an answer. */
export class EngineLink {
  readonly #connection: UnixConnection;
  readonly #watch: Watch;
  #received = Buffer.alloc(0);
  #fds: OwnedFd[] = [];
  #waiter: Waiter | undefined;
  #ended: LinkError | undefined;
  readonly #onEnd: () => void;

  /** @param onEnd called once, when the engine has closed the connection. */
  constructor(connection: UnixConnection, onEnd: () => void) {
    this.#connection = connection;
    this.#onEnd = onEnd;
    this.#watch = watch(connection.fd, () => this.#read());
  }

  /** Sends a message. @throws LinkError */
  send({ request, payload, fds }: Said, needReply = false): void {
    if (this.#ended !== undefined) throw this.#ended;
    const bytes = encodeMessage(request, needReply ? HeaderFlags.NEED_REPLY : 0, payload);
    const sent = this.#connection.send(
      bytes,
      fds.map((fd) => fd.value),
    );
    if (sent !== bytes.length) throw this.end(`the engine does not take ${requestName(request)}`);
  }

  /** Sends a message and waits for the answer. @throws LinkError */
  exchange(said: Said, needReply = false): Promise<LinkReply> {
    return new Promise((resolve, reject) => {
      this.send(said, needReply);
      this.#waiter = { request: said.request, resolve, reject };
    });
  }

  /** Idempotent. */
  end(reason: string): LinkError {
    if (this.#ended !== undefined) return this.#ended;
    const error = new LinkError(reason);
    this.#ended = error;
    this.#watch.close();
    this.#connection.close();
    for (const fd of this.#fds.splice(0)) fd.close();
    this.#waiter?.reject(error);
    this.#waiter = undefined;
    this.#onEnd();
    return error;
  }

  #read(): void {
    const chunk = Buffer.alloc(HEADER_SIZE + MAX_PAYLOAD);
    const count = this.#connection.recv(chunk, this.#fds);
    if (count === EAGAIN || count === EINTR) return;
    if (count <= 0) this.end('the engine closed the connection');
    else {
      this.#received = Buffer.concat([this.#received, chunk.subarray(0, count)]);
      this.#takeReply();
    }
    advancePromises();
  }

  #takeReply(): void {
    if (this.#received.length < HEADER_SIZE) return;
    const request = this.#received.readUInt32LE(0);
    const end = HEADER_SIZE + this.#received.readUInt32LE(8);
    if (end > HEADER_SIZE + MAX_PAYLOAD || this.#waiter?.request !== request) {
      this.end(`the engine sent an answer to ${requestName(request)} that nobody waits for`);
      return;
    }
    if (this.#received.length < end) return;
    const waiter = this.#waiter;
    this.#waiter = undefined;
    const payload = new Uint8Array(this.#received.subarray(HEADER_SIZE, end));
    this.#received = this.#received.subarray(end);
    waiter.resolve({ payload, fds: this.#fds.splice(0) });
  }
}
