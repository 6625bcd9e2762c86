import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Mount, removeFolders, temporaryFolder, TestBucket } from '../support.js';

after(removeFolders);

/** Requests by which a start finds out what the server keeps. */
const probes = (mount: Mount): number => mount.requests('CreateMultipartUpload');

test('what was found out of a server is taken over from a process that was killed, and by no other start', async () => {
  const bucket = await TestBucket.create();
  const cacheDir = await temporaryFolder();
  const first = await Mount.open(bucket, { cacheDir });
  const { learned } = first.backend.mounted.services.bucket;
  assert.equal(probes(first), 1);
  await first.close();

  const next = await Mount.open(bucket, { cacheDir }, new Map());
  assert.equal(probes(next), 0);
  assert.deepEqual(next.backend.mounted.services.bucket.learned, learned);
  await next.put('file', 'content');
  await next.close();

  const anew = await Mount.open(bucket, { cacheDir });
  assert.equal(probes(anew), 1);
  await anew.close();
  const other = await Mount.open(bucket, { cacheDir, preserve: 'headers' }, new Map());
  assert.equal(probes(other), 1);
  await other.close();
  await writeFile(join(cacheDir, 'server.json'), '{"server":');
  const unread = await Mount.open(bucket, { cacheDir }, new Map());
  assert.equal(probes(unread), 1);
  await unread.close();
});
