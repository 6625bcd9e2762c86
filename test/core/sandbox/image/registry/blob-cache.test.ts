import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { BlobCache } from '../../../../../core/sandbox/image/registry/blob-cache.js';
import { sha256 } from '../../../../support/images.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
after(() => rmSync(folder, { recursive: true }));

const blobOf = (text: string) => ({ digest: sha256(Buffer.from(text)), size: text.length });
const nameOf = (text: string): string => blobOf(text).digest.replace(':', '-');

async function* pieces(...texts: string[]): AsyncGenerator<Buffer> {
  for (const text of texts) yield await Promise.resolve(Buffer.from(text));
}

async function contentOf(handle: FileHandle | undefined): Promise<string | undefined> {
  const text = await handle?.read(Buffer.alloc(100), 0, 100, 0);
  await handle?.close();
  return text?.buffer.toString('utf8', 0, text.bytesRead);
}

test('a blob is kept under its digest, and what was not used for longest goes first', async () => {
  const own = join(folder, 'own');
  const cache = new BlobCache(own, 20);
  assert.equal(await cache.find(blobOf('0123456789')), undefined);
  assert.equal(
    await contentOf(await cache.add(blobOf('0123456789'), pieces('01234', '56789'))),
    '0123456789',
  );
  await (await cache.add(blobOf('abcdefghij'), pieces('abcdefghij'))).close();
  for (const name of readdirSync(own)) utimesSync(join(own, name), 1, 1);
  assert.equal(await contentOf(await cache.find(blobOf('0123456789'))), '0123456789');
  const added = await cache.add(blobOf('new'), pieces('new'));
  assert.deepEqual(readdirSync(own).sort(), [nameOf('0123456789'), nameOf('new')].sort());
  assert.equal(await contentOf(added), 'new');
  await assert.rejects(cache.add({ ...blobOf('x'), size: 21 }, pieces()), /more than the 20 that are kept/);
});

test('what is not what it should be is not kept', async () => {
  const own = join(folder, 'damaged');
  const cache = new BlobCache(own);
  const cases = [pieces('short'), pieces('exactly!'), pieces('far ', 'too ', 'long')];
  for (const bytes of cases) await assert.rejects(cache.add(blobOf('12345678'), bytes), /damaged/);
  const broken = async function* (): AsyncGenerator<Buffer> {
    yield* pieces('1234');
    throw new Error('connection lost');
  };
  await assert.rejects(cache.add(blobOf('12345678'), broken()), /connection lost/);
  assert.deepEqual(readdirSync(own), []);
  for (const content of ['12345679', '1234567', '']) {
    await (await cache.add(blobOf('12345678'), pieces('12345678'))).close();
    writeFileSync(join(own, nameOf('12345678')), content);
    assert.equal(await cache.find(blobOf('12345678')), undefined);
    assert.deepEqual(readdirSync(own), []);
  }
  assert.equal(await contentOf(await cache.add(blobOf(''), pieces())), '');
  assert.equal(await contentOf(await cache.find(blobOf(''))), '');
});

test('what died while it was written is removed, and a folder that others write to is refused', async () => {
  const own = join(folder, 'old');
  const cache = new BlobCache(own);
  await (await cache.add(blobOf('a'), pieces('a'))).close();
  for (const name of ['left.partial', 'young.partial']) writeFileSync(join(own, name), 'x');
  utimesSync(join(own, 'left.partial'), 1, 1);
  await (await cache.add(blobOf('b'), pieces('b'))).close();
  assert.deepEqual(readdirSync(own).sort(), [nameOf('a'), nameOf('b'), 'young.partial'].sort());
  chmodSync(own, 0o777);
  await assert.rejects(cache.find(blobOf('a')), /must be a directory of yours/);
});
