import { FILE_HEADER_BYTES, Kind, lost_record, MAGIC, record_header, VERSION } from './record.js';

/** Bytes of a chunk. A longer record has one of its own. */
const CHUNK_BYTES = 64 * 1024;

/**
 * Records that wait for whoever looks at them. What there is no room for is left out, and counted
 * by a record of its own.
 */
export class RecordBuffer {
  readonly #limit: number;
  readonly #onFirst: () => void;
  #chunks: Uint8Array[] = [];
  /** The chunk that is being filled. */
  #chunk = new Uint8Array(0);
  #used = 0;
  /** Bytes that wait, in full chunks. */
  #waiting = 0;
  #lost = 0;

  /**
   * @param limit bytes that may wait.
   * @param onFirst called when the first record comes after all were taken.
   */
  constructor(limit: number, onFirst: () => void = () => undefined) {
    this.#limit = limit;
    this.#onFirst = onFirst;
  }

  get isEmpty(): boolean {
    return this.#chunks.length === 0 && this.#used === 0;
  }

  /** Adds the begin of a file. */
  begin(): void {
    const header = new Uint8Array(FILE_HEADER_BYTES);
    header.set(Buffer.from(MAGIC));
    new DataView(header.buffer).setUint32(MAGIC.length, VERSION, true);
    this.keep(header);
  }

  /**
   * Adds a record without which later ones have no meaning: it is never left out. To be called
   * only as often as something is configured.
   */
  keep(record: Uint8Array): void {
    const wasEmpty = this.isEmpty;
    if (this.#lost > 0) this.#tellLost();
    this.#append(record, record.length);
    if (wasEmpty) this.#onFirst();
  }

  /** Adds a record, which is the first so many bytes of `record`, or counts it as lost. */
  add(record: Uint8Array, bytes: number): void {
    const wasEmpty = this.isEmpty;
    if (this.#waiting + this.#used + bytes + lost_record.bytes > this.#limit) {
      this.#lost += 1;
    } else {
      if (this.#lost > 0) this.#tellLost();
      this.#append(record, bytes);
    }
    if (wasEmpty) this.#onFirst();
  }

  /** Takes what has waited longest: whole records, of some 64 KiB. */
  take(): Uint8Array | undefined {
    const first = this.#chunks.shift();
    if (first !== undefined) {
      this.#waiting -= first.length;
      return first;
    }
    if (this.#used === 0) {
      if (this.#lost === 0) return undefined;
      this.#tellLost();
    }
    const last = this.#chunk.subarray(0, this.#used);
    this.#chunk = new Uint8Array(0);
    this.#used = 0;
    return last;
  }

  #tellLost(): void {
    const record = new Uint8Array(lost_record.bytes);
    const view = new DataView(record.buffer);
    view.setUint32(0, record.length, true);
    view.setUint16(record_header.kind, Kind.LOST, true);
    view.setUint32(lost_record.count, this.#lost, true);
    this.#lost = 0;
    this.#append(record, record.length);
  }

  #append(record: Uint8Array, bytes: number): void {
    if (this.#used + bytes > this.#chunk.length) {
      if (this.#used > 0) {
        this.#chunks.push(this.#chunk.subarray(0, this.#used));
        this.#waiting += this.#used;
      }
      this.#chunk = new Uint8Array(Math.max(CHUNK_BYTES, bytes));
      this.#used = 0;
    }
    this.#chunk.set(bytes === record.length ? record : record.subarray(0, bytes), this.#used);
    this.#used += bytes;
  }
}
