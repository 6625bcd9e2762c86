import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { UsageError } from '../../../../core/backend/index.js';
import { TarType } from '../../../../core/archive/tar.js';
import { commitImage } from '../../../../core/sandbox/image/commit.js';
import { Image } from '../../../../core/sandbox/image/image.js';
import {
  dir,
  layout as layoutIn,
  type LayoutOptions,
  type Member,
  sha256,
  tar,
} from '../../../support/images.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
after(() => rmSync(folder, { recursive: true }));

const layout = (layers: readonly Buffer[], options?: LayoutOptions): string =>
  layoutIn(folder, layers, options);

const silent = (): void => {};
const LOG = { debug: silent, info: silent, warn: silent, error: silent };

const LAYERS = [
  tar({
    'etc/': dir,
    'etc/passwd': { content: 'root:x:0:0::/root:/bin/sh\n' },
    'etc/removed': { content: 'x' },
    'tmp/': { type: TarType.DIRECTORY, mode: 0o1777 },
    'var/': dir,
    'var/old/': dir,
    'var/old/deep/': dir,
    'var/old/deep/file': { content: 'old' },
    'link/': dir,
    'link/inside': { content: 'x' },
  }),
  tar({
    'etc/.wh.removed': {},
    'etc/.wh.never-there': {},
    'tmp/new': { content: 'new' },
    'var/old/kept': { content: 'kept' },
    'var/old/.wh..wh..opq': {},
    '.wh.link': {},
    link: { type: TarType.SYMLINK, link: 'etc' },
    'var/hard': { type: TarType.LINK, link: 'var/old/kept' },
  }),
];

async function filesOf(image: Image): Promise<Record<string, unknown>> {
  const snapshot = await image.load(LOG);
  const volume = snapshot.fork();
  try {
    return volume.toJSON();
  } finally {
    volume.discard();
    snapshot.discard();
  }
}

const EXPECTED = {
  '/etc/passwd': 'root:x:0:0::/root:/bin/sh\n',
  '/tmp/new': 'new',
  '/var/old/kept': 'kept',
  '/var/hard': 'kept',
};

test('the layers of an OCI layout are put together, with whiteouts and opaque directories', async () => {
  const config = {
    User: 'app:staff',
    Env: ['A=b=c', 'EMPTY='],
    Entrypoint: ['/bin/app'],
    Cmd: ['--help'],
    WorkingDir: 'srv',
  };
  const image = await Image.open(layout(LAYERS, { config }));
  assert.deepEqual(image.config, {
    env: { A: 'b=c', EMPTY: '' },
    entrypoint: ['/bin/app'],
    cmd: ['--help'],
    user: 'app:staff',
    workingDir: '/srv',
  });
  const snapshot = await image.load(LOG);
  const volume = snapshot.fork();
  assert.deepEqual(volume.readdirSync('/var/old'), ['kept']);
  assert.deepEqual(volume.readdirSync('/etc'), ['passwd']);
  assert.equal(volume.readlinkSync('/link'), 'etc');
  // A directory that a layer only goes through keeps its permissions.
  assert.equal(volume.statSync('/tmp').mode, 0o41777);
  assert.equal(volume.statSync('/var/hard').ino, volume.statSync('/var/old/kept').ino);
  volume.discard();
  snapshot.discard();
});

test('layers may be plain', async () => {
  assert.deepEqual(await filesOf(await Image.open(layout(LAYERS, { pack: (bytes) => bytes }))), EXPECTED);
});

test('an archive of docker save is read where it lies, links among its members included', async () => {
  const config = Buffer.from(JSON.stringify({ rootfs: { diff_ids: LAYERS.map(sha256) } }));
  const manifest = [
    { Config: 'config.json', RepoTags: ['app:1', 'app:latest'], Layers: ['a/layer.tar', 'c/layer.tar'] },
  ];
  const file = join(folder, 'saved.tar');
  const members = {
    'a/layer.tar': { content: LAYERS[0]! },
    'b/layer.tar': { content: LAYERS[1]! },
    'c/layer.tar': { type: TarType.SYMLINK, link: '../b/layer.tar' },
    'config.json': { content: config },
    'manifest.json': { content: JSON.stringify(manifest) },
  };
  writeFileSync(file, tar(members));
  const plain = await filesOf(await Image.open(layout(LAYERS)));
  assert.deepEqual(await filesOf(await Image.open(file)), plain);
  assert.deepEqual(await filesOf(await Image.open(`${file}:latest`)), plain);
  assert.deepEqual(await filesOf(await Image.open(`${file}:app:1`)), plain);
  await assert.rejects(Image.open(`${file}:other`), /no image other; it has app:1, app:latest/);
  writeFileSync(file, gzipSync(tar(members)));
  await assert.rejects(Image.open(file), /gunzip it first/);
});

