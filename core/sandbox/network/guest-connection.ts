import { setMaxListeners } from 'node:events';
import { type Duplex, duplexPair } from 'node:stream';
import { FsError } from '../../backend/index.js';
import { drained, pass, StreamReader } from '../pipes.js';

/** A connection that the guest has closed is given up when it reads nothing for so long. */
const LINGER_MS = 30_000;

/** What is passed on in one piece. A parser that has had enough cannot stop within one. */
const PIECE_BYTES = 16_384;

/** A connection that a program of the guest has made. */
export class GuestConnection {
  /** What the program sends, and gets. */
  readonly stream: Duplex;
  /** Aborted when the stream is closed. */
  readonly gone: AbortSignal;
  /** Requests of it that have no answer yet. */
  unanswered = 0;
  readonly #guest: Duplex;
  readonly #reader: StreamReader;
  #hasRead = false;
  #linger: NodeJS.Timeout | undefined;

  constructor() {
    const gone = new AbortController();
    this.gone = gone.signal;
    setMaxListeners(0, gone.signal);
    [this.stream, this.#guest] = duplexPair();
    this.#reader = new StreamReader(this.#guest);
    this.stream
      .on('error', () => this.stream.destroy())
      .once('close', () => {
        clearInterval(this.#linger);
        // The guest may still read what came last.
        this.#reader.push((this.#guest.read() as Buffer | null) ?? Buffer.alloc(0));
        this.#guest.destroy();
        gone.abort();
      })
      .once('finish', () => {
        // What the guest has sent last need not be read any more.
        if (this.#linger !== undefined) this.stream.destroy();
      });
  }

  /** The guest has sent bytes. It waits until they are wanted. */
  sent(bytes: Buffer): Promise<void> | undefined {
    // A write that was interrupted has left its bytes here: another one waits like the first.
    if (this.#guest.writableNeedDrain) throw FsError.of('EAGAIN');
    let isTaken = true;
    for (let at = 0; at < bytes.length; at += PIECE_BYTES)
      isTaken = pass(this.#guest, bytes.subarray(at, at + PIECE_BYTES));
    return isTaken ? undefined : drained(this.#guest);
  }

  /** The guest sends nothing any more. */
  hangUp(): void {
    if (this.#linger !== undefined || this.stream.destroyed) return;
    this.#guest.end();
    if (this.stream.writableFinished) return void this.stream.destroy();
    this.#linger = setInterval(() => {
      if (!this.#hasRead) this.stream.destroy();
      this.#hasRead = false;
    }, LINGER_MS).unref();
  }

  /** The guest reads. */
  received(most: number): Promise<Uint8Array> {
    this.#hasRead = true;
    return this.#reader.read(most);
  }
}
