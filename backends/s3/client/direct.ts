import { connect, isIP } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectSecurely } from 'node:tls';
import type { ConnectionOptions, SecureContext } from 'node:tls';
import { ChunkedBody } from './chunked-body.js';
import { DRAIN_MAX_BYTES, PACED_BYTES, pour, trimmed } from './http.js';
import type { Pace, Sink, WireAnswer, WireRequest } from './http.js';
import type { Server } from './proxies.js';

/*
 * HTTP/1.1 (RFC 9112) as far as the most frequent requests need it. Bodies whose length is
 * announced go from the socket into the memory that they are for, without a copy in between.
 */

/** Most bytes of an answer's head. */
const HEAD_MAX_BYTES = 16 * 1024;
/** Connecting is tried anew after one second and after three (Linux, tcp_syn_retries). */
export const CONNECT_TIMEOUT_MS = 4_000;
/** As that of the other connections. */
const IDLE_MAX_MS = 4_000;

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: |$)/;
/** A header's name (RFC 9110, section 5.1). */
const FIELD_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
/** What a header of a request is made of here. */
const PRINTABLE = /^[\t -~]*$/;

/** The head of an answer, and how its body ends. */
interface Head {
  readonly answer: WireAnswer;
  /** Bytes of the body; undefined where they are not announced. */
  readonly length: number | undefined;
  /** Whether the body comes in chunks. If not, and its length is not announced, the end ends it. */
  readonly isChunked: boolean;
  /** Whether the connection can be used again. */
  readonly keeps: boolean;
}

/** A request that waits for its answer. */
interface Exchange {
  readonly request: WireRequest;
  readonly accept: (answer: WireAnswer) => Sink | undefined;
  readonly resolve: (answer: WireAnswer) => void;
  readonly reject: (error: unknown) => void;
  /** Ends the wait for a signal. */
  readonly end: () => void;
}

/** Connections to one server, as many as there are requests at a time. */
export class DirectConnections {
  readonly #server: Server;
  readonly #secureContext: SecureContext | undefined;
  /** The one used last comes last. */
  readonly #idle: Connection[] = [];
  readonly #all = new Set<Connection>();
  /** Of the last TLS connection, so that the next one is quicker. */
  #session: Buffer | undefined;

  /** @param secureContext the authorities that are trusted, instead of Node's defaults. */
  constructor(server: Server, secureContext: SecureContext | undefined) {
    this.#server = server;
    this.#secureContext = secureContext;
  }

  /**
   * Sends a request.
   * @param accept called with the answer's head; returns where the body goes, or undefined if it is
   * not wanted
   * @returns the answer's head, when the body is complete.
   * @throws what the connection and the sink throw, and the signal's reason.
   */
  async exchange(
    request: WireRequest,
    signal: AbortSignal,
    accept: (answer: WireAnswer) => Sink | undefined,
  ): Promise<WireAnswer> {
    signal.throwIfAborted();
    const idle = this.#idle.pop();
    if (idle === undefined) return this.#open().send(request, signal, accept);
    try {
      return await idle.send(request, signal, accept);
    } catch (error) {
      // The server may have closed it in this moment.
      const isUnanswered = !idle.hasAnswered && !signal.aborted;
      if (!isUnanswered || (request.method !== 'GET' && request.method !== 'HEAD')) throw error;
      return this.#open().send(request, signal, accept);
    }
  }

