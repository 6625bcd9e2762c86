import { readFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetBucketOwnershipControlsCommand,
  GetObjectAclCommand,
  GetObjectCommand,
  GetObjectTaggingCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  PutObjectLegalHoldCommand,
  PutObjectRetentionCommand,
  PutObjectTaggingCommand,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import type {
  ChecksumAlgorithm,
  ListMultipartUploadsCommandOutput,
  ObjectLockRetentionMode,
  ServerSideEncryption,
  StorageClass,
  Tag,
} from '@aws-sdk/client-s3';
import { FsError, UsageError } from '../../../core/backend/index.js';
import type { Logger } from '../../../core/backend/index.js';
import {
  agrees,
  ASKS_CHECKSUM,
  checksumHeaders,
  sumOf,
  checksumOf,
  copiedChecksum,
  isSumOf,
  partChecksum,
  summingOf,
} from './checksums.js';
import type { ChecksumName, Expectation } from './checksums.js';
import { answering, carrying, headOf, unquoted } from './answers.js';
import {
  besideOf,
  encryptionOf,
  grantsOf,
  hasGrants,
  isEncrypted,
  isLocked,
  notCopied,
  propertiesOf,
  settled,
  tagsOf,
  withoutGrants,
} from './carried.js';
import type { CarriedHeaders } from './carried.js';
import { readAcl, readTags } from './documents.js';
import type { Acl } from './documents.js';
import type { RemoteObject } from '../objects/attributes.js';
import { WRITE_MARK } from '../objects/attributes.js';
import { Deadline } from './deadline.js';
import type { Capabilities, Condition, Content, Head, Page, Part } from './bucket-types.js';
import { parallel } from './concurrency.js';
import { classify, noAnswer, S3Failure } from './failure.js';
import { field, readListing } from './listing.js';
import type { Metrics } from './metrics.js';
import { GivenUpWrites, OwnWrites } from './own-writes.js';
import type { S3Options } from '../options.js';
import type { Attempt, Requests } from './requests.js';
import { pour } from './http.js';
import type { Sink } from './http.js';

/**
 * Modification time of an object that was just written. It is not known until a listing or HEAD
 * tells.
 */
export const UNKNOWN_TIME = Number.NaN;

/**
 * Attempts at a write that the server refuses although its condition holds. Before the last one we
 * look ourselves and send no condition.
 */
const BELIEVED_ATTEMPTS = 3;

/** Requests at once, where keys are deleted one by one. */
const REMOVALS_AT_ONCE = 16;
/** Characters of keys that the document of DeleteObjects can't carry (XML 1.0, section 2.2). */
const NO_XML = /\p{Cc}|[\ufffe\uffff]/u;

/** Milliseconds for which a server's refusal to copy is believed. */
const REFUSAL_MS = 600_000;

/** Fields of a conditional write, as the SDK names them. */
interface ConditionFields {
  readonly IfNoneMatch?: string;
  readonly IfMatch?: string;
}

const ENCRYPTION = 'x-amz-server-side-encryption';
const CUSTOMER = 'x-amz-server-side-encryption-customer-algorithm';

/** ETags of objects of one part, where they are digests. */
const SINGLE_PART = /^[0-9a-f]{32}$/;
/** Most reads of an object whose bytes are not those of its ETag. */
const READS_MAX = 3;

/** Milliseconds by which the server's clock may differ, and whole seconds are off. */
const UPLOAD_CLOCK_MS = 5_000;
const LEFT = 'an upload whose answer was lost may be left in the bucket: a lifecycle rule removes such';

const LOST = 'grants or tags of an object can not be read: what is made of it has none';

/**
 * Bucket and key for the header x-amz-copy-source: percent-encoded, slashes kept. By way of an
 * access point it is the ARN of the object (Amazon S3 API Reference, CopyObject).
 */
export function copySource(bucket: string, key: string): string {
  const within = bucket.startsWith('arn:') ? 'object/' : '';
  return `${bucket}/${within}${key}`.split('/').map(encodeURIComponent).join('/');
}

/** A multipart upload that was neither completed nor aborted. */
export interface LeftUpload {
  readonly key: string;
  readonly id: string;
  /** In milliseconds of the server's clock. */
  readonly initiated: number;
}

/** What a start finds out of a server. */
export interface Learned {
  readonly capabilities: Capabilities;
  readonly beside: { readonly grants: boolean; readonly tags: boolean; readonly self: string | undefined };
}

/**
 * The requests to a bucket, each with its conditions, and with what is known of how providers
 * deviate.
 */
export class Bucket {
  readonly name: string;
  capabilities: Capabilities | undefined;
  /**
   * Finds the capabilities out, or finds them out again. Absent: each condition is sent, and
   * refusals are believed.
   */
  learn: ((deadline: Deadline) => Promise<void>) | undefined;
  #believesRefusals = false;
  /** Whether the server deletes several keys by one request. */
  #removesMany = true;
  /** An ETag of this server was the MD5 of the bytes that were read. */
  #hasDigests = false;
  /** Milliseconds of `performance.now()` until which a refusal to copy is believed. */
  #copiesAgain = 0;
  readonly #options: S3Options;
  /** Of what is written. */
  readonly #checksum: ChecksumName | undefined;
  readonly #requests: Requests;
  readonly #metrics: Metrics;
  readonly #log: Logger;
  readonly #own: OwnWrites;
  readonly #givenUp = new GivenUpWrites();
  /** Whether grants and tags are asked for, and the canonical id of our account. */
  #beside: Learned['beside'] = { grants: false, tags: false, self: undefined };
  /**
   * Fields of all requests, of those that need the customer's key, and of those that create an
   * object.
   */
  readonly #common: { Bucket: string; RequestPayer?: 'requester' };
  readonly #customer: { SSECustomerAlgorithm?: string; SSECustomerKey?: string; SSECustomerKeyMD5?: string };
  readonly #creation: {
    StorageClass?: StorageClass;
    ServerSideEncryption?: ServerSideEncryption;
    SSEKMSKeyId?: string;
  };

  /** @throws UsageError if the options contradict each other. */
  constructor(options: S3Options, requests: Requests, metrics: Metrics, log: Logger) {
    this.name = options.bucket;
    this.#options = options;
    this.#checksum = options.checksums === 'required' ? undefined : options.checksums;
    this.#log = log;
    this.#own = new OwnWrites(options.metadataTtl);
    this.#requests = requests;
    this.#metrics = metrics;
    this.#common = {
      Bucket: options.bucket,
      ...(options.requesterPays ? { RequestPayer: 'requester' } : {}),
    };
    this.#customer = options.encryption === 'sse-c' ? customerKey(options.customerKeyFile) : {};
    this.#creation = {
      ...(options.storageClass === undefined ? {} : { StorageClass: options.storageClass as StorageClass }),
      ...(options.encryption === 'sse-s3' ? { ServerSideEncryption: 'AES256' } : {}),
      ...(options.encryption === 'sse-kms' ? { ServerSideEncryption: 'aws:kms' } : {}),
      ...(options.encryption === 'sse-kms' && options.kmsKey !== undefined
        ? { SSEKMSKeyId: options.kmsKey }
        : {}),
    };
  }

  /**
   * Whether the server copies. False for some minutes after it has refused to (Ceph 16 does with
   * customer keys).
   */
  get copies(): boolean {
    return performance.now() >= this.#copiesAgain;
  }

  /**
   * Whether an object is of a write of this mount's that was given up without an answer, and has
   * been carried out after all.
   */
  isGivenUp({ metadata }: Head): boolean {
    return this.#givenUp.has(metadata[WRITE_MARK]);
  }

  /** Finds out what writes rely on, beside what goes on: one of them is about to come. */
  expectWrite(): void {
    // Where it fails, the write tries it again.
    this.known(Deadline.never).catch(() => undefined);
  }

  /** Waits until it is known what a write relies on. A mount that only reads never asks. */
  async known(deadline: Deadline): Promise<void> {
    if (this.capabilities !== undefined) return;
    await this.learn?.(deadline).catch((error: unknown) => {
      // It goes on, for whoever asks next.
      const isLate = error instanceof FsError && error.code === 'ETIMEDOUT';
      throw isLate ? new S3Failure('transient', 0, 'Deadline', error) : error;
    });
  }

  /** What was found out; undefined before that. */
  get learned(): Learned | undefined {
    const { capabilities } = this;
    return capabilities === undefined ? undefined : { capabilities, beside: this.#beside };
  }

  /** Takes what a process before has found out. */
  adopt({ capabilities, beside }: Learned): void {
    this.capabilities = capabilities;
    this.#beside = beside;
  }

  /**
   * The same bucket, asked as if the server kept certain conditions: for finding out whether it
   * does.
   * @param refusals whether a look at the object has to agree with a refusal. Where the condition
   * does not hold, none is needed.
   */
  assuming(capabilities: Capabilities, refusals: 'checked' | 'believed' = 'checked'): Bucket {
    const other = new Bucket(this.#options, this.#requests, this.#metrics, this.#log);
    other.capabilities = capabilities;
    other.#believesRefusals = refusals === 'believed';
    return other;
  }

  async create(deadline: Deadline): Promise<void> {
    await this.#requests.send('CreateBucket', deadline, 0, ({ client, signal }) =>
      client.send(new CreateBucketCommand({ Bucket: this.name }), { abortSignal: signal }),
    );
  }

  /**
   * @returns undefined if the key has no object. A missing bucket looks the same, since the answer
   * to HEAD has no body.
   */
  async head(key: string, deadline: Deadline): Promise<Head | undefined> {
    try {
      return await this.#requests.send('HeadObject', deadline, 0, (attempt) => this.#head(key, attempt));
    } catch (error) {
      if (error instanceof S3Failure && error.kind === 'missing') return undefined;
      throw error;
    }
  }

  async #head(key: string, attempt: Attempt): Promise<Head> {
    try {
      const found = await attempt.signed.head(key, attempt.signal);
      if (found !== undefined) return found;
      let headers: ReadonlyMap<string, string> = new Map();
      const command = answering(
        new HeadObjectCommand({ ...this.#common, ...this.#customer, Key: key }),
        (answer) => (headers = answer),
      );
      await attempt.client.send(command, { abortSignal: attempt.signal });
      return headOf(key, headers);
    } catch (error) {
      const failure = classify(error);
      // HEAD answers 400 to an expired token, without a body that says so.
      if (failure.status === 400) throw new S3Failure('expired', 400, failure.code, error);
      throw failure;
    }
  }

  /**
   * Reads bytes `start` to `end` (exclusive) of exactly the version with this ETag. A transfer that
   * breaks off is continued.
   * @param answered called with the head of each answer
   * @param others headers that are sent too
   * @throws S3Failure of kind precondition or missing if the bucket has another version now.
   */
  async read(
    key: string,
    etag: string,
    start: number,
    end: number,
    deadline: Deadline,
    sink: Sink,
    answered: (headers: ReadonlyMap<string, string>) => void = nothing,
    others: CarriedHeaders = {},
  ): Promise<void> {
    let at = start;
    return this.#ofVersion({ key, etag }, always, deadline, (isSent) =>
      this.#requests.send('GetObject', deadline, 0, async (attempt) => {
        const counted: Sink = {
          room: () => sink.room(),
          took: (count) => {
            at += count;
            this.#metrics.bytesDown += count;
            sink.took(count);
            return attempt.progress(count);
          },
        };
        const sinkOf = (headers: ReadonlyMap<string, string>): Sink => {
          answered(headers);
          return counted;
        };
        return this.#get(key, etag, at, end, isSent, others, sinkOf, attempt);
      }),
    );
  }

  async #get(
    key: string,
    etag: string,
    start: number,
    end: number,
    isConditional: boolean,
    others: CarriedHeaders,
    sinkOf: (headers: ReadonlyMap<string, string>) => Sink,
    attempt: Attempt,
  ): Promise<void> {
    const match = isConditional ? this.#quoted(etag) : undefined;
    if (await attempt.signed.get(key, etag, match, start, end, others, sinkOf, attempt.signal)) return;
    let headers: ReadonlyMap<string, string> = new Map();
    const command = answering(
      carrying(
        new GetObjectCommand({
          ...this.#common,
          ...this.#customer,
          Key: key,
          ...(match === undefined ? {} : { IfMatch: match }),
          Range: `bytes=${start}-${end - 1}`,
        }),
        others,
      ),
      (found) => (headers = found),
    );
    const answer = await attempt.client.send(command, { abortSignal: attempt.signal });
    const body = answer.Body as AsyncIterable<Buffer> & { destroy(): void };
    let at = start;
    try {
      if (told(answer.ETag) !== etag) throw new S3Failure('precondition', 412, 'ETagChanged');
      if (!(answer.ContentRange ?? '').startsWith(`bytes ${start}-${end - 1}/`)) {
        throw new S3Failure('transient', 0, 'WrongRange');
      }
      const sink = sinkOf(headers);
      for await (const chunk of body) {
        if (attempt.signal.aborted) throw new S3Failure('transient', 0, 'RequestTimeout');
        at += chunk.length;
        if (at > end) throw new S3Failure('transient', 0, 'LongBody');
        await pour(chunk, sink);
      }
      if (at < end) throw new S3Failure('transient', 0, 'ShortBody');
    } finally {
      body.destroy();
    }
  }

  /**
   * A small object of our own, as text.
   * @returns undefined if there is none.
   * @throws S3Failure of kind refused if it has more than `most` bytes.
   */
  async document(
    key: string,
    most: number,
    deadline: Deadline,
  ): Promise<{ readonly text: string; readonly etag: string } | undefined> {
    try {
      return await this.#requests.send('GetObject', deadline, 0, async ({ client, signal }) => {
        const command = new GetObjectCommand({ ...this.#common, ...this.#customer, Key: key });
        const answer = await client.send(command, { abortSignal: signal });
        const body = answer.Body as AsyncIterable<Buffer> & { destroy(): void };
        const pieces: Buffer[] = [];
        let size = 0;
        try {
          for await (const piece of body) {
            size += piece.length;
            if (size > most) throw new S3Failure('refused', 200, 'LongBody');
            pieces.push(piece);
          }
        } finally {
          body.destroy();
        }
        const etag = told(answer.ETag);
        const isDigest = this.capabilities?.digests === true && SINGLE_PART.test(etag);
        const isWhole = size === answer.ContentLength && (!isDigest || md5(pieces) === etag);
        if (!isWhole) throw new S3Failure('transient', 0, 'CorruptBody');
        return { text: Buffer.concat(pieces).toString(), etag };
      });
    } catch (error) {
      if (error instanceof S3Failure && error.kind === 'missing') return undefined;
      throw error;
    }
  }

  /**
   * Reads a whole object. Its bytes are compared with its checksum where the bucket has one, and
   * with its ETag where that is their MD5. They are read again where they differ.
   * @param sink called for each attempt
   * @param pieces what the sink has got, in order
   * @throws S3Failure as {@link read} does; of code CorruptBody if the bytes stay wrong.
   */
  async readWhole(
    { key, etag, size }: RemoteObject,
    deadline: Deadline,
    sink: () => Sink,
    pieces: () => Iterable<Uint8Array>,
  ): Promise<void> {
    let before: string | undefined;
    for (let attempt = 1; ; attempt++) {
      let head: ReadonlyMap<string, string> | undefined;
      // Where a transfer was continued, the answer to its beginning tells of the whole.
      const answered = (headers: ReadonlyMap<string, string>): void => void (head ??= headers);
      await this.read(key, etag, 0, size, deadline, sink(), answered, ASKS_CHECKSUM);
      const checksum = checksumOf(head!);
      if (checksum !== undefined && (await agrees(checksum, pieces()))) return;
      const isDigest = this.#mayBeDigest(etag, head!);
      if (checksum === undefined && !isDigest) return;
      const found = md5(pieces());
      if (isDigest && found === etag) {
        this.#hasDigests = true;
        return;
      }
      const isKnown = checksum !== undefined || this.capabilities !== undefined || this.#hasDigests;
      // Where it is not known what ETags are, the same bytes twice are taken for right.
      if (!isKnown && found === before) return;
      this.#metrics.corruptReads += 1;
      this.#log.warn({ key }, 'the bytes of an object are not those of its checksum: read again');
      if (attempt === READS_MAX) throw new S3Failure('transient', 0, 'CorruptBody');
      before = found;
    }
  }

  #mayBeDigest(etag: string, headers: ReadonlyMap<string, string>): boolean {
    // A key of somebody makes ETags of something else.
    const isKeyed = headers.has(CUSTOMER) || (headers.get(ENCRYPTION)?.startsWith('aws:') ?? false);
    return !isKeyed && this.capabilities?.digests !== false && SINGLE_PART.test(etag);
  }

  /**
   * Asks what the bytes of a whole object must give.
   * @returns undefined where the server says nothing of that.
   */
  async expectation({ key, etag }: RemoteObject, deadline: Deadline): Promise<Expectation | undefined> {
    const headers = await this.#requests.send('HeadObject', deadline, 0, async ({ client, signal }) => {
      let found: ReadonlyMap<string, string> = new Map();
      const asked = { ...this.#common, ...this.#customer, Key: key, ChecksumMode: 'ENABLED' as const };
      const command = answering(new HeadObjectCommand(asked), (answer) => (found = answer));
      await client.send(command, { abortSignal: signal });
      return found;
    });
    if (unquoted(headers.get('etag')) !== etag) return undefined;
    const checksum = checksumOf(headers);
    if (checksum !== undefined)
      return { summing: summingOf(checksum.name), isRight: (sum) => isSumOf(checksum, sum) };
    const isKnown = this.capabilities?.digests === true || this.#hasDigests;
    if (!isKnown || !this.#mayBeDigest(etag, headers)) return undefined;
    return { summing: summingOf('md5'), isRight: async (sum) => sum.toString('hex') === etag };
  }

  /**
   * Writes an object in one request.
   * @throws S3Failure of kind precondition if the condition does not hold.
   */
  async put(
    key: string,
    body: Uint8Array,
    content: Content,
    condition: Condition | undefined,
    deadline: Deadline,
  ): Promise<RemoteObject> {
    await this.known(deadline);
    return this.#conditionally('put', key, content, condition, deadline, (conditions) =>
      this.#requests.send('PutObject', deadline, body.length, (attempt) =>
        this.#granting(content, () => this.#put(key, body, content, conditions, attempt)),
      ),
    );
  }

  async #put(
    key: string,
    body: Uint8Array,
    content: Content,
    conditions: ConditionFields,
    attempt: Attempt,
  ): Promise<RemoteObject> {
    const given = this.#given(content);
    // Locked objects have to come with it (Amazon S3 API Reference, PutObject).
    const digest = isLocked(given)
      ? { 'content-md5': (await sumOf('md5', [body])).toString('base64') }
      : undefined;
    const headers = { ...given, ...digest, ...(await checksumHeaders(this.#checksum, body)) };
    const known = { ...content, headers };
    let etag = await attempt.signed.put(key, body, known, { ...conditions }, attempt);
    if (etag === undefined) {
      await attempt.pace?.(body.length);
      const command = new PutObjectCommand({
        ...this.#common,
        ...this.#customer,
        ...this.#creation,
        ...conditions,
        Key: key,
        Body: body,
        ContentLength: body.length,
        Metadata: content.metadata,
      });
      const sent = attempt.client.send(carrying(command, headers), { abortSignal: attempt.signal });
      etag = told((await sent).ETag);
    }
    this.#metrics.bytesUp += body.length;
    return this.#written(key, etag, body.length);
  }

  #written(key: string, etag: string, size: number): RemoteObject {
    return { key, etag, size, modified: UNKNOWN_TIME, storageClass: undefined };
  }

  /**
   * Sends a write under its condition. A refusal is believed only when a look at the object agrees:
   * - The object has our mark: the answer to an earlier request was lost, or a request was doubled.
   * - The condition holds: what we know of the server is wrong or not true any more, and is found
   *   out again.
   */
  async #conditionally(
    request: 'put' | 'complete',
    key: string,
    content: Content,
    condition: Condition | undefined,
    deadline: Deadline,
    write: (conditions: ConditionFields) => Promise<RemoteObject>,
  ): Promise<RemoteObject> {
    for (let attempt = 1; ; attempt++) {
      const isSent =
        condition !== undefined && attempt < BELIEVED_ATTEMPTS && this.#conditional(request, condition);
      if (condition !== undefined && !isSent) await this.#check(key, condition, deadline);
      try {
        return this.#noteOwn(await write(isSent ? this.#conditionFields(condition) : {}), content);
      } catch (error) {
        const { kind, transient } = classify(error);
        if (transient) this.#givenUp.note(content);
        if (kind !== 'precondition' && kind !== 'missing' && kind !== 'no-upload') throw error;
        if (kind === 'precondition' && this.#believesRefusals) throw error;
        const head = await this.head(key, deadline);
        const mark = content.metadata[WRITE_MARK];
        if (mark !== undefined && head?.metadata[WRITE_MARK] === mark) return this.#noteOwn(head, content);
        const isRefusal = kind === 'precondition' && isSent && this.learn !== undefined;
        if (!isRefusal || !holds(condition, head)) throw error;
        this.#metrics.contradictions += 1;
        if (attempt === 1) await this.learn?.(deadline);
      }
    }
  }

  #noteOwn<T extends RemoteObject>(object: T, content: Content): T {
    this.#own.note(object.key, object.etag, besideOf(this.#given(content)));
    return object;
  }

  /**
   * Sends a request that is conditional on an object's version. A refusal is believed only when a
   * look at the object agrees.
   */
  async #ofVersion<T>(
    { key, etag }: { readonly key: string; readonly etag: string },
    isKept: () => boolean,
    deadline: Deadline,
    send: (isSent: boolean) => Promise<T>,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const isSent = attempt < BELIEVED_ATTEMPTS && isKept();
      try {
        return await send(isSent);
      } catch (error) {
        if (classify(error).kind !== 'precondition' || !isSent || this.learn === undefined) throw error;
        if ((await this.head(key, deadline))?.etag !== etag) throw error;
        this.#metrics.contradictions += 1;
        if (attempt === 1) await this.learn(deadline);
      }
    }
  }

  /**
   * Checks a condition by HEAD, for a provider that ignores it. Another writer may come in between,
   * which the start has logged.
   */
  async #check(key: string, condition: Condition, deadline: Deadline): Promise<void> {
    const head = await this.head(key, deadline);
    if (!holds(condition, head)) throw new S3Failure('precondition', 412, 'PreconditionFailed');
  }

  #conditional(request: 'put' | 'complete', condition: Condition): boolean {
    const capabilities = this.capabilities;
    if (capabilities === undefined) return true;
    if (request === 'complete') return capabilities.complete;
    return condition === 'absent' ? capabilities.create : capabilities.replace;
  }

  #conditionFields(condition: Condition): ConditionFields {
    return condition === 'absent' ? { IfNoneMatch: '*' } : { IfMatch: this.#quoted(condition.etag) };
  }

  #quoted(etag: string): string {
    return this.capabilities?.unquoted === true ? etag : `"${etag}"`;
  }

  /**
   * Copies an object in one request, with new metadata.
   * @throws S3Failure of kind precondition or missing if the source is another version now,
   * unsupported if the server does not copy.
   */
  async copy(source: RemoteObject, key: string, content: Content, deadline: Deadline): Promise<RemoteObject> {
    await this.known(deadline);
    const object = await this.#copy(source, key, content, 'REPLACE', deadline).catch((error: unknown) => {
      if (classify(error).transient) this.#givenUp.note(content);
      throw error;
    });
    await this.#settle(key, content, deadline);
    this.#noteOwn(object, content);
    return this.#fromSame(source, object);
  }

  /**
   * Copies an object in one request, with all that it has: the server keeps metadata and tags.
   * @throws as {@link copy}
   */
  async copyWhole(source: RemoteObject, key: string, deadline: Deadline): Promise<RemoteObject> {
    await this.known(deadline);
    const own = this.#own.of(source.key, source.etag);
    const headers = notCopied(own ?? (await this.#besideCopies(source, deadline)));
    const object = await this.#copy(source, key, { metadata: {}, headers }, 'COPY', deadline);
    if (own !== undefined) this.#own.note(key, object.etag, own);
    return this.#fromSame(source, object);
  }

  /** As {@link beside}, with the headers of the content, and without tags. */
  async #besideCopies({ key }: RemoteObject, deadline: Deadline): Promise<CarriedHeaders> {
    const { grants, self } = this.#beside;
    const isAll = this.#options.preserve === 'all';
    const [head, acl] = await Promise.all([
      this.head(key, deadline),
      grants ? this.#acl(key, deadline).catch(this.#lost(key)) : undefined,
    ]);
    if (head === undefined) throw new S3Failure('missing', 404, 'NotFound');
    return {
      ...head.headers,
      ...(isAll ? propertiesOf(head.properties, this.#options) : {}),
      ...(acl === undefined ? {} : grantsOf(acl.grants, acl.owner, self)),
    };
  }

  async #copy(
    source: RemoteObject,
    key: string,
    content: Content,
    directive: 'COPY' | 'REPLACE',
    deadline: Deadline,
  ): Promise<RemoteObject> {
    // A copy of an object of several parts has another ETag: that can be looked at before only.
    const isLookedAt = !this.#checksSources() && source.etag.includes('-');
    if (isLookedAt) await this.#check(source.key, source, deadline);
    return this.#ofVersion(source, this.#checksSources, deadline, (isSent) =>
      this.#requests.send('CopyObject', deadline, 0, async (attempt) => {
        const etag = await this.#copying(content, async () => {
          const given = this.#given(content);
          const direct = await this.#copyDirectly(source, isSent, key, content, directive, given, attempt);
          if (direct !== undefined) return direct;
          const command = new CopyObjectCommand({
            ...this.#common,
            ...this.#customer,
            ...this.#creation,
            ...this.#sourceFields(),
            Key: key,
            ...this.#source(source, isSent),
            ...(this.#checksum === undefined ? {} : { ChecksumAlgorithm: sdkName(this.#checksum) }),
            MetadataDirective: directive,
            TaggingDirective: directive,
            Metadata: content.metadata,
          });
          const answer = await asCopy(carrying(command, given), (sent) =>
            attempt.client.send(sent, { abortSignal: attempt.signal }),
          );
          return told(answer.CopyObjectResult?.ETag);
        });
        return this.#written(key, etag, source.size);
      }),
    );
  }

  /** @returns undefined if the SDK must copy it. */
  async #copyDirectly(
    source: RemoteObject,
    isSent: boolean,
    key: string,
    content: Content,
    directive: string,
    given: CarriedHeaders,
    { signed, signal }: Attempt,
  ): Promise<string | undefined> {
    if (this.#customer.SSECustomerKey !== undefined) return undefined;
    const headers: Record<string, string> = {
      'x-amz-copy-source': copySource(this.name, source.key),
      ...(isSent ? { 'x-amz-copy-source-if-match': this.#quoted(source.etag) } : {}),
      ...(this.#checksum === undefined ? {} : { 'x-amz-checksum-algorithm': sdkName(this.#checksum) }),
      'x-amz-metadata-directive': directive,
      'x-amz-tagging-directive': directive,
    };
    return signed.copy(key, headers, { ...content, headers: given }, signal);
  }

  /** @throws S3Failure of kind precondition where a copy is that of another version. */
  #fromSame(source: RemoteObject, object: RemoteObject): RemoteObject {
    if (this.#checksSources() || source.etag.includes('-') || object.etag === source.etag) return object;
    throw new S3Failure('precondition', 412, 'SourceChanged');
  }

  readonly #checksSources = (): boolean => this.capabilities?.copySource !== false;

  #source(source: RemoteObject, isSent: boolean): { CopySource: string; CopySourceIfMatch?: string } {
    const CopySource = copySource(this.name, source.key);
    if (!isSent) return { CopySource };
    return { CopySource, CopySourceIfMatch: this.#quoted(source.etag) };
  }

  async #copying<T>(content: Content | undefined, request: () => Promise<T>): Promise<T> {
    try {
      return await (content === undefined ? request() : this.#granting(content, request));
    } catch (error) {
      const failure = classify(error);
      // One that does not copy what is encrypted may copy the rest.
      const alone =
        content === undefined ? this.#customer.SSECustomerKey === undefined : isEncrypted(content.headers);
      if (failure.kind === 'unsupported' && !alone) this.#copiesAgain = performance.now() + REFUSAL_MS;
      throw failure;
    }
  }

  /** Headers of a request that makes an object. */
  #given(content: Content): CarriedHeaders {
    return this.#beside.grants ? content.headers : withoutGrants(content.headers);
  }

  /** A bucket's lists may be switched off at any time: then nobody has lost anything with them. */
  async #granting<T>(content: Content, request: () => Promise<T>): Promise<T> {
    try {
      return await request();
    } catch (error) {
      const failure = classify(error);
      const isOff = failure.code === 'AccessControlListNotSupported' && this.#beside.grants;
      if (!isOff || !hasGrants(content.headers)) throw failure;
      this.#beside = { ...this.#beside, grants: false };
      throw new S3Failure('transient', failure.status, failure.code, error);
    }
  }

  /**
   * Finds out whether grants and tags can be asked for, on an object of our own.
   * @returns what is refused to these credentials.
   */
  async learnBeside(key: string, deadline: Deadline): Promise<readonly ('grants' | 'tags')[]> {
    if (this.#options.preserve === 'headers') return [];
    const refused: ('grants' | 'tags')[] = [];
    const asked = async <T>(request: Promise<T>, what?: 'grants' | 'tags'): Promise<T | undefined> => {
      try {
        return await request;
      } catch (error) {
        const failure = classify(error);
        if (failure.transient) throw failure;
        if (failure.kind === 'denied' && what !== undefined) refused.push(what);
        return undefined;
      }
    };
    const [ownsAll, acl, tags] = await Promise.all([
      asked(this.#ownsAll(deadline)),
      asked(this.#acl(key, deadline), 'grants'),
      asked(this.#tags(key, deadline), 'tags'),
    ]);
    const grants = ownsAll !== true && acl !== undefined;
    this.#beside = { grants, tags: tags !== undefined, self: acl?.owner?.ID };
    return ownsAll === true ? refused.filter((what) => what !== 'grants') : refused;
  }

  async #ownsAll(deadline: Deadline): Promise<boolean> {
    return this.#requests.send('GetBucketOwnershipControls', deadline, 0, async (attempt) => {
      const { signed, signal } = attempt;
      const xml = await signed.bucketDocument('ownershipControls', signal);
      // A server that does not know the request, as Ceph 16, lists the bucket.
      if (xml === '' || xml?.includes('<ListBucketResult') === true) return false;
      const ownership = xml === undefined ? undefined : field(xml, 'ObjectOwnership');
      if (ownership !== undefined) return ownership === 'BucketOwnerEnforced';
      const command = new GetBucketOwnershipControlsCommand({ ...this.#common });
      const { OwnershipControls } = await attempt.client.send(command, { abortSignal: signal });
      return OwnershipControls?.Rules?.[0]?.ObjectOwnership === 'BucketOwnerEnforced';
    });
  }

  async #acl(key: string, deadline: Deadline): Promise<Acl> {
    return this.#requests.send('GetObjectAcl', deadline, 0, async (attempt) => {
      const xml = await attempt.signed.document(key, 'acl', attempt.signal);
      const acl = xml === undefined ? undefined : readAcl(xml);
      if (acl !== undefined) return acl;
      const command = new GetObjectAclCommand({ ...this.#common, Key: key });
      const answer = attempt.client.send(command, { abortSignal: attempt.signal });
      const { Owner, Grants } = await answer.catch(refuseObjects);
      return { owner: Owner, grants: Grants ?? [] };
    });
  }

  async #tags(key: string, deadline: Deadline): Promise<readonly Tag[]> {
    return this.#requests.send('GetObjectTagging', deadline, 0, async (attempt) => {
      const xml = await attempt.signed.document(key, 'tagging', attempt.signal);
      const tags = xml === undefined ? undefined : readTags(xml);
      if (tags !== undefined) return tags;
      const command = new GetObjectTaggingCommand({ ...this.#common, Key: key });
      const answer = attempt.client.send(command, { abortSignal: attempt.signal });
      return (await answer.catch(refuseObjects)).TagSet ?? [];
    });
  }

  /**
   * What an object has beside bytes, metadata and headers of its content, to be given to whatever
   * is made of it. Nothing if there is no object.
   * @param asked what HEAD tells of it
   */
  async beside(
    { key, etag }: { readonly key: string; readonly etag?: string },
    deadline: Deadline,
    asked?: Promise<Head | undefined>,
  ): Promise<CarriedHeaders> {
    if (this.#options.preserve === 'headers') return {};
    const own = this.#own.of(key, etag);
    if (own !== undefined) return own;
    await this.known(deadline);
    const { grants, tags, self } = this.#beside;
    const [head, acl, tagSet] = await Promise.all([
      asked ?? this.head(key, deadline),
      grants ? this.#acl(key, deadline).catch(this.#lost(key)) : undefined,
      tags ? this.#tags(key, deadline).catch(this.#lost(key)) : undefined,
    ]);
    return {
      ...(head === undefined ? {} : propertiesOf(head.properties, this.#options)),
      ...(acl === undefined ? {} : grantsOf(acl.grants, acl.owner, self)),
      ...(tagSet === undefined ? {} : tagsOf(tagSet)),
    };
  }

  /** Grants or tags that can't be read are lost; what may pass fails. */
  #lost(key: string): (error: unknown) => undefined {
    return (error) => {
      const failure = classify(error);
      if (failure.transient) throw failure;
      if (failure.kind !== 'missing') this.#log.warn({ key, error: failure.message }, LOST);
      return undefined;
    };
  }

  /** Whether this mount was the last to write an object, as far as is believed for a while. */
  wrote(key: string): boolean {
    return this.#own.of(key, undefined) !== undefined;
  }

  /** How an object is encrypted, for a copy that only we use. */
  async encryption(key: string, deadline: Deadline): Promise<CarriedHeaders> {
    if (this.#options.preserve === 'headers') return {};
    const head = await this.head(key, deadline);
    return head === undefined ? {} : encryptionOf(head.properties, this.#options);
  }

  /**
   * Gives an object what the server has left out of the request that made it: Ceph 16 has no tags
   * for copies with new metadata, and neither tags nor locks for multipart uploads.
   */
  async #settle(key: string, content: Content, deadline: Deadline): Promise<void> {
    const { tags, retention, legalHold } = settled(content.headers);
    const send = <T>(name: string, request: (attempt: Attempt) => Promise<T>): Promise<T> =>
      this.#requests.send(name, deadline, 0, request);
    const at = { ...this.#common, Key: key };
    if (tags.length > 0 && (await this.#tags(key, deadline)).length === 0) {
      await send('PutObjectTagging', ({ client, signal }) =>
        client.send(new PutObjectTaggingCommand({ ...at, Tagging: { TagSet: [...tags] } }), {
          abortSignal: signal,
        }),
      );
    }
    if (retention === undefined && !legalHold) return;
    const has = settled((await this.head(key, deadline))?.properties ?? {});
    if (retention !== undefined && has.retention === undefined) {
      const Retention = { Mode: retention.mode as ObjectLockRetentionMode, RetainUntilDate: retention.until };
      await send('PutObjectRetention', ({ client, signal }) =>
        client.send(new PutObjectRetentionCommand({ ...at, Retention }), { abortSignal: signal }),
      );
    }
    if (legalHold && !has.legalHold) {
      await send('PutObjectLegalHold', ({ client, signal }) =>
        client.send(new PutObjectLegalHoldCommand({ ...at, LegalHold: { Status: 'ON' } }), {
          abortSignal: signal,
        }),
      );
    }
  }

  #sourceFields(): object {
    const { SSECustomerAlgorithm, SSECustomerKey, SSECustomerKeyMD5 } = this.#customer;
    if (SSECustomerAlgorithm === undefined) return {};
    return {
      CopySourceSSECustomerAlgorithm: SSECustomerAlgorithm,
      CopySourceSSECustomerKey: SSECustomerKey,
      CopySourceSSECustomerKeyMD5: SSECustomerKeyMD5,
    };
  }

  /** Deletes a key. A key without an object is no error. */
  async remove(key: string, deadline: Deadline, isRepeated = true): Promise<void> {
    const request = async (attempt: Attempt): Promise<void> => {
      const { signed, signal } = attempt;
      // The template has the customer's key, which is nothing to a deletion.
      if (this.#customer.SSECustomerKey === undefined && (await signed.remove(key, signal))) return;
      const command = new DeleteObjectCommand({ ...this.#common, Key: key });
      await attempt.client.send(command, { abortSignal: signal });
    };
    await this.#requests.send('DeleteObject', deadline, 0, request, isRepeated);
  }

  /**
   * Deletes up to 1,000 keys in one request, or one by one where that is not possible.
   * @param isRepeated whether a request is that failed for what may pass
   * @returns those that are not deleted, and why.
   * @throws S3Failure if the whole request failed.
   */
  async removeEach(
    keys: readonly string[],
    deadline: Deadline,
    isRepeated = true,
  ): Promise<Map<string, S3Failure>> {
    const failed = new Map<string, S3Failure>();
    let alone: readonly string[] = keys;
    if (this.#removesMany) {
      const together = keys.filter((key) => !NO_XML.test(key));
      try {
        if (together.length > 0) await this.#removeTogether(together, failed, deadline, isRepeated);
        alone = keys.filter((key) => NO_XML.test(key));
      } catch (error) {
        const failure = classify(error);
        const isUnknown = failure.kind === 'unsupported' || failure.kind === 'refused';
        // A proxy says nothing of what the server can do.
        const isServers = failure.code !== 'ProxyRefused';
        if (!isServers || (!isUnknown && failure.kind !== 'missing')) throw failure;
        this.#removesMany = false;
      }
    }
    await parallel(alone, REMOVALS_AT_ONCE, (key) =>
      this.remove(key, deadline, isRepeated).catch((error: unknown) => void failed.set(key, classify(error))),
    );
    return failed;
  }

  async #removeTogether(
    keys: readonly string[],
    failed: Map<string, S3Failure>,
    deadline: Deadline,
    isRepeated: boolean,
  ): Promise<void> {
    const request = async ({ client, signal }: Attempt): Promise<void> => {
      const command = new DeleteObjectsCommand({
        ...this.#common,
        Delete: { Quiet: false, Objects: keys.map((key) => ({ Key: key })) },
      });
      const answer = await client.send(command, { abortSignal: signal });
      const errors = answer.Errors ?? [];
      if ((answer.Deleted?.length ?? 0) + errors.length < keys.length) {
        throw noAnswer('less deleted than was asked for');
      }
      for (const { Key = '', Code = 'InternalError' } of errors) {
        if (Code === 'NoSuchKey') continue;
        failed.set(Key, classify({ name: Code, $metadata: { httpStatusCode: statusOf(Code) } }));
      }
    };
    await this.#requests.send('DeleteObjects', deadline, 0, request, isRepeated);
  }

  /**
   * One page of a listing.
   * @param delimiter '/' groups the keys below a slash
   * @param after of a first page: it has the keys that come after this one.
   */
  async list(
    prefix: string,
    delimiter: '/' | '',
    token: string | undefined,
    max: number,
    deadline: Deadline,
    after?: string,
    isRepeated = true,
  ): Promise<Page> {
    const query = {
      prefix,
      'max-keys': String(max),
      ...(delimiter === '' ? {} : { delimiter }),
      ...(token === undefined ? {} : { 'continuation-token': token }),
      ...(after === undefined ? {} : { 'start-after': after }),
    };
    const request = async (attempt: Attempt): Promise<Page> => {
      const xml = await attempt.signed.list(query, attempt.signal);
      const page = xml === undefined ? undefined : readListing(xml, urlDecoded);
      if (page !== undefined) return page;
      const command = new ListObjectsV2Command({
        ...this.#common,
        Prefix: prefix,
        ...(delimiter === '' ? {} : { Delimiter: delimiter }),
        ...(token === undefined ? {} : { ContinuationToken: token }),
        ...(after === undefined ? {} : { StartAfter: after }),
        MaxKeys: max,
        EncodingType: 'url',
      });
      const answer = await attempt.client.send(command, { abortSignal: attempt.signal });
      if (answer.Name === undefined && answer.IsTruncated === undefined) throw noAnswer('no listing');
      return {
        objects: (answer.Contents ?? []).map((object) => ({
          key: urlDecoded(object.Key ?? ''),
          etag: unquoted(object.ETag),
          size: object.Size ?? 0,
          modified: Math.floor((object.LastModified?.getTime() ?? 0) / 1000),
          storageClass: object.StorageClass,
        })),
        prefixes: (answer.CommonPrefixes ?? []).map((group) => urlDecoded(group.Prefix ?? '')),
        next: answer.IsTruncated === true ? answer.NextContinuationToken : undefined,
      };
    };
    return this.#requests.send('ListObjectsV2', deadline, 0, request, isRepeated);
  }

  /** Whether uploads of parts take nothing that only the SDK gives them. */
  get #isPlainUpload(): boolean {
    return this.#checksum === undefined && this.#customer.SSECustomerKey === undefined;
  }

  /** @returns the upload's id. */
  async createUpload(key: string, content: Content, deadline: Deadline): Promise<string> {
    await this.known(deadline);
    let attempts = 0;
    const since = Date.now();
    const id = await this.#requests.send('CreateMultipartUpload', deadline, 0, async (attempt) => {
      attempts += 1;
      const { signed, signal } = attempt;
      if (this.#isPlainUpload) {
        const begun = await this.#granting(content, () =>
          signed.begin(key, { ...content, headers: this.#given(content) }, signal),
        );
        if (begun !== undefined) return begun;
      }
      const command = new CreateMultipartUploadCommand({
        ...this.#common,
        ...this.#customer,
        ...this.#creation,
        ...(this.#checksum === undefined ? {} : { ChecksumAlgorithm: sdkName(this.#checksum) }),
        Key: key,
        Metadata: content.metadata,
      });
      const answer = await this.#granting(content, () =>
        attempt.client.send(carrying(command, this.#given(content)), { abortSignal: signal }),
      );
      if (answer.UploadId === undefined) throw new S3Failure('transient', 200, 'NoUploadId');
      return answer.UploadId;
    });
    if (attempts > 1) await this.#abortOthers(key, id, since, deadline);
    return id;
  }

  /**
   * Aborts what an attempt has begun whose answer was lost. Another writer's upload of the same key
   * in these seconds is made anew by that writer.
   */
  async #abortOthers(key: string, id: string, since: number, deadline: Deadline): Promise<void> {
    try {
      for (const other of await this.uploadsOf(key, deadline)) {
        if (other.id !== id && other.initiated >= since - UPLOAD_CLOCK_MS) {
          await this.abortUpload(key, other.id, deadline);
        }
      }
    } catch (error) {
      this.#log.warn({ key, error: String(error) }, LEFT);
    }
  }

  async uploadPart(
    key: string,
    upload: string,
    number: number,
    body: Uint8Array,
    deadline: Deadline,
  ): Promise<Part> {
    const headers = await checksumHeaders(this.#checksum, body);
    const checksum = partChecksum(headers);
    return this.#requests.send('UploadPart', deadline, body.length, async (attempt) => {
      const etag = await attempt.signed.part(key, upload, number, body, headers, attempt);
      if (etag !== undefined) {
        this.#metrics.bytesUp += body.length;
        return { number, etag, checksum };
      }
      await attempt.pace?.(body.length);
      const command = new UploadPartCommand({
        ...this.#common,
        ...this.#customer,
        Key: key,
        UploadId: upload,
        PartNumber: number,
        Body: body,
        ContentLength: body.length,
      });
      const sent = attempt.client.send(carrying(command, headers), { abortSignal: attempt.signal });
      const answer = await sent;
      this.#metrics.bytesUp += body.length;
      return { number, etag: told(answer.ETag), checksum };
    });
  }

  /**
   * Makes a part of bytes `start` to `end` (exclusive) of an object, on the server.
   * @throws S3Failure as {@link copy} does.
   */
  async copyPart(
    source: RemoteObject,
    start: number,
    end: number,
    key: string,
    upload: string,
    number: number,
    deadline: Deadline,
  ): Promise<Part> {
    return this.#ofVersion(source, this.#checksSources, deadline, (isSent) =>
      this.#requests.send('UploadPartCopy', deadline, 0, async ({ client, signal }) => {
        const command = new UploadPartCopyCommand({
          ...this.#common,
          ...this.#customer,
          ...this.#sourceFields(),
          Key: key,
          UploadId: upload,
          PartNumber: number,
          ...this.#source(source, isSent),
          CopySourceRange: `bytes=${start}-${end - 1}`,
        });
        return this.#copying(undefined, async () => {
          const answer = await asCopy(command, (sent) => client.send(sent, { abortSignal: signal }));
          const copied = answer.CopyPartResult ?? {};
          const checksum = this.#checksum === undefined ? {} : copiedChecksum(copied);
          return { number, etag: told(copied.ETag), checksum };
        });
      }),
    );
  }

  /**
   * Completes an upload.
   * @throws S3Failure of kind precondition if the condition does not hold; no-upload if the upload
   * is gone, or void because another write came in between. A new upload is needed then.
   */
  async completeUpload(
    key: string,
    upload: string,
    parts: readonly Part[],
    size: number,
    content: Content,
    condition: Condition | undefined,
    deadline: Deadline,
  ): Promise<RemoteObject> {
    const complete = (conditions: ConditionFields): Promise<RemoteObject> =>
      this.#requests.send('CompleteMultipartUpload', deadline, 0, async (attempt) => {
        const { signed, signal } = attempt;
        if (this.#isPlainUpload) {
          const direct = await signed.complete(key, upload, parts, { ...conditions }, signal);
          if (direct === '') throw new S3Failure('missing', 200, 'Overwritten');
          if (direct !== undefined) return this.#written(key, direct, size);
        }
        const Parts = parts.map(({ number, etag, checksum }) => ({
          PartNumber: number,
          ETag: `"${etag}"`,
          ...checksum,
        }));
        const command = new CompleteMultipartUploadCommand({
          ...this.#common,
          ...this.#customer,
          ...conditions,
          Key: key,
          UploadId: upload,
          MultipartUpload: { Parts },
        });
        try {
          const answer = await attempt.client.send(command, { abortSignal: signal });
          const etag = unquoted(answer.ETag);
          if (etag !== '') return this.#written(key, etag, size);
        } catch (error) {
          const failure = classify(error);
          if (failure.kind === 'conflict') throw new S3Failure('no-upload', 409, failure.code, error);
          throw failure;
        }
        // Ceph 16 does not report the ETag here. The object is ours, or another writer has replaced
        // it.
        throw new S3Failure('missing', 200, 'Overwritten');
      });
    try {
      const object = await this.#conditionally('complete', key, content, condition, deadline, complete);
      await this.#settle(key, content, deadline);
      return object;
    } catch (error) {
      if (!(error instanceof S3Failure) || error.code !== 'Overwritten') throw error;
      throw new S3Failure('precondition', 412, error.code, error);
    }
  }

  /** Aborts an upload. An upload that is gone is no error. */
  async abortUpload(key: string, upload: string, deadline: Deadline): Promise<void> {
    try {
      await this.#requests.send('AbortMultipartUpload', deadline, 0, async (attempt) => {
        const { signed, signal } = attempt;
        if (this.#isPlainUpload && (await signed.abort(key, upload, signal))) return;
        const command = new AbortMultipartUploadCommand({ ...this.#common, Key: key, UploadId: upload });
        await attempt.client.send(command, { abortSignal: signal });
      });
    } catch (error) {
      const { kind } = classify(error);
      if (kind !== 'no-upload' && kind !== 'missing') throw error;
    }
  }

  /**
   * Unfinished uploads of all keys with a prefix, a page at a time.
   * @param deadline of each page.
   */
  async *uploadsBelow(prefix: string, deadline: () => Deadline): AsyncGenerator<LeftUpload> {
    let next: { KeyMarker?: string; UploadIdMarker?: string } | undefined = {};
    while (next !== undefined) {
      const from: object = next;
      const page: ListMultipartUploadsCommandOutput = await this.#requests.send(
        'ListMultipartUploads',
        deadline(),
        0,
        ({ client, signal }) => {
          const fields = { ...this.#common, Prefix: prefix, EncodingType: 'url' as const, ...from };
          return client.send(new ListMultipartUploadsCommand(fields), { abortSignal: signal });
        },
      );
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        if (Key === undefined || UploadId === undefined) continue;
        yield { key: urlDecoded(Key), id: UploadId, initiated: Initiated?.getTime() ?? Date.now() };
      }
      const { IsTruncated, NextKeyMarker, NextUploadIdMarker } = page;
      next =
        IsTruncated === true && NextKeyMarker !== undefined
          ? {
              KeyMarker: urlDecoded(NextKeyMarker),
              ...(NextUploadIdMarker === undefined ? {} : { UploadIdMarker: NextUploadIdMarker }),
            }
          : undefined;
    }
  }

  /** Unfinished uploads of exactly this key. */
  async uploadsOf(key: string, deadline: Deadline): Promise<readonly { id: string; initiated: number }[]> {
    return this.#requests.send('ListMultipartUploads', deadline, 0, async ({ client, signal }) => {
      const command = new ListMultipartUploadsCommand({ ...this.#common, Prefix: key });
      const answer = await client.send(command, { abortSignal: signal });
      return (answer.Uploads ?? [])
        .filter((upload) => upload.Key === key && upload.UploadId !== undefined)
        .map((upload) => ({ id: upload.UploadId ?? '', initiated: upload.Initiated?.getTime() ?? 0 }));
    });
  }
}

