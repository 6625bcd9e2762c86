import type { Posix, RemoteObject } from '../objects/attributes.js';
import { formatFitting } from '../objects/attributes.js';
import { takeBuffer, returnBuffer } from '../client/buffers.js';
import { cannedAcl } from '../client/carried.js';
import type { Bucket } from '../client/bucket.js';
import type { Content, Part } from '../client/bucket-types.js';
import { parallel, Semaphore } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import type { Services } from '../service/services.js';
import type { Snapshot, Staged } from '../journal/staged.js';
import { into } from '../client/http.js';
import type { OwnLease } from '../leases/own-lease.js';

/** Most parts of an upload (Amazon S3 User Guide, "Multipart upload limits"). */
const PARTS_MAX = 10_000;
/**
 * Parts of one size before the size doubles. If the first ones have 8 MiB, 10,000 parts hold 8 TiB.
 */
const PARTS_PER_SIZE = 1000;
/** Largest part in bytes (as above). */
const PART_MAX_BYTES = 5 * 2 ** 30;
/** Parts of one file that are uploaded at once. */
const WIDTH = 4;

/** Most attempts at a multipart upload: another write, or somebody's abort, may make one void. */
const ATTEMPTS = 3;
/** Code of the failure of an upload that ended since the file's name is about to go. */
export const NOT_NEEDED = 'NotNeeded';

/** Offset of part `index` (from 0), if the first parts have `first` bytes. */
export function partStart(index: number, first: number): number {
  let start = 0;
  let size = first;
  for (let left = index; left > 0; left -= PARTS_PER_SIZE) {
    start += Math.min(left, PARTS_PER_SIZE) * Math.min(size, PART_MAX_BYTES);
    size *= 2;
  }
  return start;
}

/** The result of uploading a snapshot. */
export interface Uploaded {
  readonly object: RemoteObject;
  /**
   * Whether the object has the snapshot's attributes too. Those of a multipart upload are fixed
   * when it is created; what has changed since needs a copy on the server.
   */
  readonly attributed: boolean;
}

/** What is written with the bytes. */
export function contentOf(posix: Posix, mark: string | undefined): Content {
  return { metadata: formatFitting(posix, mark), headers: posix.headers };
}

/**
 * What is written with the bytes of what is made of an object: it keeps what that has beside them.
 * @param base undefined for a new object
 */
export async function contentFor(
  { bucket, options }: Services,
  base: RemoteObject | undefined,
  posix: Posix,
  mark: string | undefined,
): Promise<Content> {
  const content = contentOf(posix, mark);
  if (base === undefined) return { ...content, headers: { ...content.headers, ...cannedAcl(options) } };
  const beside = await bucket.beside(base, Deadline.after(options.operationTimeout));
  return { ...content, headers: { ...content.headers, ...beside } };
}

/**
 * Reads bytes `start` to `end` (exclusive) of a snapshot: from the log, from the base, zeros
 * elsewhere.
 */
export async function assemble(
  services: Services,
  staged: Staged,
  snapshot: Snapshot,
  start: number,
  end: number,
): Promise<Buffer> {
  const target = takeBuffer(end - start);
  const deadline = Deadline.after(services.options.operationTimeout);
  for (const piece of snapshot.extents.cover(start, end)) {
    const part = target.subarray(piece.start - start, piece.end - start);
    if (piece.source === 'log') {
      await staged.using(() => staged.log.read(piece.position, part));
      continue;
    }
    part.fill(0);
    const stop = Math.min(piece.end, snapshot.baseLimit);
    if (piece.source === 'gap' && snapshot.base !== undefined && stop > piece.start) {
      await services.reader.read(snapshot.base, piece.start, stop, undefined, deadline, (at, bytes) =>
        target.set(bytes, at - start),
      );
    }
  }
  return target;
}

/**
 * A part that was uploaded while the file was being written. `part` is undefined until it is
 * complete.
 */
interface EarlyPart {
  readonly start: number;
  readonly end: number;
  part: Part | undefined;
}

/**
 * The multipart upload of a large file. Parts are uploaded while the file is being written, as soon
 * as a sequential writer has passed them. A part that is written again is uploaded again. The
 * missing ones follow at the end; unchanged ones are copied on the server.
 */
