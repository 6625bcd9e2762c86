import type { Message } from '../../core/memory/index.js';
import type { DeviceSession } from '../../core/vhost-user/index.js';

/** A request whose first byte is this waits until it is released or the session is drained. */
export const HOLD = 0xff;

/**
 * The simplest service behind a device. It answers a request with the request's own bytes, as many
 * as fit. A request that begins with {@link HOLD} is kept, as one would be that a backend takes
 * long for.
 */
export class EchoSession implements DeviceSession {
  served = 0;
  closed = false;
  /** Makes drain wait for ever, as a backend that hangs would. */
  stuck = false;
  readonly held: Message[] = [];

  dispatch(message: Message): void {
    this.served += 1;
    const first = new Uint8Array(1);
    if (message.readable.length > 0) message.readable.copyOut(0, first, 0, 1);
    if (first[0] === HOLD) this.held.push(message);
    else answer(message);
  }

  /** Nothing is gathered. */
  submit(): void {}

  /** Answers everything that is held. */
  release(): void {
    for (const message of this.held.splice(0)) answer(message);
  }

  async quiesce(): Promise<number> {
    return this.held.length;
  }

  async drain(): Promise<void> {
    if (!this.stuck) this.release();
    else await new Promise(() => undefined);
  }

  settle(): Promise<void> {
    return this.drain();
  }

  /** Nothing waits for a lock. */
  withdraw(): void {}

  async close(): Promise<void> {
    this.closed = true;
  }
}

function answer(message: Message): void {
  const length = Math.min(message.readable.length, message.writable.length);
  const bytes = new Uint8Array(length);
  message.readable.copyOut(0, bytes, 0, length);
  message.writable.copyIn(0, bytes, 0, length);
  message.complete(length);
}
