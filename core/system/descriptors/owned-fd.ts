import { libc } from '../calls/libc.js';

const closeFd = libc<(fd: number) => number>('close', 'int', ['int']);

/** A descriptor with an owner, who closes it exactly once. */
export class OwnedFd {
  #value: number;

  constructor(value: number) {
    this.#value = value;
  }

  /** The descriptor, or -1 once it was closed or taken. */
  get value(): number {
    return this.#value;
  }

  /** Gives the descriptor, and the duty to close it, to the caller. */
  take(): number {
    const value = this.#value;
    this.#value = -1;
    return value;
  }

  /** Idempotent. */
  close(): void {
    if (this.#value >= 0) closeFd(this.take());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
