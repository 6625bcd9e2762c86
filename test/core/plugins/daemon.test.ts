import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { BackendRegistry, createLogger, Daemon, type ServedExport } from '../../../core/plugins/index.js';
import { FuseClient, InitFlag } from '../../support/fuse-client.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';
import { FrontEnd } from '../../support/front-end.js';

const memfs = { type: 'memfs' };

/** Serves exports, and says of each whose locks a guest of it is told to use. */
async function locksOf(t: TestContext, given: readonly Omit<ServedExport, 'socket'>[]): Promise<string[]> {
  const folder = temporaryFolder(t);
  const exports = given.map((one, index) => ({ ...one, socket: join(folder, `${index}`) }));
  const log = createLogger({ level: 'silent', format: 'json' });
  const backends = { common: memfs };
  const daemon = await Daemon.start({ exports, backends, log, registry: new BackendRegistry() });
  t.after(() => daemon.close());
  const found: string[] = [];
  for (const { socket } of exports) {
    const frontEnd = await FrontEnd.connect(socket);
    const { flags } = await new FuseClient(fuseTransport(frontEnd)).init();
    await frontEnd.close();
    const both = InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS;
    assert.ok((flags & both) === 0n || (flags & both) === both);
    found.push((flags & both) === 0n ? 'local' : 'shared');
  }
  return found;
}

test('guests that can meet share their locks, and one that has an export to itself keeps them', async (t) => {
  const exports = [{ backend: memfs }, { backend: memfs, maxConnections: 1 }];
  assert.deepEqual(await locksOf(t, exports), ['shared', 'local']);
});

test('guests of several exports of one backend share their locks, however few each export takes', async (t) => {
  const exports = ['one', 'two'].map((tag) => ({ tag, backend: 'common', maxConnections: 1 }));
  assert.deepEqual(await locksOf(t, exports), ['shared', 'shared']);
  assert.deepEqual(await locksOf(t, exports.slice(1)), ['local']);
});

test('locks are as they were asked for', async (t) => {
  const exports = [
    { backend: memfs, locks: 'local' as const },
    { backend: memfs, locks: 'shared' as const, maxConnections: 1 },
  ];
  assert.deepEqual(await locksOf(t, exports), ['local', 'shared']);
  const odd = [{ backend: 'common' }, { backend: 'common', locks: 'local' as const }];
  await assert.rejects(locksOf(t, odd), /exports\[1\]\.locks: must be that of the other export/);
  const same = [{ backend: 'common' }, { backend: 'common', locks: 'shared' as const }];
  assert.deepEqual(await locksOf(t, same), ['shared', 'shared']);
});

test('a socket is not taken from under a guest, unless that is asked for', async (t) => {
  const folder = temporaryFolder(t);
  const log = createLogger({ level: 'silent', format: 'json' });
  const registry = new BackendRegistry();
  const daemon = await Daemon.start({ exports: [], log, registry });
  t.after(() => daemon.close());
  const socket = join(folder, 'added');
  await daemon.add('added', socket, await registry.create({ type: 'memfs' }, { log }));
  const guest = await FrontEnd.connect(socket);
  t.after(() => guest.close());
  await assert.rejects(daemon.remove(socket), /added: a guest uses it, and would hang for ever/);
  await new FuseClient(fuseTransport(guest)).init();
  assert.equal(await daemon.remove(socket, { inUse: true }), true);
  await guest.ended;
  assert.equal(await daemon.remove(socket), false);
});
