import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { MemfsVolume } from '../../../backends/memfs/index.js';
import { FsError, OpenFlags } from '../../../core/backend/index.js';
import { bufferOf, caller, host } from './support.js';
import { checkProperty } from '../../support/random.js';

const root = caller();

test('saved state brings back every file under its key, open files without a name too', () => {
  const volume = MemfsVolume.fromJSON({ '/d/f': 'text', '/g': 'other' });
  volume.linkSync('/d/f', '/hard');
  volume.symlinkSync('t'.repeat(200), '/s');
  volume.truncateSync('/g', 10 * 2 ** 30);
  const { backend } = volume;
  const top = backend.mount(host);
  const { node, file } = backend.create(top, 'gone', 0o600, OpenFlags.READ_WRITE, root);
  backend.write(node, file, bufferOf('still here'), 0, 0);
  backend.fallocate(node, file, 1, 100_000, 5000, root);
  backend.setxattr(node, 'user.x', Buffer.from('y'), 0, false);
  backend.unlink(top, 'gone');
  const keys = ['d', 'g', 'hard', 's'].map((name) => backend.key(backend.lookup(top, name)!.node));
  const goneKey = backend.key(node);

  const other = new MemfsVolume();
  other.backend.mount(host);
  other.backend.restore(backend.save());
  const names = ['d', 'g', 'hard', 's'];
  const otherTop = other.backend.mount(host);
  names.forEach((name, i) => {
    const found = other.backend.resolve(keys[i]!);
    assert.equal(found, other.backend.lookup(otherTop, name)!.node);
    const { atime: _1, atimeNsec: _2, ...attributes } = { ...other.backend.getattr(found) };
    const { atime: _3, atimeNsec: _4, ...expected } = { ...backend.getattr(backend.lookup(top, name)!.node) };
    assert.deepEqual(attributes, expected);
  });
  assert.equal(other.readFileSync('/hard', 'utf8'), 'text');
  assert.equal(other.statSync('/d/f').nlink, 2);

  const orphan = other.backend.resolve(goneKey);
  const buffer = bufferOf(20);
  assert.equal(other.backend.read(orphan, file, buffer, 0), 10);
  assert.equal(Buffer.from(buffer.bytes.subarray(0, 10)).toString(), 'still here');
  assert.equal(other.backend.getattr(orphan).blocks, backend.getattr(node).blocks);
  assert.deepEqual(other.backend.statfs(), backend.statfs());
  const next = other.backend.mknod(otherTop, 'new', 0o100600, 0, root).node;
  assert.ok(next.ino > node.ino);
  other.backend.forget(orphan);
  assert.throws(
    () => other.backend.resolve(goneKey),
    (error) => error === FsError.of('ESTALE'),
  );
});

test('saved state grows with what it holds', () => {
  const content = 'x'.repeat(300_000);
  const names = Array.from({ length: 2000 }, (_, i) => `/${'long-name-'.repeat(20)}${i}`);
  const volume = MemfsVolume.fromJSON(
    Object.fromEntries([['/big', content], ...names.map((name) => [name, 'y'])]),
  );
  const other = new MemfsVolume();
  other.backend.mount(host);
  other.backend.restore(volume.backend.save());
  assert.equal(other.readFileSync('/big', 'utf8'), content);
  for (const name of names) assert.equal(other.readFileSync(name, 'utf8'), 'y');
});

test('keys of one volume mean nothing to another', () => {
  const { backend } = MemfsVolume.fromJSON({ '/f': '' });
  const top = backend.mount(host);
  const key = backend.key(backend.lookup(top, 'f')!.node);
  const other = MemfsVolume.fromJSON({ '/f': '' }).backend;
  other.mount(host);
  assert.throws(
    () => other.resolve(key),
    (error) => error === FsError.of('ESTALE'),
  );
  assert.equal(backend.resolve(key), backend.lookup(top, 'f')!.node);
});

test('damaged state is refused, whatever is wrong with it', async (t) => {
  const volume = MemfsVolume.fromJSON({ '/d/f': 'text', '/g': 'x' });
  const state = volume.backend.save();
  await checkProperty(
    t,
    fc.property(fc.nat(state.length - 1), fc.nat(255), fc.boolean(), (at, byte, cut) => {
      const damaged = cut ? state.slice(0, at) : state.slice();
      if (!cut) damaged[at] = byte;
      const { backend } = new MemfsVolume({ size: 1 << 20, inodes: 100 });
      backend.mount(host);
      try {
        backend.restore(damaged);
      } catch (error) {
        assert.ok(error instanceof FsError, String(error));
      }
    }),
    { numRuns: 2000 },
  );
});
