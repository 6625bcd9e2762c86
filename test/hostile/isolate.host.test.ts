import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { askStatus } from '../../core/cli/commands/status.js';
import { askDaemon, DAEMON_ITSELF } from '../../core/plugins/index.js';
import { UnixConnection } from '../../core/system/index.js';
import { FrontEnd } from '../support/front-end.js';
import { faultyMount } from '../support/faulty-mounts.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { program } from '../support/program.js';
import { fuseTransport, temporaryFolder } from '../support/vhost-user.js';

/* Exports that are served by processes of their own. */

const ENOENT = 2;

interface Served {
  readonly folder: string;
  readonly daemon: ChildProcess;
  /** Of the export that has a process of its own, and of the other. */
  readonly sockets: readonly [string, string];
}

/** A daemon with an export in a process of its own, and one that is served without. */
async function serve(
  t: TestContext,
  isolated: object,
  words: (folder: string) => readonly string[] = () => [],
  more: object = {},
): Promise<Served> {
  const folder = temporaryFolder(t);
  const sound = join(folder, 'sound');
  mkdirSync(sound);
  const sockets = [join(folder, 'isolated.sock'), join(folder, 'sound.sock')] as const;
  const config = join(folder, 'config.json');
  const exports = [
    { tag: 'isolated', socket: sockets[0], backend: isolated, isolate: 'process' },
    { tag: 'sound', socket: sockets[1], backend: { type: 'passthrough', sharedDir: sound } },
  ];
  writeFileSync(config, JSON.stringify({ log: { level: 'silent' }, exports, ...more }));
  const all = [program, 'serve', '--confine', 'none', '--config', config, ...words(folder)];
  const daemon = spawn(process.execPath, all, { stdio: ['ignore', 'inherit', 'inherit'] });
  t.after(async () => {
    if (daemon.exitCode !== null || daemon.signalCode !== null) return;
    const ended = once(daemon, 'exit');
    daemon.kill('SIGTERM');
    await ended;
  });
  while (!sockets.every(isServed)) await sleep(50);
  return { folder, daemon, sockets };
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

const watched = (folder: string): string[] => [
  '--control',
  join(folder, 'control'),
  '--metrics',
  `unix:${join(folder, 'metrics')}`,
];

function scrape(folder: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { socketPath: join(folder, 'metrics'), path: '/metrics', agent: false };
    get(options, (response) => resolve(text(response))).once('error', reject);
  });
}

const upOf = (told: string): readonly (string | undefined)[] =>
  ['isolated', 'sound'].map(
    (tag) => new RegExp(`virtiofs_kit_up\\{export="${tag}"\\} (\\d)`).exec(told)?.[1],
  );

