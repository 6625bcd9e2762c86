import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { FsError } from '../../../core/backend/index.js';
import type { Fault, Seen } from './proxy.js';
import { proxiedBucket } from './proxied-bucket.js';
import { context, Mount, pattern, denied } from './support.js';

const passing: Fault[] = [
  'slow-down',
  'internal-error',
  'reset-before',
  'reset-after',
  'short-body',
  'delay',
  'expired',
  'bad-digest',
];

/** The first `count` requests of an operation meet a fault. */
function first(
  count: number,
  fault: Fault,
  operation: (seen: Seen) => boolean,
): (seen: Seen) => Fault | undefined {
  let left = count;
  return (seen) => (operation(seen) && left-- > 0 ? fault : undefined);
}

const is = (operation: string) => (seen: Seen) => seen.operation === operation;

describe('a bucket behind a bad network', () => {
  const server = proxiedBucket();

  async function open(options: Record<string, unknown> = {}): Promise<Mount> {
    server.proxy.fault = () => undefined;
    return Mount.open(server.bucket, { endpoint: server.proxy.endpoint, requestTimeout: 2, ...options });
  }

  it('conditions are found to be kept as Amazon keeps them, and nothing is complained of', async () => {
    const mount = await open();
    assert.deepEqual(mount.log.lines, []);
    await mount.close();
  });

  for (const fault of passing) {
    it(`every request may meet ${fault} once, and nothing is seen of it`, async () => {
      const mount = await open({ partSize: '5m' });
      const met = new Set<string>();
      server.proxy.fault = (seen) => {
        const request = `${seen.operation} ${seen.path}`;
        if (met.has(request)) return undefined;
        met.add(request);
        return fault;
      };
      const name = `all-${fault}`;
      const large = pattern(12 * 2 ** 20);
      await mount.backend.mkdir(mount.root, name, 0o755, context);
      await mount.put(`${name}/small`, 'small');
      await mount.put(`${name}/large`, large);
      await mount.backend.symlink(await mount.at(name), 'link', 'target', context);
      const exclusive = await mount.create(`${name}/exclusive`, 0o302);
      await mount.release(exclusive);
      await mount.backend.rename(await mount.at(name), 'small', await mount.at(name), 'renamed', 0, context);
      const again = await mount.openFile(`${name}/renamed`);
      await mount.write(again, 2, 'NEW');
      await mount.fsync(again);
      await mount.release(again);
      await mount.backend.rename(mount.root, name, mount.root, `${name}-2`, 0, context);
      const other = await open({ readOnly: true });
      met.clear();
      server.proxy.fault = (seen) => {
        const request = `${seen.operation} ${seen.path}`;
        if (met.has(request)) return undefined;
        met.add(request);
        return fault;
      };
      assert.deepEqual(await other.names(`${name}-2`), ['exclusive', 'large', 'link', 'renamed']);
      assert.equal((await other.content(`${name}-2/renamed`)).toString(), 'smNEW');
      assert.ok((await other.content(`${name}-2/large`)).equals(large));
      assert.equal(mount.backend.mounted.services.metrics.snapshot()['conflicts'], 0);
      await mount.close();
      await other.close();
      assert.deepEqual(await server.bucket.keys(`${name}/`), []);
    });
  }

  it('an operation that gets no answer ends with ETIMEDOUT, and others go on meanwhile', async () => {
    await server.bucket.put('hangs', 'x');
    await server.bucket.put('works', 'y');
    const mount = await open({ operationTimeout: 1.5, requestTimeout: 0.5, metadataTtl: 0 });
    server.proxy.fault = (seen) => (seen.path.endsWith('/hangs') ? 'hang' : undefined);
    const hanging = Promise.resolve(mount.backend.lookup(mount.root, 'hangs', context));
    const settled = hanging.then(
      () => 'answered',
      () => 'failed',
    );
    assert.equal((await mount.content('works')).toString(), 'y');
    assert.equal(await Promise.race([settled, 'still waiting']), 'still waiting');
    await assert.rejects(hanging, denied('ETIMEDOUT'));
    server.proxy.fault = () => undefined;
    assert.equal((await mount.content('hangs')).toString(), 'x');
    await mount.close();
  });

  it('an operation that the guest gives up ends at once with EINTR', async () => {
    const mount = await open({ metadataTtl: 0 });
    server.proxy.fault = () => 'hang';
    const abort = new AbortController();
    const waiting = Promise.resolve(
      mount.backend.lookup(mount.root, 'hangs', { ...context, signal: abort.signal }),
    );
    setImmediate(() => abort.abort());
    await assert.rejects(waiting, denied('EINTR'));
    server.proxy.fault = () => undefined;
    await mount.close();
  });

  const refusals: readonly [Fault, string][] = [
    ['denied', 'EACCES'],
    ['archived', 'EACCES'],
    ['no-bucket', 'EIO'],
    ['quota', 'ENOSPC'],
  ];
  for (const [fault, errno] of refusals) {
    it(`${fault} gives ${errno}, and nothing is taken for absent because of it`, async () => {
      await server.bucket.put('there', 'content');
      const mount = await open({ diskCache: 0 });
      const file = await mount.openFile('there', 0);
      server.proxy.fault = () => fault;
      await assert.rejects(mount.read(file, 0, 10), denied(errno));
      await assert.rejects(async () => mount.backend.lookup(mount.root, 'other', context), FsError);
      server.proxy.fault = () => undefined;
      await server.bucket.put('other', 'is there');
      assert.equal((await mount.content('other')).toString(), 'is there');
      assert.equal((await mount.read(file, 0, 10)).toString(), 'content');
      if (fault === 'archived') assert.ok(mount.log.lines.some((line) => line.includes('archived')));
      await mount.release(file);
      await mount.close();
    });
  }

  it('data that can not be uploaded stays, is readable, and goes up when it can', async () => {
    const mount = await open({ operationTimeout: 1, requestTimeout: 0.5 });
    const file = await mount.create('stays');
    await mount.write(file, 0, 'not lost');
    server.proxy.fault = (seen) => (seen.method === 'PUT' ? 'slow-down' : undefined);
    await assert.rejects(mount.fsync(file), FsError);
    assert.equal((await mount.read(file, 0, 100)).toString(), 'not lost');
    assert.deepEqual(await server.bucket.keys('stays'), []);
    server.proxy.fault = (seen) => (seen.method === 'PUT' ? 'quota' : undefined);
    await assert.rejects(mount.fsync(file), denied('ENOSPC'));
    server.proxy.fault = () => undefined;
    await mount.fsync(file);
    assert.equal((await server.bucket.get('stays')).toString(), 'not lost');
    await mount.release(file);
    await mount.close();
  });

  it('a conflict while an upload is completed makes it anew', async () => {
    const mount = await open({ partSize: '5m' });
    server.proxy.fault = first(1, 'conflict', is('CompleteMultipartUpload'));
    const bytes = pattern(12 * 2 ** 20);
    const file = await mount.create('conflict');
    await mount.write(file, 0, bytes);
    await mount.fsync(file);
    assert.ok((await server.bucket.get('conflict')).equals(bytes));
    await mount.release(file);
    await mount.close();
  });

  it('uploads that fail leave no parts behind', async () => {
    const mount = await open({ partSize: '5m', operationTimeout: 1, requestTimeout: 0.5 });
    server.proxy.fault = (seen) => (seen.operation === 'CompleteMultipartUpload' ? 'quota' : undefined);
    const file = await mount.create('parts');
    await mount.write(file, 0, pattern(12 * 2 ** 20));
    await assert.rejects(mount.fsync(file), denied('ENOSPC'));
    const { bucket: own, keys } = mount.backend.mounted.services;
    const { Deadline } = await import('../../../backends/s3/client/deadline.js');
    assert.deepEqual(await own.uploadsOf(keys.file('parts'), Deadline.after(5)), []);
    server.proxy.fault = () => undefined;
    await mount.release(file);
    await mount.close();
  });
});
