import assert from 'node:assert/strict';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UsageError } from '../../../core/backend/index.js';
import {
  askDaemon,
  BackendRegistry,
  ControlSocket,
  createLogger,
  Daemon,
  DAEMON_ITSELF,
  readConfig,
  toYaml,
} from '../../../core/plugins/index.js';
import { Reloading } from '../../../core/plugins/reload.js';
import { FrontEnd } from '../../support/front-end.js';
import { FuseClient, ROOT } from '../../support/fuse-client.js';
import { guestAtWork } from '../../support/guest-at-work.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';

interface Reloaded {
  readonly folder: string;
  readonly daemon: Daemon;
  /** Asks for another configuration. */
  readonly reload: (config: object) => Promise<readonly string[]>;
  readonly connect: (socket: string) => Promise<{ fuse: FuseClient; frontEnd: FrontEnd }>;
}

async function started(t: TestContext, config: object, isConfined = false): Promise<Reloaded> {
  const folder = temporaryFolder(t);
  const file = join(folder, 'config.yaml');
  writeFileSync(file, toYaml(config));
  const read = readConfig(file);
  const log = createLogger({ level: 'silent', format: 'json' });
  const registry = new BackendRegistry();
  const daemon = await Daemon.start({ ...read, log, registry });
  const control = join(folder, 'control');
  const settings = { file, config: read, isConfined, folders: [folder] };
  const reloading = new Reloading(daemon, registry, settings, log);
  const listening = ControlSocket.listen(control, daemon, registry, log, reloading);
  t.after(async () => {
    await listening.close();
    await daemon.close();
  });
  return {
    folder,
    daemon,
    reload: (next) =>
      askDaemon(control, {
        backend: DAEMON_ITSELF,
        command: 'reload',
        options: { file, text: toYaml(next) },
      }),
    async connect(socket) {
      const frontEnd = await FrontEnd.connect(join(folder, socket));
      t.after(() => frontEnd.close());
      const fuse = new FuseClient(fuseTransport(frontEnd));
      await fuse.init();
      return { fuse, frontEnd };
    },
  };
}

const memfs = { type: 'memfs' };
const one = (tag: string, more: object = {}) => ({ tag, socket: tag, backend: memfs, ...more });

const refused = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof UsageError, String(error));
  assert.match(error.message, message);
  return true;
};

test('exports come, go and change while a guest of another works, which loses no request', async (t) => {
  const { folder, reload, connect, daemon } = await started(t, { exports: [one('stays'), one('goes')] });
  const { fuse } = await connect('stays');
  const end = guestAtWork(fuse);
  for (let round = 0; round < 5; round++) {
    const lines = await reload({ exports: [one('stays'), one(`comes${round}`)] });
    assert.ok(lines.some((line) => line.endsWith(`comes${round}: served`)));
    assert.equal(lines.length, 2);
    const { fuse: other, frontEnd } = await connect(`comes${round}`);
    await other.mkdir(ROOT, 'new');
    await frontEnd.close();
    while ((await daemon.status()).exports.some(({ tag, guests }) => tag !== 'stays' && guests.length > 0))
      await sleep(5);
    const changed = await reload({
      exports: [one('stays'), one(`comes${round}`, { maxConnections: 1 })],
    }).catch((error: Error) => [error.message]);
    // It had shared its locks with others, which one alone would not.
    assert.match(changed[0]!, /locks lasts as long as the file system is open/);
    assert.match(
      (await reload({ exports: [one('stays'), one(`comes${round}`, { requestQueues: 3 })] }))[0]!,
      /: changed$/,
    );
  }
  const served = await end();
  assert.equal((await fuse.list(ROOT)).filter((name) => !name.startsWith('.')).length, served);
  assert.ok(!existsSync(join(folder, 'goes')) && !existsSync(join(folder, 'comes0')));
  assert.ok(existsSync(join(folder, 'comes4')));
});

test('what a changed export has stays, for its file system stays open', async (t) => {
  const { reload, connect, daemon } = await started(t, { exports: [one('data')] });
  const { fuse, frontEnd } = await connect('data');
  await fuse.mkdir(ROOT, 'kept');
  await frontEnd.close();
  while ((await daemon.status()).exports[0]!.guests.length > 0) await sleep(5);
  await reload({ exports: [one('data', { tag: 'renamed', requestQueues: 4 })] });
  assert.deepEqual(
    (await daemon.status()).exports.map(({ tag }) => tag),
    ['renamed'],
  );
  const { fuse: again } = await connect('data');
  await again.lookup(ROOT, 'kept');
});

test('an export that a guest uses is not taken out, and nothing else is changed then', async (t) => {
  const { folder, reload, connect } = await started(t, { exports: [one('stays'), one('used')] });
  await connect('used');
  const without = { exports: [one('stays'), one('added')] };
  await assert.rejects(reload(without), refused(/used: a guest uses it, and would hang for ever/));
  assert.ok(!existsSync(join(folder, 'added')));
  const changed = { exports: [one('stays'), one('used', { requestQueues: 4 })] };
  await assert.rejects(reload(changed), refused(/used: a guest uses it/));
});

