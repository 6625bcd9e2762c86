import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import * as fc from 'fast-check';
import { Arena, SLAB_BYTES } from '../../../backends/memfs/content/arena.js';
import { MemfsBackend } from '../../../backends/memfs/backend.js';
import { CHUNK_BYTES, PAGE_BYTES } from '../../../backends/memfs/content/chunk.js';
import { Space } from '../../../backends/memfs/tree/space.js';
import { Tree } from '../../../backends/memfs/tree/tree.js';
import { FallocateMode, FileType, FsError, OpenFlags, WriteFlags } from '../../../core/backend/index.js';
import { bufferOf, caller, host } from './support.js';
import { checkProperty, repetitions } from '../../support/random.js';
import { entriesOf } from '../../support/listings.js';

function make({ pages = 1 << 20, inodes = 200_000, arena = new Arena() } = {}) {
  const space = new Space(pages, inodes);
  const fs = new MemfsBackend(new Tree(arena, space));
  return { fs, arena, space, top: fs.mount(host) };
}

const root = caller();
const user = caller({ uid: 1000, gid: 1000 });
const RDWR = OpenFlags.READ_WRITE;
const is = (code: string) => (error: unknown) => error instanceof FsError && error.code === code;

test('a listing under creations and removals has every name that was there throughout, once', () => {
  const { fs, top } = make();
  const count = repetitions(100_000);
  for (let i = 0; i < count; i++) fs.mknod(top, `stays-or-goes-${i}`, FileType.REGULAR | 0o644, 0, root);
  const seen = new Map<string, number>();
  let step = 0;
  for (const { name } of entriesOf(fs.readdir(top))) {
    seen.set(name, (seen.get(name) ?? 0) + 1);
    // Of those with odd numbers: one at the front, one in the middle and one at the back.
    const odd = 2 * step + 1;
    if (odd < count / 2) {
      fs.unlink(top, `stays-or-goes-${odd}`);
      fs.unlink(top, `stays-or-goes-${count - odd}`);
      fs.mknod(top, `new-${step}`, FileType.REGULAR | 0o644, 0, root);
      step += 1;
    }
  }
  for (let i = 0; i < count; i += 2) assert.equal(seen.get(`stays-or-goes-${i}`), 1);
  assert.ok([...seen.values()].every((times) => times === 1));
});

test('fallocate zeroes, collapses and inserts as it does on ext4', async (t) => {
  const { KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE, INSERT_RANGE } = FallocateMode;
  const pages = fc.nat(80);
  const operation = fc.oneof(
    fc.record({
      kind: fc.constant('write' as const),
      at: fc.nat(300_000),
      length: fc.integer({ min: 1, max: 70_000 }),
    }),
    fc.record({
      kind: fc.constantFrom(ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, 0, KEEP_SIZE),
      at: fc.nat(300_000),
      length: fc.integer({ min: 1, max: 100_000 }),
    }),
    fc.record({
      kind: fc.constantFrom(COLLAPSE_RANGE, INSERT_RANGE),
      at: pages.map((page) => page * PAGE_BYTES),
      length: pages.map((page) => (page + 1) * PAGE_BYTES),
    }),
  );
  await checkProperty(
    t,
    fc.property(fc.array(operation, { maxLength: 25 }), (operations) => {
      const { fs, top, space, arena } = make();
      const { node, file } = fs.create(top, 'f', 0o644, RDWR, root);
      let model = Buffer.alloc(0);
      operations.forEach(({ kind, at, length }, i) => {
        const end = at + length;
        if (kind === 'write') {
          const bytes = Buffer.alloc(length, i + 1);
          const buffer = bufferOf(bytes);
          fs.write(node, file, buffer, at, 0);
          buffer.close();
          if (end > model.length) model = Buffer.concat([model], end);
          bytes.copy(model, at);
          return;
        }
        const isShift = kind === COLLAPSE_RANGE || kind === INSERT_RANGE;
        if (
          (kind === COLLAPSE_RANGE && end >= model.length) ||
          (kind === INSERT_RANGE && at >= model.length)
        ) {
          assert.throws(() => fs.fallocate(node, file, kind, at, length, root), is('EINVAL'));
          return;
        }
        fs.fallocate(node, file, kind, at, length, root);
        if (kind === COLLAPSE_RANGE) model = Buffer.concat([model.subarray(0, at), model.subarray(end)]);
        if (kind === INSERT_RANGE) {
          model = Buffer.concat([model.subarray(0, at), Buffer.alloc(length), model.subarray(at)]);
        }
        if (isShift) return;
        if ((kind & (ZERO_RANGE | PUNCH_HOLE)) !== 0)
          model.fill(0, Math.min(at, model.length), Math.min(end, model.length));
        if ((kind & KEEP_SIZE) === 0 && end > model.length) model = Buffer.concat([model], end);
      });
      assert.equal(fs.getattr(node).size, model.length);
      if (model.length > 0) {
        const buffer = bufferOf(model.length);
        assert.equal(fs.read(node, file, buffer, 0), model.length);
        assert.equal(Buffer.compare(buffer.bytes.subarray(0, model.length), model), 0);
        buffer.close();
      }
      fs.unlink(top, 'f');
      fs.forget(node);
      assert.deepEqual([space.pages, arena.blockBytes], [0, 0]);
    }),
    { numRuns: 150 },
  );
});

