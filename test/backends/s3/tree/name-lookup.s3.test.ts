import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { context, Mount, removeFolders, TestBucket } from '../support.js';

after(removeFolders);

/** Files that come and go, and names that may be kept of them. */
const FILES = 15_000;
const KEPT_MAX = 10_000;

test('a directory in which files come and go keeps few of their names, and has those that stay', async () => {
  const bucket = await TestBucket.create();
  const mount = await Mount.open(bucket, { writebackDelay: 600, metadataTtl: 3600, negativeTtl: 3600 });
  await mount.put('stays', 'content');
  for (let i = 0; i < FILES; i++) {
    const { node, file } = await mount.backend.create(mount.root, `f${i}`, 0o600, 0o102, context);
    await mount.backend.unlink(mount.root, `f${i}`, context);
    await mount.backend.release(node, file);
    mount.backend.forget(node);
  }
  assert.ok(mount.root.names.size <= KEPT_MAX, String(mount.root.names.size));
  assert.deepEqual(await mount.names(''), ['stays']);
  assert.equal((await mount.content('stays')).toString(), 'content');
  await mount.close();
});
