import type { Sink, Source } from './content.js';

/** An array as the target of reads and the source of writes. */
export class Bytes implements Sink, Source {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get length(): number {
    return this.#bytes.length;
  }

  put(at: number, source: Uint8Array, start = 0, end = source.length): void {
    this.#bytes.set(source.subarray(start, end), at);
  }

  get(at: number, target: Uint8Array, start = 0, end = target.length): void {
    target.set(this.#bytes.subarray(at, at + end - start), start);
  }

  zero(at: number, length: number): void {
    this.#bytes.fill(0, at, at + length);
  }
}
