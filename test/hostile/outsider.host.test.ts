import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { landlockVersion } from '../../core/system/confinement/landlock.js';
import { serve } from '../support/confined-daemon.js';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { fuseTransport } from '../support/vhost-user.js';
import { unixPeers } from './unix-peers.js';

const skip = process.geteuid!() === 0 && landlockVersion() > 0 ? {} : { skip: 'needs root and Landlock' };
const plugin = fileURLToPath(new URL('outsider.js', import.meta.url));

/** Folders that are file systems of their own. */
const MOUNTED = ['sockets', 'elsewhere'];

/** Where a daemon serves, and what is beside. */
interface Arena {
  readonly share: string;
  readonly sockets: string;
  /** Folders with a secret: beside the share, and in a file system of its own. */
  readonly outside: readonly string[];
  /** Addresses of unix sockets of others: a path and an abstract one of each kind. */
  readonly peers: readonly string[];
}

function arena(t: TestContext): Arena {
  const base = mkdtempSync(join(tmpdir(), 'vfk-outsider-'));
  t.after(() => {
    for (const name of MOUNTED) spawnSync('umount', ['-l', join(base, name)]);
    rmSync(base, { recursive: true, force: true });
  });
  const folder = (name: string): string => {
    const path = join(base, name);
    mkdirSync(path);
    if (MOUNTED.includes(name)) assert.equal(spawnSync('mount', ['-t', 'tmpfs', 'tmpfs', path]).status, 0);
    return path;
  };
  const [share, sockets] = [folder('share'), folder('sockets')];
  const outside = [folder('beside'), folder('elsewhere')];
  writeFileSync(join(share, 'file'), 'content');
  for (const path of outside) writeFileSync(join(path, 'secret'), 'secret');
  return { share, sockets, outside, peers: unixPeers(t, outside[0]!) };
}

/** What the plugin says of its attempts. */
interface Outcome {
  readonly tried: number;
  readonly through: readonly string[];
}

/** Looks names up in a daemon with the plugin, which has a backend's needs. @returns its log. */
async function lookUp(
  t: TestContext,
  { share, sockets, outside, peers }: Arena,
  as: object,
  names: readonly string[],
  words: readonly string[],
): Promise<readonly Record<string, unknown>[]> {
  return lookUpIn(t, names, {
    backend: ['--backend', plugin, '--as', JSON.stringify(as)],
    socket: join(sockets, 'socket'),
    words: [
      ...outside.flatMap((path) => ['--outside', path]),
      ...peers.flatMap((path) => ['--peer', path]),
      '--own',
      share,
      '--own',
      sockets,
      '--log-level',
      'debug',
      ...words,
    ],
    until: words.includes('none') ? 'serving' : 'sealed',
  });
}

async function lookUpIn(
  t: TestContext,
  names: readonly string[],
  daemon: Parameters<typeof serve>[2],
): Promise<readonly Record<string, unknown>[]> {
  const { said, socket, end } = await serve(t, '', daemon);
  const frontEnd = await FrontEnd.connect(socket);
  const client = new FuseClient(fuseTransport(frontEnd));
  await client.init();
  for (const name of names) await assert.rejects(client.lookup(ROOT, name), FuseError);
  frontEnd.close();
  await end();
  return said;
}

/** Has the plugin try everything. */
async function trespass(
  t: TestContext,
  place: Arena,
  as: object,
  ...words: readonly string[]
): Promise<Outcome> {
  return outcomeOf(await lookUp(t, place, as, ['trespass'], words));
}

function outcomeOf(said: readonly Record<string, unknown>[]): Outcome {
  const outcome = said.find(({ msg }) => msg === 'trespassed');
  assert.ok(outcome !== undefined, JSON.stringify(said));
  return outcome as unknown as Outcome;
}

const backends: Readonly<Record<string, (share: string) => object>> = {
  passthrough: (sharedDir) => ({ type: 'passthrough', sharedDir }),
  'passthrough without handles': (sharedDir) => ({
    type: 'passthrough',
    sharedDir,
    inodeFileHandles: 'never',
  }),
  memfs: (share) => ({ type: 'memfs', save: join(share, 'volume.tar') }),
  overlay: (share) => ({
    type: 'overlay',
    lowers: [{ type: 'passthrough', sharedDir: share }],
    upper: { type: 'memfs' },
  }),
  s3: (cacheDir) => ({ type: 's3', bucket: 'b', endpoint: 'http://127.0.0.1:9', pathStyle: true, cacheDir }),
};

/**
 * Landlock knows nothing of attributes, and who may open files by handle reaches those of the
 * share's whole mount.
 */
const BY_HANDLE = [
  'change its mode',
  'change its mode through a descriptor of its path',
  'change its owner',
  'change its owner through a descriptor',
  'change its times',
  'give it an attribute',
].map((name) => `${name}: place 0`);

