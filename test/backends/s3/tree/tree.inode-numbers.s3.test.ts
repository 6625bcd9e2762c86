import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, Mount } from '../support.js';

async function listed(mount: Mount, path: string): Promise<Record<string, unknown>> {
  const numbers: Record<string, unknown> = {};
  for await (const { name, ino } of await mount.backend.readdir(await mount.at(path), context))
    numbers[name] = ino;
  return numbers;
}

async function shown(mount: Mount, path: string): Promise<unknown> {
  return (await mount.backend.getattr(await mount.at(path), undefined, context)).ino;
}

describe('inode numbers', () => {
  const server = proxiedBucket();
  const open = (): Promise<Mount> => Mount.open(server.bucket, { endpoint: server.proxy.endpoint });

  it('are in a listing those that stat shows, in each mount, of names that nobody has looked up too', async () => {
    for (const key of ['numbers/below/file', 'numbers/a', 'numbers/b']) await server.bucket.put(key, key);
    const mount = await open();
    const all = await listed(mount, 'numbers');
    assert.deepEqual(Object.keys(all).sort(), ['.', '..', 'a', 'b', 'below']);
    assert.equal(new Set(Object.values(all)).size, 5);
    for (const name of ['a', 'b', 'below']) assert.equal(all[name], await shown(mount, `numbers/${name}`));
    assert.equal(all['.'], await shown(mount, 'numbers'));
    assert.equal(all['..'], await shown(mount, ''));
    const below = await listed(mount, 'numbers/below');
    assert.deepEqual([below['.'], below['..']], [all['below'], all['.']]);
    const root = await listed(mount, '');
    assert.deepEqual([root['.'], root['..']], [1, 1]);
    const other = await open();
    assert.deepEqual(await listed(other, 'numbers'), all);
    await other.close();
    await mount.close();
  });

  it('go along with a file that is renamed, and what is made in its place has another', async () => {
    await server.bucket.put('moved/old', 'old');
    const mount = await open();
    const before = await shown(mount, 'moved/old');
    const directory = await mount.at('moved');
    await mount.backend.rename(directory, 'old', directory, 'new', 0, context);
    assert.equal(await shown(mount, 'moved/new'), before);
    assert.equal((await listed(mount, 'moved'))['new'], before);
    const made = await mount.create('moved/old');
    const numbers = await listed(mount, 'moved');
    assert.equal(numbers['old'], await shown(mount, 'moved/old'));
    assert.notEqual(numbers['old'], before);
    await mount.release(made);
    await mount.close();
  });
});
