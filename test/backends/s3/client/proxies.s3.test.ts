import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Deadline } from '../../../../backends/s3/client/deadline.js';
import { proxyFor } from '../../../../backends/s3/client/proxies.js';
import { UsageError } from '../../../../core/backend/index.js';
import { HttpProxy } from '../http-proxy.js';
import { Mount, pattern, removeFolders, TestBucket } from '../support.js';

describe('the proxy of a server', () => {
  const http = { protocol: 'http:', hostname: 's3.example', port: 9000 };
  const https = { protocol: 'https:', hostname: 'bucket.s3.amazonaws.com' };

  it('is that of its protocol, in lower or upper case, with or without a scheme', () => {
    assert.equal(proxyFor(http, {}), undefined);
    assert.equal(proxyFor(http, { HTTP_PROXY: 'http://p:1' })?.origin, 'http://p:1');
    assert.equal(proxyFor(http, { HTTP_PROXY: 'http://p:1', http_proxy: 'q:2' })?.origin, 'http://q:2');
    assert.equal(proxyFor(http, { HTTPS_PROXY: 'http://p:1' }), undefined);
    assert.equal(proxyFor(https, { HTTPS_PROXY: 'https://p:1' })?.origin, 'https://p:1');
    assert.equal(proxyFor(https, { HTTPS_PROXY: '' }), undefined);
    for (const wrong of ['http://', 'socks5://p:1', 'a b']) {
      assert.throws(() => proxyFor(https, { HTTPS_PROXY: wrong }), UsageError);
    }
  });

  it('is none where NO_PROXY names the server', () => {
    const isExempt = (hostname: string, list: string, port?: number): boolean =>
      proxyFor({ protocol: 'http:', hostname, port }, { http_proxy: 'p:1', NO_PROXY: list }) === undefined;
    for (const [host, list] of [
      ['s3.example', '*'],
      ['s3.example', 's3.example'],
      ['S3.Example', 'other, s3.EXAMPLE'],
      ['a.s3.example', 's3.example'],
      ['a.s3.example', '.s3.example'],
      ['a.s3.example', '*.s3.example'],
      ['s3.example', 'x s3.example:80'],
      ['10.1.2.3', '10.0.0.0/8'],
      ['10.1.2.3', '10.1.2.3'],
      ['[fd00::1]', 'fd00::/8'],
      ['[::1]', '::1'],
    ] as const) {
      assert.ok(isExempt(host, list), `${host} in ${list}`);
    }
    for (const [host, list] of [
      ['s3.example', ''],
      ['as3.example', 's3.example'],
      ['s3.example', 'a.s3.example'],
      ['s3.example', 's3.example:81'],
      ['11.1.2.3', '10.0.0.0/8'],
      ['110.1.2.3', '10.1.2.3'],
      ['1.10.1.2.3', '10.0.0.0/99'],
      ['10.1.2.3', 'fd00::/8'],
    ] as const) {
      assert.ok(!isExempt(host, list), `${host} not in ${list}`);
    }
  });
});

describe('requests by way of a proxy', () => {
  let bucket: TestBucket;
  let proxy: HttpProxy;
  before(async () => {
    bucket = await TestBucket.create();
    proxy = await HttpProxy.start();
  });
  after(async () => {
    await proxy.close();
    await removeFolders();
  });

  async function withProxy(url: string, use: () => Promise<void>): Promise<void> {
    process.env['http_proxy'] = url;
    try {
      await use();
    } finally {
      delete process.env['http_proxy'];
      delete process.env['no_proxy'];
    }
  }

  it('are all of a mount, those of the SDK too', async () => {
    await withProxy(proxy.url, async () => {
      const mount = await Mount.open(bucket, { partSize: '5m', diskCache: 0 });
      const large = pattern(11 * 2 ** 20);
      await mount.put('large', large);
      await mount.put('small', 'content');
      // The SDK makes this one.
      await mount.backend.mounted.services.bucket.removeEach(['none', 'other'], Deadline.after(10));
      await mount.close();
      const again = await Mount.open(bucket, { readOnly: true, diskCache: 0 });
      assert.ok((await again.content('large')).equals(large));
      assert.equal((await again.content('small')).toString(), 'content');
      await again.close();
      const { requests } = mount.backend.mounted.services.metrics;
      const made = [requests, again.backend.mounted.services.metrics.requests].flatMap((of) => [
        ...of.values(),
      ]);
      assert.equal(
        proxy.passed.length,
        made.reduce((sum, count) => sum + count),
      );
      assert.ok(proxy.passed.every((line) => line.includes(` ${bucket.endpoint}/`)));
    });
  });

  it('are none where NO_PROXY names the server', async () => {
    await withProxy('http://127.0.0.1:1', async () => {
      process.env['no_proxy'] = '127.0.0.0/8';
      const mount = await Mount.open(bucket);
      await mount.close();
    });
  });

  it('that it refuses say nothing of what the server can do', async () => {
    const authorization = `Basic ${Buffer.from('name:secret').toString('base64')}`;
    proxy.authorization = authorization;
    await withProxy(proxy.url.replace('//', '//name:secret@'), async () => {
      const mount = await Mount.open(bucket);
      const { bucket: own } = mount.backend.mounted.services;
      proxy.authorization = 'Basic changed';
      await assert.rejects(own.removeEach(['a', 'b'], Deadline.after(10)), /ProxyRefused/);
      proxy.authorization = authorization;
      const before = mount.requests('DeleteObjects');
      assert.equal((await own.removeEach(['a', 'b'], Deadline.after(10))).size, 0);
      assert.equal(mount.requests('DeleteObjects'), before + 1);
      await mount.close();
    });
    proxy.authorization = undefined;
  });

  it('have the name and password of its URL, and what it refuses is said', async () => {
    proxy.authorization = `Basic ${Buffer.from('name:secret').toString('base64')}`;
    const by = (who: string): string => proxy.url.replace('//', `//${who}@`);
    await withProxy(by('name:secret'), async () => (await Mount.open(bucket)).close());
    await withProxy(by('name:wrong'), () =>
      assert.rejects(Mount.open(bucket), (error) => {
        assert.ok(error instanceof UsageError);
        assert.match(error.message, /by way of the proxy http:\/\/127\.0\.0\.1:\d+: the proxy of HTTP_PROXY/);
        assert.ok(!error.message.includes('wrong'));
        return true;
      }),
    );
  });
});
