import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { PassThrough, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Logger, UsageError } from '../../backend/index.js';
import { MemfsVolume, type VolumeSnapshot } from '../../../backends/memfs/index.js';
import { compressionOf, decompressor, MAGIC_BYTES } from './compression.js';
import { Digest, digestOf } from './digest.js';
import {
  type ConfigDocument,
  configSchema,
  type Descriptor,
  dockerManifestSchema,
  type ImageConfig,
  imageConfigOf,
  indexSchema,
  manifestSchema,
  parse,
} from './documents.js';
import { referenceOf } from './registry/reference.js';
import { openStore, readDocument, type Store } from './store.js';

/** Indexes of indexes are followed no deeper. */
const MAX_DEPTH = 4;

/** One layer, as the image has it. */
export interface ImageLayer {
  /** Its file in the store. */
  readonly name: string;
  /** What the image tells of the file; undefined where that is nothing. */
  readonly descriptor: Descriptor | undefined;
  /** The digest of the archive in it. */
  readonly diffId: string;
}

/** An image of a container, in a directory or an archive. */
export class Image {
  readonly store: Store;
  /** As it is in the image. */
  readonly document: ConfigDocument;
  readonly config: ImageConfig;
  /** The lowest first. */
  readonly layers: readonly ImageLayer[];

  /** For {@link open}. @param files of its layers, the lowest first. */
  constructor(store: Store, document: ConfigDocument, files: readonly Omit<ImageLayer, 'diffId'>[]) {
    const ids = document.rootfs.diff_ids;
    if (ids.length !== files.length)
      throw new UsageError(
        `image ${store.path}: ${files.length} layers, but its configuration tells of ${ids.length}`,
      );
    this.store = store;
    this.document = document;
    this.config = imageConfigOf(document);
    this.layers = files.map((file, index) => ({ ...file, diffId: ids[index]! }));
  }

  /**
   * Opens an image.
   * @param place a directory or an archive, `PATH:TAG` where it has several images; or
   * `docker://HOST/NAME:TAG`, an image of a registry.
   * @throws UsageError for what is none, or is damaged.
   */
  static async open(place: string, signal?: AbortSignal): Promise<Image> {
    const reference = referenceOf(place);
    if (reference !== undefined) {
      // What speaks HTTP is loaded where it is used.
      const { RegistryStore } = await import('./registry/registry-store.js');
      const store = new RegistryStore(reference);
      return openManifest(store, await store.readManifest(signal), signal);
    }
    const { path, tag } = placeAndTag(place);
    const store = await openStore(path);
    if (store.has('index.json'))
      return openManifest(store, await readDocument(store, 'index.json'), signal, (manifests) =>
        choose(manifests, tag, `image ${path}`),
      );
    if (store.has('manifest.json')) return openDocker(store, tag);
    throw new UsageError(
      `image ${path}: neither an OCI layout (index.json) nor of docker save (manifest.json)`,
    );
  }

  /**
   * Puts its layers together, one upon the other, in memory. Digests are checked.
   * @throws UsageError for a layer that is damaged, or does not fit.
   */
  async load(log: Logger, signal?: AbortSignal): Promise<VolumeSnapshot> {
    const volume = new MemfsVolume();
    try {
      for (const layer of this.layers) {
        log.info({ layer: layer.diffId }, 'reading');
        try {
          await this.#addLayer(volume, layer, signal);
        } catch (error) {
          signal?.throwIfAborted();
          const { code, message } = error as NodeJS.ErrnoException;
          const why = code === 'ENOSPC' ? 'does not fit into memory' : message;
          throw new UsageError(`image ${this.store.path}: ${layer.name}: ${why}`, { cause: error });
        }
      }
      return volume.snapshot();
    } finally {
      // The snapshot keeps what it needs.
      volume.discard();
    }
  }

  async #addLayer(
    volume: MemfsVolume,
    { name, descriptor, diffId }: ImageLayer,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const outer = descriptor === undefined ? undefined : Digest.like(descriptor.digest);
    const inner = Digest.like(diffId);
    const input = this.store.stream(name, descriptor, signal);
    const unpack = decompressor(compressionOf(await firstBytes(input, MAGIC_BYTES)));
    await pipeline(
      input,
      outer?.stream ?? new PassThrough(),
      unpack ?? new PassThrough(),
      inner.stream,
      async (archive: AsyncIterable<Buffer>) => {
        const iterator = archive[Symbol.asyncIterator]();
        const rest = { [Symbol.asyncIterator]: () => ({ next: () => iterator.next() }) };
        await volume.addLayer(rest);
        // What follows the archive's end belongs to the digests.
        for (let next = await iterator.next(); next.done !== true; next = await iterator.next());
      },
      { signal },
    );
    if (descriptor !== undefined) outer?.check(descriptor.digest);
    inner.check(diffId);
  }
}

