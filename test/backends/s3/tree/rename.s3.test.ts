import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GetObjectTaggingCommand, HeadObjectCommand } from '@aws-sdk/client-s3';
import { deferred } from '../../../../backends/s3/client/concurrency.js';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, Mount } from '../support.js';

describe('a rename of a directory', () => {
  const server = proxiedBucket();

  it('keeps nobody from the directories beside it while files made in it go up', async () => {
    const { endpoint } = server.proxy;
    const mount = await Mount.open(server.bucket, { endpoint, writebackDelay: 600, operationTimeout: 10 });
    await mount.backend.mkdir(mount.root, 'from', 0o755, context);
    for (const name of ['a', 'b']) {
      const file = await mount.create(`from/${name}`);
      await mount.write(file, 0, name);
      await mount.release(file);
    }
    const refused = deferred<void>();
    server.proxy.fault = ({ operation, path }) => {
      if (operation !== 'PutObject' || !/\/from\/[ab]$/.test(path)) return undefined;
      refused.resolve();
      return 'slow-down';
    };
    const renaming = Promise.resolve(mount.backend.rename(mount.root, 'from', mount.root, 'to', 0, context));
    await refused.promise;
    await mount.backend.mkdir(mount.root, 'beside', 0o755, context);
    server.proxy.fault = () => undefined;
    await renaming;
    assert.deepEqual(await mount.names(''), ['beside', 'to']);
    assert.equal((await mount.content('to/b')).toString(), 'b');
    await mount.close();
    assert.deepEqual(await server.bucket.keys(), ['beside/', 'to/', 'to/a', 'to/b']);
  });

  it('leaves what another writer has made anew below its old name', async () => {
    const { endpoint } = server.proxy;
    for (const name of ['a', 'b']) await server.bucket.put(`old/${name}`, name);
    const mount = await Mount.open(server.bucket, { endpoint });
    await mount.names('old');
    const isCopied = deferred<void>();
    server.proxy.fault = ({ operation }) => {
      if (operation !== 'DeleteObjects') return undefined;
      isCopied.resolve();
      return 'slow-down';
    };
    const renaming = Promise.resolve(mount.backend.rename(mount.root, 'old', mount.root, 'new', 0, context));
    await isCopied.promise;
    await server.bucket.put('old/a', "another's");
    server.proxy.fault = () => undefined;
    await renaming;
    await mount.close();
    const old = await server.bucket.keys('old/');
    assert.deepEqual(old, ['old/a']);
    assert.equal((await server.bucket.get('old/a')).toString(), "another's");
    assert.equal((await server.bucket.get('new/a')).toString(), 'a');
  });

  it('asks for no tags, and for nothing of what this mount has just written', async () => {
    const { endpoint } = server.proxy;
    const kinds = ['HeadObject', 'GetObjectAcl', 'GetObjectTagging', 'CopyObject', 'PutObject'] as const;
    const Tagging = 'a=b';
    const Metadata = { theirs: 'x' };
    for (let i = 0; i < 20; i++)
      await server.bucket.put(`theirs/${i}`, String(i), { Tagging, Metadata, ContentType: 'text/plain' });
    const mount = await Mount.open(server.bucket, { endpoint, metadataTtl: 60 });
    const moved = async (from: string): Promise<readonly number[]> => {
      const before = kinds.map((kind) => mount.requests(kind));
      await mount.backend.rename(mount.root, from, mount.root, `${from}-moved`, 0, context);
      return kinds.map((kind, i) => mount.requests(kind) - before[i]!);
    };
    const [, , tags, copies] = await moved('theirs');
    assert.deepEqual([tags, copies], [0, 20]);
    const { client, name: Bucket } = server.bucket;
    for (const i of [0, 19]) {
      const at = { Bucket, Key: `theirs-moved/${i}` };
      const { TagSet } = await client.send(new GetObjectTaggingCommand(at));
      assert.deepEqual(TagSet, [{ Key: 'a', Value: 'b' }]);
      const head = await client.send(new HeadObjectCommand(at));
      assert.deepEqual([head.ContentType, head.Metadata?.['theirs']], ['text/plain', 'x']);
    }
    await mount.backend.mkdir(mount.root, 'ours', 0o755, context);
    for (let i = 0; i < 20; i++) await mount.put(`ours/${i}`, String(i));
    const [heads, acls, , own] = await moved('ours');
    assert.deepEqual([heads, acls, own], [0, 0, 21]);
    assert.equal((await mount.content('ours-moved/7')).toString(), '7');
    await mount.close();
  });

  for (const preserve of ['all', 'headers'] as const) {
    it(`gives copies the website redirect, which Amazon does not copy, with preserve=${preserve}`, async () => {
      const { endpoint } = server.proxy;
      const from = `redirects-${preserve}`;
      for (const name of ['theirs', 'rewritten'])
        await server.bucket.put(`${from}/${name}`, name, { WebsiteRedirectLocation: '/elsewhere' });
      const mount = await Mount.open(server.bucket, { endpoint, preserve, metadataTtl: 60 });
      await mount.put(`${from}/rewritten`, 'rewritten here');
      const seen = server.proxy.seen.length;
      await mount.backend.rename(mount.root, from, mount.root, `${from}-moved`, 0, context);
      const copies = server.proxy.seen.slice(seen).filter(({ operation }) => operation === 'CopyObject');
      assert.deepEqual(
        copies.map(({ headers }) => headers['x-amz-website-redirect-location']),
        ['/elsewhere', '/elsewhere'],
      );
      await mount.close();
    });
  }
});

