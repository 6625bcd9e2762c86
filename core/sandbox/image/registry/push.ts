import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { Readable, type Writable } from 'node:stream';
import { UsageError } from '../../../backend/index.js';
import { TemporaryFolder } from '../../../guest/index.js';
import { addLayer, configOf, layerType, MANIFEST, manifestOf } from '../commit.js';
import { type Compression, compressionOf, MAGIC_BYTES } from '../compression.js';
import { Digest, digestOf } from '../digest.js';
import { blobName, type Image, type ImageLayer } from '../image.js';
import type { Descriptor } from '../documents.js';
import { RegistryClient } from './client.js';
import { isDigest, type Reference } from './reference.js';

/**
 * Writes an image to a registry: the layers of another one, if any, and one more. Layers that the
 * repository has already are not sent. The tag leads to the image when all of it is there.
 * @param writeLayer writes the new layer's archive.
 * @throws UsageError for a reference by digest, a layer that is damaged, or with what the registry
 * says.
 */
export async function pushImage(
  { registry, repository, version: tag }: Reference,
  base: Image | undefined,
  writeLayer: (sink: Writable) => Promise<void>,
): Promise<void> {
  if (isDigest(tag)) throw new UsageError(`${registry}/${repository}@${tag}: give a tag to write to`);
  const client = new RegistryClient(registry, repository);
  const layers: Descriptor[] = [];
  for (const layer of base?.layers ?? []) {
    const { store } = base!;
    const { compression, ...blob } = await describe(base!, layer);
    await client.putBlob(blob, () => store.stream(layer.name, layer.descriptor));
    layers.push({ mediaType: layerType(compression), ...blob });
  }
  using folder = new TemporaryFolder();
  const { digest, size, diffId } = await addLayer(folder.path, writeLayer);
  await client.putBlob({ digest, size }, () => createReadStream(join(folder.path, blobName(digest))));
  layers.push({ mediaType: layerType('gzip'), digest, size });
  const document = Buffer.from(JSON.stringify(configOf(base, diffId)));
  const config = { digest: digestOf(document), size: document.length };
  await client.putBlob(config, () => Readable.from([document]));
  const manifest = Buffer.from(JSON.stringify(manifestOf(config, layers)));
  await client.putManifest(tag, MANIFEST, manifest);
}

/** What a layer is, as it is stored. Its bytes are checked by the registry. */
async function describe(
  { store }: Image,
  { name, descriptor }: ImageLayer,
): Promise<{ digest: string; size: number; compression: Compression | undefined }> {
  const found = new Digest();
  let start = Buffer.alloc(0);
  for await (const part of store.stream(name, descriptor) as AsyncIterable<Buffer>) {
    if (start.length < MAGIC_BYTES) start = Buffer.concat([start, part.subarray(0, MAGIC_BYTES)]);
    if (descriptor !== undefined && start.length >= MAGIC_BYTES) break;
    found.add(part);
  }
  const { digest, size } = descriptor ?? { digest: found.value(), size: found.size };
  return { digest, size, compression: compressionOf(start) };
}
