import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { shell } from '../../../support/host-mount.js';
import { mountBucket, removeFolders, TestBucket } from '../support.js';

after(removeFolders);

/** Counts under a lock of another file, by programs that know of no mounts. */
const COUNT = 'for i in 1 2 3; do flock lock sh -c "echo \\$((\\$(cat counter) + 1)) > counter"; done';

test('programs on two hosts count right under flock(1), and see it each time', async () => {
  const bucket = await TestBucket.create();
  await bucket.put('lock', ' ');
  await bucket.put('counter', '0\n');
  await using one = await mountBucket(bucket, { sharing: 'leases' });
  await using other = await mountBucket(bucket, { sharing: 'leases' });
  const folders = [one.directory, other.directory] as const;
  const counted = await Promise.all(folders.map((folder) => shell(COUNT, folder)));
  assert.deepEqual(counted, [
    { code: 0, output: '' },
    { code: 0, output: '' },
  ]);
  for (const folder of folders) {
    assert.deepEqual(await shell('flock -s lock cat counter', folder), { code: 0, output: '6\n' });
  }
  const [mine, theirs] = folders;
  const held = await shell(`flock -n lock sh -c 'cd ${theirs}; ! flock -n lock true'`, mine);
  assert.deepEqual(held, { code: 0, output: '' });
});