export class PartUpload {
  readonly #services: Services;
  readonly #staged: Staged;
  readonly #key: string;
  readonly #early = new Map<number, EarlyPart>();
  readonly #slots = new Semaphore(WIDTH);
  /** Attributes at the start of the upload, which the object gets. */
  readonly #posix: Posix;
  readonly #mark: string;
  #content: Content | undefined;
  #id: Promise<string> | undefined;
  #underWay: Promise<void>[] = [];
  /** Index of the next part to be uploaded early. */
  #next = 0;
  #completing = false;
  /** The lease that the completion is entered in. */
  #lease: OwnLease | undefined;

  constructor(services: Services, staged: Staged, key: string) {
    this.#services = services;
    this.#staged = staged;
    this.#key = key;
    this.#posix = staged.posix;
    this.#mark = `${staged.id}.parts-${staged.sequence}`;
    staged.onChange = (start, end) => this.#invalidate(start, end);
  }

  #bounds(index: number, size: number): { start: number; end: number } {
    const first = this.#services.options.partSize;
    return { start: partStart(index, first), end: Math.min(size, partStart(index + 1, first)) };
  }

  #invalidate(start: number, end: number): void {
    for (const [index, part] of this.#early) {
      if (part.start < end && part.end > start) this.#early.delete(index);
    }
  }

  #begin(): Promise<string> {
    this.#id ??= this.#create();
    return this.#id;
  }

  async #create(): Promise<string> {
    const { bucket, options } = this.#services;
    await this.#staged.noteUpload(this.#key, undefined, false);
    this.#content = await contentFor(this.#services, this.#staged.base, this.#posix, this.#mark);
    const deadline = Deadline.after(options.operationTimeout);
    const id = await bucket.createUpload(this.#key, this.#content, deadline);
    await this.#staged.noteUpload(this.#key, id, false);
    return id;
  }

  /**
   * Uploads the parts below `end`, which a sequential writer has passed. A part that fails is
   * uploaded by {@link complete}.
   */
  advance(end: number): void {
    while (this.#underWay.length < 2 * WIDTH && !this.#completing) {
      const { start, end: stop } = this.#bounds(this.#next, Number.POSITIVE_INFINITY);
      if (stop > end) return;
      const index = this.#next++;
      const work = this.#slots.run(() => this.#sendEarly(index, start, stop)).catch(() => undefined);
      this.#underWay.push(work);
      void work.then(() => (this.#underWay = this.#underWay.filter((other) => other !== work)));
    }
  }

  async #sendEarly(index: number, start: number, end: number): Promise<void> {
    // While a snapshot is being completed, a later state must not get into its parts.
    if (this.#completing) return;
    const entry: EarlyPart = { start, end, part: undefined };
    this.#early.set(index, entry);
    entry.part = await this.#send(index, start, end, this.#staged.view());
  }

  async #send(index: number, start: number, end: number, snapshot: Snapshot): Promise<Part> {
    const { bucket, options } = this.#services;
    const id = await this.#begin();
    const deadline = Deadline.after(options.operationTimeout);
    const { base, baseLimit } = snapshot;
    const [piece] = snapshot.extents.cover(start, end);
    if (base !== undefined && piece?.source === 'gap' && piece.end === end && end <= baseLimit) {
      return copyPart(this.#services, base, start, end, this.#key, id, index + 1);
    }
    const body = await assemble(this.#services, this.#staged, snapshot, start, end);
    const part = await bucket.uploadPart(this.#key, id, index + 1, body, deadline);
    returnBuffer(body);
    return part;
  }

  /**
   * Uploads the missing parts of a snapshot that was taken in this turn, and completes the upload.
   * @param lease under which it goes, if it does: it is completed only while that is not lost.
   */
  async complete(snapshot: Snapshot, lease?: OwnLease): Promise<Uploaded> {
    const { bucket, options } = this.#services;
    this.#completing = true;
    await Promise.all(this.#underWay);
    const parts: Part[] = [];
    const missing: { index: number; start: number; end: number }[] = [];
    for (let index = 0; ; index++) {
      const { start, end } = this.#bounds(index, snapshot.size);
      // An upload has one part at least.
      if (start >= snapshot.size && index > 0) break;
      if (index === PARTS_MAX) throw new S3Failure('refused', 0, 'EntityTooLarge');
      const early = this.#early.get(index);
      if (early?.part !== undefined && early.end === end) parts[index] = early.part;
      else missing.push({ index, start, end });
    }
    await parallel(missing, WIDTH, async ({ index, start, end }) => {
      if (this.#staged.leavers > 0) throw new S3Failure('transient', 0, NOT_NEEDED);
      parts[index] = await this.#send(index, start, end, snapshot);
    });
    const id = await this.#begin();
    const content = this.#content ?? contentOf(this.#posix, this.#mark);
    const deadline = Deadline.after(options.operationTimeout);
    const { size, condition, posix } = snapshot;
    this.#lease = lease;
    await lease?.enter(this.#key, id);
    const object = await bucket.completeUpload(this.#key, id, parts, size, content, condition, deadline);
    lease?.leave(id);
    await this.#staged.noteUpload(this.#key, id, true);
    this.#staged.onChange = () => undefined;
    return { object, attributed: this.#posix === posix };
  }

  /** Aborts the upload. */
  async abort(): Promise<void> {
    this.#completing = true;
    this.#staged.onChange = () => undefined;
    await Promise.all(this.#underWay);
    const id = await this.#id?.catch(() => undefined);
    if (id === undefined) return;
    const { bucket, options } = this.#services;
    await bucket.abortUpload(this.#key, id, Deadline.after(options.operationTimeout));
    this.#lease?.leave(id);
    await this.#staged.noteUpload(this.#key, id, true);
  }
}

/** Runs a copy on the server; if the server does not copy, `instead`. */
async function copied<T>(bucket: Bucket, copy: () => Promise<T>, instead: () => Promise<T>): Promise<T> {
  if (!bucket.copies) return instead();
  try {
    return await copy();
  } catch (error) {
    if (!(error instanceof S3Failure) || error.kind !== 'unsupported') throw error;
    return instead();
  }
}

/** Reads bytes `start` to `end` (exclusive) of an object. */
async function fetched(
  { bucket, options }: Services,
  { key, etag }: RemoteObject,
  start: number,
  end: number,
): Promise<Buffer> {
  const target = Buffer.allocUnsafeSlow(end - start);
  if (end > start) {
    const deadline = Deadline.after(options.operationTimeout);
    await bucket.read(key, etag, start, end, deadline, into(target));
  }
  return target;
}

/** Makes a part of an upload from bytes `start` to `end` (exclusive) of an object. */
async function copyPart(
  services: Services,
  source: RemoteObject,
  start: number,
  end: number,
  key: string,
  upload: string,
  number: number,
): Promise<Part> {
  const { bucket, options } = services;
  const deadline = (): Deadline => Deadline.after(options.operationTimeout);
  return copied(
    bucket,
    () => bucket.copyPart(source, start, end, key, upload, number, deadline()),
    async () =>
      bucket.uploadPart(key, upload, number, await fetched(services, source, start, end), deadline()),
  );
}

/**
 * Copies an object and gives it new attributes; in parts if it is large, on the server if that
 * copies. The copy has what the object has beside them.
 * @throws S3Failure of kind precondition if the source has changed.
 */
export async function copyObject(
  services: Services,
  source: RemoteObject,
  key: string,
  posix: Posix,
  mark: string,
): Promise<RemoteObject> {
  return copyAs(services, source, key, await contentFor(services, source, posix, mark));
}

/**
 * Copies an object with all that it has.
 * @returns undefined if it is gone.
 * @throws as {@link copyObject}
 */
export async function copyWhole(
  services: Services,
  source: RemoteObject,
  key: string,
): Promise<RemoteObject | undefined> {
  const { bucket, options } = services;
  const deadline = (): Deadline => Deadline.after(options.operationTimeout);
  const instead = async (): Promise<RemoteObject | undefined> => {
    const asked = bucket.head(source.key, deadline());
    const [head, beside] = await Promise.all([asked, bucket.beside(source, deadline(), asked)]);
    if (head === undefined) return undefined;
    const content = { metadata: head.metadata, headers: { ...head.headers, ...beside } };
    return copyAs(services, source, key, content);
  };
  if (source.size > options.copyLimit) return instead();
  try {
    return await copied(bucket, () => bucket.copyWhole(source, key, deadline()), instead);
  } catch (error) {
    if (error instanceof S3Failure && error.kind === 'missing') return undefined;
    throw error;
  }
}

/** As {@link copyObject}, with content of any kind. */
export async function copyAs(
  services: Services,
  source: RemoteObject,
  key: string,
  content: Content,
): Promise<RemoteObject> {
  const { bucket, options } = services;
  const deadline = (): Deadline => Deadline.after(options.operationTimeout);
  const inParts = (size: number): Promise<RemoteObject> =>
    copyInParts(services, source, key, content, Math.max(size, Math.ceil(source.size / PARTS_MAX)));
  if (source.size > options.copyLimit) return inParts(bucket.copies ? options.copyLimit : options.partSize);
  return copied(
    bucket,
    () => bucket.copy(source, key, content, deadline()),
    async () => {
      if (source.size > 2 * options.partSize) return inParts(options.partSize);
      const body = await fetched(services, source, 0, source.size);
      return bucket.put(key, body, content, undefined, deadline());
    },
  );
}

async function copyInParts(
  services: Services,
  source: RemoteObject,
  key: string,
  content: Content,
  size: number,
): Promise<RemoteObject> {
  const { bucket, options } = services;
  const deadline = (): Deadline => Deadline.after(options.operationTimeout);
  const id = await bucket.createUpload(key, content, deadline());
  try {
    const ranges: { index: number; start: number; end: number }[] = [];
    for (let start = 0; start < source.size; start += size) {
      ranges.push({ index: ranges.length, start, end: Math.min(source.size, start + size) });
    }
    const parts: Part[] = [];
    await parallel(ranges, WIDTH, async ({ index, start, end }) => {
      parts[index] = await copyPart(services, source, start, end, key, id, index + 1);
    });
    if (bucket.capabilities?.copySource === false) {
      const now = await bucket.head(source.key, deadline());
      if (now?.etag !== source.etag) throw new S3Failure('precondition', 412, 'SourceChanged');
    }
    return await bucket.completeUpload(key, id, parts, source.size, content, undefined, deadline());
  } catch (error) {
    await bucket.abortUpload(key, id, deadline()).catch(() => undefined);
    throw error;
  }
}

/**
 * Uploads a snapshot: by a copy if only attributes changed, otherwise in one request or in parts.
 */
export async function uploadSnapshot(
  services: Services,
  staged: Staged,
  snapshot: Snapshot,
  key: string,
  parts: PartUpload | undefined,
): Promise<Uploaded> {
  const { bucket, options, reader } = services;
  const mark = `${staged.id}.${snapshot.sequence}`;
  const { base, size, posix, condition } = snapshot;
  const lease = services.fence?.ticket();
  if (lease === undefined && base !== undefined && !snapshot.contentChanged) {
    return { object: await copyObject(services, base, key, posix, mark), attributed: true };
  }
  // A single request that is late could come after another mount has taken the lock.
  if (lease !== undefined || size > 2 * options.partSize) {
    let upload = parts ?? new PartUpload(services, staged, key);
    for (let attempt = 1; ; attempt++) {
      try {
        return await upload.complete(snapshot, lease);
      } catch (error) {
        await upload.abort().catch(() => undefined);
        const isVoid = error instanceof S3Failure && error.kind === 'no-upload';
        if (!isVoid || attempt === ATTEMPTS) throw error;
      }
      upload = new PartUpload(services, staged, key);
    }
  }
  await parts?.abort();
  const [content, body] = await Promise.all([
    contentFor(services, base, posix, mark),
    assemble(services, staged, snapshot, 0, size),
  ]);
  const deadline = Deadline.after(options.operationTimeout);
  const object = await bucket.put(key, body, content, condition, deadline);
  reader.keep(object, body);
  returnBuffer(body);
  return { object, attributed: true };
}