test('mistakes in a new configuration change nothing', async (t) => {
  const { folder, reload, connect, daemon } = await started(t, { exports: [one('stays')] });
  writeFileSync(join(folder, 'taken'), '');
  const cases: readonly [object, RegExp][] = [
    [{ exports: [] }, /needs at least one export/],
    [{ exports: [one('stays'), one('odd', { cash: 1 })] }, /exports\[1\]\.cash: no such option/],
    [
      { exports: [one('stays'), one('odd', { backend: { type: 'memfs', sise: 1 } })] },
      /sise: no such option/,
    ],
    [{ exports: [one('stays'), one('first'), one('taken')] }, /taken/],
    [{ exports: [one('stays', { socketGroup: 'no-group' }), one('first')] }, /no-group: no such group/],
    [
      { exports: [one('stays', { backend: { type: 'memfs', size: '1m' } })] },
      /backend lasts as long as the file system is open: take the export out, reload/,
    ],
    [
      { exports: [one('stays'), { tag: 'fd', fd: 9, backend: memfs }] },
      /an inherited socket needs a restart/,
    ],
  ];
  for (const [config, message] of cases) {
    await assert.rejects(reload(config), refused(message));
    assert.ok(existsSync(join(folder, 'stays')) && !existsSync(join(folder, 'first')));
    assert.deepEqual(
      (await daemon.status()).exports.map(({ tag }) => tag),
      ['stays'],
    );
  }
  await connect('stays');
  assert.deepEqual(await reload({ exports: [one('stays')], metrics: '9999', log: { level: 'warn' } }), [
    'no export has changed',
    'metrics: has changed, and needs a restart',
  ]);
});

test('exports of one backend share it, also with one that comes later, until the last has gone', async (t) => {
  const backends = { common: memfs };
  const shared = (tag: string) => one(tag, { backend: 'common', locks: 'shared' });
  const { reload, connect, daemon } = await started(t, { backends, exports: [shared('first')] });
  const { fuse, frontEnd } = await connect('first');
  await fuse.mkdir(ROOT, 'kept');
  await frontEnd.close();
  await reload({ backends, exports: [shared('first'), shared('second')] });
  while ((await daemon.status()).exports.some(({ guests }) => guests.length > 0)) await sleep(5);
  await reload({ backends, exports: [shared('second')] });
  const { fuse: other } = await connect('second');
  await other.lookup(ROOT, 'kept');
});

test('the rate of an export is changed under its guests, whose requests wait for it', async (t) => {
  const rate = { guestOperationsPerSecond: 1e-3 };
  const { reload, connect, daemon } = await started(t, { exports: [one('data')] });
  const { fuse } = await connect('data');
  assert.match((await reload({ exports: [one('data', { rate })] }))[0]!, /data: changed$/);
  // What had not been used may be used now.
  const made = Promise.all(Array.from({ length: 5 }, (_, number) => fuse.mkdir(ROOT, `${number}`)));
  while ((await daemon.status()).exports[0]!.heldBack < 4) await sleep(5);
  await reload({ exports: [one('data')] });
  await made;
  const [status] = (await daemon.status()).exports;
  assert.equal(status!.heldBack, 0);
  assert.ok(status!.heldBackBefore >= 4);
});

test('a guest that goes while its requests are held back leaves nothing behind', async (t) => {
  const rate = { operationsPerSecond: 1e-3 };
  const { connect, reload, daemon } = await started(t, { exports: [one('data')] });
  const { fuse, frontEnd } = await connect('data');
  await reload({ exports: [one('data', { rate })] });
  const made = Promise.allSettled(Array.from({ length: 5 }, (_, number) => fuse.mkdir(ROOT, `${number}`)));
  while ((await daemon.status()).exports[0]!.heldBack < 4) await sleep(5);
  await frontEnd.close();
  while ((await daemon.status()).exports[0]!.guests.length > 0) await sleep(5);
  assert.equal((await daemon.status()).exports[0]!.heldBack, 0);
  await reload({ exports: [one('data')] });
  const { fuse: next } = await connect('data');
  await next.mkdir(ROOT, 'served as ever');
  void made;
});

test('a daemon whose exports were all replaced serves on', async (t) => {
  const { reload, daemon, connect } = await started(t, { exports: [one('old')] });
  let hasEnded = false;
  void daemon.ended().then(() => (hasEnded = true));
  await reload({ exports: [one('new')] });
  await connect('new');
  assert.equal(hasEnded, false);
});

test('a confined daemon refuses what it cannot reach', async (t) => {
  const outside = temporaryFolder(t);
  const { folder, reload } = await started(t, { exports: [one('stays')] }, true);
  const shared = join(folder, 'shared');
  mkdirSync(shared);
  const passthrough = one('files', { backend: { type: 'passthrough', sharedDir: shared } });
  await assert.rejects(
    reload({ exports: [one('stays'), passthrough] }),
    refused(/shared: the daemon has confined itself to what it needed at its start: restart it/),
  );
  const elsewhere = one('else', { socket: join(outside, 'socket') });
  await assert.rejects(
    reload({ exports: [one('stays'), elsewhere] }),
    refused(/socket: the daemon has confined/),
  );
  const s3 = one('bucket', { backend: { type: 's3', bucket: 'b' } });
  await assert.rejects(reload({ exports: [one('stays'), s3] }), refused(/restart it/));
  assert.equal((await reload({ exports: [one('stays'), one('more')] })).length, 1);
});
