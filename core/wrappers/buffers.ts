import type { BackendHost, HostBuffer } from '../backend/index.js';

/** Buffers of one size for I/O with the inner backend. Some are kept for the next time. */
export class Buffers {
  readonly #bytes: number;
  readonly #most: number;
  readonly #free: HostBuffer[] = [];
  #host: BackendHost | undefined;
  #isClosed = false;

  /** @param most how many are kept while nobody uses them. */
  constructor(bytes: number, most: number) {
    this.#bytes = bytes;
    this.#most = most;
  }

  /** Who makes them: what `mount` is given. */
  set host(host: BackendHost) {
    this.#host = host;
  }

  /** A buffer, with anything in it. */
  take(): HostBuffer {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#host === undefined) throw new Error('no request comes before mount');
    return this.#host.createBuffer(this.#bytes);
  }

  give(buffer: HostBuffer): void {
    if (this.#isClosed || this.#free.length >= this.#most) buffer.close();
    else this.#free.push(buffer);
  }

  close(): void {
    this.#isClosed = true;
    for (const buffer of this.#free.splice(0)) buffer.close();
  }
}