test('set-id bits and file capabilities go when the guest says so, and on every change of owner', () => {
  const { fs, top } = make();
  const { node, file } = fs.create(top, 'f', 0o6755, RDWR, root);
  const mode = () => fs.getattr(node).mode & 0o7777;
  const capable = () => fs.getxattr(node, 'security.capability') !== undefined;
  const reset = () => {
    fs.setattr(node, { mode: 0o6755 }, undefined);
    fs.setxattr(node, 'security.capability', Buffer.from('x'), 0, false);
  };
  reset();
  fs.write(node, file, bufferOf('x'), 0, 0);
  assert.deepEqual([mode(), capable()], [0o6755, true]);
  fs.write(node, file, bufferOf('x'), 0, WriteFlags.KILL_SUIDGID);
  assert.deepEqual([mode(), capable()], [0o755, false]);
  reset();
  fs.setattr(node, { size: 0, killSuidGid: true }, file);
  assert.deepEqual([mode(), capable()], [0o755, false]);
  reset();
  fs.setattr(node, { uid: 5 }, undefined);
  assert.deepEqual([mode(), capable()], [0o755, false]);
  reset();
  fs.fallocate(node, file, 0, 0, 10, user);
  assert.deepEqual([mode(), capable()], [0o755, false]);
  // Without group execution, set-group-id means mandatory locking, and stays.
  fs.setattr(node, { mode: 0o6744 }, undefined);
  fs.write(node, file, bufferOf('x'), 0, WriteFlags.KILL_SUIDGID);
  assert.equal(mode(), 0o2744);
});

test('an access ACL shows in the mode, follows chmod, and loses set-group-id where the guest says so', () => {
  const { fs, top } = make();
  const { node } = fs.create(top, 'f', 0o2640, RDWR, root);
  const acl = (mask: number): Uint8Array =>
    Uint8Array.of(
      2,
      0,
      0,
      0,
      ...entry(1, 6),
      ...entry(2, 7, 5),
      ...entry(4, 4),
      ...entry(16, mask),
      ...entry(32, 0),
    );
  const entry = (tag: number, permissions: number, id = 0xffffffff) => [
    tag,
    0,
    permissions,
    0,
    id & 255,
    (id >>> 8) & 255,
    (id >>> 16) & 255,
    id >>> 24,
  ];
  fs.setxattr(node, 'system.posix_acl_access', acl(7), 0, true);
  assert.equal(fs.getattr(node).mode & 0o7777, 0o670);
  fs.setattr(node, { mode: 0o651 }, undefined);
  const stored = fs.getxattr(node, 'system.posix_acl_access')!;
  assert.deepEqual([stored[6], stored[30], stored[38]], [6, 5, 1]);
  for (const bad of [[], [1, 0, 0, 0], [2, 0, 0, 0, 1], [...acl(7)].slice(0, -8), [...acl(9)]]) {
    assert.throws(
      () => fs.setxattr(node, 'system.posix_acl_access', Uint8Array.from(bad), 0, false),
      is('EINVAL'),
    );
  }
  assert.throws(() => fs.setxattr(node, 'system.posix_acl_default', acl(7), 0, false), is('EACCES'));
});

