import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { OpenFlags } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/host-buffer.js';
import { outcome, root, serve, bufferOf } from './harness.js';
import { faultyMount } from '../../support/faulty-mounts.js';
import { entriesOf } from '../../support/listings.js';

for (const handles of ['prefer', 'never']) {
  test(`with file handles ${handles}: a file is created, written, read, renamed and removed`, async () => {
    const share = serve(tmpdir(), { inodeFileHandles: handles });
    try {
      const { backend, node } = share;
      const created = await backend.create(node, 'a', 0o640, OpenFlags.READ_WRITE, root);
      const { file, node: a } = created;
      assert.equal(created.attributes.mode, 0o100640);
      assert.equal(await backend.write(a, file, bufferOf('hello'), 0, 0, root), 5);
      const buffer = hostBuffer(4096);
      assert.equal(await backend.read(a, file, buffer, 0, root), 5);
      assert.equal(Buffer.from(buffer.bytes.subarray(0, 5)).toString(), 'hello');
      assert.equal((await backend.lookup(node, 'a', root))?.node, a);
      await backend.mkdir(node, 'd', 0o755, root);
      const d = (await backend.lookup(node, 'd', root))!.node;
      await backend.rename(node, 'a', d, 'b', 0, root);
      assert.equal(await backend.lookup(node, 'a', root), undefined);
      assert.equal((await backend.lookup(d, 'b', root))?.node, a);
      assert.equal(readFileSync(join(share.directory, 'd', 'b'), 'utf8'), 'hello');
      await backend.unlink(d, 'b', root);
      assert.equal((await backend.getattr(a, undefined, root)).nlink, 0);
      await backend.release(a, file);
      // As README.md has it.
      const gone = handles === 'prefer' ? 'ESTALE' : 'ok';
      assert.equal(await outcome(() => backend.getattr(a, undefined, root)), gone);
      backend.forget(a);
      await backend.rmdir(node, 'd', root);
      assert.equal(await outcome(() => backend.readdir(d, root)), 'ok');
      backend.forget(d);
    } finally {
      share.close();
    }
  });

  test(`with file handles ${handles}: directories list names, types and inode numbers`, async () => {
    const share = serve(tmpdir(), { inodeFileHandles: handles });
    try {
      writeFileSync(join(share.directory, 'file'), '');
      mkdirSync(join(share.directory, 'directory'));
      symlinkSync('/nowhere', join(share.directory, 'link'));
      const listed = entriesOf(await share.backend.readdir(share.node, root));
      const expected = ['directory', 'file', 'link'].map((name) => ({
        name,
        type: { directory: 0o040000, file: 0o100000, link: 0o120000 }[name],
      }));
      assert.deepEqual(
        listed
          .map((entry) => ({ ...entry, ino: undefined }))
          .sort((a, b) => ('name' in a && 'name' in b ? (a.name! < b.name! ? -1 : 1) : 0)),
        expected.map((entry) => ({ ...entry, ino: undefined })),
      );
      const link = (await share.backend.lookup(share.node, 'link', root))!.node;
      assert.equal(await share.backend.readlink(link, root), '/nowhere');
      const { attributes } = (await share.backend.lookup(share.node, 'file', root))!;
      assert.equal(attributes.ino, statSync(join(share.directory, 'file')).ino);
    } finally {
      share.close();
    }
  });
}

test('files on FUSE are found after the kernel has dropped its caches', async (t) => {
  const mount = await faultyMount(t);
  const share = serve(mount.directory);
  t.after(() => share.close());
  const { backend, node } = share;
  mkdirSync(join(share.directory, 'd'));
  writeFileSync(join(share.directory, 'd', 'file'), 'content');
  const d = (await backend.lookup(node, 'd', root))!.node;
  const file = (await backend.lookup(d, 'file', root))!.node;
  writeFileSync('/proc/sys/vm/drop_caches', '2');
  const { file: opened } = await backend.open(file, OpenFlags.READ_ONLY, root);
  const buffer = hostBuffer(7);
  assert.equal(await backend.read(file, opened, buffer, 0, root), 7);
  assert.equal(Buffer.from(buffer.bytes).toString(), 'content');
  await backend.release(file, opened);
  writeFileSync('/proc/sys/vm/drop_caches', '2');
  const listed = entriesOf(await backend.readdir(d, root));
  assert.deepEqual(
    listed.map((entry) => entry.name),
    ['file'],
  );
  for (const known of [d, file]) backend.forget(known);
});
