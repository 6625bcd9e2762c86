import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { startDaemon } from '../../support/daemons.js';
import { ROOT, rejectsWith } from '../../support/fuse-client.js';
import { connectKept, keeping, killEngine } from '../../support/keepers.js';

const overlay = keeping(['--backend', 'overlay', '--lower', 'DIRECTORY/lower', '--upper', 'DIRECTORY/upper']);

const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

test('a guest of an overlay goes on when its engine is killed, before and after copy-up', async (t) => {
  const running = startDaemon(t, {
    ...overlay,
    command(directory, socket) {
      for (const name of ['lower/dir/inner', 'lower/moved', 'upper'])
        mkdirSync(join(directory, name), { recursive: true });
      for (const name of [
        'read',
        'written',
        'removed',
        'dir/deep',
        'dir/inner/deeper',
        'moved/file',
        'chmod',
      ])
        writeFileSync(join(directory, 'lower', name), `lower ${name}`);
      return overlay.command(directory, socket);
    },
  });
  const { fuse } = await connectKept(t, running);
  await fuse.init();
  const text = async (nodeid: bigint, fh: bigint) =>
    Buffer.from(await fuse.read(nodeid, fh, 0, 100)).toString();
  const known = async (path: string, flags = 0) => {
    const { nodeid } = await fuse.walk(path);
    return { nodeid, fh: (await fuse.open(nodeid, flags)).fh };
  };
  const read = await known('read');
  const written = await known('written', 2);
  const before = await known('written');
  await fuse.write(written.nodeid, written.fh, 0, Buffer.from('upper'));
  const removed = await known('removed');
  await fuse.unlink(ROOT, 'removed');
  const made = await fuse.create(ROOT, 'made');
  await fuse.write(made.entry.nodeid, made.open.fh, 0, Buffer.from('no name'));
  await fuse.unlink(ROOT, 'made');
  const deeper = await fuse.walk('dir/inner/deeper');
  const directory = await fuse.walk('dir');
  const moved = await fuse.lookup(ROOT, 'moved');
  await fuse.rename(ROOT, 'moved', directory.nodeid, 'there');
  const mode = await fuse.lookup(ROOT, 'chmod');
  await fuse.setlk(read.nodeid, read.fh, 7n, LOCK);
  const listing = await fuse.opendir(directory.nodeid);
  const names = await fuse.readdir(directory.nodeid, listing.fh, 0n, 4096);

  for (let times = 0; times < 3; times++) {
    await killEngine(running);
    assert.equal(await text(read.nodeid, read.fh), 'lower read');
    assert.equal(await text(written.nodeid, written.fh), 'upper written');
    assert.equal(await text(before.nodeid, before.fh), 'upper written');
    assert.equal(await text(removed.nodeid, removed.fh), 'lower removed');
    assert.equal(await text(made.entry.nodeid, made.open.fh), 'no name');
    const { fh } = await fuse.open(deeper.nodeid);
    assert.equal(await text(deeper.nodeid, fh), 'lower dir/inner/deeper');
    assert.equal((await fuse.lookup(directory.nodeid, 'there')).nodeid, moved.nodeid);
    const file = await fuse.lookup(moved.nodeid, 'file');
    const opened = await fuse.open(file.nodeid);
    assert.equal(await text(file.nodeid, opened.fh), 'lower moved/file');
    assert.deepEqual(
      (await fuse.readdir(directory.nodeid, listing.fh, 0n, 4096)).map(({ name, off }) => [name, off]),
      names.map(({ name, off }) => [name, off]),
    );
    // The file is copied up now, of which the next engine learns nothing but what it finds.
    await fuse.setattr(mode.nodeid, { mode: 0o100600 + times });
    assert.equal((await fuse.lookup(ROOT, 'chmod')).nodeid, mode.nodeid);
    await rejectsWith(fuse.lookup(ROOT, 'removed'), 2);
  }
  await fuse.write(deeper.nodeid, (await fuse.open(deeper.nodeid, 2)).fh, 0, Buffer.from('UPPER'));
  assert.equal(
    readFileSync(join(running.directory, 'upper/dir/inner/deeper'), 'utf8'),
    'UPPER dir/inner/deeper',
  );
  assert.equal(
    readFileSync(join(running.directory, 'lower/dir/inner/deeper'), 'utf8'),
    'lower dir/inner/deeper',
  );
  assert.ok(existsSync(join(running.directory, 'upper/dir/there')));
  assert.ok(readdirSync(join(running.directory, 'lower')).includes('removed'));
  assert.equal(await running.stop(), 0);
});