for (const more of [{}, { keep: true }]) {
  const how = 'keep' in more ? 'kept exports' : 'exports';
  test(`status and metrics show ${how} of several processes together`, async (t) => {
    const { folder, daemon, sockets } = await serve(t, { type: 'memfs' }, watched, more);
    for (const [index, socket] of sockets.entries()) {
      const client = await guest(t, socket);
      for (let i = 0; i <= index; i++) await client.mkdir(ROOT, `made-${i}`);
    }
    const control = join(folder, 'control');
    const status = await askStatus(control);
    assert.deepEqual(
      status.exports.map(({ tag, backend, isUp, guests, requests }) => {
        return [tag, backend, isUp, guests.length, requests['MKDIR']];
      }),
      [
        ['sound', 'passthrough', true, 1, 2],
        ['isolated', 'memfs', true, 1, 1],
      ],
    );
    assert.equal(status.pid, daemon.pid);
    // Three processes of at least 30 MiB each.
    assert.ok(status.residentBytes > 90 * 2 ** 20);
    const told = await scrape(folder);
    assert.deepEqual(upOf(told), ['1', '1']);
    assert.match(told, /virtiofs_kit_requests_total\{export="sound",opcode="MKDIR"\} 2/);
    assert.match(told, /virtiofs_kit_requests_total\{export="isolated",opcode="MKDIR"\} 1/);
    assert.match(told, /virtiofs_kit_memfs_[a-z_]+\{export="isolated"\}/);
    // What is asked of one process says where.
    const trace = { backend: DAEMON_ITSELF, command: 'trace', options: { start: true, data: false } };
    const places = join(folder, 'control.processes');
    await assert.rejects(
      askDaemon(control, trace),
      new RegExp(`ask at ${places}/1 .sound. or ${places}/0 .isol`),
    );
    assert.deepEqual(await askDaemon(join(places, '0'), trace), ['1']);
    assert.equal(statSync(places).mode & 0o777, 0o700);
    const reload = { backend: DAEMON_ITSELF, command: 'reload', options: { file: 'x', text: 'exports: []' } };
    await assert.rejects(askDaemon(control, reload), /isolate: process need a restart/);
    assert.deepEqual(await askDaemon(control, { ...reload, options: { logLevel: 'silent' } }), []);
    // A second daemon that is started by mistake leaves the first one's sockets alone.
    const config = join(folder, 'second.json');
    const second = { socket: 'second.sock', isolate: 'process', backend: { type: 'memfs' } };
    writeFileSync(config, JSON.stringify({ exports: [second], ...more }));
    const words = ['serve', '--confine', 'none', '--config', config, '--control', control];
    const refused = spawnSync(process.execPath, [program, ...words], { encoding: 'utf8' });
    assert.equal(refused.status, 2, refused.stderr);
    assert.match(refused.stderr, /another daemon listens there/);
    assert.ok((await askStatus(control)).exports.every(({ isUp }) => isUp));
  });
}

test('one process that hangs is shown as down, beside the others', async (t) => {
  const mount = await faultyMount(t);
  const { folder, sockets } = await serve(t, { type: 'passthrough', sharedDir: mount.directory }, watched);
  const held = await guest(t, sockets[0]);
  await works(await guest(t, sockets[1]), 'file');
  await mount.order({ methods: ['lookup', 'getattr'], hang: true });
  const lookup = assert.rejects(held.lookup(ROOT, 'missing'), new FuseError(1, ENOENT));
  const [sound, isolated] = (await askStatus(join(folder, 'control'))).exports;
  assert.deepEqual([sound!.tag, sound!.isUp, sound!.requests['FSYNC']], ['sound', true, 1]);
  assert.deepEqual([isolated!.tag, isolated!.isUp], ['isolated', false]);
  assert.match(isolated!.detail, /^process \d+ does not answer$/);
  assert.deepEqual(upOf(await scrape(folder)), ['0', '1']);
  await mount.order({ methods: [] });
  await lookup;
  assert.ok((await askStatus(join(folder, 'control'))).exports.every(({ isUp }) => isUp));
});

test('an isolated export whose process is killed is served again, and other guests go on', async (t) => {
  const { folder, daemon, sockets } = await serve(t, { type: 'memfs' }, watched);
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
  const after = (await askStatus(join(folder, 'control'))).exports.find(({ tag }) => tag === 'isolated')!;
  assert.deepEqual([after.isUp, after.requests['FSYNC']], [true, 1]);
  await works(other, 'afterwards');
});

test('the processes of isolated exports end with the one that has started them', async (t) => {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const { folder, daemon, sockets } = await serve(t, { type: 'memfs' }, watched);
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
    if (signal === 'SIGTERM') assert.deepEqual(readdirSync(folder).sort(), ['config.json', 'sound']);
  }
});

for (const [what, settings, message] of [
  ['a backend that another export shares', { backend: 'shared' }, 'another export shares the backend shared'],
  ['a directory that is not there', { backend: { type: 'passthrough', sharedDir: '/missing' } }, '/missing'],
  [
    'the socket of a unit',
    { backend: { type: 'memfs' }, socket: undefined, fdName: 'unit' },
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
    const run = spawnSync(process.execPath, [program, 'serve', '--confine', 'none', '--config', config], {
      encoding: 'utf8',
    });
    assert.equal(run.status, 2, run.stderr);
    assert.ok(run.stderr.includes(message), run.stderr);
  });
}
