import assert from 'node:assert/strict';
import { after, before, describe, it, mock } from 'node:test';
import memfs from '../../../backends/memfs/index.js';
import { WritableBackend } from '../../../backends/s3/writable-backend.js';
import { OpenFlags, WriteFlags } from '../../../core/backend/index.js';
import { MountedExport, pluginEnvironment, shell } from '../../support/host-mount.js';
import { setIdProgram } from '../../support/set-ids.js';
import { context, Mount, mountBucket, optionsOf, removeFolders, TestBucket } from './support.js';

const CAPABILITIES = 'security.capability';

describe('set-id bits and file capabilities in a bucket', () => {
  let bucket: TestBucket;
  before(async () => {
    bucket = await TestBucket.create();
  });
  after(removeFolders);

  it('go when the guest says so, and with every change of owner; capabilities with every change', async () => {
    const mount = await Mount.open(bucket);
    const { backend } = mount;
    assert.equal(backend.semantics.killPriv, true);
    const file = await mount.create('tool', OpenFlags.READ_WRITE, 0o755);
    const { node } = file;
    const state = async (): Promise<unknown> => [
      (await backend.getattr(node, file, context)).mode & 0o7777,
      (await backend.getxattr(node, CAPABILITIES, context)) !== undefined,
    ];
    const reset = async (mode = 0o6755): Promise<void> => {
      await backend.setattr(node, { mode }, file, context);
      await backend.setxattr(node, CAPABILITIES, Buffer.from('x'), 0, false, context);
    };
    const write = (flags: number): Promise<void> => mount.write(file, 0, 'x', flags);
    const kill = WriteFlags.KILL_SUIDGID;
    await reset();
    await write(0);
    assert.deepEqual(await state(), [0o6755, false]);
    await reset();
    await write(kill);
    assert.deepEqual(await state(), [0o755, false]);
    await reset();
    await backend.setattr(node, { size: 0 }, file, context);
    assert.deepEqual(await state(), [0o6755, false]);
    await reset();
    await backend.setattr(node, { size: 0, killSuidGid: true }, file, context);
    assert.deepEqual(await state(), [0o755, false]);
    await reset();
    await backend.setattr(node, { uid: 5 }, undefined, context);
    assert.deepEqual(await state(), [0o755, false]);
    await reset();
    await backend.fallocate(node, file, 0, 0, 10, context);
    assert.deepEqual(await state(), [0o755, false]);
    // Without group execution, set-group-id means mandatory locking, and stays.
    await reset(0o6744);
    await write(kill);
    assert.deepEqual(await state(), [0o2744, false]);
    await mount.fsync(file);
    assert.equal((await bucket.metadata('tool'))['mode'], String(0o102744));
    await mount.release(file);
    await mount.close();
  });

  it('are kept and lost as in memory, by whatever a program does over a host mount', async () => {
    const said = async (mounted: MountedExport): Promise<readonly string[]> => {
      const perl = 'setpriv --securebits -no_setuid_fixup perl';
      const script = `chmod 777 .; mkdir top; chmod 755 top; ${perl} - "$PWD/top" 2>/dev/null <<'END'\n${setIdProgram}\nEND`;
      const { code, output } = await shell(script, mounted.directory);
      assert.equal(code, 0, output);
      // A bucket has no files without a name.
      return output.split('\n').filter((line) => !line.startsWith('O_TMPFILE'));
    };
    await using ofMemory = await MountedExport.open(
      await memfs.create(memfs.options.parse({}), pluginEnvironment()),
    );
    await using ofBucket = await mountBucket(bucket);
    assert.deepEqual(await said(ofBucket), await said(ofMemory));
  });

  it('are not asked for before each write', async () => {
    const backend = new WritableBackend(await optionsOf(bucket));
    const asked = mock.method(backend, 'getxattr').mock;
    await using mounted = await MountedExport.open(backend);
    const { code, output } = await shell(
      'dd if=/dev/zero of=large bs=4k count=200 status=none',
      mounted.directory,
    );
    assert.equal(code, 0, output);
    assert.ok(asked.callCount() <= 1, `${asked.callCount()} times`);
  });
});
