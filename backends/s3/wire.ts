import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

/** Longest head of an answer, bytes: S3's have at most 2 KiB of metadata and as much again beside. */
const HEAD_MAX = 16 * 1024;
/** A body that nobody wants is read to its end when it is no longer than this; else the connection ends. */
const DRAIN_MAX = 64 * 1024;
/** Milliseconds after which an idle connection is not used again: servers close theirs after as little as 5 seconds. */
const IDLE_MAX = 4_000;
const CONNECT_TIMEOUT = 5_000;

/** Where requests go. */
export interface Origin {
  readonly secure: boolean;
  readonly hostname: string;
  readonly port: number;
}

export interface WireRequest {
  readonly method: 'HEAD' | 'GET' | 'PUT';
  /** With the query. */
  readonly path: string;
  /** `host` among them; names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
}

/** The head of an answer. Status 0: it was not one that we read, and its body is lost. */
export interface WireAnswer {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
}

/** Takes a body. */
export interface Sink {
  /** Memory for the bytes that come next: at least one, while the body is not whole. */
  room(): Uint8Array;
  /** So many bytes have come, to the start of what {@link room} gave. */
  took(count: number): void;
}

/** A sink that fills one piece of memory. */
export function into(target: Uint8Array): Sink {
  let at = 0;
  return { room: () => target.subarray(at), took: (count) => void (at += count) };
}

/** A sink that takes as much as comes. */
export class Collected implements Sink {
  readonly #pieces: Uint8Array[] = [];
  #piece = new Uint8Array(0);
  #filled = 0;

  room(): Uint8Array {
    if (this.#filled === this.#piece.length) {
      this.#pieces.push(this.#piece);
      this.#piece = new Uint8Array(64 * 1024);
      this.#filled = 0;
    }
    return this.#piece.subarray(this.#filled);
  }

  took(count: number): void {
    this.#filled += count;
  }

