import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FileType, OpenFlags } from '../../../../core/backend/index.js';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, denied, HeapBuffer, Mount } from '../support.js';

describe('a write of the mount that was given up', () => {
  const server = proxiedBucket();

  it('ends with its result where a program is interrupted that waits for it', async () => {
    const mount = await Mount.open(server.bucket, { endpoint: server.proxy.endpoint });
    const make = {
      mkdir: (name: string, signal: AbortSignal) =>
        mount.backend.mkdir(mount.root, name, 0o755, { ...context, signal }),
      mknod: (name: string, signal: AbortSignal) =>
        mount.backend.mknod(mount.root, name, FileType.REGULAR | 0o644, 0, { ...context, signal }),
      symlink: (name: string, signal: AbortSignal) =>
        mount.backend.symlink(mount.root, name, 'target', { ...context, signal }),
      create: (name: string, signal: AbortSignal) =>
        mount.backend.create(mount.root, name, 0o644, OpenFlags.EXCL | OpenFlags.READ_WRITE, {
          ...context,
          signal,
        }),
    };
    for (const [name, call] of Object.entries(make)) {
      const interrupt = new AbortController();
      server.proxy.fault = ({ method }) => {
        if (method !== 'PUT') return undefined;
        interrupt.abort();
        return 'delay';
      };
      const { node } = await call(name, interrupt.signal);
      assert.equal(await mount.node(name), node);
    }
    server.proxy.fault = () => undefined;
    await mount.close();
  });

  it('is no other writer where it arrives after all', async () => {
    const { endpoint } = server.proxy;
    const mount = await Mount.open(server.bucket, { endpoint, operationTimeout: 1, negativeTtl: 60 });
    server.proxy.fault = ({ method }) => (method === 'PUT' ? 'late' : undefined);
    const mode = FileType.REGULAR | 0o644;
    await assert.rejects(mount.backend.mknod(mount.root, 'late', mode, 0, context), denied('ETIMEDOUT'));
    server.proxy.fault = () => undefined;
    const { node, file } = await mount.backend.create(
      mount.root,
      'late',
      0o644,
      OpenFlags.READ_WRITE,
      context,
    );
    await mount.backend.write(node, file, new HeapBuffer(Buffer.from('later')), 0, 0, context);
    while (!(await server.bucket.keys()).includes('late')) await sleep(50);
    await server.proxy.settled();
    await mount.backend.fsync(node, file, false, context);
    assert.equal((await server.bucket.get('late')).toString(), 'later');
    assert.equal((await mount.content('late')).toString(), 'later');
    assert.ok(!mount.log.lines.some((line) => line.includes('another writer')));
    await mount.close();
  });
});
