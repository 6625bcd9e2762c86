import { pour } from './http.js';
import type { Sink } from './http.js';

/** Most bytes of a line that is no data: of a chunk's size with its extensions, or of a trailer. */
const LINE_MAX_BYTES = 4096;
const LF = 0x0a;

/** Takes a body apart that comes in chunks (RFC 9112, section 7.1). */
export class ChunkedBody {
  readonly #sink: Sink;
  /** What comes next: the line with a chunk's size, its data, the line after it, or trailers. */
  #next: 'size' | 'data' | 'end' | 'trailer' = 'size';
  /** Bytes of the chunk that have not come yet. */
  #left = 0;
  /** Settles when more may come, where the sink has said so of what it took last. */
  wait: Promise<void> | void = undefined;
  /** What has come of a line. */
  #line = '';

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  /**
   * @returns whether the body is complete.
   * @throws Error if it is none of chunks, or something follows it.
   */
  take(bytes: Uint8Array): boolean {
    this.wait = undefined;
    for (let at = 0; at < bytes.length;) {
      if (this.#next === 'data') {
        const data = bytes.subarray(at, at + this.#left);
        this.wait = pour(data, this.#sink);
        at += data.length;
        this.#left -= data.length;
        if (this.#left === 0) this.#next = 'end';
        continue;
      }
      const end = bytes.indexOf(LF, at);
      const stop = end < 0 ? bytes.length : end;
      this.#line += String.fromCharCode(...bytes.subarray(at, Math.min(stop, at + LINE_MAX_BYTES)));
      if (this.#line.length > LINE_MAX_BYTES || stop - at > LINE_MAX_BYTES)
        throw new Error('too long a line');
      if (end < 0) return false;
      at = end + 1;
      if (!this.#ended(this.#line)) continue;
      if (at < bytes.length) throw new Error('bytes after the end of an answer');
      return true;
    }
    return false;
  }

  /** @returns whether that line ends the body. */
  #ended(line: string): boolean {
    this.#line = '';
    if (!line.endsWith('\r')) throw new Error('no line of HTTP');
    const text = line.slice(0, -1);
    if (this.#next === 'trailer') return text === '';
    if (this.#next === 'end') {
      if (text !== '') throw new Error('no end of a chunk');
      this.#next = 'size';
      return false;
    }
    const size = /^([0-9a-f]{1,12})[\t ]*(?:;|$)/i.exec(text)?.[1];
    if (size === undefined) throw new Error('no size of a chunk');
    this.#left = Number.parseInt(size, 16);
    this.#next = this.#left === 0 ? 'trailer' : 'data';
    return false;
  }
}
