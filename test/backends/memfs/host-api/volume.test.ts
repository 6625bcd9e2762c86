import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFsFromVolume } from 'memfs';
import { MemfsVolume } from '../../../../backends/memfs/index.js';
import { TreeSuperblock } from '../../../../backends/memfs/host-api/superblock.js';
import { FileType, OpenFlags } from '../../../../core/backend/index.js';
import { bufferOf, caller, host } from '../support.js';
import { entriesOf } from '../../../support/listings.js';

const root = caller();

function code(expected: string) {
  return (error: unknown) => (error as NodeJS.ErrnoException).code === expected;
}

function readAll(volume: MemfsVolume, name: string): string {
  const { backend } = volume;
  const entry = backend.lookup(backend.mount(host), name);
  assert.ok(entry);
  const { node } = entry;
  const buffer = bufferOf(1000);
  return Buffer.from(
    buffer.bytes.slice(0, backend.read(node, backend.open(node, 0).file, buffer, 0)),
  ).toString();
}

test('a guest reads what the host program wrote through the memfs API', () => {
  const volume = MemfsVolume.fromJSON({ '/a': 'hello', '/d/e/f': 'deep', '/empty': null });
  assert.equal(readAll(volume, 'a'), 'hello');
  const { backend } = volume;
  const top = backend.mount(host);
  const d = backend.lookup(top, 'd')!.node;
  assert.equal(backend.getattr(d).nlink, 3);
  assert.deepEqual(
    entriesOf(backend.readdir(top)).map((entry) => entry.name),
    ['a', 'd', 'empty'],
  );
});

test('the host program sees what a guest wrote, and toJSON has it all', () => {
  const volume = new MemfsVolume();
  const { backend } = volume;
  const top = backend.mount(host);
  const { node, file } = backend.create(top, 'f', 0o640, OpenFlags.READ_WRITE, caller({ uid: 5, gid: 6 }));
  backend.write(node, file, bufferOf('from the guest'), 0, 0);
  backend.mkdir(top, 'd', 0o755, root);
  const fs = createFsFromVolume(volume);
  assert.equal(fs.readFileSync('/f', 'utf8'), 'from the guest');
  const stat = fs.statSync('/f');
  assert.deepEqual([stat.uid, stat.gid, stat.mode & 0o7777, stat.size], [5, 6, 0o640, 14]);
  assert.deepEqual(fs.readdirSync('/'), ['d', 'f']);
  assert.deepEqual(volume.toJSON(), { '/f': 'from the guest', '/d': null });
});

test('a file that the guest unlinks stays for the host program that has it open, and the other way round', () => {
  const volume = MemfsVolume.fromJSON({ '/f': 'content', '/g': 'other' });
  const { backend } = volume;
  const top = backend.mount(host);
  const fd = volume.openSync('/f', 'r+');
  backend.unlink(top, 'f');
  volume.writeSync(fd, 'CON');
  const bytes = Buffer.alloc(10);
  assert.equal(volume.readSync(fd, bytes, 0, 10, 0), 7);
  assert.equal(bytes.toString('utf8', 0, 7), 'CONtent');
  assert.equal(volume.tree.space.pages, 2);
  volume.closeSync(fd);
  assert.equal(volume.tree.space.pages, 1);

  const { node } = backend.lookup(top, 'g')!;
  volume.unlinkSync('/g');
  assert.equal(backend.getattr(node).nlink, 0);
  const buffer = bufferOf(10);
  assert.equal(backend.read(node, backend.open(node, 0).file, buffer, 0), 5);
  backend.forget(node);
  assert.equal(volume.tree.space.pages, 0);
});

test("the host program's renames, links and removals keep Linux's rules where stock memfs doesn't", () => {
  const volume = MemfsVolume.fromJSON({ '/d/x': '1', '/e/y': '2', '/f': '3' });
  volume.symlinkSync('f', '/s');
  volume.renameSync('/s', '/t');
  assert.equal(volume.readlinkSync('/t'), 'f');
  assert.throws(() => volume.renameSync('/d', '/d/inner'), code('EINVAL'));
  assert.throws(() => volume.renameSync('/d', '/e'), code('ENOTEMPTY'));
  assert.throws(() => volume.linkSync('/d', '/hard'), code('EPERM'));
  assert.throws(() => volume.unlinkSync('/d'), code('EISDIR'));
  assert.throws(() => volume.rmdirSync('/d'), code('ENOTEMPTY'));
  assert.throws(() => volume.writeFileSync(`/${'n'.repeat(256)}`, ''), code('ENAMETOOLONG'));
  volume.linkSync('/f', '/h');
  const { backend } = volume;
  const { node } = backend.lookup(backend.mount(host), 'f')!;
  assert.equal(backend.getattr(node).nlink, 2);
  volume.renameSync('/d/x', '/h');
  assert.equal(backend.getattr(node).nlink, 1);
  volume.rmSync('/d', { recursive: true });
  volume.rmSync('/e', { recursive: true });
  assert.deepEqual(volume.readdirSync('/'), ['f', 'h', 't']);
});

test('a host program that reaches around the file system is refused, and nothing is harmed', () => {
  const volume = MemfsVolume.fromJSON({ '/d/x': '1' });
  const { root: link } = new TreeSuperblock(volume.tree);
  assert.throws(() => link.setChild('y', link), code('EPERM'));
  assert.throws(() => link.deleteChild(link), code('EPERM'));
  assert.throws(() => link.children.set('y', link), code('EPERM'));
  assert.throws(() => link.children.delete('d'), code('EPERM'));
  assert.deepEqual(volume.toJSON(), { '/d/x': '1' });
});

