import { FsError } from '../../backend/index.js';

/** Bytes of a piece. */
const PIECE = 2 ** 16;

/** The memory that all drafts take. */
export class DraftMemory {
  readonly #limit: number;
  #taken = 0;

  /** @param limit bytes. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * @param bytes negative to give some back.
   * @throws ENOSPC if there is not so much left.
   */
  take(bytes: number): void {
    if (this.#taken + bytes > this.#limit) throw FsError.of('ENOSPC');
    this.#taken += bytes;
  }
}

/**
 * The content of a file that may not be on the server yet. It is kept in pieces, so that nothing is
 * moved when it grows.
 */
export class Draft {
  readonly #memory: DraftMemory;
  /** Those that are absent have zeros. */
  readonly #pieces: (Buffer | undefined)[] = [];
  #length = 0;

  constructor(memory: DraftMemory) {
    this.#memory = memory;
  }

  get length(): number {
    return this.#length;
  }

  read(into: Buffer, position: number): number {
    const count = Math.max(0, Math.min(into.length, this.#length - position));
    for (let done = 0; done < count;) {
      const at = (position + done) % PIECE;
      const part = into.subarray(done, Math.min(count, done + PIECE - at));
      const piece = this.#pieces[Math.floor((position + done) / PIECE)];
      if (piece === undefined) part.fill(0);
      else piece.copy(part, 0, at);
      done += part.length;
    }
    return count;
  }

  /** @throws ENOSPC as {@link resize}; nothing is written then. */
  write(bytes: Uint8Array, position: number): void {
    if (position + bytes.length > this.#length) this.resize(position + bytes.length);
    for (let done = 0; done < bytes.length;) {
      const at = (position + done) % PIECE;
      const part = bytes.subarray(done, done + PIECE - at);
      (this.#pieces[Math.floor((position + done) / PIECE)] ??= Buffer.alloc(PIECE)).set(part, at);
      done += part.length;
    }
  }

  /**
   * Cuts it, or adds zeros.
   * @throws ENOSPC if there is no memory for a file of that length.
   */
  resize(length: number): void {
    const count = Math.ceil(length / PIECE);
    this.#memory.take((count - this.#pieces.length) * PIECE);
    this.#pieces.length = count;
    if (length < this.#length && length % PIECE > 0) this.#pieces[count - 1]?.fill(0, length % PIECE);
    this.#length = length;
  }

  /** Its content, as long as it is now. What is written meanwhile may be in it. */
  async *content(): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
    const { length } = this;
    for (let at = 0; at < length; at += PIECE) {
      const part = Buffer.alloc(Math.min(PIECE, length - at));
      this.read(part, at);
      yield part;
    }
  }
}
