import { UsageError } from '../backend/index.js';
import { RecordBuffer } from './record-buffer.js';
import type { TraceReader, Tracing } from './tracing.js';

/** Bytes that wait for one who asks. */
const WAITING_BYTES = 8 * 2 ** 20;
/** Bytes that one answer has at most, and some. */
const ANSWER_BYTES = 256 * 1024;
const MOST_FEEDS = 4;
/** One that nobody asks for any more ends, after so many milliseconds. */
const IDLE_MS = 10_000;

interface Feed extends TraceReader {
  asked: number;
}

/**
 * Captures for those who ask from outside, piece by piece: `start`, then `next` again and again,
 * and `stop`.
 */
export class Feeds {
  readonly #tracing: Tracing;
  readonly #feeds = new Map<number, Feed>();
  #last = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(tracing: Tracing) {
    this.#tracing = tracing;
  }

  /**
   * @param data whether the content that guests write is told, too.
   * @returns the number to ask by.
   * @throws UsageError if there are too many.
   */
  start(data: boolean): number {
    if (this.#feeds.size >= MOST_FEEDS) throw new UsageError(`trace: ${MOST_FEEDS} look on already`);
    const feed: Feed = { buffer: new RecordBuffer(WAITING_BYTES), data, asked: performance.now() };
    this.#last += 1;
    this.#feeds.set(this.#last, feed);
    this.#tracing.open(feed);
    this.#timer ??= setInterval(() => this.#endIdle(), IDLE_MS / 2).unref();
    return this.#last;
  }

  /** The next pieces of a capture; none if nothing has come. @throws UsageError if it has ended. */
  next(id: number): Uint8Array[] {
    const feed = this.#feeds.get(id);
    if (feed === undefined) throw new UsageError('trace: it has ended');
    feed.asked = performance.now();
    const pieces: Uint8Array[] = [];
    let bytes = 0;
    while (bytes < ANSWER_BYTES) {
      const piece = feed.buffer.take();
      if (piece === undefined) break;
      pieces.push(piece);
      bytes += piece.length;
    }
    return pieces;
  }

  stop(id: number): void {
    const feed = this.#feeds.get(id);
    if (feed === undefined) return;
    this.#feeds.delete(id);
    this.#tracing.close(feed);
    if (this.#feeds.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Ends all. */
  close(): void {
    for (const id of this.#feeds.keys()) this.stop(id);
  }

  #endIdle(): void {
    const now = performance.now();
    for (const [id, { asked }] of this.#feeds) if (now - asked > IDLE_MS) this.stop(id);
  }
}
