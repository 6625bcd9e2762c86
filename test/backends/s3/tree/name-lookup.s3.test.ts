import assert from 'node:assert/strict';
import { after, describe, it, test } from 'node:test';
import { deferred } from '../../../../backends/s3/client/concurrency.js';
import { proxiedBucket } from '../proxied-bucket.js';
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

test('a directory of a thousand names is listed by one request, whatever its own object is', async () => {
  const bucket = await TestBucket.create();
  const names = Array.from({ length: 1000 }, (_, i) => `f${String(i).padStart(3, '0')}`);
  await bucket.put('d/', '');
  for (let at = 0; at < names.length; at += 50)
    await Promise.all(names.slice(at, at + 50).map((name) => bucket.put(`d/${name}`, name)));
  const mount = await Mount.start(bucket, { readOnly: true });
  await mount.at('d');
  const before = mount.requests('ListObjectsV2');
  assert.deepEqual(await mount.names('d'), names);
  assert.equal(mount.requests('ListObjectsV2'), before + 1);
  await mount.close();
});

describe('a directory of more names than a page of a listing has', () => {
  const server = proxiedBucket();

  it('keeps no look-up waiting while it is listed', async () => {
    const names = Array.from({ length: 1100 }, (_, i) => `f${String(i).padStart(4, '0')}`);
    for (let at = 0; at < names.length; at += 50)
      await Promise.all(names.slice(at, at + 50).map((name) => server.bucket.put(`d/${name}`, name)));
    const mount = await Mount.open(server.bucket, { endpoint: server.proxy.endpoint });
    const directory = await mount.at('d');
    const isUnderWay = deferred<void>();
    server.proxy.fault = ({ query }) => {
      if (!query.has('continuation-token')) return undefined;
      isUnderWay.resolve();
      return 'slow-down';
    };
    const listing = mount.names('d');
    await isUnderWay.promise;
    for (const name of names.slice(0, 6)) {
      const entry = await mount.backend.lookup(directory, name, context);
      assert.equal(entry?.attributes.size, 5);
    }
    server.proxy.fault = () => undefined;
    assert.deepEqual(await listing, names);
    await mount.close();
  });
});
