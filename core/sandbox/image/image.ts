import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { PassThrough, type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import * as zlib from 'node:zlib';
import { type Logger, UsageError } from '../../backend/index.js';
import { MemfsVolume, type VolumeSnapshot } from '../../../backends/memfs/index.js';
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
import { openStore, readDocument, type Store } from './store.js';

const GZIP = [0x1f, 0x8b];
const ZSTD = [0x28, 0xb5, 0x2f, 0xfd];

/** Indexes of indexes are followed no deeper. */
const MAX_DEPTH = 4;

/** One layer, as the image has it. */
export interface ImageLayer {
  /** Its file in the store. */
  readonly name: string;
  /** The digest of the file; undefined where the image does not tell it. */
  readonly digest: string | undefined;
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
   * @param place a directory or an archive, `PATH:TAG` where it has several images.
   * @throws UsageError for what is none, or is damaged.
   */
  static async open(place: string): Promise<Image> {
    const { path, tag } = placeAndTag(place);
    const store = await openStore(path);
    if (store.has('index.json')) return openLayout(store, tag);
    if (store.has('manifest.json')) return openDocker(store, tag);
    throw new UsageError(
      `image ${path}: neither an OCI layout (index.json) nor of docker save (manifest.json)`,
    );
  }

  /**
   * Puts its layers together, one upon the other, in memory. Digests are checked.
   * @throws UsageError for a layer that is damaged, or does not fit.
   */
  async load(log: Logger): Promise<VolumeSnapshot> {
    const volume = new MemfsVolume();
    try {
      for (const layer of this.layers) {
        log.info({ layer: layer.diffId }, 'reading');
        try {
          await this.#addLayer(volume, layer);
        } catch (error) {
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

  async #addLayer(volume: MemfsVolume, { name, digest, diffId }: ImageLayer): Promise<void> {
    const outer = digest === undefined ? undefined : Digest.like(digest);
    const inner = Digest.like(diffId);
    const start = await firstBytes(this.store.stream(name), ZSTD.length);
    const unpack = decompressor(start);
    await pipeline(
      this.store.stream(name),
      outer?.stream ?? new PassThrough(),
      unpack ?? new PassThrough(),
      inner.stream,
      async (input: AsyncIterable<Buffer>) => {
        const iterator = input[Symbol.asyncIterator]();
        const rest = { [Symbol.asyncIterator]: () => ({ next: () => iterator.next() }) };
        await volume.addLayer(rest);
        // What follows the archive's end belongs to the digests.
        for (let next = await iterator.next(); next.done !== true; next = await iterator.next());
      },
    );
    if (digest !== undefined) outer?.check(digest);
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

async function openLayout(store: Store, tag: string | undefined): Promise<Image> {
  const name = `image ${store.path}`;
  let { manifests } = parse(indexSchema, await readDocument(store, 'index.json'), `${name}: index.json`);
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    const chosen = choose(manifests, depth === 0 ? tag : undefined, name);
    const bytes = await readBlob(store, chosen);
    const found = parse(indexSchema.or(manifestSchema), bytes, `${name}: ${chosen.digest}`);
    if ('layers' in found) {
      const { config, layers } = parse(manifestSchema, bytes, `${name}: ${chosen.digest}`);
      const document = parse(configSchema, await readBlob(store, config), `${name}: configuration`);
      return new Image(
        store,
        document,
        layers.map((layer) => ({ name: blobName(layer.digest), digest: layer.digest })),
      );
    }
    ({ manifests } = parse(indexSchema, bytes, `${name}: ${chosen.digest}`));
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
    Layers.map((layer) => ({ name: layer, digest: undefined })),
  );
}

/** A blob's file in an OCI layout. */
export function blobName(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`;
}

async function readBlob(store: Store, { digest }: Descriptor): Promise<Buffer> {
  const bytes = await readDocument(store, blobName(digest));
  const found = digestOf(bytes, digest.split(':')[0]);
  if (found !== digest) throw new UsageError(`image ${store.path}: ${digest}: damaged: it is ${found}`);
  return bytes;
}

async function firstBytes(stream: Readable, count: number): Promise<Buffer> {
  let start = Buffer.alloc(0);
  for await (const part of stream as AsyncIterable<Buffer>) {
    start = Buffer.concat([start, part]);
    if (start.length >= count) break;
  }
  return start.subarray(0, count);
}

function decompressor(start: Buffer): NodeJS.ReadWriteStream | undefined {
  const begins = (magic: readonly number[]): boolean => magic.every((byte, at) => start[at] === byte);
  if (begins(GZIP)) return zlib.createGunzip({ chunkSize: 1 << 20 });
  if (!begins(ZSTD)) return undefined;
  // Node has it from 22.15 on.
  const { createZstdDecompress } = zlib as { createZstdDecompress?: () => Transform };
  return createZstdDecompress === undefined ? zstdProgram() : createZstdDecompress();
}

/** The program zstd as a stream. */
function zstdProgram(): NodeJS.ReadWriteStream {
  const child = spawn('zstd', ['-dcq'], { stdio: ['pipe', 'pipe', 'ignore'] });
  const output = new Transform({
    transform(bytes: Buffer, _encoding, done) {
      child.stdin.write(bytes, (error) => done(error ?? null));
    },
    flush(done) {
      child.once('close', (code) => done(code === 0 ? null : new Error('damaged: zstd cannot read it')));
      child.stdin.end();
    },
    destroy(error, done) {
      child.kill('SIGKILL');
      done(error);
    },
  });
  child.stdin.on('error', () => {});
  child.stdout.on('data', (bytes: Buffer) => {
    if (output.push(bytes)) return;
    child.stdout.pause();
  });
  output.on('resume', () => child.stdout.resume());
  child.on('error', () =>
    output.destroy(new UsageError('zstd, which Node reads from 22.15 on: apt-get install zstd')),
  );
  return output;
}