describe('a rename of a file that was made a moment ago', () => {
  const server = proxiedBucket();
  const EXCLUSIVE = 0o302;

  /** Makes a file as a lock is made. */
  async function lock(mount: Mount, path: string): Promise<void> {
    const file = await mount.create(path, EXCLUSIVE);
    await mount.write(file, 0, 'content');
    await mount.release(file);
  }

  /** Has the server delete nothing. `asked` resolves when it was asked to for the third time. */
  function keepAll(): { readonly asked: Promise<void> } {
    const asked = deferred<void>();
    let attempts = 0;
    server.proxy.fault = ({ operation }) => {
      if (operation !== 'DeleteObject' && operation !== 'DeleteObjects') return undefined;
      if (++attempts === 3) asked.resolve();
      return 'slow-down';
    };
    return { asked: asked.promise };
  }

  it('is over before its old name is gone, which is not shown', async () => {
    const { endpoint } = server.proxy;
    const mount = await Mount.open(server.bucket, { endpoint, writebackDelay: 600 });
    await lock(mount, 'head.lock');
    const { asked } = keepAll();
    let isRenamed = false;
    const renaming = Promise.resolve(
      mount.backend.rename(mount.root, 'head.lock', mount.root, 'head', 0, context),
    ).then(() => (isRenamed = true));
    await asked;
    assert.equal(isRenamed, true);
    await renaming;
    assert.deepEqual(await mount.names(''), ['head']);
    assert.deepEqual(await server.bucket.keys(), ['head.lock']);
    server.proxy.fault = () => undefined;
    await lock(mount, 'head.lock');
    assert.deepEqual(await mount.names(''), ['head', 'head.lock']);
    await mount.close();
    assert.deepEqual(await server.bucket.keys(), ['head', 'head.lock']);
  });

  it('leaves its directory empty', async () => {
    const { endpoint } = server.proxy;
    const mount = await Mount.open(server.bucket, { endpoint, writebackDelay: 600 });
    await mount.backend.mkdir(mount.root, 'left', 0o755, context);
    await lock(mount, 'left/a');
    const { asked } = keepAll();
    const from = await mount.at('left');
    await mount.backend.rename(from, 'a', mount.root, 'a', 0, context);
    const removing = Promise.resolve(mount.backend.rmdir(mount.root, 'left', context));
    await asked;
    server.proxy.fault = () => undefined;
    await removing;
    await mount.close();
    assert.deepEqual(await server.bucket.keys('left/'), []);
  });

  it('has its old name gone when the bucket is unmounted, where the file was removed meanwhile', async () => {
    const { endpoint } = server.proxy;
    const mount = await Mount.open(server.bucket, { endpoint, writebackDelay: 600 });
    await lock(mount, 'short.lock');
    const { asked } = keepAll();
    await mount.backend.rename(mount.root, 'short.lock', mount.root, 'short', 0, context);
    await mount.backend.unlink(mount.root, 'short', context);
    await asked;
    const closing = mount.close();
    server.proxy.fault = () => undefined;
    await closing;
    assert.deepEqual(await server.bucket.keys('short'), []);
  });

  it('has its old name gone even where the file is removed, and the process ends, before', async () => {
    const { endpoint } = server.proxy;
    const mount = await Mount.open(server.bucket, { endpoint, writebackDelay: 600 });
    await lock(mount, 'brief.lock');
    const { asked } = keepAll();
    await mount.backend.rename(mount.root, 'brief.lock', mount.root, 'brief', 0, context);
    await mount.backend.unlink(mount.root, 'brief', context);
    await asked;
    await mount.backend.mounted.abandon();
    server.proxy.fault = () => undefined;
    assert.deepEqual(await server.bucket.keys('brief'), ['brief.lock']);
    const { cacheDir } = mount;
    const next = await Mount.open(server.bucket, { endpoint, cacheDir });
    await next.close();
    assert.deepEqual(await server.bucket.keys('brief'), []);
  });
});
