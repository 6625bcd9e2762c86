import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Backend, wrapEach } from '../../../../core/backend/index.js';
import { replay } from '../../../../core/state/index.js';
import { FuseClient, ROOT, rejectsWith } from '../../../support/fuse-client.js';
import { journaled, PlainMemory } from '../../../support/journaled.js';
import { asynchronous, TinyBackend } from '../../../support/tiny-backend.js';

const EEXIST = 17;

/** A backend with a journal of its guests, and how often names were looked up in it. */
async function kept(inner: Backend) {
  const memory = new PlainMemory(1024 + 2 * 16_384);
  const asked: string[] = [];
  /** What the journal says was about to be done when a method of the backend was called. */
  const intended: Record<string, number> = {};
  const backend = wrapEach(inner, (method, next, args) => {
    if (method === 'lookup') asked.push(args[1] as string);
    intended[method] = (replay(memory)?.sessions ?? []).flatMap(({ intents }) => intents).length;
    return next();
  });
  const running = await journaled(backend, memory);
  const guest = async (): Promise<FuseClient> => {
    const client = new FuseClient(running.kept().loopback);
    await client.init();
    return client;
  };
  return { asked, intended, guest };
}

/** Each has looked up what it needs, as Linux does, when its last request is made. */
const requests: Readonly<Record<string, (client: FuseClient) => Promise<() => Promise<unknown>>>> = {
  async mkdir(client) {
    await client.lookup(ROOT, 'new').catch(() => undefined);
    return () => client.mkdir(ROOT, 'new');
  },
  async mknod(client) {
    await client.lookup(ROOT, 'new').catch(() => undefined);
    return () => client.mknod(ROOT, 'new', 0o010600);
  },
  async symlink(client) {
    await client.lookup(ROOT, 'new').catch(() => undefined);
    return () => client.symlink(ROOT, 'new', 'target');
  },
  async create(client) {
    await client.lookup(ROOT, 'new').catch(() => undefined);
    return () => client.create(ROOT, 'new', 0o644, 0o302);
  },
  async link(client) {
    const { nodeid } = await client.mknod(ROOT, 'file', 0o100600);
    await client.lookup(ROOT, 'new').catch(() => undefined);
    return () => client.link(nodeid, ROOT, 'new');
  },
  async unlink(client) {
    await client.mknod(ROOT, 'file', 0o100600);
    return () => client.unlink(ROOT, 'file');
  },
  async rmdir(client) {
    await client.mkdir(ROOT, 'directory');
    return () => client.rmdir(ROOT, 'directory');
  },
  async rename(client) {
    await client.mknod(ROOT, 'file', 0o100600);
    await client.lookup(ROOT, 'new').catch(() => undefined);
    return () => client.rename(ROOT, 'file', ROOT, 'new');
  },
};

describe('what a guest has just found is not looked up again before its name changes', () => {
  for (const [method, prepare] of Object.entries(requests))
    test(method, async () => {
      const { asked, intended, guest } = await kept(new TinyBackend());
      const request = await prepare(await guest());
      asked.length = 0;
      await request();
      assert.deepEqual(asked, []);
      assert.equal(intended[method], 1, 'whether it was noted');
    });
});

test('nor is what it has found in a listing', async () => {
  const tiny = new TinyBackend();
  const before = new FuseClient((await journaled(tiny, new PlainMemory(1024 + 2 * 16_384))).kept().loopback);
  await before.init();
  for (const name of ['a', 'b', 'c']) await before.mknod(ROOT, name, 0o100600);
  await before.mkdir(ROOT, 'd');
  const { asked, guest } = await kept(tiny);
  const client = await guest();
  const { fh } = await client.opendir(ROOT);
  await client.readdirplus(ROOT, fh);
  asked.length = 0;
  for (const name of ['a', 'b', 'c']) await client.unlink(ROOT, name);
  await client.rmdir(ROOT, 'd');
  assert.deepEqual(asked, []);
});

describe('a name is looked up where what a guest has found does not count any more', () => {
  test('another guest has made it', async () => {
    const { intended, guest } = await kept(new TinyBackend());
    const [one, other] = [await guest(), await guest()];
    await one.lookup(ROOT, 'new').catch(() => undefined);
    await other.mkdir(ROOT, 'new');
    await rejectsWith(one.mkdir(ROOT, 'new'), EEXIST);
    assert.equal(intended['mkdir'], 0, 'it would be taken for its own');
  });

  test('another guest was about to make it', async () => {
    const { asked, intended, guest } = await kept(asynchronous(new TinyBackend()));
    const [one, other] = [await guest(), await guest()];
    const looking = one.lookup(ROOT, 'new').catch(() => undefined);
    await other.mkdir(ROOT, 'new');
    await looking;
    asked.length = 0;
    await rejectsWith(one.mkdir(ROOT, 'new'), EEXIST);
    assert.deepEqual(asked, ['new']);
    assert.equal(intended['mkdir'], 0);
  });

  test('another guest is making it', async () => {
    const { asked, guest } = await kept(asynchronous(new TinyBackend()));
    const [one, other] = [await guest(), await guest()];
    await one.lookup(ROOT, 'new').catch(() => undefined);
    const making = other.mkdir(ROOT, 'elsewhere');
    asked.length = 0;
    await one.mkdir(ROOT, 'new');
    await making;
    assert.deepEqual(asked, ['new']);
  });

  test('it is there, and is to be made', async () => {
    const { asked, guest } = await kept(new TinyBackend());
    const client = await guest();
    await client.mkdir(ROOT, 'new');
    asked.length = 0;
    await rejectsWith(client.mkdir(ROOT, 'new'), EEXIST);
    assert.deepEqual(asked, ['new']);
  });

  test('it is not there, and is to be removed', async () => {
    const { asked, guest } = await kept(new TinyBackend());
    const client = await guest();
    await client.lookup(ROOT, 'none').catch(() => undefined);
    asked.length = 0;
    await client.unlink(ROOT, 'none').catch(() => undefined);
    assert.deepEqual(asked, ['none']);
  });

  test('its file is open, and might lose its last name', async () => {
    const { asked, guest } = await kept(new TinyBackend());
    const client = await guest();
    await client.create(ROOT, 'file', 0o644, 2);
    asked.length = 0;
    await client.unlink(ROOT, 'file');
    assert.deepEqual(asked, ['file']);
  });

  test('its node was forgotten', async () => {
    const { asked, guest } = await kept(new TinyBackend());
    const client = await guest();
    const { nodeid } = await client.mknod(ROOT, 'file', 0o100600);
    await client.forget(nodeid, 1n);
    asked.length = 0;
    await client.unlink(ROOT, 'file');
    assert.deepEqual(asked, ['file']);
  });
});
