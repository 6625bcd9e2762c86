import assert from 'node:assert/strict';
import {
  cpSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { FrontEnd } from '../../support/front-end.js';
import { type FuseClient, ROOT, rejectsWith } from '../../support/fuse-client.js';
import { loadState, saveState, startQueues, stopQueues } from '../../support/migration.js';
import { host, migrate, warningFields, warnings } from '../../support/migrating-guests.js';
import { temporaryFolder } from '../../support/vhost-user.js';

const O_RDWR = 2;
const TRUSTED = { trustedXattrs: 'allow' };
const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };
const [EAGAIN, EBADF, EINTR, EIO, ENODATA, ESTALE] = [11, 9, 4, 5, 61, 116];

function shared(t: TestContext): string {
  const directory = join(temporaryFolder(t), 'shared');
  mkdirSync(directory);
  return directory;
}

/** What a guest has that works with files, and what of it is right afterwards. */
async function work(fuse: FuseClient): Promise<(after: FuseClient) => Promise<void>> {
  await fuse.init();
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
  await fuse.lookup(ROOT, 'file');
  const directory = await fuse.mkdir(ROOT, 'directory');
  const inner = await fuse.create(directory.nodeid, 'inner');
  for (const name of ['a', 'b', 'c']) await fuse.mkdir(ROOT, name);
  const listing = await fuse.opendir(ROOT);
  const pulled = await fuse.readdir(ROOT, listing.fh, 0n, 128);
  await fuse.setlk(entry.nodeid, open.fh, 7n, LOCK);
  const { ino } = entry.attr;
  return async (after) => {
    assert.equal(Buffer.from(await after.read(entry.nodeid, open.fh, 0, 9)).toString(), 'data');
    await after.write(entry.nodeid, open.fh, 4, Buffer.from('+more'));
    assert.equal((await after.getattr(entry.nodeid)).size, 9);
    assert.equal((await after.lookup(directory.nodeid, 'inner')).nodeid, inner.entry.nodeid);
    const rest = await after.readdir(ROOT, listing.fh, pulled.at(-1)!.off);
    const names = [...pulled, ...rest].map(({ name }) => name).filter((name) => !name.startsWith('.'));
    assert.deepEqual(names.sort(), ['a', 'b', 'c', 'directory', 'file']);
    const other = await after.open(entry.nodeid, O_RDWR);
    await rejectsWith(after.setlk(entry.nodeid, other.fh, 8n, LOCK), EAGAIN);
    await after.flush(entry.nodeid, open.fh, 7n);
    await after.setlk(entry.nodeid, other.fh, 8n, LOCK);
    await after.forget(entry.nodeid, 1n);
    await after.getattr(entry.nodeid);
    await after.forget(entry.nodeid, 1n);
    await after.release(entry.nodeid, open.fh);
    await after.release(entry.nodeid, other.fh);
    await rejectsWith(after.getattr(entry.nodeid), ESTALE);
    assert.ok(ino > 0n);
  };
}

/** An overlay of directories of this host, with an upper of its own. */
const overlayOf = (t: TestContext, lower: string, marks: { xattrs?: string } = {}, upper = shared(t)) => ({
  type: 'overlay',
  lowers: [{ type: 'passthrough', sharedDir: lower }],
  upper: { type: 'passthrough', sharedDir: upper, ...(marks.xattrs === 'trusted' ? TRUSTED : {}) },
  ...marks,
});