  #open(): Connection {
    const connection = new Connection(
      (onread) => this.#connect(onread),
      () => void this.#idle.push(connection),
      () => {
        this.#all.delete(connection);
        const at = this.#idle.indexOf(connection);
        if (at >= 0) this.#idle.splice(at, 1);
      },
    );
    this.#all.add(connection);
    return connection;
  }

  #connect(onread: OnRead): Socket {
    const { protocol, hostname, port } = this.#server;
    const host = hostname.replace(/^\[|\]$/g, '');
    if (protocol !== 'https:') return connect({ host, port: port ?? 80, noDelay: true, onread });
    const context = this.#secureContext;
    const session = this.#session;
    const options: ConnectionOptions & { readonly onread: OnRead } = {
      host,
      port: port ?? 443,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ALPNProtocols: ['http/1.1'],
      ...(context === undefined ? {} : { secureContext: context }),
      ...(session === undefined ? {} : { session }),
      onread,
    };
    const socket = connectSecurely(options);
    socket.on('session', (found: Buffer) => (this.#session = found));
    return socket.setNoDelay();
  }

  close(): void {
    for (const connection of this.#all) connection.destroy();
  }
}

/** Where a socket puts what it reads (Node.js, `net.connect`, `onread`). */
interface OnRead {
  readonly buffer: () => Uint8Array;
  readonly callback: (count: number) => boolean;
}

class Connection {
  /** Whether anything has come since the last request was sent. */
  hasAnswered = false;
  readonly #socket: Socket;
  readonly #isIdle: () => void;
  readonly #head = Buffer.allocUnsafeSlow(HEAD_MAX_BYTES);
  /** Bytes of the head that have come. */
  #filled = 0;
  #exchange: Exchange | undefined;
  /** Its body is coming. */
  #coming: Head | undefined;
  #sink: Sink | undefined;
  /** Bytes of the body that have not come yet; of one of unknown length there is no end. */
  #left = 0;
  /** The request's own body has not gone to its end. */
  #isSending = false;
  #chunks: ChunkedBody | undefined;

  /**
   * @param isIdle called when the next request can be sent
   * @param isClosed called when none can be sent any more.
   */
  constructor(open: (onread: OnRead) => Socket, isIdle: () => void, isClosed: () => void) {
    this.#isIdle = isIdle;
    const socket = open({ buffer: () => this.#room(), callback: (count) => this.#received(count) });
    this.#socket = socket;
    const late = setTimeout(() => this.#fail(failure('ETIMEDOUT')), CONNECT_TIMEOUT_MS);
    socket.once('encrypted' in socket ? 'secureConnect' : 'connect', () => clearTimeout(late));
    socket.on('timeout', () => this.destroy());
    socket.on('end', () => this.#ended());
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => {
      clearTimeout(late);
      this.#fail(failure('ECONNRESET'));
      isClosed();
    });
  }

  send(
    request: WireRequest,
    signal: AbortSignal,
    accept: (answer: WireAnswer) => Sink | undefined,
  ): Promise<WireAnswer> {
    this.hasAnswered = false;
    this.#socket.setTimeout(0);
    return new Promise((resolve, reject) => {
      const abort = (): void => this.#fail(signal.reason);
      signal.addEventListener('abort', abort);
      const end = (): void => signal.removeEventListener('abort', abort);
      this.#exchange = { request, accept, resolve, reject, end };
      this.#write(request);
    });
  }

  #write({ method, path, headers, body, pace }: WireRequest): void {
    let head = `${method} ${path} HTTP/1.1\r\n`;
    for (const name in headers) {
      const value = headers[name]!;
      if (!PRINTABLE.test(value)) return this.#fail(new TypeError(`header ${name}: has bytes beyond ASCII`));
      head += `${name}: ${value}\r\n`;
    }
    const hasBody = method === 'PUT' || method === 'POST';
    if (hasBody) head += `content-length: ${body?.length ?? 0}\r\n`;
    head += '\r\n';
    if (body === undefined || body.length === 0) {
      this.#socket.write(head, 'latin1');
      return;
    }
    this.#socket.cork();
    this.#socket.write(head, 'latin1');
    if (pace === undefined) this.#socket.write(body);
    else void this.#writePieces(this.#exchange!, body, pace);
    this.#socket.uncork();
  }

  async #writePieces(exchange: Exchange, body: Uint8Array, pace: Pace): Promise<void> {
    this.#isSending = true;
    for (let at = 0; at < body.length; at += PACED_BYTES) {
      const piece = body.subarray(at, at + PACED_BYTES);
      await pace(piece.length);
      if (this.#exchange !== exchange) return;
      this.#socket.write(piece);
    }
    this.#isSending = false;
  }

  /** Memory for what comes next. */
  #room(): Uint8Array {
    if (this.#coming === undefined) return this.#head.subarray(this.#filled);
    if (this.#chunks !== undefined) return this.#head;
    try {
      const room = this.#sink?.room();
      if (room === undefined) return this.#head;
      if (room.length > 0) return room.length > this.#left ? room.subarray(0, this.#left) : room;
      this.#fail(new Error('longer than announced'));
    } catch (error) {
      this.#fail(error);
    }
    return this.#head;
  }

  /** @returns whether more is to be read. */
  #received(count: number): boolean {
    this.hasAnswered = true;
    try {
      if (this.#exchange === undefined) throw new Error('bytes that were not asked for');
      if (this.#coming === undefined) {
        this.#filled += count;
        this.#begin(this.#exchange);
      } else if (this.#chunks !== undefined) {
        const isOver = this.#chunks.take(this.#head.subarray(0, count));
        const { wait } = this.#chunks;
        if (isOver) this.#done(this.#exchange, true);
        else if (wait !== undefined) return this.#rest(wait);
      } else {
        this.#left -= count;
        const wait = this.#sink?.took(count);
        if (this.#left <= 0) this.#done(this.#exchange, this.#left === 0);
        else if (wait !== undefined) return this.#rest(wait);
      }
    } catch (error) {
      this.#fail(error);
    }
    return !this.#socket.destroyed;
  }

  /** @returns that nothing more is to be read for now. */
  #rest(wait: Promise<void>): false {
    void wait.then(() => this.#socket.resume());
    return false;
  }

  /** Takes the head of an answer, if it is complete, and what has come of the body with it. */
  #begin(exchange: Exchange): void {
    for (;;) {
      const end = this.#head.subarray(0, this.#filled).indexOf('\r\n\r\n', 0, 'latin1');
      if (end < 0) {
        if (this.#filled === HEAD_MAX_BYTES) throw new Error('an answer with too long a head');
        return;
      }
      const head = parseHead(this.#head.toString('latin1', 0, end), exchange.request);
      const body = this.#head.subarray(end + 4, this.#filled);
      if (head === undefined) {
        this.#head.copyWithin(0, end + 4, this.#filled);
        this.#filled = body.length;
        continue;
      }
      this.#filled = 0;
      this.#coming = head;
      const sink = exchange.accept(head.answer);
      this.#sink = sink;
      const length = head.length ?? Number.POSITIVE_INFINITY;
      if (sink === undefined && length > DRAIN_MAX_BYTES) return this.#done(exchange, false);
      if (head.isChunked) {
        this.#chunks = new ChunkedBody(sink!);
        if (this.#chunks.take(body)) this.#done(exchange, true);
        return;
      }
      this.#left = length - body.length;
      if (this.#left < 0) throw new Error('bytes after the end of an answer');
      if (this.#sink !== undefined) pour(body, this.#sink);
      if (this.#left === 0) this.#done(exchange, true);
      return;
    }
  }

  /** @param isWhole whether the body has come to its end, so that the next answer may come. */
  #done({ resolve, end }: Exchange, isWhole: boolean): void {
    const { answer, keeps } = this.#coming!;
    end();
    this.#exchange = undefined;
    this.#coming = undefined;
    this.#sink = undefined;
    this.#chunks = undefined;
    // A server that has answered before it had the request is not sent the rest.
    if (!isWhole || !keeps || this.#isSending || this.#socket.writableLength > 0) this.destroy();
    else {
      this.#socket.setTimeout(IDLE_MAX_MS);
      this.#isIdle();
    }
    resolve(answer);
  }

  /** The server sends no more: the end of a body of unknown length, if one is coming. */
  #ended(): void {
    const isBody = this.#exchange !== undefined && this.#left === Number.POSITIVE_INFINITY;
    if (isBody) this.#done(this.#exchange!, false);
    else this.#fail(failure('ECONNRESET'));
  }

  #fail(error: unknown): void {
    const exchange = this.#exchange;
    this.#exchange = undefined;
    this.#sink = undefined;
    this.destroy();
    exchange?.end();
    exchange?.reject(error);
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

function failure(code: 'ECONNRESET' | 'ETIMEDOUT'): Error {
  return Object.assign(new Error(`connection failed: ${code}`), { code });
}

/**
 * @returns undefined for one that says that another follows.
 * @throws Error if it is none.
 */
function parseHead(text: string, { method }: WireRequest): Head | undefined {
  const [first = '', ...lines] = text.split('\r\n');
  const [, version, code] = STATUS_LINE.exec(first) ?? [];
  const status = Number(code);
  // 100 and 101 answer what was not asked for.
  if (code === undefined || status === 100 || status === 101) throw new Error('no answer of HTTP');
  if (status < 200) return undefined;
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(colon, 0)).toLowerCase();
    if (!FIELD_NAME.test(name) || line.includes('\0')) throw new Error('no header of HTTP');
    const value = trimmed(line.slice(colon + 1));
    const before = headers.get(name);
    headers.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  const connection = headers.get('connection')?.toLowerCase() ?? '';
  const keeps = version === '1' && !/\bclose\b/.test(connection);
  const length = lengthOf(method, status, headers);
  const codings = length === undefined ? headers.get('transfer-encoding') : undefined;
  const isChunked = codings !== undefined;
  if (isChunked && codings.toLowerCase() !== 'chunked') throw new Error('a coding that was not asked for');
  return { answer: { status, headers }, length, isChunked, keeps };
}

/** RFC 9112, section 6.3. */
function lengthOf(
  method: WireRequest['method'],
  status: number,
  headers: ReadonlyMap<string, string>,
): number | undefined {
  if (method === 'HEAD' || status === 204 || status === 304) return 0;
  if (headers.has('transfer-encoding')) return undefined;
  const length = headers.get('content-length');
  if (length === undefined) return undefined;
  if (!/^\d{1,15}$/.test(length)) throw new Error('no length of HTTP');
  return Number(length);
}
