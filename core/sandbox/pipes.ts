import type { Readable, Writable } from 'node:stream';
import type { PipeReader } from './control-share.js';

/** Messages to the guest, each for one opening of a file. */
export class Messages {
  readonly #waiting: { readonly text: string; readonly done: () => void }[] = [];
  #ready: (() => void) | undefined;
  /** Of the message that the guest carries out now. */
  #done: (() => void) | undefined;
  #ended = false;

  /** Resolves when the guest has carried a message out, or has ended. */
  send(text: string): Promise<void> {
    if (this.#ended) return Promise.resolve();
    return new Promise((done) => {
      this.#waiting.push({ text, done });
      this.#ready?.();
    });
  }

  /** Nobody reads any more. */
  end(): void {
    this.#ended = true;
    this.#done?.();
    for (const { done } of this.#waiting.splice(0)) done();
    this.#ready?.();
  }

  /** The guest asks for the next message: it has carried out the one before. */
  open(): PipeReader {
    this.#done?.();
    this.#done = undefined;
    let text: Buffer | undefined;
    return {
      read: async (most) => {
        text ??= await this.#next();
        const part = text.subarray(0, most);
        text = text.subarray(part.length);
        return part;
      },
    };
  }

  async #next(): Promise<Buffer> {
    while (this.#waiting.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#ready = resolve;
      });
    }
    const message = this.#waiting.shift();
    this.#done = message?.done;
    return Buffer.from(message?.text ?? '');
  }
}

/** A stream as a file of the guest, until it ends or is cut off. */
export class StreamReader implements PipeReader {
  readonly #stream: Readable;
  readonly #encode: (bytes: Buffer) => Buffer;
  readonly #atEnd: 'end' | 'wait';
  #held: Buffer = Buffer.alloc(0);
  #ended = false;
  #wake: (() => void) | undefined;

  /**
   * @param encode what the guest gets for a piece.
   * @param atEnd whether the guest's file ends with the stream, or only by {@link end}.
   */
  constructor(stream: Readable, encode: (bytes: Buffer) => Buffer = same, atEnd: 'end' | 'wait' = 'end') {
    this.#stream = stream;
    this.#encode = encode;
    this.#atEnd = atEnd;
    const wake = (): void => this.#wake?.();
    const end = (): void => {
      if (atEnd === 'end') this.#ended = true;
      wake();
    };
    stream.on('readable', wake).once('end', end).once('error', end).once('close', end);
  }

  /** Adds bytes that come before what is left of the stream. */
  push(bytes: Buffer): void {
    this.#held = Buffer.concat([this.#held, bytes]);
    this.#wake?.();
  }

  /** Ends the guest's file. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async read(most: number): Promise<Uint8Array> {
    for (;;) {
      if (this.#held.length === 0) {
        const piece = this.#stream.read() as Buffer | string | null;
        if (piece !== null) this.#held = this.#encode(Buffer.from(piece));
      }
      if (this.#held.length > 0) {
        const part = this.#held.subarray(0, most);
        this.#held = this.#held.subarray(part.length);
        return part;
      }
      if (this.#ended || (this.#atEnd === 'end' && this.#stream.destroyed)) return this.#held;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** @returns whether the stream takes more, or nobody wants it any more. */
export function pass(stream: Writable, bytes: Buffer): boolean {
  return bytes.length === 0 || !stream.writable || stream.write(bytes);
}

/** Resolves when a stream takes more, or nobody wants it any more. */
export function drained(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    const go = (): void => {
      stream.off('drain', go).off('close', go);
      resolve();
    };
    stream.on('drain', go).on('close', go);
  });
}

function same(bytes: Buffer): Buffer {
  return bytes;
}
