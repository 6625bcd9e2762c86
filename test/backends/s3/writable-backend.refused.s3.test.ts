import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { context, denied, Mount, removeFolders, TestBucket } from './support.js';

const EPERM = denied('EPERM');

describe('what the options refuse', () => {
  after(removeFolders);

  it('with refuseDelete: nothing that is in the bucket is removed or renamed', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'content');
    await bucket.put('dir/', '');
    const mount = await Mount.open(bucket, { refuseDelete: true, writebackDelay: 600, maxDirtyAge: 600 });
    const { backend, root } = mount;
    await assert.rejects(backend.unlink(root, 'file', context), EPERM);
    await assert.rejects(backend.rmdir(root, 'dir', context), EPERM);
    await assert.rejects(backend.rename(root, 'file', root, 'other', 0, context), EPERM);
    await assert.rejects(backend.rename(root, 'dir', root, 'other', 0, context), EPERM);
    // What was never uploaded is nobody's loss.
    await mount.release(await mount.create('new'));
    await backend.rename(root, 'new', root, 'newer', 0, context);
    await backend.unlink(root, 'newer', context);
    const file = await mount.openFile('file');
    await mount.write(file, 0, 'CONTENT');
    await mount.fsync(file);
    await mount.release(file);
    await mount.close();
    assert.deepEqual(await bucket.keys(), ['dir/', 'file']);
    assert.equal(`${await bucket.get('file')}`, 'CONTENT');
  });

  it('with refuseOverwrite: no file that has content is written to, cut or replaced', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'content');
    const mount = await Mount.open(bucket, { refuseOverwrite: true });
    const { backend, root } = mount;
    for (const flags of [1, 2, 0o1000]) await assert.rejects(mount.openFile('file', flags), EPERM);
    await assert.rejects(mount.create('file', 0o1102), EPERM);
    const node = await mount.at('file');
    await assert.rejects(backend.setattr(node, { size: 1 }, undefined, context), EPERM);
    assert.equal(`${await mount.content('file')}`, 'content');
    await backend.setattr(node, { mode: 0o600 }, undefined, context);
    // Who makes a file may write it until it is closed, also when the bucket has some of it.
    const file = await mount.create('new', 0o302);
    await mount.write(file, 0, 'one');
    await mount.fsync(file);
    await mount.write(file, 3, ' two');
    await mount.fsync(file);
    await mount.release(file);
    assert.equal(`${await bucket.get('new')}`, 'one two');
    await assert.rejects(mount.openFile('new', 1), EPERM);
    await assert.rejects(backend.rename(root, 'new', root, 'file', 0, context), EPERM);
    await backend.rename(root, 'new', root, 'newer', 0, context);
    await backend.unlink(root, 'file', context);
    await mount.close();
    assert.deepEqual(await bucket.keys(), ['newer']);
  });
});
