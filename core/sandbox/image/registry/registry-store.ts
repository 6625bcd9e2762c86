import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { UsageError } from '../../../backend/index.js';
import { digestOf } from '../digest.js';
import type { Descriptor } from '../documents.js';
import { MAX_DOCUMENT_BYTES, type Store } from '../store.js';
import { BlobCache } from './blob-cache.js';
import { bytesOf, MANIFEST_TYPES, RegistryClient } from './client.js';
import { isDigest, type Reference } from './reference.js';

/** How often a blob is asked for whose connection breaks. */
const MOST_TRIES = 3;

/** An image's files in a registry. What was read is kept in this host's cache. */
export class RegistryStore implements Store {
  readonly path: string;
  readonly #reference: Reference;
  readonly #cache: BlobCache;
  readonly #client: RegistryClient;

  constructor(reference: Reference, cache: BlobCache = new BlobCache()) {
    const { registry, repository, version } = reference;
    this.path = `${registry}/${repository}${isDigest(version) ? '@' : ':'}${version}`;
    this.#reference = reference;
    this.#cache = cache;
    this.#client = new RegistryClient(registry, repository);
  }

  /**
   * Reads what the image begins with, a manifest or an index.
   * @throws UsageError with what the registry says, or if it is another one than was asked for.
   */
  async readManifest(signal: AbortSignal | undefined): Promise<Buffer> {
    const { version } = this.#reference;
    const kept = isDigest(version) ? await this.#cache.find({ digest: version }) : undefined;
    if (kept !== undefined) {
      await using handle = kept;
      if ((await handle.stat()).size <= MAX_DOCUMENT_BYTES) return await handle.readFile();
      throw new UsageError(`image ${this.path}: is no manifest`);
    }
    const bytes = await bytesOf(await this.#client.get('manifests', version, signal), MAX_DOCUMENT_BYTES);
    if (isDigest(version)) {
      const found = digestOf(bytes, version.split(':')[0]);
      if (found !== version) throw new UsageError(`image ${this.path}: damaged: its digest is ${found}`);
      const added = await this.#cache.add({ digest: version, size: bytes.length }, Readable.from([bytes]));
      await added.close();
    }
    return bytes;
  }

  stream(_name: string, descriptor: Descriptor, signal?: AbortSignal): Readable {
    return Readable.from(this.#read(descriptor, signal), { objectMode: false, highWaterMark: 1 << 20 });
  }

  async *#read(descriptor: Descriptor, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
    const handle = (await this.#cache.find(descriptor)) ?? (await this.#pull(descriptor, signal));
    try {
      for await (const piece of handle.createReadStream({
        autoClose: false,
        start: 0,
        highWaterMark: 1 << 20,
      }))
        yield piece as Buffer;
    } finally {
      await handle.close();
    }
  }

  async #pull(descriptor: Descriptor, signal: AbortSignal | undefined): Promise<FileHandle> {
    const kind = MANIFEST_TYPES.includes(descriptor.mediaType) ? 'manifests' : 'blobs';
    for (let left = MOST_TRIES; ; left--) {
      try {
        const { body } = await this.#client.get(kind, descriptor.digest, signal);
        return await this.#cache.add(descriptor, body ?? Readable.from([]));
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof UsageError) throw error;
        // A connection that breaks in the middle may be a passing thing.
        const { message } = error as Error;
        if (left === 1) throw new UsageError(`image ${this.path}: ${message}`, { cause: error });
      }
    }
  }
}