  toString(): string {
    return Buffer.concat([...this.#pieces, this.#piece.subarray(0, this.#filled)]).toString();
  }
}

/** Gives a sink what has come elsewhere. */
export function pour(bytes: Uint8Array, sink: Sink): void {
  for (let at = 0; at < bytes.length;) {
    const room = sink.room();
    const count = Math.min(room.length, bytes.length - at);
    room.set(bytes.subarray(at, at + count));
    sink.took(count);
    at += count;
  }
}

/** A request that waits for its answer. */
interface Exchange {
  readonly method: string;
  /** Asked when the head is there. Nothing: the body is not wanted. */
  accept(answer: WireAnswer): Sink | undefined;
  resolve(answer: WireAnswer): void;
  reject(error: Error): void;
}

/**
 * HTTP/1.1 (RFC 9112) as far as plain S3 requests need it, at a third of what Node's client costs, and without a copy: bodies are received
 * where they are to be. Connections are kept. An answer in a form that we don't read has status 0.
 */
export class Wire {
  readonly #origin: Origin;
  /** Last used last. */
  readonly #idle: Connection[] = [];
  #closed = false;

  constructor(origin: Origin) {
    this.#origin = origin;
  }

  /** @throws what the connection throws, and the signal's reason. */
  async send(
    request: WireRequest,
    signal: AbortSignal,
    accept: (answer: WireAnswer) => Sink | undefined,
  ): Promise<WireAnswer> {
    signal.throwIfAborted();
    const connection = this.#connection();
    const abort = (): void => connection.fail(signal.reason as Error);
    signal.addEventListener('abort', abort);
    try {
      return await connection.send(request, accept);
    } finally {
      signal.removeEventListener('abort', abort);
      if (connection.reusable && !this.#closed) {
        connection.rest();
        this.#idle.push(connection);
      } else connection.destroy();
    }
  }

  #connection(): Connection {
    for (let found = this.#idle.pop(); found !== undefined; found = this.#idle.pop()) {
      if (found.wake()) return found;
      found.destroy();
    }
    return new Connection(this.#origin);
  }

  close(): void {
    this.#closed = true;
    for (const connection of this.#idle.splice(0)) connection.destroy();
  }
}

/** One connection: one request at a time. */
class Connection {
  readonly #socket: Socket;
  /** Heads are received here, and bodies that nobody wants. */
  readonly #scratch = Buffer.allocUnsafeSlow(HEAD_MAX);
  readonly #connecting: NodeJS.Timeout;
  #exchange: Exchange | undefined;
  /** Bytes of a head so far. */
  #filled = 0;
  #answer: WireAnswer | undefined;
  #sink: Sink | undefined;
  /** Bytes of the body, or of the chunk, to come. */
  #left = 0;
  /** The body comes in chunks; what there is of the line between two. */
  #chunked = false;
  #line = '';
  /** What the line is: a chunk's length, the end of one, or a trailer. */
  #expects: 'length' | 'end' | 'trailer' = 'length';
  /** Where the next bytes go: what was given to the socket last. */
  #room: Uint8Array = this.#scratch;
  #keep = true;
  #rested = 0;

  constructor({ secure, hostname, port }: Origin) {
    const onread = {
      buffer: (): Uint8Array => this.#next(),
      callback: (count: number): boolean => {
        this.#received(count);
        return true;
      },
    };
    const options = { host: hostname, port, noDelay: true, onread };
    this.#socket = secure ? connectTls({ ...options, ALPNProtocols: ['http/1.1'] }) : connect(options);
    const late = (): void => this.fail(new Error('connection timed out'));
    this.#connecting = setTimeout(late, CONNECT_TIMEOUT);
    this.#socket.once(secure ? 'secureConnect' : 'connect', () => clearTimeout(this.#connecting));
    this.#socket.on('error', (error) => this.fail(error));
    this.#socket.on('end', () => this.fail(new Error('connection closed')));
    this.#socket.on('close', () => this.fail(new Error('connection closed')));
  }

  /** It can carry another request. */
  get reusable(): boolean {
    return this.#keep && !this.#socket.destroyed && this.#socket.writableLength === 0;
  }

  /** Nobody uses it: it does not keep the process. */
  rest(): void {
    this.#rested = performance.now();
    this.#socket.unref();
  }

  /** @returns whether it can be used again. */
  wake(): boolean {
    if (!this.reusable || performance.now() - this.#rested > IDLE_MAX) return false;
    this.#socket.ref();
    return true;
  }

  destroy(): void {
    this.#keep = false;
    clearTimeout(this.#connecting);
    this.#socket.destroy();
  }

  /** Ends the connection, and the request that waits. */
  fail(error: Error): void {
    const exchange = this.#exchange;
    this.#exchange = undefined;
    this.destroy();
    exchange?.reject(error);
  }

  send(
    { method, path, headers, body }: WireRequest,
    accept: (answer: WireAnswer) => Sink | undefined,
  ): Promise<WireAnswer> {
    return new Promise((resolve, reject) => {
      this.#exchange = { method, accept, resolve, reject };
      let head = `${method} ${path} HTTP/1.1\r\n`;
      for (const name in headers) head += `${name}: ${headers[name]}\r\n`;
      if (body !== undefined) head += `content-length: ${body.length}\r\n`;
      this.#socket.cork();
      this.#socket.write(`${head}\r\n`, 'latin1');
      if (body !== undefined && body.length > 0) this.#socket.write(body);
      this.#socket.uncork();
    });
  }

  #next(): Uint8Array {
    if (this.#answer === undefined) this.#room = this.#scratch.subarray(this.#filled);
    else if (this.#sink === undefined || this.#chunked) this.#room = this.#scratch;
    else {
      const room = this.#sink.room();
      this.#room = room.length > this.#left ? room.subarray(0, this.#left) : room;
    }
    return this.#room;
  }

  /** Bytes have come, to where {@link #next} said. */
  #received(count: number): void {
    try {
      if (this.#exchange === undefined) throw new Error('an answer that nobody asked for');
      if (this.#answer === undefined) this.#headBytes(count);
      else if (this.#chunked) this.#chunks(this.#scratch.subarray(0, count));
      else this.#bodyBytes(count);
    } catch (error) {
      this.fail(error as Error);
    }
  }

  #bodyBytes(count: number): void {
    if (count > this.#left) throw new Error('longer than announced');
    this.#left -= count;
    this.#sink?.took(count);
    if (this.#left === 0) this.#finish();
  }

  #headBytes(count: number): void {
    this.#filled += count;
    const end = this.#scratch.subarray(0, this.#filled).indexOf('\r\n\r\n', 0, 'latin1');
    if (end < 0) {
      if (this.#filled === HEAD_MAX) this.#unread();
      return;
    }
    const answer = headOf(this.#scratch.toString('latin1', 0, end));
    const rest = this.#scratch.subarray(end + 4, this.#filled);
    if (answer.status >= 100 && answer.status < 200) {
      rest.copy(this.#scratch);
      this.#filled = 0;
      if (rest.length > 0) this.#headBytes(rest.length);
      return;
    }
    this.#filled = 0;
    this.#begin(answer, rest);
  }

  #begin(answer: WireAnswer, rest: Uint8Array): void {
    const exchange = this.#exchange!;
    const { status, headers } = answer;
    if (headers.get('connection')?.toLowerCase() === 'close') this.#keep = false;
    const length = headers.get('content-length');
    if (exchange.method === 'HEAD' || status === 204 || status === 304) this.#left = 0;
    else if (headers.get('transfer-encoding') === 'chunked') return this.#beginChunks(answer, rest);
    else if (length === undefined || !/^\d{1,15}$/.test(length) || headers.has('transfer-encoding')) {
      return this.#unread(status >= 400 ? answer : undefined);
    } else this.#left = Number(length);
    this.#answer = answer;
    this.#sink = exchange.accept(answer);
    if (this.#sink === undefined && this.#left > DRAIN_MAX) return this.#unread(answer);
    if (rest.length > this.#left) throw new Error('longer than announced');
    for (let at = 0; at < rest.length;) {
      const room = this.#next();
      const count = Math.min(room.length, rest.length - at);
      if (this.#sink !== undefined) room.set(rest.subarray(at, at + count));
      at += count;
      this.#left -= count;
      this.#sink?.took(count);
    }
    if (this.#left === 0) this.#finish();
  }

  #beginChunks(answer: WireAnswer, rest: Uint8Array): void {
    this.#sink = this.#exchange!.accept(answer);
    if (this.#sink === undefined) return this.#unread(answer);
    this.#answer = answer;
    this.#chunked = true;
    this.#expects = 'length';
    this.#left = 0;
    this.#chunks(rest);
  }

  /** RFC 9112, section 7.1. */
  #chunks(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      if (this.#left > 0) {
        const count = Math.min(this.#left, bytes.length - at);
        pour(bytes.subarray(at, at + count), this.#sink!);
        at += count;
        this.#left -= count;
        continue;
      }
      const byte = bytes[at++]!;
      if (byte !== 10) {
        this.#line += String.fromCharCode(byte);
        if (this.#line.length > HEAD_MAX) throw new Error('a line without end');
      } else if (this.#lineEnded() && at < bytes.length) throw new Error('longer than announced');
    }
  }

  /** @returns whether the body is whole. */
  #lineEnded(): boolean {
    const line = this.#line.replace(/\r$/, '');
    this.#line = '';
    if (this.#expects === 'trailer') {
      if (line !== '') return false;
      this.#chunked = false;
      this.#finish();
      return true;
    }
    if (this.#expects === 'end') {
      if (line !== '') throw new Error('a chunk is longer than announced');
      this.#expects = 'length';
      return false;
    }
    const length = /^([\da-f]{1,8})(?:;|\s*$)/i.exec(line)?.[1];
    if (length === undefined) throw new Error('a chunk without its length');
    this.#left = Number.parseInt(length, 16);
    this.#expects = this.#left === 0 ? 'trailer' : 'end';
    return false;
  }

  /** The body is not read: the connection can't go on. */
  #unread(answer: WireAnswer = { status: 0, headers: new Map() }): void {
    this.#answer = answer;
    this.#finish();
    this.destroy();
  }

  #finish(): void {
    const exchange = this.#exchange!;
    const answer = this.#answer!;
    this.#exchange = undefined;
    this.#answer = undefined;
    this.#sink = undefined;
    exchange.resolve(answer);
  }
}

/** Reads a head without its empty line (RFC 9112, sections 4 and 5). */
function headOf(text: string): WireAnswer {
  const [first = '', ...lines] = text.split('\r\n');
  const match = /^HTTP\/1\.([01]) (\d{3})(?: |$)/.exec(first);
  if (match === null) throw new Error('no answer of HTTP/1');
  const headers = new Map<string, string>();
  if (match[1] === '0') headers.set('connection', 'close');
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon <= 0) throw new Error('a line that is no header');
    const name = line.slice(0, colon).toLowerCase();
    const value = line.slice(colon + 1).trim();
    const before = headers.get(name);
    headers.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  return { status: Number(match[2]), headers };
}