test('what is damaged or hostile is refused with its reason', async () => {
  const cases: readonly (readonly [RegExp, string | (() => string)])[] = [
    [/no such file/, join(folder, 'nowhere')],
    [/neither an OCI layout/, folder],
    [/damaged: its digest is/, layout(LAYERS, { damage: (root) => flip(root) })],
    [
      /index.json: no JSON/,
      layout(LAYERS, { damage: (root) => writeFileSync(join(root, 'index.json'), '{') }),
    ],
    [/manifests.0.digest/, layout(LAYERS, { damage: (root) => pointTo(root, 'sha256:../../../etc/passwd') })],
    [/it has no blobs/, layout(LAYERS, { damage: (root) => pointTo(root, `sha256:${'0'.repeat(64)}`) })],
    [
      /longer than 4 MiB/,
      layout(LAYERS, { damage: (root) => writeFileSync(join(root, 'index.json'), ' '.repeat(5 << 20)) }),
    ],
    [/\.\.\/escaped: EINVAL/, layout([tar({ '../escaped': { content: 'x' } })])],
    [
      /through\/file: ENOTDIR/,
      layout([tar({ through: { type: TarType.SYMLINK, link: '/etc' }, 'through/file': {} })]),
    ],
    [/cut off/, layout([LAYERS[0]!.subarray(0, 700)])],
    [/no tar archive/, layout([Buffer.alloc(2000, 'no archive')])],
  ];
  for (const [reason, place] of cases) {
    const open = async (): Promise<void> => {
      (await (await Image.open(place as string)).load(LOG)).discard();
    };
    await assert.rejects(open(), (error: Error) => {
      assert.ok(error instanceof UsageError, error.stack);
      assert.match(error.message, reason);
      return true;
    });
  }
});

/** Changes the time in the last layer's gzip header. */
function flip(root: string): void {
  const { manifests } = JSON.parse(readFileSync(join(root, 'index.json'), 'utf8')) as Index;
  const manifest = JSON.parse(readFileSync(join(root, blob(manifests[0]!.digest)), 'utf8')) as {
    layers: { digest: string }[];
  };
  const file = join(root, blob(manifest.layers.at(-1)!.digest));
  const bytes = readFileSync(file);
  bytes[4]! ^= 1;
  writeFileSync(file, bytes);
}

interface Index {
  manifests: { digest: string }[];
}

const blob = (digest: string): string => `blobs/${digest.replace(':', '/')}`;

function pointTo(root: string, digest: string): void {
  const file = join(root, 'index.json');
  const index = JSON.parse(readFileSync(file, 'utf8')) as Index;
  index.manifests[0]!.digest = digest;
  writeFileSync(file, JSON.stringify(index));
}

test('a committed image has the layers of the one before and one more, beside others', async () => {
  const target = join(folder, 'committed');
  const base = await Image.open(layout(LAYERS, { config: { Cmd: ['sh'] } }));
  const write = (members: Readonly<Record<string, Member>>) => (sink: NodeJS.WritableStream) => {
    sink.write(tar(members));
    return Promise.resolve();
  };
  await commitImage(target, 'first', base, write({ 'etc/.wh.passwd': {}, added: { content: 'added' } }));
  await commitImage(target, 'second', undefined, write({ alone: { content: 'alone' } }));
  await commitImage(target, 'second', undefined, write({ alone: { content: 'again' } }));
  const first = await Image.open(`${target}:first`);
  assert.deepEqual(first.config.cmd, ['sh']);
  assert.equal(first.layers.length, 3);
  const files = await filesOf(first);
  assert.equal(files['/added'], 'added');
  assert.equal('/etc/passwd' in files, false);
  assert.deepEqual(await filesOf(await Image.open(`${target}:second`)), { '/alone': 'again' });
  await assert.rejects(Image.open(target), /several images, give PATH:TAG; it has first, second/);
  await assert.rejects(commitImage(target, '../x', undefined, write({})), /tag \.\.\/x/);
  assert.equal(dirname(join(target, 'index.json')), target);
});

test('a commit that fails leaves nothing that is half written', async () => {
  const target = join(folder, 'half');
  const writeLayer = (sink: NodeJS.WritableStream): Promise<void> => {
    // What is no file cannot be replaced by one.
    mkdirSync(join(target, 'index.json'));
    sink.write(tar({}));
    return Promise.resolve();
  };
  await assert.rejects(commitImage(target, 'tag', undefined, writeLayer), /EISDIR/);
  const all = readdirSync(target, { recursive: true }).map(String);
  assert.deepEqual(
    all.filter((name) => name.endsWith('.partial')),
    [],
  );
  // The layer, the configuration and the manifest.
  assert.equal(all.filter((name) => name.startsWith('blobs/sha256/')).length, 3);
});
