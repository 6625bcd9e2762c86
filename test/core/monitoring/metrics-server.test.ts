import assert from 'node:assert/strict';
import { once } from 'node:events';
import { renameSync } from 'node:fs';
import { request } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { counter, gauge, UsageError, wrap, type Backend } from '../../../core/backend/index.js';
import { listenForMetrics, MetricsServer, parseMetricsAddress } from '../../../core/monitoring/index.js';
import { BackendRegistry, createLogger, Daemon } from '../../../core/plugins/index.js';
import { FuseClient, ROOT } from '../../support/fuse-client.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';
import { FrontEnd } from '../../support/front-end.js';

const log = createLogger({ level: 'silent', format: 'json' });

interface Answer {
  readonly status: number;
  readonly text: string;
}

/** Asks a server on a unix socket. */
function ask(socketPath: string, path = '/metrics', method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path, method }, (response) => {
      const pieces: Buffer[] = [];
      response.on('data', (piece: Buffer) => pieces.push(piece));
      response.on('end', () => resolve({ status: response.statusCode!, text: `${Buffer.concat(pieces)}` }));
    });
    asked.on('error', reject);
    asked.end();
  });
}

/** The values of a text in Prometheus's format, by name and labels. */
function valuesOf(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const [, name = '', value = ''] = /^(\S+(?:\{.*\})?) (\S+)$/.exec(line) ?? [];
      return [name.replace('virtiofs_kit_', ''), Number(value)];
    }),
  );
}

interface Served {
  readonly values: () => Promise<Map<string, number>>;
  readonly path: string;
  readonly connect: (tag: string) => Promise<FuseClient>;
}

async function serve(t: TestContext, backends: Record<string, Backend>): Promise<Served> {
  const folder = temporaryFolder(t);
  const exports = Object.entries(backends).map(([tag, backend]) => ({
    tag,
    socket: join(folder, tag),
    backend,
  }));
  const daemon = await Daemon.start({ exports, log, registry: new BackendRegistry() });
  const path = join(folder, 'metrics');
  const server = await MetricsServer.start(path, () => daemon.figures(), log);
  t.after(async () => {
    await server.close();
    await daemon.close();
  });
  return {
    path,
    values: async () => valuesOf((await ask(path)).text),
    async connect(tag) {
      const frontEnd = await FrontEnd.connect(join(folder, tag));
      t.after(() => frontEnd.close());
      const fuse = new FuseClient(fuseTransport(frontEnd));
      await fuse.init();
      return fuse;
    },
  };
}

async function memfs(): Promise<Backend> {
  return new BackendRegistry().create({ type: 'memfs' }, { log });
}

test('figures count what guests of each export have done, exactly', async (t) => {
  const { connect, values } = await serve(t, { one: await memfs(), two: await memfs() });
  const before = await values();
  assert.equal(before.get('connections{export="one"}'), 0);
  assert.equal(before.get('up{export="one"}'), 1);
  assert.equal(before.get('requests_total{export="one",opcode="INIT"}'), undefined);

  const fuse = await connect('one');
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.alloc(1000));
  await fuse.read(entry.nodeid, open.fh, 0, 400);
  for (let i = 0; i < 3; i++) await assert.rejects(fuse.lookup(ROOT, 'missing'));
  const listing = await fuse.opendir(ROOT);
  await fuse.readdir(ROOT, listing.fh, 0n);
  const after = await values();
  const told = (name: string): number | undefined => after.get(name);
  assert.equal(told('connections{export="one"}'), 1);
  assert.equal(told('mounts{export="one"}'), 1);
  assert.equal(told('nodes{export="one"}'), 2);
  assert.equal(told('handles{export="one"}'), 2);
  assert.ok(told('listing_bytes{export="one"}')! >= 'file'.length);
  assert.equal(told('listing_bytes{export="two"}'), 0);
  assert.equal(told('requests_total{export="one",opcode="INIT"}'), 1);
  assert.equal(told('requests_total{export="one",opcode="CREATE"}'), 1);
  assert.equal(told('requests_total{export="one",opcode="LOOKUP"}'), 3);
  assert.equal(told('written_bytes_total{export="one"}'), 1000);
  assert.equal(told('read_bytes_total{export="one"}'), 400);
  // Each was answered before the next one.
  assert.equal(told('batches_total{export="one"}'), 9);
  assert.equal(told('batches_total{export="two"}'), 0);
  assert.ok(told('wake_ups_total')! > before.get('wake_ups_total')!);
  assert.equal(told('mounts{export="two"}'), 0);
  assert.equal(told('written_bytes_total{export="two"}'), 0);
  assert.ok(told('process_resident_memory_bytes')! > 1e6);
});

test('exports with the same tag are told apart by their sockets', async (t) => {
  const folder = temporaryFolder(t);
  const sockets = [join(folder, 'one'), join(folder, 'two')];
  const exports = sockets.map((socket) => ({ tag: 'same', socket, backend: { type: 'memfs' } }));
  const daemon = await Daemon.start({ exports, log, registry: new BackendRegistry() });
  t.after(() => daemon.close());
  const { exports: told } = await daemon.figures();
  assert.deepEqual(
    told.map(({ tag }) => tag),
    sockets.map((socket) => `same ${socket}`),
  );
});

