import { rename } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { JournalFile } from './journal-file.js';

/** Kinds of record in a staging log. JSON payloads are described in `journal.ts`. */
export const RecordType = {
  /** JSON: where the file belongs, what it is based on, its attributes. Always the first record. */
  BEGIN: 1,
  /** Bytes written at `offset`. */
  DATA: 2,
  /** The file's size is `offset` from here on. */
  SIZE: 3,
  /** Zeros from `offset`; the payload is their number, a float64. */
  ZERO: 4,
  /** JSON: new attributes. */
  ATTRIBUTES: 5,
  /** JSON: a new place in the tree. */
  PLACE: 6,
  /** JSON: the bucket has all up to a position of the log. */
  COMMIT: 7,
  /** JSON: a multipart upload that we are about to begin, have begun, or have ended. */
  UPLOAD: 8,
  /** JSON: another object to take the unchanged bytes from. */
  REBASE: 9,
  /** JSON: an object that had lost its place is deleted. */
  GONE: 10,
} as const;

/**
 * Header: magic, type, payload length, CRC-32 of the header (with 0 here) and the payload, offset
 * (float64), zeros.
 */
const HEADER = 32;
const MAGIC = 0x314b4656;
/** Largest payload: a FUSE write has at most 1 MiB, and compaction writes no more at once. */
export const PAYLOAD_MAX = 16 * 2 ** 20;

/** A record to append. */
export interface LogRecord {
  readonly type: number;
  readonly offset: number;
  readonly payload: Uint8Array;
}

/** A record as read back; `position` is where its payload stands in the log. */
export interface FoundRecord extends LogRecord {
  readonly position: number;
}

interface Pending {
  readonly record: LogRecord;
  resolve(position: number): void;
  reject(error: unknown): void;
}

/**
 * The journal of one file: an append-only log that holds what was written before the bucket has it.
 * Records are never changed in place, so each keeps its checksum; appends that come together are
 * written together; an append has happened when it and all before it are in the file. Reads of
 * payloads go by position.
 */
export class StagingLog {
  readonly path: string;
  readonly #file: JournalFile;
  #size: number;
  #queue: Pending[] = [];
  #writing: Promise<void> | undefined;
  #synced = 0;

  private constructor(path: string, file: JournalFile, size: number) {
    this.path = path;
    this.#file = file;
    this.#size = size;
  }

  static async create(path: string): Promise<StagingLog> {
    return new StagingLog(path, JournalFile.create(path), 0);
  }

  /** Bytes in the log. */
  get size(): number {
    return this.#size;
  }

  /** @returns the payload's position, once the record is in the file. */
  append(record: LogRecord): Promise<number> {
    const length = HEADER + record.payload.length;
    if (this.#writing === undefined && JournalFile.isSmall(length)) return this.#appendAtOnce(record, length);
    const done = new Promise<number>((resolve, reject) => this.#queue.push({ record, resolve, reject }));
    this.#writing ??= this.#drain();
    return done;
  }

  /** The record is in the file when this returns; only a failure takes longer. */
  #appendAtOnce(record: LogRecord, length: number): Promise<number> {
    const position = this.#size;
    try {
      this.#file.writeAtOnce([headerOf(record), record.payload], position, length);
    } catch (error) {
      // What follows waits until the torn record is gone.
      this.#writing = this.#cut().then(() => this.#drain());
      return this.#writing.then(() => Promise.reject(error as Error));
    }
    this.#size = position + length;
    return Promise.resolve(position + HEADER);
  }

  /** Removes what was written in part: what follows must not stand behind a torn record. */
  async #cut(): Promise<void> {
    await this.#file.truncate(this.#size).catch(() => undefined);
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0, 64);
      const buffers: Uint8Array[] = [];
      const positions: number[] = [];
      let at = this.#size;
      for (const { record } of batch) {
        positions.push(at + HEADER);
        buffers.push(headerOf(record), record.payload);
        at += HEADER + record.payload.length;
      }
      try {
        await this.#file.write(buffers, this.#size, at - this.#size);
        this.#size = at;
        for (const [index, pending] of batch.entries()) pending.resolve(positions[index]!);
      } catch (error) {
        // Nothing of the batch counts, and the next one goes to the same place.
        await this.#cut();
        for (const pending of batch) pending.reject(error);
      }
    }
    this.#writing = undefined;
  }

  /** Reads payload bytes into `target`. */
  async read(position: number, target: Uint8Array): Promise<void> {
    await this.#file.read(position, target);
  }

  /** Returns when all that was appended before is on the disk. */
  async sync(): Promise<void> {
    await this.#writing;
    const size = this.#size;
    if (size === this.#synced) return;
    await this.#file.sync();
    this.#synced = size;
  }

  /** Takes the place of another log, whose path it gets. */
  async replace(other: StagingLog): Promise<StagingLog> {
    await this.sync();
    await rename(this.path, other.path);
    await other.close();
    this.#file.path = other.path;
    return new StagingLog(other.path, this.#file, this.#size);
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.#file.close();
  }

  async remove(): Promise<void> {
    await this.#writing;
    await this.#file.remove(this.#size);
  }

  /** Opens a log that is there; {@link scan} must come first. */
  static async open(path: string, readOnly = false): Promise<StagingLog> {
    return new StagingLog(path, JournalFile.open(path, readOnly), 0);
  }

  /**
   * Reads a log from its start and hands each record over. What was cut off at the end was never
   * acknowledged.
   * @param repair removes what was cut off.
   * @returns false where a record that is not merely cut off fails its checksum: then nothing is
   * removed.
   */
  async scan(visit: (record: FoundRecord) => void, repair: boolean): Promise<boolean> {
    const size = await this.#file.size();
    const header = Buffer.alloc(HEADER);
    let at = 0;
    while (at + HEADER <= size) {
      await this.read(at, header);
      const length = header.readUInt32LE(8);
      if (header.readUInt32LE(0) !== MAGIC || length > PAYLOAD_MAX) {
        if (await isZero(this.#file, at, size)) break;
        return false;
      }
      if (at + HEADER + length > size) break;
      const payload = Buffer.allocUnsafe(length);
      await this.read(at + HEADER, payload);
      const type = header.readUInt32LE(4);
      const offset = header.readDoubleLE(16);
      const checksum = header.readUInt32LE(12);
      header.writeUInt32LE(0, 12);
      if (checksumOf(header, payload) !== checksum) return false;
      visit({ type, offset, payload, position: at + HEADER });
      at += HEADER + length;
    }
    if (repair) await this.#file.truncate(at);
    this.#size = at;
    return true;
  }
}

function headerOf(record: LogRecord): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(record.type, 4);
  header.writeUInt32LE(record.payload.length, 8);
  header.writeDoubleLE(record.offset, 16);
  header.writeUInt32LE(checksumOf(header, record.payload), 12);
  return header;
}

/** zlib takes an empty array without memory for the start of a new sum, so it is not shown one. */
function checksumOf(header: Uint8Array, payload: Uint8Array): number {
  const sum = crc32(header);
  return payload.length === 0 ? sum : crc32(payload, sum);
}

async function isZero(file: JournalFile, from: number, to: number): Promise<boolean> {
  const chunk = Buffer.alloc(65_536);
  for (let at = from; at < to; at += chunk.length) {
    const piece = chunk.subarray(0, Math.min(chunk.length, to - at));
    await file.read(at, piece);
    if (piece.some((byte) => byte !== 0)) return false;
  }
  return true;
}