test('extended attributes have the limits and errors of Linux', () => {
  const { fs, top } = make({ inodes: 100 });
  const { node } = fs.create(top, 'f', 0o644, RDWR, root);
  const set = (name: string, size: number, flags = 0) =>
    fs.setxattr(node, name, new Uint8Array(size), flags, false);
  set(`user.${'n'.repeat(250)}`, 1);
  assert.throws(() => set(`user.${'n'.repeat(251)}`, 1), is('ERANGE'));
  assert.throws(() => set('user.big', 65_537), is('E2BIG'));
  assert.throws(() => set('other.x', 1), is('EOPNOTSUPP'));
  assert.throws(() => set('user.', 1), is('EINVAL'));
  set('user.big', 65_536);
  assert.throws(() => set('user.more', 65_536), is('ENOSPC'));
  assert.equal(fs.getxattr(node, 'user.more'), undefined);
  set('trusted.secret', 1);
  assert.deepEqual([...fs.listxattr(node, user)].length, 2);
  assert.deepEqual([...fs.listxattr(node, root)].length, 3);
  fs.removexattr(node, 'user.big');
  assert.throws(() => fs.removexattr(node, 'user.big'), is('ENODATA'));
  set('user.more', 65_536);
});

test('a security label is there from the start, or the file is not', () => {
  const { fs, top } = make({ inodes: 4 });
  const labelled = (size: number) =>
    caller({ securityContext: { name: 'security.selinux', value: new Uint8Array(size) } });
  const { node } = fs.mknod(top, 'f', FileType.REGULAR | 0o644, 0, labelled(20));
  assert.equal(fs.getxattr(node, 'security.selinux')?.length, 20);
  const before = fs.statfs();
  assert.throws(() => fs.mknod(top, 'g', FileType.REGULAR | 0o644, 0, labelled(5000)), is('ENOSPC'));
  assert.equal(fs.lookup(top, 'g'), undefined);
  assert.deepEqual(fs.statfs(), before);
});

test('an append goes to the end, whatever offset a guest thinks it is at; its page cache writes where it says', () => {
  const { fs, top } = make();
  const { node } = fs.create(top, 'f', 0o644, RDWR, root);
  const { file } = fs.open(node, OpenFlags.APPEND | OpenFlags.WRITE_ONLY);
  fs.write(node, file, bufferOf('one'), 0, 0);
  fs.write(node, file, bufferOf('two'), 0, 0);
  fs.write(node, file, bufferOf('T'), 3, WriteFlags.CACHE);
  const buffer = bufferOf(10);
  assert.equal(fs.read(node, file, buffer, 0), 6);
  assert.equal(Buffer.from(buffer.bytes.subarray(0, 6)).toString(), 'oneTwo');
});

test('the access time follows reads by the rule of relatime', () => {
  const { fs, top } = make();
  const { node, file } = fs.create(top, 'f', 0o644, RDWR, root);
  fs.write(node, file, bufferOf('x'), 0, 0);
  const time = () => {
    const { atime, atimeNsec } = fs.getattr(node);
    return `${atime}.${atimeNsec}`;
  };
  const read = (flags: number) => fs.read(node, fs.open(node, flags).file, bufferOf(1), 0);
  const created = time();
  read(OpenFlags.NOATIME);
  assert.equal(time(), created);
  read(0);
  const first = time();
  assert.notEqual(first, created);
  read(0);
  assert.equal(time(), first);
  fs.setattr(node, { atime: { seconds: 1000, nanoseconds: 0 } }, undefined);
  read(0);
  assert.notEqual(time(), '1000.0');
});

