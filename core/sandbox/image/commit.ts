import { randomBytes } from 'node:crypto';
import {
  createWriteStream,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { UsageError } from '../../backend/index.js';
import { type Compression, compressionOf, MAGIC_BYTES } from './compression.js';
import { Digest, digestOf } from './digest.js';
import { type ConfigDocument, type Descriptor, indexSchema, parse } from './documents.js';
import { blobName, type Image, type ImageLayer } from './image.js';

export const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar';
const REF_NAME = 'org.opencontainers.image.ref.name';

/** A blob that was written. */
export interface Blob {
  readonly digest: string;
  readonly size: number;
  /** Of what was compressed; the same as `digest` where nothing was. */
  readonly diffId: string;
}

/**
 * Adds an image to an OCI layout: the layers of another one, if any, and one more.
 * @param writeLayer writes that layer's archive.
 * @throws UsageError for a tag that is none, or a directory that is no layout.
 */
export async function commitImage(
  directory: string,
  tag: string,
  base: Image | undefined,
  writeLayer: (sink: Writable) => Promise<void>,
): Promise<void> {
  if (!/^[a-z0-9][\w.-]{0,127}$/i.test(tag)) throw new UsageError(`tag ${tag}: letters, digits, . - _ only`);
  const manifests = openLayout(directory).filter(({ annotations }) => annotations?.[REF_NAME] !== tag);
  const layers: Descriptor[] = [];
  for (const layer of base?.layers ?? []) {
    const { digest, size, compression } = await copyLayer(directory, base!, layer);
    layers.push({ mediaType: layerType(compression), digest, size });
  }
  const added = await addLayer(directory, writeLayer);
  layers.push({ mediaType: layerType('gzip'), digest: added.digest, size: added.size });
  const config = await writeDocument(directory, configOf(base, added.diffId));
  const manifest = await writeDocument(directory, manifestOf(config, layers));
  manifests.push({ mediaType: MANIFEST, ...manifest, annotations: { [REF_NAME]: tag } });
  await replace(directory, 'index.json', JSON.stringify({ schemaVersion: 2, manifests }));
}

/** The manifest of an image. */
export function manifestOf(config: { readonly digest: string; readonly size: number }, layers: Descriptor[]) {
  return { schemaVersion: 2, mediaType: MANIFEST, config: { mediaType: CONFIG, ...config }, layers };
}

/** The media type of a layer. */
export function layerType(compression: Compression | undefined): string {
  return compression === undefined ? LAYER : `${LAYER}+${compression}`;
}

/**
 * Writes a new layer's archive, gzipped, below a directory.
 * @param writeLayer writes it.
 */
export async function addLayer(
  directory: string,
  writeLayer: (sink: Writable) => Promise<void>,
): Promise<Blob> {
  mkdirSync(join(directory, 'blobs/sha256'), { recursive: true });
  const archive = new PassThrough();
  const [added] = await Promise.all([
    writeBlob(directory, archive, true),
    writeLayer(archive).then(
      () => archive.end(),
      (error: Error) => void archive.destroy(error),
    ),
  ]);
  return added;
}

/** Makes a layout if there is none. @returns the manifests that it has. */
function openLayout(directory: string): Descriptor[] {
  const index = join(directory, 'index.json');
  mkdirSync(join(directory, 'blobs/sha256'), { recursive: true });
  if (existsSync(index)) return parse(indexSchema, readFileSync(index), index).manifests;
  writeFileSync(join(directory, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  return [];
}

/** The configuration of an image with one more layer. */
export function configOf(base: Image | undefined, diffId: string): ConfigDocument {
  const before: ConfigDocument = base?.document ?? {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    rootfs: { diff_ids: [] },
  };
  const created = new Date().toISOString();
  return {
    ...before,
    created,
    rootfs: { type: 'layers', diff_ids: [...before.rootfs.diff_ids, diffId] },
    ...(before.history === undefined
      ? {}
      : { history: [...before.history, { created, created_by: 'virtiofs-kit sandbox' }] }),
  };
}

/**
 * Copies a layer as it is; one in zstd is read by fewer tools.
 * @throws UsageError if it is not what it was.
 */
async function copyLayer(
  directory: string,
  { store }: Image,
  { name, descriptor }: ImageLayer,
): Promise<Pick<Descriptor, 'digest' | 'size'> & { compression: Compression | undefined }> {
  let start = new Uint8Array(0);
  const input = store.stream(name, descriptor).on('data', (part: Buffer) => {
    if (start.length < MAGIC_BYTES) start = Buffer.concat([start, part.subarray(0, MAGIC_BYTES)]);
  });
  const expected = descriptor === undefined ? undefined : Digest.like(descriptor.digest);
  const { digest, size } = await writeBlob(directory, input, false, expected);
  if (descriptor !== undefined) expected?.check(descriptor.digest);
  return { digest, size, compression: compressionOf(start) };
}

/** Writes a blob under its digest. */
async function writeBlob(
  directory: string,
  input: NodeJS.ReadableStream,
  compresses: boolean,
  inner = new Digest(),
): Promise<Blob> {
  const partial = partialPath(directory);
  const outer = new Digest();
  const steps = [inner.stream, ...(compresses ? [createGzip()] : []), outer.stream];
  try {
    await pipeline([input, ...steps, createWriteStream(partial, { flush: true })]);
    const digest = outer.value();
    renameSync(partial, join(directory, blobName(digest)));
    return { digest, size: outer.size, diffId: compresses ? inner.value() : digest };
  } finally {
    rmSync(partial, { force: true });
  }
}

async function writeDocument(directory: string, document: object): Promise<{ digest: string; size: number }> {
  const bytes = Buffer.from(JSON.stringify(document));
  const digest = digestOf(bytes);
  await replace(directory, blobName(digest), bytes);
  return { digest, size: bytes.length };
}

/** The file has the old content or the new one, whenever it is read. */
async function replace(directory: string, name: string, content: string | Buffer): Promise<void> {
  const partial = partialPath(directory);
  try {
    await writeFile(partial, content, { flush: true });
    renameSync(partial, join(directory, name));
  } finally {
    rmSync(partial, { force: true });
  }
}

/** Where what is not whole yet lies. Others may write into the layout at the same time. */
function partialPath(directory: string): string {
  return join(directory, `blobs/.${randomBytes(8).toString('hex')}.partial`);
}
