import assert from 'node:assert/strict';
import { readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Deadline } from '../../../../backends/s3/client/deadline.js';
import { Mount, removeFolders, temporaryFolder, TestBucket } from '../support.js';

after(removeFolders);

/** Requests by which a start finds out what the server keeps. */
const probes = (mount: Mount): number => mount.requests('CreateMultipartUpload');

test('what was found out of a server is taken over by the next mounts of a day, which try to write, and by a process that follows one that was killed', async () => {
  const bucket = await TestBucket.create();
  const cacheDir = await temporaryFolder();
  const first = await Mount.open(bucket, { cacheDir });
  const { learned } = first.backend.mounted.services.bucket;
  assert.equal(probes(first), 1);
  await first.close();

  const next = await Mount.open(bucket, { cacheDir }, new Map());
  assert.equal(probes(next), 0);
  assert.deepEqual(next.backend.mounted.services.bucket.learned, learned);
  assert.equal(next.requests('PutObject'), 0);
  await next.put('file', 'content');
  await next.close();

  const later = await Mount.open(bucket, { cacheDir });
  assert.equal(probes(later), 0);
  assert.deepEqual(later.backend.mounted.services.bucket.learned, learned);
  const kinds = ['ListObjectsV2', 'PutObject', 'DeleteObject'];
  assert.deepEqual(
    kinds.map((kind) => later.requests(kind)),
    [1, 1, 1],
  );
  await later.close();
  assert.deepEqual(await bucket.keys(), ['file']);
  const other = await Mount.open(bucket, { cacheDir, preserve: 'headers' }, new Map());
  assert.equal(probes(other), 1);
  await other.close();
});

test('what was found out of a server is found out again after a day, and where it cannot be read', async () => {
  const bucket = await TestBucket.create();
  const cacheDir = await temporaryFolder();
  const kept = join(cacheDir, 'server.json');
  const spoil: Readonly<Record<string, () => Promise<void>>> = {
    'the first mount': () => Promise.resolve(),
    'a day and a minute old': () => utimes(kept, 0, Date.now() / 1000 - 86_460),
    'of the future': () => utimes(kept, 0, Date.now() / 1000 + 60),
    'cut off': () => writeFile(kept, '{"server":'),
  };
  for (const [name, act] of Object.entries(spoil)) {
    await act();
    const mount = await Mount.open(bucket, { cacheDir });
    assert.equal(probes(mount), 1, name);
    await mount.close();
  }
});

test('what the server contradicts is kept as it is now', async () => {
  const bucket = await TestBucket.create();
  const cacheDir = await temporaryFolder();
  const first = await Mount.open(bucket, { cacheDir });
  const { learned } = first.backend.mounted.services.bucket;
  await first.close();
  const kept = join(cacheDir, 'server.json');
  const text = await readFile(kept, 'utf8');
  await writeFile(
    kept,
    text.replace(/"unquoted":(true|false)/, (_, is) => `"unquoted":${is === 'false'}`),
  );
  assert.notEqual(await readFile(kept, 'utf8'), text);
  const mount = await Mount.open(bucket, { cacheDir });
  await mount.backend.mounted.services.bucket.learn!(Deadline.never);
  assert.deepEqual(mount.backend.mounted.services.bucket.learned, learned);
  await mount.close();
  assert.equal(await readFile(kept, 'utf8'), text);
});
