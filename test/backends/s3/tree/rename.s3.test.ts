import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
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
});
