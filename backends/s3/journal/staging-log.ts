import { rename } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { JournalFile } from './journal-file.js';

/** Types of records in a staging log. `staged.ts` describes the JSON payloads. */
export const RecordType = {
  /** JSON: where the file belongs, what it is based on, its attributes. Always the first record. */
  BEGIN: 1,
  /** Bytes written at `offset`. */
  DATA: 2,
  /** The file's size is `offset` from now on. */
  SIZE: 3,
  /** Zeros from `offset`; the payload is their number as float64. */
  ZERO: 4,
  /** JSON: new attributes. */
  ATTRIBUTES: 5,
  /** JSON: a new place in the tree. */
  PLACE: 6,
  /** JSON: the bucket has everything up to a position of the log. */
  COMMIT: 7,
  /** JSON: a multipart upload is about to be created, was created, or has ended. */
  UPLOAD: 8,
  /** JSON: another object has the unchanged bytes. */
  REBASE: 9,
  /** JSON: an object at an old place was deleted. */
  GONE: 10,
} as const;

/**
 * Header: magic, type, payload length, CRC-32 of the header (with 0 here) and the payload, offset
 * (float64), zeros.
 */
const HEADER_BYTES = 32;
const MAGIC = 0x314b4656;
/** Largest payload in bytes. A FUSE write and compaction write at most 1 MiB. */
export const PAYLOAD_MAX_BYTES = 16 * 2 ** 20;

/** A record to append. */
export interface LogRecord {
  readonly type: number;
  readonly offset: number;
  readonly payload: Uint8Array;
}

/** A record that was read; `position` is the offset of its payload in the log. */
export interface FoundRecord extends LogRecord {
  readonly position: number;
}

interface Pending {
  readonly record: LogRecord;
  resolve(position: number): void;
  reject(error: unknown): void;
}

/**
 * The journal of one file: an append-only log of what was written and is not in the bucket. Records
 * never change, so their checksums stay valid. Appends that come together are written together. An
 * append is complete when it and all before it are in the file.
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
    const length = HEADER_BYTES + record.payload.length;
    if (this.#writing === undefined && JournalFile.isSmall(length)) return this.#appendAtOnce(record, length);
    const done = new Promise<number>((resolve, reject) => this.#queue.push({ record, resolve, reject }));
    this.#writing ??= this.#drain();
    return done;
  }

  /** Writes the record before it returns. Only a failure takes longer. */
  #appendAtOnce(record: LogRecord, length: number): Promise<number> {
    const position = this.#size;
    try {
      this.#file.writeAtOnce([headerOf(record), record.payload], position, length);
    } catch (error) {
      // Later appends wait until the torn record is removed.
      this.#writing = this.#cut().then(() => this.#drain());
      return this.#writing.then(() => Promise.reject(error as Error));
    }
    this.#size = position + length;
    return Promise.resolve(position + HEADER_BYTES);
  }

  /** Removes a partly written record: later ones must not follow a torn record. */
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
        positions.push(at + HEADER_BYTES);
        buffers.push(headerOf(record), record.payload);
        at += HEADER_BYTES + record.payload.length;
      }
      try {
        await this.#file.write(buffers, this.#size, at - this.#size);
        this.#size = at;
        for (const [index, pending] of batch.entries()) pending.resolve(positions[index]!);
      } catch (error) {
        // The batch does not count; the next one is written at the same position.
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

  /** Resolves when everything appended before is on the disk. */
  async sync(): Promise<void> {
    await this.#writing;
    const size = this.#size;
    if (size === this.#synced) return;
    await this.#file.sync();
    this.#synced = size;
  }

  /** Replaces another log and takes over its path. */
  async replace(other: StagingLog): Promise<StagingLog> {
    await this.sync();
    await rename(this.path, other.path);
    this.#file.path = other.path;
    // Nothing of it is needed any more.
    await other.close().catch(() => undefined);
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

  /** Opens an existing log; {@link scan} must be called first. */
  static async open(path: string, readOnly = false): Promise<StagingLog> {
    return new StagingLog(path, JournalFile.open(path, readOnly), 0);
  }

  /**
   * Reads a log from its start and visits each record. A record that is cut off at the end was
   * never acknowledged.
   * @param repair removes a record that is cut off
   * @returns bytes that can not be read: a record fails its checksum without being cut off. Nothing
   * is removed then. Those behind it are read where its header tells where they begin.
   */
  async scan(visit: (record: FoundRecord) => void, repair: boolean): Promise<number> {
    const size = await this.#file.size();
    let at = 0;
    let unreadable = 0;
    while (at + HEADER_BYTES <= size) {
      const found = await this.#recordAt(at, size);
      if (found === 'cut-off') break;
      if (typeof found === 'object') {
        visit(found);
        at = found.position + found.payload.length;
        continue;
      }
      const next = found;
      const isNext =
        next !== undefined && (next === size || typeof (await this.#recordAt(next, size)) === 'object');
      unreadable += (isNext ? next : size) - at;
      at = isNext ? next : size;
    }
    if (repair && unreadable === 0) await this.#file.truncate(at);
    this.#size = at;
    return unreadable;
  }

  /** Whether a whole record follows somewhere: what ends behind the log is damaged then. */
  async #recordBehind(at: number, size: number): Promise<boolean> {
    const rest = Buffer.allocUnsafe(size - at);
    await this.read(at, rest);
    const magic = Buffer.alloc(4);
    magic.writeUInt32LE(MAGIC);
    for (let from = rest.indexOf(magic, 1); from >= 0; from = rest.indexOf(magic, from + 1)) {
      if (from + HEADER_BYTES > rest.length) return false;
      const header = Buffer.from(rest.subarray(from, from + HEADER_BYTES));
      const payload = rest.subarray(from + HEADER_BYTES, from + HEADER_BYTES + header.readUInt32LE(8));
      const checksum = header.readUInt32LE(12);
      header.writeUInt32LE(0, 12);
      if (payload.length === header.readUInt32LE(8) && checksumOf(header, payload) === checksum) return true;
    }
    return false;
  }

  /**
   * @returns the record; where the next one would begin, if it fails its checksum; undefined if its
   * header is none; or that it was never complete.
   */
  async #recordAt(at: number, size: number): Promise<FoundRecord | number | undefined | 'cut-off'> {
    const header = Buffer.alloc(HEADER_BYTES);
    if (at + HEADER_BYTES > size) return 'cut-off';
    await this.read(at, header);
    const length = header.readUInt32LE(8);
    if (header.readUInt32LE(0) !== MAGIC || length > PAYLOAD_MAX_BYTES) {
      return (await isZero(this.#file, at, size)) ? 'cut-off' : undefined;
    }
    const end = at + HEADER_BYTES + length;
    if (end > size) return (await this.#recordBehind(at, size)) ? undefined : 'cut-off';
    const payload = Buffer.allocUnsafe(length);
    await this.read(at + HEADER_BYTES, payload);
    const type = header.readUInt32LE(4);
    const offset = header.readDoubleLE(16);
    const checksum = header.readUInt32LE(12);
    header.writeUInt32LE(0, 12);
    if (checksumOf(header, payload) !== checksum) return end;
    return { type, offset, payload, position: at + HEADER_BYTES };
  }
}

function headerOf(record: LogRecord): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(record.type, 4);
  header.writeUInt32LE(record.payload.length, 8);
  header.writeDoubleLE(record.offset, 16);
  header.writeUInt32LE(checksumOf(header, record.payload), 12);
  return header;
}

/** zlib takes an empty array for the start of a new sum, so empty payloads are skipped. */
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