/** Whether what is at a key is what a condition requires. */
function holds(condition: Condition | undefined, head: Head | undefined): boolean {
  return condition === 'absent' ? head === undefined : head !== undefined && head.etag === condition?.etag;
}

const always = (): boolean => true;

/**
 * A server that knows no grants, or no tags, may answer with the object itself, and its ETag.
 * @throws S3Failure of kind unsupported then: it would be no other answer the next time.
 */
function refuseObjects(error: unknown): never {
  const failure = classify(error);
  const { $response: answer } = error as { $response?: { headers?: Readonly<Record<string, string>> } };
  const isObject = failure.status === 200 && answer?.headers?.['etag'] !== undefined;
  throw isObject ? new S3Failure('unsupported', 200, 'NoDocument', failure) : failure;
}

/**
 * The status that a code of an error has elsewhere, where a document gives the code alone. One that
 * is not known to pass is a refusal, and not tried again for ever.
 */
function statusOf(code: string): number {
  return code === 'AccessDenied' ? 403 : 400;
}
const nothing = (): void => undefined;

function md5(pieces: Iterable<Uint8Array>): string {
  const hash = createHash('md5');
  for (const piece of pieces) hash.update(piece);
  return hash.digest('hex');
}

function sdkName(name: ChecksumName): ChecksumAlgorithm {
  return name.toUpperCase() as ChecksumAlgorithm;
}

