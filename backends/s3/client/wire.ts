import { type Dispatcher, Pool } from 'undici';

/**
 * A body that nobody wants is read to its end when it is no longer than this; else the connection
 * ends.
 */
const DRAIN_MAX = 64 * 1024;
const CONNECT_TIMEOUT = 5_000;
/**
 * Milliseconds after which an idle connection is ended: servers end theirs after as little as 5
 * seconds.
 */
const IDLE_MOST = 4_000;

/**
 * @param origin such as `https://bucket.s3.example`.
 * @param connections at most; null: as many as there are requests at a time.
 * @returns what keeps the connections there.
 */
export function connectionsTo(origin: string, connections: number | null = null): Dispatcher {
  // Time-outs are the caller's.
  return new Pool(origin, {
    connections,
    keepAliveTimeout: IDLE_MOST,
    keepAliveMaxTimeout: IDLE_MOST,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: { timeout: CONNECT_TIMEOUT },
  });
}

export interface WireRequest {
  readonly method: 'HEAD' | 'GET' | 'PUT';
  /** With the query. */
  readonly path: string;
  /** `host` among them; names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | undefined;
}

/** The head of an answer. */
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

/** Gives a sink what has come. @throws Error if it has no room for it. */
export function pour(bytes: Uint8Array, sink: Sink): void {
  for (let at = 0; at < bytes.length;) {
    const room = sink.room();
    if (room.length === 0) throw new Error('longer than announced');
    const count = Math.min(room.length, bytes.length - at);
    room.set(bytes.subarray(at, at + count));
    sink.took(count);
    at += count;
  }
}

/**
 * Sends a request without the layers that the SDK puts around it.
 * @param accept asked when the head is there, where the body is to go. Nothing: it is not wanted.
 * @returns when the body is whole.
 * @throws what the connection throws, and the signal's reason.
 */
export async function exchange(
  connections: Dispatcher,
  { method, path, headers, body }: WireRequest,
  signal: AbortSignal,
  accept: (answer: WireAnswer) => Sink | undefined,
): Promise<WireAnswer> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    let running: Dispatcher.DispatchController | undefined;
    let answer: WireAnswer = { status: 0, headers: new Map() };
    let sink: Sink | undefined;
    let left = DRAIN_MAX;
    const abort = (): void => {
      reject(signal.reason as Error);
      running?.abort(signal.reason as Error);
    };
    signal.addEventListener('abort', abort);
    const end = (): void => signal.removeEventListener('abort', abort);
    // Without `reset: false` the connection would end with each HEAD.
    const options = { method, path, headers, body: body ?? null, reset: false };
    connections.dispatch(options, {
      onRequestStart(controller) {
        running = controller;
        if (signal.aborted) controller.abort(signal.reason as Error);
      },
      onResponseStart(_controller, status, received) {
        if (status < 200) return;
        answer = { status, headers: mapOf(received) };
        sink = accept(answer);
      },
      onResponseData(controller, bytes) {
        if (sink !== undefined) return pour(bytes, sink);
        left -= bytes.length;
        if (left >= 0) return;
        resolve(answer);
        controller.abort(new Error('not wanted'));
      },
      onResponseEnd() {
        end();
        resolve(answer);
      },
      onResponseError(_controller, error) {
        end();
        reject(error);
      },
    });
  });
}

function mapOf(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): ReadonlyMap<string, string> {
  const map = new Map<string, string>();
  for (const name in headers) {
    const value = headers[name];
    if (value !== undefined) map.set(name, (typeof value === 'string' ? value : value.join(', ')).trim());
  }
  return map;
}
