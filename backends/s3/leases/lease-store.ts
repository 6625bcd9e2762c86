import { randomUUID } from 'node:crypto';
import type * as z from 'zod';
import { WRITE_MARK } from '../objects/attributes.js';
import type { Bucket } from '../client/bucket.js';
import type { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import { RECORD_MAX_BYTES } from './records.js';

/** A record, and the version of the object that has it. */
export interface Stored<R> {
  readonly record: R;
  readonly etag: string;
}

/** What a writer gives of a record: the rest says who has written it. */
export type Unwritten<R> = Omit<R, 'version' | 'writer' | 'write'>;

/**
 * Reads and changes records. A change is made only if the object is as it was read: of two writers
 * one comes first, and the other is told.
 */
export class LeaseStore {
  /** Of this process: another one with the same mount has another. */
  readonly writer = randomUUID();
  readonly #bucket: Bucket;

  /** @param bucket which keeps conditions. */
  constructor(bucket: Bucket) {
    this.#bucket = bucket;
  }

  /** @throws S3Failure, also where what is there is no record. */
  async read<R>(key: string, schema: z.ZodType<R>, deadline: Deadline): Promise<Stored<R> | undefined> {
    const found = await this.#bucket.document(key, RECORD_MAX_BYTES, deadline);
    if (found === undefined) return undefined;
    const record = schema.safeParse(fromJson(found.text));
    if (!record.success) throw new S3Failure('refused', 200, `NoLease: ${key} is no record of ours`);
    return { record: record.data, etag: found.etag };
  }

  /**
   * Writes a record.
   * @param before what is there, as it was read.
   * @returns undefined if there is something else. It may be an earlier write of this process whose
   * answer was lost: `writer` of the record tells.
   * @throws S3Failure where it is not known whether it was written.
   */
  async write<R extends object>(
    key: string,
    record: Unwritten<R>,
    before: Stored<R> | undefined,
    deadline: Deadline,
  ): Promise<Stored<R> | undefined> {
    const write = randomUUID();
    const whole = { version: 1, writer: this.writer, write, ...record };
    const content = { metadata: { [WRITE_MARK]: `lease-${write}` }, headers: {} };
    const condition = before === undefined ? 'absent' : { etag: before.etag };
    try {
      const body = Buffer.from(JSON.stringify(whole));
      const { etag } = await this.#bucket.put(key, body, content, condition, deadline);
      return { record: whole as unknown as R, etag };
    } catch (error) {
      const isRefused =
        error instanceof S3Failure && (error.kind === 'precondition' || error.kind === 'missing');
      if (!isRefused) throw error;
      return undefined;
    }
  }
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
