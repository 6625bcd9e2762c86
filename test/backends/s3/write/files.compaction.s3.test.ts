import assert from 'node:assert/strict';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Deadline } from '../../../../backends/s3/client/deadline.js';
import { Mount, pattern, removeFolders, TestBucket } from '../support.js';

after(removeFolders);

test('a write is stored once, and told so, where its journal cannot be rewritten', async () => {
  const bucket = await TestBucket.create();
  const mount = await Mount.open(bucket, { writebackDelay: 600, maxDirtyAge: 600 });
  const file = await mount.create('file', 0o2102);
  const staging = join(mount.cacheDir, 'staging');
  const [journal = ''] = await readdir(staging);
  await mkdir(join(staging, `${journal}.new`));
  const piece = pattern(2 ** 20);
  // At one place, so that the journal has little of use.
  for (let i = 0; i < 66; i++) await mount.backend.mounted.files.put(file.node, 0, piece, Deadline.after(30));
  await mount.write(file, 0, 'appended');
  assert.ok((await mount.read(file, 0, 2 ** 21)).equals(Buffer.concat([piece, Buffer.from('appended')])));
  const said = mount.log.lines.filter((line) => line.includes('could not be made smaller'));
  assert.equal(said.length, 1);
  await mount.release(file);
  await mount.close();
});