test('limits hold for the host program too', () => {
  const volume = new MemfsVolume({ size: 8192, inodes: 3 });
  assert.throws(() => volume.writeFileSync('/f', Buffer.alloc(9000)), code('ENOSPC'));
  volume.truncateSync('/f', 0);
  volume.mkdirSync('/d');
  assert.throws(() => volume.writeFileSync('/g', ''), code('ENOSPC'));
  volume.reset();
  assert.equal(volume.tree.space.inodes, 1);
});

test('a snapshot is what the volume was, whatever is changed afterwards', () => {
  const volume = MemfsVolume.fromJSON({ '/a': 'one', '/d/b': 'two', '/d/c': 'three' });
  volume.linkSync('/a', '/d/hard');
  const before = volume.toJSON();
  const snapshot = volume.snapshot();
  volume.writeFileSync('/a', 'changed');
  volume.renameSync('/d/b', '/moved');
  volume.rmSync('/d/c');
  volume.writeFileSync('/d/new', 'new');
  volume.chmodSync('/d', 0o700);
  const fork = snapshot.fork();
  assert.deepEqual(fork.toJSON(), before);
  assert.equal(fork.statSync('/d').mode & 0o777, 0o777);
  assert.equal(fork.statSync('/a').ino, fork.statSync('/d/hard').ino);
  fork.writeFileSync('/a', 'in the fork');
  assert.equal(fork.readFileSync('/d/hard', 'utf8'), 'in the fork');
  assert.equal(volume.readFileSync('/a', 'utf8'), 'changed');
  assert.deepEqual(snapshot.fork().toJSON(), before);
});

test('forks of forks, and of volumes that go on, each keep their own content', () => {
  const base = MemfsVolume.fromJSON({ '/d/f': 'base', '/d/g': 'base' });
  const first = base.fork();
  base.writeFileSync('/d/f', 'base, changed');
  first.writeFileSync('/d/g', 'first');
  const second = first.fork();
  first.writeFileSync('/d/f', 'first, changed');
  second.mkdirSync('/d/e');
  base.discard();
  assert.deepEqual(first.toJSON(), { '/d/f': 'first, changed', '/d/g': 'first' });
  first.discard();
  assert.deepEqual(second.toJSON(), { '/d/f': 'base', '/d/g': 'first', '/d/e': null });
});

test('a fork shares its memory with what it was forked from, and gives back what it took itself', () => {
  const content = Buffer.alloc(1 << 20, 'x');
  const base = new MemfsVolume();
  base.writeFileSync('/big', content);
  const { arena } = base.tree;
  const baseBytes = arena.blockBytes;
  const forks = Array.from({ length: 10 }, () => base.fork());
  for (const fork of forks) assert.deepEqual(fork.readFileSync('/big'), content);
  assert.equal(arena.blockBytes, baseBytes);
  assert.equal(forks[0]!.tree.space.pages, 256);
  forks[0]!.writeFileSync('/big', 'y', { flag: 'r+' });
  assert.equal(arena.blockBytes, baseBytes + (128 << 10));
  assert.equal(base.readFileSync('/big')[0], 120);
  for (const fork of forks) fork.discard();
  assert.equal(arena.blockBytes, baseBytes);
  base.discard();
  assert.equal(arena.blockBytes, baseBytes - (1 << 20));
});

test('memory that snapshots held is given back when they are discarded, in any order', () => {
  const volume = new MemfsVolume();
  const { arena } = volume.tree;
  const before = arena.blockBytes;
  volume.writeFileSync('/f', Buffer.alloc(1 << 20, 1));
  const snapshots = [1, 2, 3].map((generation) => {
    const snapshot = volume.snapshot();
    volume.writeFileSync('/f', Buffer.alloc(1 << 20, generation + 1));
    return snapshot;
  });
  assert.equal(arena.blockBytes, before + (4 << 20));
  assert.equal((snapshots[1]!.fork().readFileSync('/f') as Buffer)[0], 2);
  for (const i of [2, 0, 1]) snapshots[i]!.discard();
  volume.unlinkSync('/f');
  volume.discard();
});

test('a fork tells what was changed in it, and looks at nothing else', () => {
  const base = MemfsVolume.fromJSON({
    '/a': '1',
    '/b': '2',
    '/d/e/f': '3',
    '/d/g': '4',
    '/untouched/h': '5',
  });
  const fork = base.fork();
  const shown = () => Array.from(fork.changes(), ({ kind, path }) => `${kind} ${path}`).sort();
  assert.deepEqual(fork.readdirSync('/d'), ['e', 'g']);
  assert.deepEqual(shown(), []);
  base.writeFileSync('/a', 'changed in the base');
  fork.writeFileSync('/b', 'changed');
  fork.chmodSync('/d', 0o700);
  fork.renameSync('/d/e', '/moved');
  fork.unlinkSync('/d/g');
  fork.symlinkSync('x', '/d/g');
  fork.mkdirSync('/new/deep', { recursive: true });
  assert.deepEqual(shown(), [
    'added /d/g',
    'added /moved',
    'added /moved/f',
    'added /new',
    'added /new/deep',
    'changed /b',
    'changed /d',
    'removed /d/e',
    'removed /d/e/f',
    'removed /d/g',
  ]);
});

test('nodes of every type pass from host program to guest by name', () => {
  const volume = new MemfsVolume();
  const { backend } = volume;
  const top = backend.mount(host);
  backend.mknod(top, 'fifo', FileType.FIFO | 0o600, 0, root);
  assert.equal(volume.lstatSync('/fifo').isFIFO(), true);
  volume.symlinkSync('/fifo', '/s');
  assert.equal(backend.readlink(backend.lookup(top, 's')!.node), '/fifo');
});
