import type { Fd } from './fd.js';
import { native } from '../calls/libc-functions.js';

/** A descriptor with an owner, who closes it exactly once. */
export class OwnedFd {
  #value: Fd;

  constructor(value: Fd) {
    this.#value = value;
  }

  /** The descriptor, or -1 once it was closed or taken. */
  get value(): Fd {
    return this.#value;
  }

  /** Gives the descriptor, and the duty to close it, to the caller. */
  take(): Fd {
    const value = this.#value;
    this.#value = -1 as Fd;
    return value;
  }

  /** Idempotent. */
  close(): void {
    if (this.#value >= 0) native.close(this.take());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
