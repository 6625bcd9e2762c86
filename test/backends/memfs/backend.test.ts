import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemfsBackend } from '../../../backends/memfs/backend.js';
import { Arena } from '../../../backends/memfs/content/arena.js';
import { Space } from '../../../backends/memfs/tree/space.js';
import { Tree } from '../../../backends/memfs/tree/tree.js';
import { FileType, FsError, OpenFlags, RenameFlags } from '../../../core/backend/index.js';
import { bufferOf, caller, host } from './support.js';

function backend({ pages = 1 << 20, inodes = 1000 } = {}) {
  const arena = new Arena();
  const space = new Space(pages, inodes);
  const fs = new MemfsBackend(new Tree(arena, space));
  return { fs, arena, space, root: fs.mount(host) };
}

const root = caller();
const RDWR = OpenFlags.READ_WRITE;
const is = (code: string) => (error: unknown) => error instanceof FsError && error.code === code;

test('what was written is read back, across chunks and with holes as zeros', () => {
  const { fs, root: top } = backend();
  const { node, file } = fs.create(top, 'f', 0o644, RDWR, root);
  const data = new Uint8Array(300_000).map((_, i) => (i * 7) & 0xff);
  assert.equal(fs.write(node, file, bufferOf(data), 100_000, 0), data.length);
  const buffer = bufferOf(500_000);
  assert.equal(fs.read(node, file, buffer, 0), 400_000);
  assert.deepEqual(buffer.bytes.subarray(0, 100_000), new Uint8Array(100_000));
  assert.deepEqual(buffer.bytes.subarray(100_000, 400_000), data);
});

test('a file that is unlinked while open keeps its content until it is forgotten', () => {
  const { fs, root: top, space, arena } = backend();
  const { node, file } = fs.create(top, 'f', 0o644, RDWR, root);
  fs.write(node, file, bufferOf('hello'), 0, 0);
  fs.unlink(top, 'f');
  assert.equal(fs.lookup(top, 'f'), undefined);
  assert.equal(fs.getattr(node).nlink, 0);
  const buffer = bufferOf(10);
  assert.equal(fs.read(node, file, buffer, 0), 5);
  assert.equal(space.pages, 1);
  fs.forget(node);
  assert.equal(space.pages, 0);
  assert.equal(arena.blockBytes, 0);
});

test('a rename replaces, and refuses as Linux does', () => {
  const { fs, root: top } = backend();
  const { node: d } = fs.mkdir(top, 'd', 0o755, root);
  const { node: e } = fs.mkdir(d, 'e', 0o755, root);
  fs.mknod(top, 'f', FileType.REGULAR | 0o644, 0, root);
  assert.throws(() => fs.rename(top, 'd', e, 'x', 0, root), is('EINVAL'));
  assert.throws(() => fs.rename(top, 'f', top, 'd', 0, root), is('EISDIR'));
  assert.throws(() => fs.rename(top, 'd', top, 'f', 0, root), is('ENOTDIR'));
  assert.throws(() => fs.rename(d, 'e', top, 'f', RenameFlags.NOREPLACE, root), is('EEXIST'));
  fs.rename(top, 'f', e, 'g', 0, root);
  assert.equal(fs.lookup(top, 'f'), undefined);
  assert.throws(() => fs.rename(d, 'e', top, 'd', 0, root), is('ENOTEMPTY'));
  assert.ok(fs.lookup(e, 'g'));
});

test('writes end with ENOSPC at the limit, after what still fits', () => {
  const { fs, root: top, space } = backend({ pages: 2 });
  const { node, file } = fs.create(top, 'f', 0o644, RDWR, root);
  assert.equal(fs.write(node, file, bufferOf(10_000), 100, 0), 2 * 4096 - 100);
  assert.throws(() => fs.write(node, file, bufferOf(1), 8192, 0), is('ENOSPC'));
  assert.equal(space.pages, 2);
});