/** Splits `PATH:TAG`, in which either may have colons, by what there is. */
function placeAndTag(place: string): { path: string; tag: string | undefined } {
  for (let at = place.indexOf(':'); at > 0 && !existsSync(place); at = place.indexOf(':', at + 1)) {
    const path = place.slice(0, at);
    if (existsSync(path)) return { path, tag: place.slice(at + 1) };
  }
  return { path: place, tag: undefined };
}

/**
 * Follows indexes to the manifest for this machine.
 * @param bytes of an index, or of a manifest.
 * @param chooseFirst chooses of an index that has several images.
 */
async function openManifest(
  store: Store,
  bytes: Buffer,
  signal: AbortSignal | undefined,
  chooseFirst?: (manifests: readonly Descriptor[]) => Descriptor,
): Promise<Image> {
  const name = `image ${store.path}`;
  let label = chooseFirst === undefined ? name : `${name}: index.json`;
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    const found = parse(indexSchema.or(manifestSchema), bytes, label);
    if ('layers' in found) {
      const { config, layers } = parse(manifestSchema, bytes, label);
      const document = parse(configSchema, await readBlob(store, config, signal), `${name}: configuration`);
      return new Image(
        store,
        document,
        layers.map((descriptor) => ({ name: blobName(descriptor.digest), descriptor })),
      );
    }
    const { manifests } = parse(indexSchema, bytes, label);
    const chosen =
      depth === 0 && chooseFirst !== undefined ? chooseFirst(manifests) : manifests.find(isForThisMachine);
    if (chosen === undefined) throw new UsageError(`${name}: no image for this machine`);
    label = `${name}: ${chosen.digest}`;
    bytes = await readBlob(store, chosen, signal);
  }
  throw new UsageError(`${name}: indexes of indexes, more than ${MAX_DEPTH} deep`);
}

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

function tagOf({ annotations }: Descriptor): string | undefined {
  return annotations?.['org.opencontainers.image.ref.name'];
}

function isForThisMachine({ platform }: Descriptor): boolean {
  if (platform === undefined) return true;
  return platform.os === 'linux' && platform.architecture === ARCHITECTURES[process.arch];
}

/** The manifest with a tag, or the only one for this machine. */
function choose(manifests: readonly Descriptor[], tag: string | undefined, name: string): Descriptor {
  const found = manifests.filter((one) => isForThisMachine(one) && (tag === undefined || tagOf(one) === tag));
  const tags = manifests.flatMap((one) => tagOf(one) ?? []).join(', ');
  if (found.length === 0)
    throw new UsageError(`${name}: no image ${tag ?? 'for this machine'}; it has ${tags || 'no tags'}`);
  if (found.length > 1) throw new UsageError(`${name}: several images, give PATH:TAG; it has ${tags}`);
  return found[0]!;
}

async function openDocker(store: Store, tag: string | undefined): Promise<Image> {
  const name = `image ${store.path}`;
  const images = parse(
    dockerManifestSchema,
    await readDocument(store, 'manifest.json'),
    `${name}: manifest.json`,
  );
  const tagsOf = ({ RepoTags }: (typeof images)[number]): readonly string[] => RepoTags ?? [];
  const isMeant = (full: string): boolean =>
    full === tag || full.endsWith(`/${tag}`) || full.endsWith(`:${tag}`);
  const found = tag === undefined ? images : images.filter((image) => tagsOf(image).some(isMeant));
  const known = images.flatMap(tagsOf).join(', ') || 'no tags';
  if (found.length !== 1)
    throw new UsageError(
      found.length === 0
        ? `${name}: no image ${tag}; it has ${known}`
        : `${name}: several images, give PATH:TAG; it has ${known}`,
    );
  const { Config, Layers } = found[0]!;
  const document = parse(configSchema, await readDocument(store, Config), `${name}: ${Config}`);
  return new Image(
    store,
    document,
    Layers.map((layer) => ({ name: layer, descriptor: undefined })),
  );
}

/** A blob's file in an OCI layout. */
export function blobName(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`;
}

async function readBlob(
  store: Store,
  descriptor: Descriptor,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const { digest } = descriptor;
  const bytes = await readDocument(store, blobName(digest), descriptor, signal);
  const found = digestOf(bytes, digest.split(':')[0]);
  if (found !== digest) throw new UsageError(`image ${store.path}: ${digest}: damaged: it is ${found}`);
  return bytes;
}

/** What a stream begins with, which stays in it. */
async function firstBytes(stream: Readable, count: number): Promise<Buffer> {
  const ended = once(stream, 'end');
  // What it throws, so does the wait for more.
  ended.catch(() => {});
  let start: Buffer | null = null;
  while (start === null && !stream.readableEnded) {
    start = stream.read(count) as Buffer | null;
    if (start === null) await Promise.race([once(stream, 'readable'), ended]);
  }
  if (start === null) return Buffer.alloc(0);
  stream.unshift(start);
  return start;
}
