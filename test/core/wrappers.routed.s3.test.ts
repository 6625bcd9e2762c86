import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { type Backend, Errno, RenameFlags } from '../../core/backend/index.js';
import { BackendRegistry } from '../../core/plugins/index.js';
import { routed } from '../../core/wrappers/index.js';
import { removeFolders, TestBucket, temporaryFolder } from '../backends/s3/support.js';
import { engine, MemoryLog, withGuest } from '../support/engine.js';
import { rejectsWith, ROOT } from '../support/fuse-client.js';

const registry = new BackendRegistry();

describe('a tree of several buckets', () => {
  after(removeFolders);

  const bucketAt = ({ name, endpoint }: TestBucket, cacheDir: string): Promise<Backend> =>
    registry.create({ type: 's3', bucket: name, endpoint, cacheDir }, { log: new MemoryLog() });

  it('has what each of them has, and what is written goes to the one that it is written in', async () => {
    const [first, second] = [await TestBucket.create(), await TestBucket.create()];
    await first.put('theirs', 'of the first');
    const mounts = {
      '/one': await bucketAt(first, await temporaryFolder()),
      '/two': await bucketAt(second, await temporaryFolder()),
    };
    await withGuest(routed({ mounts }), async (client) => {
      assert.deepEqual((await client.list(ROOT)).filter((name) => !name.startsWith('.')).toSorted(), [
        'one',
        'two',
      ]);
      await rejectsWith(client.mkdir(ROOT, 'three'), Errno.EROFS);
      const one = (await client.lookup(ROOT, 'one')).nodeid;
      const two = (await client.lookup(ROOT, 'two')).nodeid;
      const theirs = await client.lookup(one, 'theirs');
      assert.equal(theirs.attr.size, 12);
      const { entry, open } = await client.create(two, 'ours');
      await client.write(entry.nodeid, open.fh, 0, Buffer.from('of the second'));
      await client.fsync(entry.nodeid, open.fh);
      await client.release(entry.nodeid, open.fh);
      await rejectsWith(client.rename(one, 'theirs', two, 'moved', RenameFlags.NOREPLACE), Errno.EXDEV);
    });
    assert.equal((await second.get('ours')).toString(), 'of the second');
    assert.deepEqual(await first.keys(), ['theirs']);
  });

  it('is not there while one of them is missing, and none of them is held', async () => {
    const bucket = await TestBucket.create();
    const cacheDir = await temporaryFolder();
    const [good, missing] = [
      await bucketAt(bucket, cacheDir),
      await bucketAt(TestBucket.open('no-such-bucket', bucket.endpoint), await temporaryFolder()),
    ];
    await assert.rejects(
      engine(routed({ mounts: { '/good': good, '/missing': missing } })),
      /no-such-bucket/,
    );
    await withGuest(await bucketAt(bucket, cacheDir), async (client) => {
      assert.equal((await client.getattr(ROOT)).nlink, 2);
    });
  });
});