test('a guest that has gone leaves what it did, and nothing else', async (t) => {
  const { connect, values } = await serve(t, { one: await memfs() });
  const first = await connect('one');
  const { entry, open } = await first.create(ROOT, 'file');
  await first.write(entry.nodeid, open.fh, 0, Buffer.alloc(10));
  await first.destroy();
  const second = await connect('one');
  const again = await second.lookup(ROOT, 'file');
  const { fh } = await second.open(again.nodeid, 2);
  await second.write(again.nodeid, fh, 0, Buffer.alloc(5));
  const told = await values();
  assert.equal(told.get('written_bytes_total{export="one"}'), 15);
  assert.equal(told.get('handles{export="one"}'), 1);
  assert.equal(told.get('mounts{export="one"}'), 1);
});

test('one request in sixteen is timed, and is in the bucket of its time', async (t) => {
  const slow = wrap(await memfs(), {
    async statfs(next, node, context) {
      await setTimeout(30);
      return next(node, context);
    },
  });
  const { connect, values } = await serve(t, { one: slow });
  const fuse = await connect('one');
  await Promise.all(Array.from({ length: 47 }, () => fuse.statfs()));
  const told = await values();
  const labels = 'export="one",opcode="STATFS"';
  assert.equal(told.get(`requests_total{${labels}}`), 47);
  const timed = told.get(`request_duration_seconds_count{${labels}}`)!;
  assert.equal(timed, 3);
  assert.equal(told.get(`request_duration_seconds_bucket{${labels},le="0.02"}`), 0);
  assert.equal(told.get(`request_duration_seconds_bucket{${labels},le="+Inf"}`), timed);
  assert.ok(told.get(`request_duration_seconds_sum{${labels}}`)! > 0.03 * timed * 0.9);
});

test('figures of backends are shown; a wrong one, a throwing one and one that hangs harm no other', async (t) => {
  const inner = await memfs();
  const odd = wrap(
    await memfs(),
    {},
    {
      add: { health: () => new Promise<never>(() => {}) },
    },
  );
  const wrong = wrap(await memfs(), {
    metrics: () => [gauge('no name', 'x', 1), counter('good', 'Good.', 7, { kind: 'a"b\n' })],
  });
  const throwing = wrap(await memfs(), {
    metrics: () => {
      throw new Error('no figures');
    },
  });
  const { values } = await serve(t, { inner, odd, wrong, throwing });
  const told = await values();
  assert.equal(told.get('up{export="odd"}'), 0);
  for (const tag of ['inner', 'wrong', 'throwing']) assert.equal(told.get(`up{export="${tag}"}`), 1);
  assert.equal(told.get('own_used_bytes{export="inner"}'), 0);
  assert.equal(told.get(String.raw`own_good_total{export="wrong",kind="a\"b\n"}`), 7);
  assert.equal(told.get('own_used_bytes{export="throwing"}'), undefined);
});

test('other paths and methods are refused, and the figures stay', async (t) => {
  const { path } = await serve(t, { one: await memfs() });
  assert.equal((await ask(path, '/')).status, 404);
  assert.equal((await ask(path, '/metrics', 'POST')).status, 405);
  assert.equal((await ask(path, '/metrics?x=1')).status, 200);
});

test('a socket that nobody listens on is replaced; one that is taken, and a taken port, are refused', async (t) => {
  const folder = temporaryFolder(t);
  const [made, path] = [join(folder, 'made'), join(folder, 'left')];
  const left = createServer().listen(made);
  await once(left, 'listening');
  renameSync(made, path);
  left.close();
  await once(left, 'close');
  const none = (): Promise<never> => Promise.reject(new Error('no figures'));
  const server = await MetricsServer.start(path, none, log);
  assert.equal((await ask(path)).status, 500);
  await assert.rejects(MetricsServer.start(path, none, log), /another process listens there/);
  await server.close();

  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const { port } = taken.address() as AddressInfo;
  assert.throws(() => listenForMetrics({ host: '127.0.0.1', port }), UsageError);
  taken.close();
});

test('addresses are those of loopback, or paths', () => {
  assert.deepEqual(parseMetricsAddress('9469'), { host: '127.0.0.1', port: 9469 });
  assert.deepEqual(parseMetricsAddress('127.0.0.2:1'), { host: '127.0.0.2', port: 1 });
  assert.deepEqual(parseMetricsAddress('[::1]:65535'), { host: '::1', port: 65_535 });
  assert.deepEqual(parseMetricsAddress('unix:/run/x'), { path: '/run/x' });
  for (const text of [
    '',
    '0',
    '65536',
    '0.0.0.0:80',
    '10.0.0.1:80',
    '[::]:80',
    'unix:',
    'localhost:80',
    '127.1:80',
  ]) {
    assert.throws(() => parseMetricsAddress(text), UsageError, text);
  }
});
