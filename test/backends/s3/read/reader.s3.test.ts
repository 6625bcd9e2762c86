import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Proxy } from '../proxy.js';
import { denied, Mount, pattern, removeFolders, temporaryFolder, TestBucket } from '../support.js';

describe('bytes that change on their way', () => {
  let bucket: TestBucket;
  let proxy: Proxy;
  before(async () => {
    bucket = await TestBucket.create();
    proxy = await Proxy.start(bucket.endpoint);
  });
  after(async () => {
    await proxy.close();
    await removeFolders();
  });

  for (const readOnly of [false, true]) {
    it(`never reach the reader of a small file${readOnly ? ' of a mount that only reads' : ''}`, async () => {
      proxy.fault = () => undefined;
      const sizes = [1, 1000, 128 * 1024, 300_000, 512 * 1024];
      const bytesOf = (size: number): Buffer => pattern(size + 3, size).subarray(0, size);
      for (const size of sizes) await bucket.put(`size-${size}`, bytesOf(size));
      await bucket.put('always', 'content');
      const mount = await Mount.open(bucket, { endpoint: proxy.endpoint, readOnly, diskCache: 0 });
      const { metrics } = mount.backend.mounted.services;
      for (const size of sizes) {
        let count = 0;
        proxy.fault = ({ operation }) => (operation === 'GetObject' && count++ < 1 ? 'flip' : undefined);
        assert.ok((await mount.content(`size-${size}`)).equals(bytesOf(size)), `${size} bytes`);
        assert.equal(count, 2);
      }
      assert.equal(metrics.corruptReads, 5);
      proxy.fault = ({ operation }) => (operation === 'GetObject' ? 'flip' : undefined);
      await assert.rejects(mount.content('always'), denied('EIO'));
      proxy.fault = () => undefined;
      assert.equal((await mount.content('always')).toString(), 'content');
      await mount.close();
    });
  }

  it('are not looked for where an ETag is no digest', async () => {
    const customerKeyFile = join(await temporaryFolder(), 'key');
    await writeFile(customerKeyFile, pattern(32));
    const options = { prefix: 'secret', diskCache: 0, encryption: 'sse-c', customerKeyFile };
    const mount = await Mount.open(bucket, options);
    await mount.put('file', 'content');
    await mount.close();
    for (const readOnly of [false, true]) {
      const again = await Mount.open(bucket, { ...options, readOnly });
      assert.equal((await again.content('file')).toString(), 'content');
      assert.equal(again.backend.mounted.services.metrics.corruptReads, 0);
      await again.close();
    }
  });
});
