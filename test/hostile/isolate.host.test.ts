import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { UnixConnection } from '../../core/system/index.js';
import { FrontEnd } from '../support/front-end.js';
import { faultyMount } from '../support/faulty-mounts.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { fuseTransport, temporaryFolder } from '../support/vhost-user.js';

/* Exports that are served by processes of their own. */

const program = fileURLToPath(new URL('../../core/cli/main.js', import.meta.url));
const ENOENT = 2;

interface Served {
  readonly daemon: ChildProcess;
  /** Of the export that has a process of its own, and of the other. */
  readonly sockets: readonly [string, string];
}

/** A daemon with an export in a process of its own, and one that is served without. */
async function serve(t: TestContext, isolated: object): Promise<Served> {
  const folder = temporaryFolder(t);
  const sound = join(folder, 'sound');
  mkdirSync(sound);
  const sockets = [join(folder, 'isolated.sock'), join(folder, 'sound.sock')] as const;
  const config = join(folder, 'config.json');
  const exports = [
    { tag: 'isolated', socket: sockets[0], backend: isolated, isolate: 'process' },
    { tag: 'sound', socket: sockets[1], backend: { type: 'passthrough', sharedDir: sound } },
  ];
  writeFileSync(config, JSON.stringify({ log: { level: 'silent' }, exports }));
  const words = [program, 'serve', '--confine', 'none', '--config', config];
  const daemon = spawn(process.execPath, words, { stdio: ['ignore', 'inherit', 'inherit'] });
  t.after(async () => {
    if (daemon.exitCode !== null || daemon.signalCode !== null) return;
    const ended = once(daemon, 'exit');
    daemon.kill('SIGTERM');
    await ended;
  });
  while (!sockets.every(isServed)) await sleep(50);
  return { daemon, sockets };
}

function isServed(path: string): boolean {
  try {
    UnixConnection.connect(path).close();
    return true;
  } catch {
    return false;
  }
}

async function guest(t: TestContext, socket: string): Promise<FuseClient> {
  const frontEnd = await FrontEnd.connect(socket);
  t.after(() => frontEnd.close());
  const client = new FuseClient(fuseTransport(frontEnd));
  await client.init();
  return client;
}

async function works(client: FuseClient, name: string): Promise<void> {
  const { entry, open } = await client.create(ROOT, name, 0o644);
  await client.write(entry.nodeid, open.fh, 0, Buffer.from(name));
  await client.fsync(entry.nodeid, open.fh);
  assert.equal(Buffer.from(await client.read(entry.nodeid, open.fh, 0, 99)).toString(), name);
  await client.release(entry.nodeid, open.fh);
}

/** The processes that another has started. */
function childrenOf({ pid }: ChildProcess): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && parentOf(Number(name)) === pid)
    .map(Number);
}

/** @returns undefined if there is no such process any more. */
function parentOf(pid: number): number | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const [state, parent] = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' ? undefined : Number(parent);
  } catch {
    return undefined;
  }
}

test('look-ups that hang on the host hold the guests of an isolated export, and no others', async (t) => {
  const mount = await faultyMount(t);
  const { sockets } = await serve(t, { type: 'passthrough', sharedDir: mount.directory });
  const held = await guest(t, sockets[0]);
  const other = await guest(t, sockets[1]);
  await works(held, 'before');
  await mount.order({ methods: ['lookup', 'getattr'], hang: true });
  let isAnswered = false;
  const lookup = assert
    .rejects(held.lookup(ROOT, 'missing'), new FuseError(1, ENOENT))
    .finally(() => (isAnswered = true));
  for (let i = 0; i < 20; i++) await works(other, `meanwhile-${i}`);
  await works(await guest(t, sockets[1]), 'new');
  assert.equal(isAnswered, false);
  await mount.order({ methods: [] });
  await lookup;
  await works(held, 'afterwards');
});

test('an isolated export whose process is killed is served again, and other guests go on', async (t) => {
  const { daemon, sockets } = await serve(t, { type: 'memfs' });
  const other = await guest(t, sockets[1]);
  await works(other, 'before');
  const before = childrenOf(daemon);
  assert.equal(before.length, 2);
  const frontEnd = await FrontEnd.connect(sockets[0]);
  t.after(() => frontEnd.close());
  const { daemon: pid } = frontEnd;
  assert.ok(before.includes(pid));
  process.kill(pid, 'SIGKILL');
  await frontEnd.ended;
  while (childrenOf(daemon).every((child) => before.includes(child))) await sleep(50);
  while (!isServed(sockets[0])) await sleep(50);
  await works(await guest(t, sockets[0]), 'again');
  await works(other, 'afterwards');
});

test('the processes of isolated exports end with the one that has started them', async (t) => {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const { daemon, sockets } = await serve(t, { type: 'memfs' });
    const children = childrenOf(daemon);
    const ended = once(daemon, 'exit');
    daemon.kill(signal);
    const [code] = (await ended) as [number | null];
    assert.equal(code, signal === 'SIGTERM' ? 0 : null);
    while (children.some((child) => parentOf(child) !== undefined)) await sleep(50);
    assert.deepEqual(
      sockets.filter((path) => existsSync(path)),
      [],
    );
  }
});

for (const [what, settings, words, message] of [
  [
    'a backend that another export shares',
    { backend: 'shared' },
    [],
    'another export shares the backend shared',
  ],
  [
    'a directory that is not there',
    { backend: { type: 'passthrough', sharedDir: '/missing' } },
    [],
    '/missing',
  ],
  [
    'the control socket',
    { backend: { type: 'memfs' } },
    ['--control', '/tmp/control'],
    'control: shows one process, and isolate: process makes several; leave one of the two out, or',
  ],
  [
    'metrics',
    { backend: { type: 'memfs' } },
    ['--metrics', '9469'],
    'metrics: shows one process, and isolate: process makes several; leave one of the two out, or',
  ],
  [
    'the socket of a unit',
    { backend: { type: 'memfs' }, socket: undefined, fdName: 'unit' },
    [],
    'exports[0].fdName: a socket unit is for one process',
  ],
] as const) {
  test(`an isolated export with ${what} ends the start`, (t) => {
    const folder = temporaryFolder(t);
    const config = join(folder, 'config.json');
    const exports = [
      { socket: 'one.sock', isolate: 'process', ...settings },
      { socket: 'two.sock', backend: 'shared' },
    ];
    writeFileSync(config, JSON.stringify({ backends: { shared: { type: 'memfs' } }, exports }));
    const run = spawnSync(
      process.execPath,
      [program, 'serve', '--confine', 'none', '--config', config, ...words],
      {
        encoding: 'utf8',
      },
    );
    assert.equal(run.status, 2, run.stderr);
    assert.ok(run.stderr.includes(message), run.stderr);
  });
}