/**
 * The ETag of an answer.
 * @throws S3Failure of kind transient: without one it is no answer of S3.
 */
function told(etag: string | undefined): string {
  const found = unquoted(etag);
  if (found === '') throw noAnswer('no ETag');
  return found;
}

/**
 * Sends the command of a copy. Its answer is a document, which some servers give an ETag, too.
 * @throws S3Failure of kind unsupported where the server does not know copies, and has taken the
 * request for one that writes nothing: what is at its place now is empty.
 */
async function asCopy<C extends object, T>(command: C, send: (command: C) => Promise<T>): Promise<T> {
  let isWrite = false;
  const sent = answering(command, (headers) => (isWrite = headers.has('etag')));
  return send(sent).catch((error: unknown) => {
    throw isWrite ? new S3Failure('unsupported', 200, 'NoCopy', error) : error;
  });
}

/**
 * Decodes a key of a listing. Keys are percent-encoded there, since XML cannot carry all
 * characters. Amazon encodes a space as plus.
 */
function urlDecoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    return text;
  }
}

function customerKey(file: string | undefined): {
  SSECustomerAlgorithm: string;
  SSECustomerKey: string;
  SSECustomerKeyMD5: string;
} {
  if (file === undefined) throw new UsageError('encryption sse-c needs customerKeyFile: a file of 32 bytes');
  let key: Buffer;
  try {
    key = readFileSync(file);
  } catch {
    throw new UsageError(`customerKeyFile ${file}: can't be read`);
  }
  if (key.length !== 32) throw new UsageError(`customerKeyFile ${file}: has ${key.length} bytes, not 32`);
  return {
    SSECustomerAlgorithm: 'AES256',
    SSECustomerKey: key.toString('base64'),
    SSECustomerKeyMD5: createHash('md5').update(key).digest('base64'),
  };
}
