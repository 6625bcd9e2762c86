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
