import { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';

/**
 * An unwanted body of at most this many bytes is read to its end; a longer one ends the connection.
 */
export const DRAIN_MAX_BYTES = 64 * 1024;

/**
 * Asked before each piece of a body, with its bytes: it goes when the promise has settled, which
 * never fails.
 */
export type Pace = (count: number) => Promise<void> | undefined;

/** What a request with a body is sent with. */
export interface Sending {
  readonly signal: AbortSignal;
  readonly pace: Pace | undefined;
}

/** Bytes of the pieces in which a body goes that has a {@link Pace}. */
export const PACED_BYTES = 32 * 1024;

export interface WireRequest {
  readonly method: 'HEAD' | 'GET' | 'PUT' | 'POST' | 'DELETE';
  /** Path with the query. */
  readonly path: string;
  /** Includes `host`; names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | undefined;
  readonly pace?: Pace | undefined;
}

/** The head of an answer. */
export interface WireAnswer {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
}

/** Receives the body of an answer. */
export interface Sink {
  /** Memory for the next bytes: at least one byte, unless the body is complete. */
  room(): Uint8Array;
  /**
   * Reports that `count` bytes were written to the start of what {@link room} gave.
   * @returns a promise where no more is to be read before it has settled, which never fails.
   */
  took(count: number): Promise<void> | void;
}

/** A sink that fills one piece of memory. */
export function into(target: Uint8Array): Sink {
  let at = 0;
  return { room: () => target.subarray(at), took: (count) => void (at += count) };
}

/** A sink that grows with what comes. */
export class Collected implements Sink {
  readonly #pieces: Uint8Array[] = [];
  #piece = new Uint8Array(0);
  #filled = 0;
  /** Bytes for which there may still be memory. */
  #left: number;

  /** @param maxBytes most bytes that come; a body that has more is an error. */
  constructor(maxBytes = Number.POSITIVE_INFINITY) {
    this.#left = maxBytes;
  }

  room(): Uint8Array {
    if (this.#filled === this.#piece.length) {
      this.#pieces.push(this.#piece);
      this.#piece = new Uint8Array(Math.min(64 * 1024, this.#left));
      this.#left -= this.#piece.length;
      this.#filled = 0;
    }
    return this.#piece.subarray(this.#filled);
  }

  took(count: number): void {
    this.#filled += count;
  }

  bytes(): Buffer {
    return Buffer.concat([...this.#pieces, this.#piece.subarray(0, this.#filled)]);
  }

  toString(): string {
    return this.bytes().toString();
  }
}

/**
 * Writes bytes into a sink.
 * @returns a promise where the sink wants no more before it has settled.
 * @throws Error if it has no room for them.
 */
export function pour(bytes: Uint8Array, sink: Sink): Promise<void> | void {
  let wait: Promise<void> | void = undefined;
  for (let at = 0; at < bytes.length;) {
    const room = sink.room();
    if (room.length === 0) throw new Error('longer than announced');
    const count = Math.min(room.length, bytes.length - at);
    room.set(bytes.subarray(at, at + count));
    wait = sink.took(count);
    at += count;
  }
  return wait;
}

/**
 * Sends a request directly, without the SDK's layers.
 * @param accept called with the answer's head; returns where the body goes, or undefined if it is
 * not wanted
 * @returns the answer's head, when the body is complete.
 * @throws what the connection throws, and the signal's reason.
 */
export async function exchange(
  connections: Dispatcher,
  { method, path, headers, body, pace }: WireRequest,
  signal: AbortSignal,
  accept: (answer: WireAnswer) => Sink | undefined,
): Promise<WireAnswer> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    let running: Dispatcher.DispatchController | undefined;
    let answer: WireAnswer = { status: 0, headers: new Map() };
    let sink: Sink | undefined;
    let left = DRAIN_MAX_BYTES;
    const abort = (): void => {
      reject(signal.reason as Error);
      running?.abort(signal.reason as Error);
    };
    signal.addEventListener('abort', abort);
    const end = (): void => signal.removeEventListener('abort', abort);
    // Without `reset: false`, undici closes the connection after each HEAD.
    const options = { method, path, reset: false, ...sentBody(headers, body, pace) };
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
        if (sink !== undefined) {
          const wait = pour(bytes, sink);
          if (wait === undefined) return;
          controller.pause();
          void wait.then(() => controller.resume());
          return;
        }
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

function sentBody(
  headers: WireRequest['headers'],
  body: Uint8Array | undefined,
  pace: Pace | undefined,
): Pick<Dispatcher.DispatchOptions, 'headers' | 'body'> {
  if (body === undefined || pace === undefined) return { headers, body: body ?? null };
  const length = { 'content-length': String(body.length) };
  return { headers: { ...headers, ...length }, body: Readable.from(inPieces(body, pace)) };
}

/** A body piece by piece, each when its time has come. */
async function* inPieces(body: Uint8Array, pace: Pace): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < body.length; at += PACED_BYTES) {
    const piece = body.subarray(at, at + PACED_BYTES);
    await pace(piece.length);
    yield piece;
  }
}

function mapOf(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): ReadonlyMap<string, string> {
  const map = new Map<string, string>();
  for (const name in headers) {
    const value = headers[name];
    if (value !== undefined) map.set(name, trimmed(typeof value === 'string' ? value : value.join(', ')));
  }
  return map;
}

/**
 * Without spaces and tabs around it (RFC 9110, section 5.5). Other characters that JavaScript takes
 * for spaces are bytes of the value. By hand: a regular expression takes a time with the square of
 * the spaces within.
 */
export function trimmed(value: string): string {
  let start = 0;
  let end = value.length;
  while (start < end && isBlank(value.charCodeAt(start))) start += 1;
  while (end > start && isBlank(value.charCodeAt(end - 1))) end -= 1;
  return value.slice(start, end);
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09;
}
