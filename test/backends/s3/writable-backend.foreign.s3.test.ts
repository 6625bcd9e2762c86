import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { OpenFlags } from '../../../core/backend/index.js';
import { Proxy } from './proxy.js';
import { context, denied, Mount, pattern, removeFolders, TestBucket } from './support.js';

const EXCLUSIVE = OpenFlags.CREAT | OpenFlags.EXCL | OpenFlags.READ_WRITE;

describe('what a bucket has that no file shows', () => {
  let bucket: TestBucket;
  before(async () => void (bucket = await TestBucket.create()));
  after(removeFolders);

  it("a directory's object with content is not deleted, nor emptied by a change of attributes, and goes where the directory goes", async () => {
    await bucket.put('o/data/', 'fourteen bytes');
    await bucket.put('o/data/file', 'content');
    const mount = await Mount.open(bucket);
    const parent = await mount.at('o');
    await mount.backend.unlink(await mount.at('o/data'), 'file', context);
    await assert.rejects(mount.backend.rmdir(parent, 'data', context), denied('ENOTEMPTY'));
    assert.ok(mount.log.lines.some((line) => line.includes('content that no file shows')));
    const node = await mount.at('o/data');
    assert.ok(node.kind === 'directory');
    await mount.backend.setattr(node, { mode: 0o700 }, undefined, context);
    assert.equal((await bucket.get('o/data/')).toString(), 'fourteen bytes');
    assert.equal(Number((await bucket.metadata('o/data/'))['mode']) & 0o777, 0o700);
    await mount.backend.rename(parent, 'data', parent, 'moved', 0, context);
    assert.equal((await bucket.get('o/moved/')).toString(), 'fourteen bytes');
    assert.deepEqual(await bucket.keys('o/'), ['o/', 'o/moved/']);
    await mount.close();
  });

  it('keys that are no names stay, are spoken of once, and say why their directory does', async () => {
    for (const key of ['h//x', 'h/../x', 'h2//x']) await bucket.put(key, 'hidden');
    const mount = await Mount.open(bucket, { metadataTtl: 0, negativeTtl: 0 });
    for (let i = 0; i < 3; i++) {
      assert.deepEqual(await mount.names('h'), []);
      assert.deepEqual(await mount.names('h2'), []);
    }
    const said = (text: string): number => mount.log.lines.filter((line) => line.includes(text)).length;
    assert.equal(said('are not shown'), 1);
    await assert.rejects(mount.backend.rmdir(mount.root, 'h', context), denied('ENOTEMPTY'));
    assert.equal(said('a key that is no file name'), 1);
    assert.deepEqual(await bucket.keys('h/'), ['h/../x', 'h//x']);
    await mount.close();
  });

  it('an upload whose answer was lost is not left behind', async () => {
    const proxy = await Proxy.start(bucket.endpoint);
    const mount = await Mount.open(bucket, { endpoint: proxy.endpoint, partSize: '5m', prefix: 'left' });
    let lost = 0;
    proxy.fault = ({ operation }) =>
      operation === 'CreateMultipartUpload' && lost++ === 0 ? 'reset-after' : undefined;
    await mount.put('large', pattern(12 * 2 ** 20));
    assert.equal(lost, 2);
    const listed = await bucket.client.send(new ListMultipartUploadsCommand({ Bucket: bucket.name }));
    assert.deepEqual(listed.Uploads ?? [], []);
    assert.ok((await bucket.get('left/large')).equals(pattern(12 * 2 ** 20)));
    await mount.close();
    await proxy.close();
  });

  it('one request makes a new file, of a creator with O_EXCL too where the mount decides', async () => {
    for (const [flags, exclusive] of [
      [OpenFlags.CREAT | OpenFlags.READ_WRITE, 'bucket'],
      [EXCLUSIVE, 'mount'],
    ] as const) {
      const mount = await Mount.open(bucket, { prefix: exclusive, exclusive, writebackDelay: 600 });
      await mount.backend.mkdir(mount.root, 'directory', 0o755, context);
      const before = mount.requests('PutObject');
      for (let i = 0; i < 20; i++) {
        const file = await mount.create(`directory/${i}`, flags);
        await mount.write(file, 0, `content ${i}`);
        await mount.backend.setattr(
          file.node,
          { mode: 0o600, mtime: { seconds: 1, nanoseconds: 0 } },
          file,
          context,
        );
        await mount.release(file);
        await assert.rejects(mount.create(`directory/${i}`, EXCLUSIVE), denied('EEXIST'));
      }
      await mount.backend.mounted.files.writeback.flush();
      assert.equal(mount.requests('PutObject') - before, 20);
      assert.equal(mount.requests('CopyObject'), 1);
      await mount.close();
    }
  });
});
