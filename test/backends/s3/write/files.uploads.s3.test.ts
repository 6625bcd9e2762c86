import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, Mount } from '../support.js';

/** 400 parts of holes, which would take minutes. */
const SIZE = 2_000_000_000;
const PARTS = 400;

describe('a change of names in a directory, while a large file there goes up,', () => {
  const server = proxiedBucket();

  /** A mount of which a file is on its way to the bucket, slowly. */
  async function uploading(prefix: string): Promise<{ readonly mount: Mount; readonly over: Promise<void> }> {
    server.proxy.fault = ({ operation }) => (operation === 'UploadPart' ? 'delay' : undefined);
    const options = { prefix, partSize: '5m', writebackDelay: 600 };
    const mount = await Mount.open(server.bucket, { endpoint: server.proxy.endpoint, ...options });
    const file = await mount.create('large');
    await mount.backend.setattr(file.node, { size: SIZE }, undefined, context);
    await mount.release(file);
    const over = mount.backend.syncfs(context);
    while (mount.requests('UploadPart') < 3) await wait(10);
    return { mount, over };
  }

  it('ends the upload by removing the file, and the next change need not wait', async () => {
    const { mount, over } = await uploading('removed');
    await mount.backend.unlink(mount.root, 'large', context);
    await mount.backend.mkdir(mount.root, 'next', 0o755, context);
    assert.ok(mount.requests('UploadPart') < PARTS / 4, `${mount.requests('UploadPart')} parts`);
    await over;
    assert.ok(mount.requests('AbortMultipartUpload') > 0);
    assert.deepEqual(await mount.names(''), ['next']);
    await mount.close();
    assert.deepEqual(await server.bucket.keys('removed/'), ['removed/next/']);
  });

  it('ends the upload by renaming the file, too', async () => {
    const { mount, over } = await uploading('renamed');
    await mount.backend.rename(mount.root, 'large', mount.root, 'other', 0, context);
    await mount.backend.mkdir(mount.root, 'next', 0o755, context);
    assert.ok(mount.requests('UploadPart') < PARTS / 4, `${mount.requests('UploadPart')} parts`);
    assert.deepEqual(await mount.names(''), ['next', 'other']);
    await mount.backend.unlink(mount.root, 'other', context);
    await over;
    await mount.close();
    assert.deepEqual(await server.bucket.keys('renamed/'), ['renamed/next/']);
  });
});
