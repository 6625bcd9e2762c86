import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { reopenByHandle } from '../../support/file-handles.js';
import { MountedExport, shell } from '../../support/host-mount.js';
import { WITHOUT_HARD_LINKS, workloads } from '../../support/workloads.js';
import { Proxy } from './proxy.js';
import { mountBucket, removeFolders, temporaryFolder, TestBucket } from './support.js';

/**
 * Workloads that a bucket cannot do, or not in time. An object has one name, and 25,000 requests
 * one after the other take minutes. `reading-backend.s3.test.ts` lists large directories.
 */
const skipped = /hard links share|4,000 files/;

describe('over a host mount of a bucket', () => {
  let mounted: MountedExport;
  before(async () => {
    const bucket = await TestBucket.create();
    mounted = await mountBucket(bucket);
  });
  after(async () => {
    await mounted[Symbol.asyncDispose]();
    await removeFolders();
  });

  workloads.forEach(({ name, script }, index) => {
    it(name, { skip: skipped.test(name) }, async () => {
      const { code, output } = await shell(
        `mkdir w${index}; cd w${index}\n${WITHOUT_HARD_LINKS}${script}`,
        mounted.directory,
      );
      assert.match(output, /(^|\n)ok\n$/);
      assert.equal(code, 0);
    });
  });
});

it('files and directories of a bucket are opened by handle after caches are dropped', async () => {
  const bucket = await TestBucket.create();
  await using mounted = await mountBucket(bucket, {}, { limits: { remembered: 100 } });
  // An object's identity is its key.
  await reopenByHandle(mounted, false);
});

it('a listing of names takes no request for each of them, one of attributes takes one', async (t) => {
  const bucket = await TestBucket.create();
  for (let i = 0; i < 100; i++) await bucket.put(`directory/file${i}`, 'content');
  const proxy = await Proxy.start(bucket.endpoint);
  t.after(() => proxy.close());
  await using mounted = await mountBucket(bucket, { endpoint: proxy.endpoint });
  const asks = async (script: string): Promise<{ all: number; heads: number; output: string }> => {
    proxy.seen.length = 0;
    const { output } = await shell(script, mounted.directory);
    const heads = proxy.seen.filter(({ method }) => method === 'HEAD').length;
    return { all: proxy.seen.length, heads, output };
  };
  const names = await asks('ls directory | wc -l');
  assert.equal(names.output.trim(), '100');
  assert.ok(names.all <= 5, `${names.all} requests`);
  const attributes = await asks('ls -l directory | grep -c "1 root root 7 "');
  assert.equal(attributes.output.trim(), '100');
  assert.equal(attributes.heads, 100);
  assert.equal((await asks('ls -l directory')).all, 0);
});

describe('a full disk of the cache', () => {
  let proxy: Proxy;
  let cacheDir: string;
  before(async () => {
    cacheDir = await temporaryFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'cache', cacheDir]);
  });
  after(async () => {
    execFileSync('umount', [cacheDir]);
    await removeFolders();
  });

  it('holds writers up until uploads make room, is ENOSPC where none go up, and gives back what it took', async () => {
    const bucket = await TestBucket.create();
    proxy = await Proxy.start(bucket.endpoint);
    const { endpoint } = proxy;
    await using mounted = await mountBucket(bucket, {
      cacheDir,
      endpoint,
      operationTimeout: 10,
      maxDirtyAge: 3600,
    });
    const run = async (script: string): Promise<string> => (await shell(script, mounted.directory)).output;
    const written = await run('dd if=/dev/urandom of=large bs=64k count=500 conv=fsync && sha256sum < large');
    assert.doesNotMatch(written, /No space|error/i);
    for (let i = 0; i < 2; i++)
      await run(`dd if=/dev/urandom of=small${i} bs=1M count=8 status=none; cat small* large > /dev/null`);
    const large = await bucket.get('large');
    assert.equal(large.length, 32_000 * 1024);
    assert.match(written, new RegExp(createHash('sha256').update(large).digest('hex')));
    proxy.fault = ({ method }) => (method === 'PUT' || method === 'POST' ? 'slow-down' : undefined);
    const refused = await run('dd if=/dev/zero of=kept bs=64k count=1000; stat -c %s kept');
    assert.match(refused, /No space left on device/);
    assert.doesNotMatch(refused, /Input\/output error/);
    proxy.fault = () => undefined;
    const after = await run('rm kept large small*; echo again > again; sync again; cat again');
    assert.match(after, /^again\n$/);
    assert.equal((await bucket.get('again')).toString(), 'again\n');
    await proxy.close();
  });
});
