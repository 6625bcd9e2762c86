import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { wrap } from '../../../core/backend/index.js';
import { BackendRegistry, type Events, MountedExport, serve } from '../../../core/plugins/index.js';
import { MemoryLog } from '../../support/engine.js';
import { FrontEnd } from '../../support/front-end.js';
import { FuseClient, rejectsWith, ROOT } from '../../support/fuse-client.js';
import { keepingLog, shell, temporaryDirectory } from '../../support/host-mount.js';
import { TinyBackend } from '../../support/tiny-backend.js';
import { fuseTransport, temporaryFolder, until } from '../../support/vhost-user.js';

const BROKEN = new Error('broken');

function broken() {
  return wrap(new TinyBackend(), {
    statfs: () => {
      throw BROKEN;
    },
  });
}

/** What is told, in its order. */
function heard(events: Events): unknown[] {
  const told: unknown[] = [];
  for (const name of ['connected', 'mounted', 'disconnected'] as const)
    events.on(name, ({ tag }) => void told.push([name, tag]));
  events.on('fault', ({ tag, error, message }) => void told.push(['fault', tag, error, message]));
  return told;
}

test('a daemon tells who connects, mounts and goes, and which backend fails', async (t) => {
  const socket = join(temporaryFolder(t), 'socket');
  const log = new MemoryLog();
  const daemon = await serve({ socket, tag: 'share', backend: broken(), log });
  t.after(() => daemon.close());
  daemon.events.on('mounted', () => {
    throw new Error('a listener that fails');
  });
  const told = heard(daemon.events);
  const frontEnd = await FrontEnd.connect(socket);
  const client = new FuseClient(fuseTransport(frontEnd));
  await client.init();
  await rejectsWith(client.statfs(ROOT), 5);
  await frontEnd.close();
  await until(() => told.length === 4, 'four events');
  assert.deepEqual(told, [
    ['connected', 'share'],
    ['mounted', 'share'],
    ['fault', 'share', BROKEN, 'STATFS failed'],
    ['disconnected', 'share'],
  ]);
  assert.deepEqual(log.errors.sort(), ['STATFS failed', 'a listener of mounted failed']);
});

test('a mount on this host tells when it is mounted, fails and ends', async () => {
  await using point = await temporaryDirectory();
  const mounted = await MountedExport.open({
    directory: point.path,
    backend: broken(),
    registry: new BackendRegistry(),
    log: keepingLog(),
  });
  const told = heard(mounted.events);
  await shell('stat -f . > /dev/null', point.path);
  await mounted.close();
  await until(() => (told.at(-1) as unknown[])[0] === 'disconnected', 'the end');
  assert.deepEqual(told.at(-1), ['disconnected', point.path]);
  assert.ok(told.some((event) => (event as unknown[])[2] === BROKEN));
});
