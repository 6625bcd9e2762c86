import assert from 'node:assert/strict';
import { mkdirSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { OpenFlags } from '../../../../core/backend/index.js';
import { BackendRegistry } from '../../../../core/plugins/index.js';
import { needsOf } from '../../../../core/plugins/backend-needs.js';
import { root, serve } from '../harness.js';
import { host } from '../host-calls.js';

const skip = process.geteuid!() === 0 ? {} : { skip: 'needs root' };
const NAME = 'trusted.overlay.redirect';

test(
  'a guest has no trusted attributes unless its export says so, whatever the daemon may',
  skip,
  async (t) => {
    const refusing = serve(tmpdir());
    t.after(() => refusing.close());
    const { backend, node, directory } = refusing;
    mkdirSync(join(directory, 'd'));
    assert.equal(host.setxattr(join(directory, 'd'), NAME, '/etc', 0), 0, 'this test may itself');
    const d = (await backend.lookup(node, 'd', root))!.node;
    assert.throws(() => backend.setxattr(d, NAME, Buffer.from('/'), 0, false, root), { code: 'EPERM' });
    assert.throws(() => backend.removexattr(d, NAME, root), { code: 'EPERM' });
    assert.equal(await backend.getxattr(d, NAME, root), undefined);
    assert.deepEqual(await backend.listxattr(d, root), []);

    const allowing = serve(tmpdir(), { trustedXattrs: 'allow' });
    t.after(() => allowing.close());
    await allowing.backend.setxattr(allowing.node, NAME, Buffer.from('/'), 0, false, root);
    assert.deepEqual(await allowing.backend.listxattr(allowing.node, root), [NAME]);
  },
);

test('an open file has the attributes that it has when it is not open', async (t) => {
  const share = serve('/var/tmp');
  t.after(() => share.close());
  const { backend, node, directory } = share;
  const path = join(directory, 'file');
  writeFileSync(path, '');
  assert.equal(host.setxattr(path, 'user.kind', 'first', 0), 0);
  const { node: file } = (await backend.lookup(node, 'file', root))!;
  const attribute = async (name: string): Promise<string | undefined> => {
    const value = await backend.getxattr(file, name, root);
    return value && Buffer.from(value).toString();
  };
  assert.equal(await attribute('user.kind'), 'first');
  for (const flags of [OpenFlags.READ_ONLY, OpenFlags.WRITE_ONLY, OpenFlags.READ_WRITE]) {
    const { file: opened } = await backend.open(file, flags, root);
    assert.equal(await attribute('user.kind'), 'first');
    assert.equal(await attribute('security.capability'), undefined);
    await backend.release(file, opened);
  }
  const { file: opened } = await backend.open(file, OpenFlags.READ_ONLY, root);
  unlinkSync(path);
  writeFileSync(path, '');
  assert.equal(host.setxattr(path, 'user.kind', 'second', 0), 0);
  assert.equal(await attribute('user.kind'), 'first');
  await backend.release(file, opened);
});

test('values and lists of any length are whole', async (t) => {
  const share = serve('/var/tmp');
  t.after(() => share.close());
  const { backend, node, directory } = share;
  const path = join(directory, 'file');
  writeFileSync(path, '');
  const { node: file } = (await backend.lookup(node, 'file', root))!;
  const sameAsHost = async (): Promise<void> => {
    for (const length of [0, 1, 255, 256, 257, 1000]) {
      const value = await backend.getxattr(file, `user.${length}`, root);
      assert.equal(Buffer.from(value!).toString(), 'v'.repeat(length));
    }
    const names = [...(await backend.listxattr(file, root))].sort();
    assert.deepEqual(names, [...short, ...long].sort());
  };
  const short = [0, 1, 255, 256, 257, 1000].map((length) => `user.${length}`);
  for (const name of short)
    assert.equal(host.setxattr(path, name, 'v'.repeat(Number(name.slice('user.'.length))), 0), 0);
  const long: string[] = [];
  await sameAsHost();
  for (const letter of 'abc') {
    long.push(`user.${letter.repeat(120)}`);
    assert.equal(host.setxattr(path, long.at(-1)!, '', 0), 0);
    await sameAsHost();
  }
  const { file: opened } = await backend.open(file, OpenFlags.READ_ONLY, root);
  await sameAsHost();
  await backend.release(file, opened);
});

test('a daemon keeps CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH only for an export that uses them', async () => {
  const capabilities = async (backend: { type: string; [option: string]: unknown }): Promise<string[]> => {
    const needs = await needsOf({ exports: [{ backend }] }, new BackendRegistry());
    assert.ok(typeof needs !== 'string');
    return (needs.capabilities ?? [])
      .filter((name) => ['sys_admin', 'dac_read_search'].includes(name))
      .sort();
  };
  const plain = { type: 'passthrough', sharedDir: '/srv' };
  assert.deepEqual(await capabilities(plain), ['dac_read_search']);
  assert.deepEqual(await capabilities({ ...plain, inodeFileHandles: 'never' }), []);
  assert.deepEqual(await capabilities({ ...plain, trustedXattrs: 'allow' }), [
    'dac_read_search',
    'sys_admin',
  ]);
  assert.deepEqual(await capabilities({ type: 'overlay', lowers: ['/srv'] }), [
    'dac_read_search',
    'sys_admin',
  ]);
  assert.deepEqual(await capabilities({ type: 'overlay', lowers: ['/srv'], xattrs: 'user' }), [
    'dac_read_search',
  ]);
});