test('no memory beyond the limit of the arena is taken, however a guest scatters its data', () => {
  const arena = new Arena(2 * SLAB_BYTES);
  const { fs, top, space } = make({ arena });
  const { node, file } = fs.create(top, 'f', 0o644, RDWR, root);
  const page = bufferOf(PAGE_BYTES);
  // Only the first and the last page of each chunk are written. The blocks between them are taken
  // too.
  const scatter = () => {
    for (let i = 0; ; i++) {
      fs.write(node, file, page, i * CHUNK_BYTES, 0);
      fs.write(node, file, page, (i + 1) * CHUNK_BYTES - PAGE_BYTES, 0);
    }
  };
  assert.throws(scatter, is('ENOSPC'));
  assert.equal(arena.slabBytes, 2 * SLAB_BYTES);
  fs.setattr(node, { size: 0 }, file);
  assert.deepEqual([space.pages, arena.blockBytes], [0, 0]);
  fs.write(node, file, page, 0, 0);
});

test('what is punched out of a file leaves no more memory behind than its data needs', () => {
  const { fs, top, arena } = make();
  const { node, file } = fs.create(top, 'f', 0o644, RDWR, root);
  const megabyte = bufferOf(1 << 20);
  fs.write(node, file, megabyte, 0, 0);
  const punch = FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE;
  for (let at = 0; at < 1 << 20; at += CHUNK_BYTES)
    fs.fallocate(node, file, punch, at + PAGE_BYTES, CHUNK_BYTES - PAGE_BYTES, root);
  assert.equal(fs.getattr(node).blocks, 8 * 8);
  assert.equal(arena.blockBytes, 8 * PAGE_BYTES);
});

test('memory of deleted files goes back to the system, but for a small reserve', async () => {
  const { fs, top, arena } = make();
  const megabyte = bufferOf(1 << 20);
  for (let i = 0; i < 256; i++) {
    const { node, file } = fs.create(top, `f${i}`, 0o644, RDWR, root);
    fs.write(node, file, megabyte, 0, 0);
  }
  assert.ok(arena.slabBytes >= 256 << 20);
  for (let i = 0; i < 256; i++) {
    const { node } = fs.lookup(top, `f${i}`)!;
    fs.unlink(top, `f${i}`);
    fs.forget(node);
  }
  assert.equal(arena.blockBytes, 0);
  for (let turn = 0; turn < 100 && arena.slabBytes > 32 << 20; turn++) await setImmediate();
  assert.ok(arena.slabBytes <= 32 << 20);
});

test('a small file takes little memory, and copies share what they can', () => {
  const { fs, top, arena, space } = make();
  const small = fs.create(top, 'small', 0o644, RDWR, root).node;
  const file = fs.open(small, RDWR).file;
  fs.write(small, file, bufferOf('x'.repeat(100)), 0, 0);
  assert.equal(arena.blockBytes, 256);
  const source = fs.create(top, 'source', 0o644, RDWR, root).node;
  const copy = fs.create(top, 'copy', 0o644, RDWR, root).node;
  fs.write(source, file, bufferOf(1 << 20), 0, 0);
  const before = arena.blockBytes;
  assert.equal(fs.copyFileRange(source, file, 0, copy, file, 0, 1 << 20, root), 1 << 20);
  assert.equal(arena.blockBytes, before);
  assert.equal(space.pages, 1 + 2 * 256);
  fs.write(copy, file, bufferOf('changed'), 0, 0);
  assert.equal(arena.blockBytes, before + CHUNK_BYTES);
  const buffer = bufferOf(7);
  fs.read(source, file, buffer, 0);
  assert.deepEqual(buffer.bytes.slice(0, 7), new Uint8Array(7));
});