describe('a guest that migrates', () => {
  test('takes memfs along, with its open files, listings and locks, and removed files', async (t) => {
    const [from, to] = [
      await host(t, { backend: { type: 'memfs' } }),
      await host(t, { backend: { type: 'memfs' } }),
    ];
    const check = await work(from.fuse);
    const removed = await from.fuse.create(ROOT, 'removed');
    for (let at = 0; at < 3_000_000; at += 500_000)
      await from.fuse.write(removed.entry.nodeid, removed.open.fh, at, Buffer.alloc(500_000, 'x'));
    await from.fuse.unlink(ROOT, 'removed');
    assert.equal(await migrate(from, to), true);
    await check(to.fuse);
    const last = await to.fuse.read(removed.entry.nodeid, removed.open.fh, 2_999_999, 9);
    assert.equal(Buffer.from(last).toString(), 'x');
    assert.equal((await to.fuse.getattr(removed.entry.nodeid)).nlink, 0);
    assert.deepEqual(warnings(to), []);
  });

  for (const mode of ['find-paths', 'file-handles'] as const) {
    test(`goes on with the same shared directory, by ${mode}`, async (t) => {
      const backend = { type: 'passthrough', sharedDir: shared(t), migrationMode: mode };
      const [from, to] = [await host(t, { backend }), await host(t, { backend })];
      const check = await work(from.fuse);
      assert.equal(await migrate(from, to), true);
      await check(to.fuse);
      assert.deepEqual(warnings(to), []);
      assert.equal(readFileSync(join(backend.sharedDir, 'file'), 'utf8'), 'data+more');
    });
  }

  test('goes on with a copy of its shared directory by paths, and not where the handles are to be the same', async (t) => {
    const [there, here] = [shared(t), shared(t)];
    for (const migrationVerifyHandles of [false, true]) {
      rmSync(there, { recursive: true });
      mkdirSync(there);
      const backend = { type: 'passthrough', migrationVerifyHandles };
      const from = await host(t, { backend: { ...backend, sharedDir: there } });
      const check = await work(from.fuse);
      rmSync(here, { recursive: true });
      cpSync(there, here, { recursive: true });
      const to = await host(t, { backend: { ...backend, sharedDir: here } });
      assert.equal(await migrate(from, to), !migrationVerifyHandles);
      if (!migrationVerifyHandles) await check(to.fuse);
    }
  });

  test('stays where it is if a file is not found, or gets errors for that file alone, as the destination says', async (t) => {
    for (const migrationOnError of ['abort', 'guest-error'] as const) {
      const [there, here] = [shared(t), shared(t)];
      const from = await host(t, { backend: { type: 'passthrough', sharedDir: there } });
      await from.fuse.init();
      const kept = await from.fuse.create(ROOT, 'kept');
      const gone = await from.fuse.create(ROOT, 'gone');
      await from.fuse.setlk(gone.entry.nodeid, gone.open.fh, 7n, LOCK);
      writeFileSync(join(here, 'kept'), 'here');
      const to = await host(t, { backend: { type: 'passthrough', sharedDir: here }, migrationOnError });
      assert.equal(await migrate(from, to), migrationOnError === 'guest-error');
      if (migrationOnError === 'abort') {
        assert.deepEqual(warnings(to), ['live migration: a guest cannot be taken over']);
        await startQueues(from.frontEnd, await stopQueues(from.frontEnd));
        await from.fuse.write(gone.entry.nodeid, gone.open.fh, 0, Buffer.from('still there'));
      } else {
        assert.equal(
          Buffer.from(await to.fuse.read(kept.entry.nodeid, kept.open.fh, 0, 9)).toString(),
          'here',
        );
        await rejectsWith(to.fuse.getattr(gone.entry.nodeid), ESTALE);
        await rejectsWith(to.fuse.read(gone.entry.nodeid, gone.open.fh, 0, 9), EBADF);
        assert.deepEqual(warnings(to), ['a guest has come without some of what it had']);
        assert.deepEqual(warningFields(to), { nodes: 1, files: 1, locks: 1 });
      }
    }
  });

  test('is not held up by names that were removed before', async (t) => {
    const backend = { type: 'passthrough', sharedDir: shared(t) };
    const [from, to] = [await host(t, { backend }), await host(t, { backend })];
    await from.fuse.init();
    const { entry, open } = await from.fuse.create(ROOT, 'removed');
    await from.fuse.release(entry.nodeid, open.fh);
    rmSync(join(backend.sharedDir, 'removed'));
    // Its name belongs to another file by now.
    writeFileSync(join(backend.sharedDir, 'removed'), 'another');
    assert.equal(await migrate(from, to), true);
    await rejectsWith(to.fuse.getattr(entry.nodeid), ESTALE);
  });

  for (const copies of [false, true])
    test(`takes removed files of passthrough that it has open along, to ${copies ? 'a copy of the directory' : 'the same directory'}`, async (t) => {
      const there = shared(t);
      const from = await host(t, { backend: { type: 'passthrough', sharedDir: there } });
      const { fuse } = from;
      await fuse.init();
      const { entry, open } = await fuse.create(ROOT, 'removed', 0o640);
      const { nodeid } = entry;
      await fuse.write(nodeid, open.fh, 0, Buffer.from('first'));
      for (let at = 5_000_000; at < 6_500_000; at += 500_000)
        await fuse.write(nodeid, open.fh, at, Buffer.alloc(500_000, 'x'));
      await fuse.setxattr(nodeid, 'user.colour', Buffer.from('blue'));
      const mtime = { seconds: 1_234_567_890, nanoseconds: 42 };
      await fuse.setattr(nodeid, { uid: 1234, gid: 4321, size: 9_000_000, mtime });
      await fuse.setlk(nodeid, open.fh, 7n, LOCK);
      await fuse.unlink(ROOT, 'removed');
      const byHost = await fuse.create(ROOT, 'by-host');
      await fuse.write(byHost.entry.nodeid, byHost.open.fh, 0, Buffer.from('by host'));
      rmSync(join(there, 'by-host'));
      const directory = await fuse.mkdir(ROOT, 'directory');
      const listing = await fuse.opendir(directory.nodeid);
      await fuse.rmdir(ROOT, 'directory');
      const before = await fuse.getattr(nodeid);
      const here = copies ? shared(t) : there;
      writeFileSync(join(there, 'removed'), 'another');
      const to = await host(t, { backend: { type: 'passthrough', sharedDir: here } });
      assert.equal(await migrate(from, to), true, JSON.stringify(to.log.lines));
      assert.deepEqual(warnings(to), []);
      await from.frontEnd.close();

      const text = async (of: { entry: { nodeid: bigint }; open: { fh: bigint } }, at: number) =>
        Buffer.from(await to.fuse.read(of.entry.nodeid, of.open.fh, at, 8)).toString();
      const after = await to.fuse.getattr(nodeid);
      for (const field of ['mode', 'uid', 'gid', 'size', 'nlink', 'mtime', 'mtimensec', 'atime'] as const)
        assert.equal(after[field], before[field], field);
      assert.ok(after.blocks < 9_000_000 / 512, 'holes stay holes');
      assert.equal(await text({ entry, open }, 0), 'first\0\0\0');
      assert.equal(await text({ entry, open }, 6_499_996), 'xxxx\0\0\0\0');
      assert.equal(Buffer.from(await to.fuse.getxattr(nodeid, 'user.colour')).toString(), 'blue');
      await to.fuse.write(nodeid, open.fh, 0, Buffer.from('FIRST'));
      assert.equal(await text({ entry, open }, 0), 'FIRST\0\0\0');
      const other = await to.fuse.open(nodeid, O_RDWR);
      await rejectsWith(to.fuse.setlk(nodeid, other.fh, 8n, LOCK), EAGAIN);
      assert.equal(await text(byHost, 0), 'by host');
      const left = await to.fuse.readdir(directory.nodeid, listing.fh, 0n);
      assert.deepEqual(
        left.map(({ name }) => name),
        ['.', '..'],
      );
      assert.equal((await to.fuse.getattr(directory.nodeid)).nlink, 0);
      assert.deepEqual(readdirSync(here), copies ? [] : ['removed']);
    });

  test('stays where it is rather than lose a removed file that cannot be read', async (t) => {
    const backend = { type: 'passthrough', sharedDir: shared(t) };
    const [from, to] = [await host(t, { backend }), await host(t, { backend })];
    await from.fuse.init();
    const { entry, open } = await from.fuse.create(ROOT, 'removed');
    await from.fuse.write(entry.nodeid, open.fh, 0, Buffer.from('still here'));
    await from.fuse.unlink(ROOT, 'removed');
    await stopQueues(from.frontEnd);
    const state = (await saveState(from.frontEnd))!;
    for (const cut of [1, 10, 40]) {
      await stopQueues(to.frontEnd);
      assert.equal(await loadState(to.frontEnd, state.subarray(0, state.length - cut)), false);
    }
    assert.deepEqual(readdirSync(backend.sharedDir), []);
  });

  test('finds files that were renamed under it, and no other guest loses anything', async (t) => {
    const backend = { type: 'passthrough', sharedDir: shared(t) };
    const [from, to] = [await host(t, { backend }), await host(t, { backend })];
    const stays = await from.another();
    await to.another();
    await from.fuse.init();
    const { entry, open } = await from.fuse.create(ROOT, 'old');
    await from.fuse.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
    const theirs = await stays.lookup(ROOT, 'old');
    const { fh } = await stays.open(theirs.nodeid, O_RDWR);
    await stays.setlk(theirs.nodeid, fh, 7n, LOCK);
    renameSync(join(backend.sharedDir, 'old'), join(backend.sharedDir, 'new'));
    assert.equal(await migrate(from, to), true);
    assert.equal(Buffer.from(await to.fuse.read(entry.nodeid, open.fh, 0, 9)).toString(), 'data');
    assert.equal((await to.fuse.lookup(ROOT, 'new')).nodeid, entry.nodeid);
    await from.frontEnd.close();
    assert.equal((await stays.getattr(theirs.nodeid)).size, 4);
    await stays.release(theirs.nodeid, fh);
  });

  test('gets EIO for a file on which its lock is lost, until it closes the file', async (t) => {
    const backend = { type: 'passthrough', sharedDir: shared(t) };
    for (const migrationOnError of ['abort', 'guest-error'] as const) {
      const [from, to] = [await host(t, { backend }), await host(t, { backend, migrationOnError })];
      await from.fuse.init();
      const { entry, open } = await from.fuse.create(ROOT, 'file');
      const free = await from.fuse.open(entry.nodeid, O_RDWR);
      await from.fuse.setlk(entry.nodeid, open.fh, 7n, LOCK);
      const quicker = await to.another();
      const theirs = await quicker.lookup(ROOT, 'file');
      const held = await quicker.open(theirs.nodeid, O_RDWR);
      await quicker.setlk(theirs.nodeid, held.fh, 7n, LOCK);
      assert.equal(await migrate(from, to), migrationOnError === 'guest-error');
      if (migrationOnError === 'guest-error') {
        await rejectsWith(to.fuse.read(entry.nodeid, open.fh, 0, 9), EIO);
        await rejectsWith(to.fuse.write(entry.nodeid, open.fh, 0, Buffer.from('x')), EIO);
        await to.fuse.write(entry.nodeid, free.fh, 0, Buffer.from('x'));
        await to.fuse.flush(entry.nodeid, open.fh, 7n);
        await to.fuse.release(entry.nodeid, open.fh);
        await rejectsWith(to.fuse.read(entry.nodeid, open.fh, 0, 9), EBADF);
        assert.deepEqual(warningFields(to), { nodes: 0, files: 0, locks: 1 });
      }
      await quicker.release(theirs.nodeid, held.fh);
    }
  });

  test('goes on waiting for locks, in the order in which it asked, wherever it is', async (t) => {
    const backend = { type: 'passthrough', sharedDir: shared(t) };
    for (const moves of [false, true]) {
      const [from, to] = [await host(t, { backend }), await host(t, { backend })];
      const { frontEnd, fuse } = from;
      await fuse.init();
      const { entry, open } = await fuse.create(ROOT, 'file');
      const handles = [open.fh];
      for (let i = 1; i < 4; i++) handles.push((await fuse.open(entry.nodeid, O_RDWR)).fh);
      await fuse.setlk(entry.nodeid, open.fh, 1n, LOCK);
      const order: number[] = [];
      const waits = [3, 1, 2].map(async (i) => {
        await fuse.setlk(entry.nodeid, handles[i]!, BigInt(10 + i), LOCK, true);
        order.push(i);
      });
      await fuse.getattr(entry.nodeid);
      if (moves) {
        const bases = await stopQueues(frontEnd);
        const state = await saveState(frontEnd);
        const load = () => loadState(frontEnd, state!);
        assert.equal(await frontEnd.moveTo(to.socket, bases, load), true, JSON.stringify(to.log.lines));
      } else for (let i = 0; i < 2; i++) await startQueues(frontEnd, await stopQueues(frontEnd));
      await fuse.getattr(entry.nodeid);
      assert.equal(order.length, 0);
      await fuse.flush(entry.nodeid, open.fh, 1n);
      for (const i of [3, 1, 2]) {
        while (!order.includes(i)) await fuse.getattr(entry.nodeid);
        await fuse.flush(entry.nodeid, handles[i]!, BigInt(10 + i));
      }
      await Promise.all(waits);
      assert.deepEqual(order, [3, 1, 2]);
      assert.deepEqual(warnings(moves ? to : from), []);
    }
  });

  test('that waited for a lock before it stood still has EINTR if it unmounts', async (t) => {
    const { frontEnd, fuse } = await host(t, { backend: { type: 'memfs' } });
    await fuse.init();
    const { entry, open } = await fuse.create(ROOT, 'file');
    const other = await fuse.open(entry.nodeid, O_RDWR);
    await fuse.setlk(entry.nodeid, open.fh, 1n, LOCK);
    const waiting = fuse.setlk(entry.nodeid, other.fh, 2n, LOCK, true);
    await fuse.getattr(entry.nodeid);
    await startQueues(frontEnd, await stopQueues(frontEnd));
    await fuse.destroy();
    await rejectsWith(waiting, EINTR);
  });

  test('goes back to a snapshot of itself, as often as it likes', async (t) => {
    const backends = [
      { type: 'memfs' },
      { type: 'passthrough', sharedDir: shared(t) },
      overlayOf(t, shared(t)),
    ];
    for (const backend of backends) {
      const { type } = backend;
      const { frontEnd, fuse, log } = await host(t, { backend });
      await fuse.init();
      const { entry, open } = await fuse.create(ROOT, 'file');
      await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('then'));
      await fuse.setlk(entry.nodeid, open.fh, 1n, LOCK);
      let bases = await stopQueues(frontEnd);
      const state = await saveState(frontEnd);
      await startQueues(frontEnd, bases);
      for (let i = 0; i < 2; i++) {
        await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('later'));
        await fuse.flush(entry.nodeid, open.fh, 1n);
        await fuse.release(entry.nodeid, open.fh);
        await fuse.create(ROOT, `new${i}`);
        bases = await stopQueues(frontEnd);
        assert.equal(await loadState(frontEnd, state!), true, JSON.stringify(log.lines));
        await startQueues(frontEnd, bases);
        const content = Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 9)).toString();
        assert.equal(content, type === 'memfs' ? 'then' : 'later');
        const other = await fuse.open(entry.nodeid, O_RDWR);
        await rejectsWith(fuse.setlk(entry.nodeid, other.fh, 2n, LOCK), EAGAIN);
        await fuse.release(entry.nodeid, other.fh);
        if (type === 'memfs') await rejectsWith(fuse.lookup(ROOT, `new${i}`), 2);
      }
    }
  });

  test('does not come to a memfs that another guest uses, nor from one', async (t) => {
    const backend = { type: 'memfs' };
    const [from, to] = [await host(t, { backend }), await host(t, { backend })];
    await from.fuse.init();
    const other = await to.another();
    await other.create(ROOT, 'theirs');
    assert.equal(await migrate(from, to), false);
    await other.lookup(ROOT, 'theirs');
    await from.another();
    assert.equal(await saveState(from.frontEnd), undefined);
    assert.deepEqual(warnings(from), ['live migration: a guest cannot leave']);
  });

  test('does not come where what it agreed to is not offered', async (t) => {
    const backend = { type: 'memfs' };
    const [from, to] = [await host(t, { backend }), await host(t, { backend, locks: 'local' })];
    await from.fuse.init();
    assert.equal(await migrate(from, to), false);
    assert.match(JSON.stringify(warningFields(to)), /not offered here/);
    await to.fuse.init();
    await to.fuse.create(ROOT, 'new');
  });

  test('takes the memfs layer of an overlay along', async (t) => {
    const lower = { type: 'passthrough', sharedDir: shared(t) };
    writeFileSync(join(lower.sharedDir, 'below'), 'below');
    const backend = { type: 'overlay', lowers: [lower], upper: { type: 'memfs' } };
    const [from, to] = [await host(t, { backend }), await host(t, { backend })];
    await from.fuse.init();
    const { nodeid } = await from.fuse.lookup(ROOT, 'below');
    const below = await from.fuse.open(nodeid, O_RDWR);
    await from.fuse.write(nodeid, below.fh, 0, Buffer.from('BE'));
    const made = await from.fuse.create(ROOT, 'made');
    await from.fuse.write(made.entry.nodeid, made.open.fh, 0, Buffer.from('made'));
    assert.equal(await migrate(from, to), true);
    assert.deepEqual(warnings(to), []);
    assert.equal(Buffer.from(await to.fuse.read(nodeid, below.fh, 0, 9)).toString(), 'BElow');
    assert.equal(Buffer.from(await to.fuse.read(made.entry.nodeid, made.open.fh, 0, 9)).toString(), 'made');
    assert.equal((await to.fuse.lookup(ROOT, 'made')).nodeid, made.entry.nodeid);
    await rejectsWith(to.fuse.lookup(ROOT, 'absent'), 2);
  });

  for (const marks of [{ xattrs: 'trusted' }, { xattrs: 'user' }, { marks: 'names' }])
    test(`takes the upper of an overlay along, twice: ${JSON.stringify(marks)}`, async (t) => {
      const lower = shared(t);
      for (const name of ['below', 'gone', 'old', 'one']) writeFileSync(join(lower, name), name);
      linkSync(join(lower, 'one'), join(lower, 'two'));
      mkdirSync(join(lower, 'directory'));
      mkdirSync(join(lower, 'anew'));
      writeFileSync(join(lower, 'directory', 'deep'), 'deep');
      writeFileSync(join(lower, 'anew', 'hidden'), 'hidden');
      const from = await host(t, { backend: overlayOf(t, lower, marks) });
      await from.fuse.init();
      const { nodeid } = await from.fuse.lookup(ROOT, 'below');
      const below = await from.fuse.open(nodeid, O_RDWR);
      await from.fuse.write(nodeid, below.fh, 0, Buffer.from('BE'));
      await from.fuse.setxattr(nodeid, 'user.name', Buffer.from('value'));
      const made = await from.fuse.create(ROOT, 'made', 0o640);
      await from.fuse.write(made.entry.nodeid, made.open.fh, 2 ** 22, Buffer.from('end'));
      await from.fuse.link(made.entry.nodeid, ROOT, 'also');
      const inner = await from.fuse.mkdir(ROOT, 'inner', 0o750);
      await from.fuse.setattr(inner.nodeid, { mode: 0o2750 });
      const link = await from.fuse.symlink(inner.nodeid, 'link', 'target');
      const fifo = await from.fuse.mknod(inner.nodeid, 'fifo', 0o010600);
      await from.fuse.unlink(ROOT, 'gone');
      await from.fuse.rename(ROOT, 'old', inner.nodeid, 'new');
      const { nodeid: anew } = await from.fuse.lookup(ROOT, 'anew');
      await from.fuse.unlink(anew, 'hidden');
      await from.fuse.rmdir(ROOT, 'anew');
      await from.fuse.mkdir(ROOT, 'anew');
      const directory = await from.fuse.lookup(ROOT, 'directory');
      const deep = await from.fuse.lookup(directory.nodeid, 'deep');
      const open = await from.fuse.open(deep.nodeid, 0);
      const one = await from.fuse.lookup(ROOT, 'one');
      const written = await from.fuse.open(one.nodeid, O_RDWR);
      await from.fuse.write(one.nodeid, written.fh, 0, Buffer.from('ONE'));
      await from.fuse.setlk(nodeid, below.fh, 7n, LOCK);
      const removed = await from.fuse.create(ROOT, 'removed');
      await from.fuse.write(removed.entry.nodeid, removed.open.fh, 0, Buffer.from('removed'));
      await from.fuse.unlink(ROOT, 'removed');
      const before = await from.fuse.getattr(made.entry.nodeid);

      let at = from;
      for (let moves = 0; moves < 2; moves++) {
        const to = await host(t, { backend: overlayOf(t, lower, marks) });
        assert.equal(await migrate(at, to), true, JSON.stringify([warningFields(at), warningFields(to)]));
        assert.deepEqual(warnings(to), []);
        const { fuse } = to;
        const text = async (node: bigint, fh: bigint, offset = 0) =>
          Buffer.from(await fuse.read(node, fh, offset, 9)).toString();
        assert.equal(await text(nodeid, below.fh), 'BElow');
        assert.equal(Buffer.from(await fuse.getxattr(nodeid, 'user.name', 9)).toString(), 'value');
        assert.equal(await text(made.entry.nodeid, made.open.fh, 2 ** 22), 'end');
        const after = await fuse.getattr(made.entry.nodeid);
        for (const field of ['ino', 'mode', 'size', 'mtime', 'mtimensec', 'nlink'] as const)
          assert.equal(after[field], before[field], field);
        assert.ok(after.blocks < 1024n, `${after.blocks} blocks`);
        assert.equal(await text(deep.nodeid, open.fh), 'deep');
        assert.equal(await text(removed.entry.nodeid, removed.open.fh), 'removed');
        const known: [bigint, string, bigint][] = [
          [ROOT, 'made', made.entry.nodeid],
          [ROOT, 'also', made.entry.nodeid],
          [ROOT, 'inner', inner.nodeid],
          [inner.nodeid, 'link', link.nodeid],
          [inner.nodeid, 'fifo', fifo.nodeid],
          [directory.nodeid, 'deep', deep.nodeid],
          [ROOT, 'two', one.nodeid],
        ];
        for (const [parent, name, id] of known) {
          assert.equal((await fuse.lookup(parent, name)).nodeid, id, name);
          await fuse.forget(id, 1n);
        }
        assert.equal(await text(one.nodeid, written.fh), 'ONE');
        assert.equal((await fuse.getattr(inner.nodeid)).mode, 0o042750);
        assert.equal(await fuse.readlink(link.nodeid), 'target');
        for (const name of ['gone', 'old', 'removed']) await rejectsWith(fuse.lookup(ROOT, name), 2);
        const empty = await fuse.lookup(ROOT, 'anew');
        await rejectsWith(fuse.lookup(empty.nodeid, 'hidden'), 2);
        const other = await to.another();
        const theirs = await other.open((await other.lookup(ROOT, 'below')).nodeid, O_RDWR);
        await rejectsWith(other.setlk(nodeid, theirs.fh, 8n, LOCK), EAGAIN);
        await other.destroy();
        at = to;
      }
    });

  test('does not come to an overlay whose upper is not empty, nor leave one that others use', async (t) => {
    const [lower, upper] = [shared(t), shared(t)];
    const from = await host(t, { backend: overlayOf(t, lower) });
    await from.fuse.init();
    await from.fuse.create(ROOT, 'mine');
    await from.fuse.setattr(ROOT, { mode: 0o1777 });
    await from.fuse.setxattr(ROOT, 'user.mine', Buffer.from('mine'));
    const to = await host(t, { backend: overlayOf(t, lower, {}, upper) });
    writeFileSync(join(upper, 'theirs'), 'theirs');
    assert.equal(await migrate(from, to), false);
    assert.match(JSON.stringify(warningFields(to)), /not empty/);
    assert.equal(readFileSync(join(upper, 'theirs'), 'utf8'), 'theirs');
    rmSync(join(upper, 'theirs'));
    const next = shared(t);
    // What the guest agreed to is not offered: nothing of it stays.
    const other = await host(t, { backend: overlayOf(t, lower, {}, next), locks: 'local' });
    const { mode, mtimeMs } = statSync(next);
    assert.equal(await migrate(from, other), false);
    assert.deepEqual([statSync(next).mode, statSync(next).mtimeMs], [mode, mtimeMs]);
    await other.fuse.init();
    await rejectsWith(other.fuse.getxattr(ROOT, 'user.mine', 9), ENODATA);
    assert.deepEqual(readdirSync(next), ['.virtiofs-kit-work']);
    await from.another();
    assert.equal(await saveState(from.frontEnd), undefined);
  });

  test('leaves the upper of an overlay to the guest that has come with it, when another is refused', async (t) => {
    const [lower, upper] = [shared(t), shared(t)];
    const from = await host(t, { backend: overlayOf(t, lower) });
    await from.fuse.init();
    await from.fuse.create(ROOT, 'mine');
    const to = await host(t, { backend: overlayOf(t, lower, {}, upper) });
    assert.equal(await migrate(from, to), true, JSON.stringify(warningFields(to)));
    const names = ['.virtiofs-kit-work', 'mine'];
    assert.deepEqual(readdirSync(upper).sort(), names);
    const next = await host(t, { backend: overlayOf(t, lower) });
    await next.fuse.init();
    await next.fuse.create(ROOT, 'other');
    const frontEnd = await FrontEnd.connect(to.socket);
    t.after(() => frontEnd.close());
    const late = { ...to, frontEnd };
    assert.equal(await migrate(next, late), false);
    assert.match(JSON.stringify(warningFields(to)), /another guest uses/);
    assert.deepEqual(readdirSync(upper).sort(), names);
    await to.fuse.destroy();
    assert.equal(await migrate(next, late), false);
    assert.match(JSON.stringify(warningFields(to)), /not empty/);
    assert.deepEqual(readdirSync(upper).sort(), names);
  });

  test('replaces what a memfs had before, and its space is free again', async (t) => {
    const backend = { type: 'memfs', size: 2 ** 20, inodes: 8 };
    const [from, to] = [await host(t, { backend }), await host(t, { backend })];
    await to.fuse.init();
    const old = await to.fuse.mkdir(ROOT, 'old');
    const { entry, open } = await to.fuse.create(old.nodeid, 'file');
    await to.fuse.write(entry.nodeid, open.fh, 0, Buffer.alloc(2 ** 20));
    await to.fuse.release(entry.nodeid, open.fh);
    await from.fuse.init();
    const mine = await from.fuse.create(ROOT, 'mine');
    await from.fuse.write(mine.entry.nodeid, mine.open.fh, 0, Buffer.alloc(2 ** 20, 'm'));
    await to.fuse.destroy();
    assert.equal(await migrate(from, to), true);
    const names = await to.fuse.readdir(ROOT, (await to.fuse.opendir(ROOT)).fh, 0n);
    assert.deepEqual(names.map(({ name }) => name).sort(), ['.', '..', 'mine']);
    assert.equal(
      Buffer.from(await to.fuse.read(mine.entry.nodeid, mine.open.fh, 2 ** 20 - 1, 9)).toString(),
      'm',
    );
  });
});