for (const [type, as] of Object.entries(backends)) {
  test(
    `an outsider's plugin with the needs of ${type} gets nowhere in a confined daemon`,
    skip,
    async (t) => {
      const place = arena(t);
      const { tried, through } = await trespass(
        t,
        place,
        as(place.share),
        ...(type === 's3' ? ['--network'] : []),
      );
      assert.ok(tried > 200, String(tried));
      assert.deepEqual(through, ['passthrough', 'overlay'].includes(type) ? BY_HANDLE : []);
    },
  );
}

/** As {@link trespass}, with the needs of S3, in a daemon with a configuration file. */
async function trespassConfigured(t: TestContext, place: Arena): Promise<Outcome> {
  const { share, sockets, outside, peers } = place;
  const socket = join(sockets, 'socket');
  const config = join(share, 'config.yaml');
  const own = [share, sockets];
  const backend = { type: plugin, as: backends['s3']!(share), network: true, outside, own, peer: peers };
  writeFileSync(config, JSON.stringify({ exports: [{ tag: 'configured', socket, backend }] }));
  const daemon = { config, socket, words: ['--log-level', 'debug'], until: 'sealed' };
  return outcomeOf(await lookUpIn(t, ['trespass'], daemon));
}

for (const [how, attempt] of Object.entries({
  'that takes commands': (t, place) =>
    trespass(
      t,
      place,
      backends['s3']!(place.share),
      '--network',
      '--control',
      join(place.sockets, 'control'),
    ),
  'that takes its configuration up anew': trespassConfigured,
} satisfies Record<string, (t: TestContext, place: Arena) => Promise<Outcome>>)) {
  test(`an outsider's plugin gets nowhere in a confined daemon of S3 ${how}`, skip, async (t) => {
    const place = arena(t);
    t.after(() => delete process.env['NOTIFY_SOCKET']);
    process.env['NOTIFY_SOCKET'] = place.peers[2];
    const { tried, through } = await attempt(t, place);
    assert.ok(tried > 220, String(tried));
    assert.deepEqual(through, []);
  });
}

test(
  'a confined daemon of S3 starts where there is no room for sockets of later exports',
  skip,
  async (t) => {
    const place = arena(t);
    const { share, sockets } = place;
    assert.equal(spawnSync('mount', ['-o', 'remount,nr_inodes=12', sockets]).status, 0);
    const words = ['--network', '--control', join(sockets, 'control')];
    const said = await lookUp(t, place, backends['s3']!(share), ['trespass'], words);
    const { made } = said.find(({ folder }) => folder === sockets)!;
    assert.ok(Number(made) > 0 && Number(made) < 12, String(made));
    assert.deepEqual(outcomeOf(said).through, []);
  },
);

test('what it tries gets through where nothing confines the daemon', skip, async (t) => {
  const place = arena(t);
  const { through } = await trespass(t, place, backends['passthrough']!(place.share), '--confine', 'none');
  // Some of the rest the kernel refuses everybody, or has not.
  assert.ok(through.length > 150, String(through.length));
  for (const name of [
    'kill: the parent',
    'setpriority: the parent',
    'process_vm_readv: the parent',
    'unshare',
    'socket: unix datagrams',
    'socket: TCP',
    'open /etc/shadow',
    'open /proc/self/mem',
    'read it by handle through the share: place 0',
    'read it through a descriptor of its path: place 1',
    'change its mode: place 0',
    'open a device in folder 0: place 0',
    'memory made executable',
    'start a program',
    'a pair of sockets',
    'connect a new socket: peer 0',
    'connect a new socket: peer 1',
    'send by a new socket: peer 2',
    'send by a new socket: peer 3',
  ])
    assert.ok(through.includes(name), name);
});

test('a plugin that compiles WebAssembly without saying so gets an error', skip, async (t) => {
  const place = arena(t);
  // The second look-up is served by the same process.
  const said = await lookUp(t, place, backends['memfs']!(place.share), ['compile', 'trespass'], []);
  assert.ok(!said.some(({ msg }) => msg === 'compiled'));
  assert.deepEqual(outcomeOf(said).through, []);
});

test(
  'a plugin that says so makes machine code in a confined daemon, and gets nothing else by it',
  skip,
  async (t) => {
    const place = arena(t);
    const words = ['--machine-code'];
    const said = await lookUp(
      t,
      place,
      backends['memfs']!(place.share),
      ['compile', 'trespass', 'compile'],
      words,
    );
    assert.deepEqual(
      said.flatMap(({ msg, sum }) => (msg === 'compiled' ? [sum] : [])),
      [42, 42],
    );
    const { through } = said.find(({ msg }) => msg === 'trespassed') as unknown as Outcome;
    // Memory that was written may become executable, as what the JavaScript engine compiles does,
    // and files may be mapped so, as native libraries are.
    assert.deepEqual(through, [
      'memory made executable',
      'memory made executable, with a key',
      'a file in memory, executable',
      'a file of the share, executable',
      'the program itself, once more',
    ]);
  },
);
