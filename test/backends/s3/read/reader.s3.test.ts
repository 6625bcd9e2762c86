import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { proxiedBucket } from '../proxied-bucket.js';
import { denied, Mount, pattern, temporaryFolder } from '../support.js';

describe('bytes that change on their way', () => {
  const server = proxiedBucket();

  for (const readOnly of [false, true]) {
    it(`never reach the reader of a small file${readOnly ? ' of a mount that only reads' : ''}`, async () => {
      server.proxy.fault = () => undefined;
      const sizes = [1, 1000, 128 * 1024, 300_000, 512 * 1024];
      const bytesOf = (size: number): Buffer => pattern(size + 3, size).subarray(0, size);
      for (const size of sizes) await server.bucket.put(`size-${size}`, bytesOf(size));
      await server.bucket.put('always', 'content');
      const mount = await Mount.open(server.bucket, {
        endpoint: server.proxy.endpoint,
        readOnly,
        diskCache: 0,
      });
      const { metrics } = mount.backend.mounted.services;
      for (const size of sizes) {
        let count = 0;
        server.proxy.fault = ({ operation }) =>
          operation === 'GetObject' && count++ < 1 ? 'flip' : undefined;
        assert.ok((await mount.content(`size-${size}`)).equals(bytesOf(size)), `${size} bytes`);
        assert.equal(count, 2);
      }
      assert.equal(metrics.corruptReads, 5);
      server.proxy.fault = ({ operation }) => (operation === 'GetObject' ? 'flip' : undefined);
      await assert.rejects(mount.content('always'), denied('EIO'));
      server.proxy.fault = () => undefined;
      assert.equal((await mount.content('always')).toString(), 'content');
      await mount.close();
    });
  }

  it('never reach the reader of a large file unnoticed, where all are to be verified', async () => {
    server.proxy.fault = () => undefined;
    const { proxy, bucket } = server;
    // More than one request brings, however quick the connection is.
    const bytes = pattern(9 * 2 ** 20 + 77, 9);
    await bucket.put('md5', bytes);
    const writing = await Mount.open(bucket, {
      endpoint: proxy.endpoint,
      checksums: 'crc64nvme',
      partSize: '5m',
    });
    await writing.put('crc64nvme', bytes);
    await writing.close();
    const options = { endpoint: proxy.endpoint, verify: 'whole', memoryCache: '4m', readAhead: '1m' };
    const mount = await Mount.open(bucket, options);
    // By then it is known that ETags are digests.
    await mount.put('first', 'first');
    const { metrics } = mount.backend.mounted.services;
    for (const [i, name] of ['md5', 'crc64nvme'].entries()) {
      // What was asked for first comes later than what follows it.
      proxy.fault = ({ headers: { range } }) => {
        const from = Number(/^bytes=(\d+)/.exec(range ?? '')?.[1]);
        if (from === 0) return 'delay';
        return from > 2 ** 20 ? 'flip' : undefined;
      };
      await assert.rejects(mount.content(name), denied('EIO'), name);
      proxy.fault = () => undefined;
      assert.equal(metrics.corruptReads, i + 1);
      const before = mount.requests('GetObject');
      assert.ok((await mount.content(name)).equals(bytes), name);
      assert.ok(mount.requests('GetObject') > before, 'nothing of it was kept');
      assert.ok((await mount.content(name)).equals(bytes), name);
      assert.equal(metrics.corruptReads, i + 1);
    }
    // Who jumps about is not followed, and nothing is held for that.
    const file = await mount.openFile('md5', 0);
    for (const at of [0, 4 * 2 ** 20, 2 ** 20]) {
      assert.ok((await mount.read(file, at, 1000)).equals(bytes.subarray(at, at + 1000)));
    }
    await mount.release(file);
    await mount.close();
  });

  it('are not looked for where an ETag is no digest', async () => {
    const customerKeyFile = join(await temporaryFolder(), 'key');
    await writeFile(customerKeyFile, pattern(32));
    const options = { prefix: 'secret', diskCache: 0, encryption: 'sse-c', customerKeyFile };
    const mount = await Mount.open(server.bucket, options);
    await mount.put('file', 'content');
    await mount.close();
    for (const readOnly of [false, true]) {
      const again = await Mount.open(server.bucket, { ...options, readOnly });
      assert.equal((await again.content('file')).toString(), 'content');
      assert.equal(again.backend.mounted.services.metrics.corruptReads, 0);
      await again.close();
    }
  });
});
