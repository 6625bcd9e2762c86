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
import { MemfsVolume } from '../../../../backends/memfs/index.js';
import {
  dir,
  filesOf,
  layout as layoutIn,
  type LayoutOptions,
  LOG,
  type Member,
  sha256,
  tar,
} from '../../../support/images.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
after(() => rmSync(folder, { recursive: true }));

const layout = (layers: readonly Buffer[], options?: LayoutOptions): string =>
  layoutIn(folder, layers, options);

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

/** An archive of one member whose header says something else at a place. */
function forged(at: number, text: string, { path = 'file', type = '0' } = {}): Buffer {
  const block = Buffer.alloc(512);
  const fields: readonly (readonly [number, string])[] = [
    [0, path],
    [100, '0000644'],
    [108, '0000000'],
    [116, '0000000'],
    [124, '00000000000'],
    [136, '00000000000'],
    [156, type],
    [257, 'ustar\x0000'],
    [at, text],
  ];
  for (const [where, value] of fields) block.write(value, where, 'latin1');
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return Buffer.concat([block, Buffer.alloc(1024)]);
}

/** An extended header with these records. */
function extended(type: string, ...records: readonly string[]): Buffer {
  const body = Buffer.from(
    records
      .map((record) => {
        const bare = Buffer.byteLength(record) + 2;
        const length = bare + String(bare + String(bare).length).length;
        return `${length} ${record}\n`;
      })
      .join(''),
  );
  const size = body.length.toString(8).padStart(11, '0');
  const header = forged(124, size, { type }).subarray(0, 512);
  return Buffer.concat([header, body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}

test('a layer that means harm is refused with its reason', async () => {
  const plain = forged(0, 'file');
  const cases: Readonly<Record<string, readonly [RegExp, Buffer]>> = {
    'an absolute path that goes up': [/EINVAL/, tar({ '/../../etc/passwd': { content: 'x' } })],
    'a link to what is above': [/EINVAL/, tar({ x: { type: TarType.LINK, link: '../../etc/passwd' } })],
    'a link to what is not there': [/ENOENT/, tar({ x: { type: TarType.LINK, link: '/etc/passwd' } })],
    'a whiteout above': [/EINVAL/, tar({ '../.wh.x': {} })],
    'a file below a file': [/ENOTDIR/, tar({ a: {}, 'a/b': {} })],
    'a long name': [/ENAMETOOLONG/, tar({ ['n'.repeat(256)]: {} })],
    'a long path': [/longer than 4096 bytes/, tar({ ['d/'.repeat(2100)]: dir })],
    'a long target': [
      /longer than 4096 bytes/,
      tar({ x: { type: TarType.SYMLINK, link: 'd/'.repeat(2100) } }),
    ],
    'a negative size': [/no header/, forged(124, '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff')],
    'a size that is none': [/no header/, forged(124, 'many')],
    'a size of exabytes': [
      /size \d+: must be/,
      forged(124, '\x80\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff'),
    ],
    'a negative header': [
      /no header/,
      forged(124, '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff', { type: 'x' }),
    ],
    'an owner that is none': [/uid NaN/, forged(108, 'nobody!')],
    'a negative owner': [/uid -1/, Buffer.concat([extended('x', 'uid=-1'), plain])],
    'a negative length': [
      /realsize -5/,
      Buffer.concat([
        extended('x', 'GNU.sparse.major=1', 'GNU.sparse.minor=0', 'GNU.sparse.realsize=-5'),
        plain,
      ]),
    ],
    'a damaged record': [
      /extended header is damaged/,
      Buffer.concat([forged(124, '00000000012', { type: 'x' }).subarray(0, 512), Buffer.alloc(512, '9')]),
    ],
    'long extended headers': [/too long/, forged(124, '00777777777', { type: 'x' })],
    'long names': [/too long/, forged(124, '00777777777', { type: 'L' })],
    'many global headers': [
      /too long/,
      Buffer.concat(Array.from({ length: 70 }, (_, n) => extended('g', `k${n}=${'v'.repeat(1000)}`))),
    ],
    'many records': [
      /records: too many/,
      Buffer.concat([extended('x', ...Array.from({ length: 21_000 }, (_, n) => `k${n}=`)), plain]),
    ],
    'many pieces of a file': [
      /pieces: too many/,
      Buffer.concat([
        extended('x', 'GNU.sparse.major=1', 'GNU.sparse.minor=0', 'GNU.sparse.realsize=5'),
        forged(124, '00000001000').subarray(0, 512),
        Buffer.concat([Buffer.from('9999999999\n'), Buffer.alloc(501)]),
      ]),
    ],
    'another kind of member': [/not supported/, forged(156, 'S')],
  };
  for (const [what, [reason, bytes]] of Object.entries(cases)) {
    const image = await Image.open(layout([bytes]));
    await assert.rejects(image.load(LOG), (error: Error) => {
      assert.ok(error instanceof UsageError, `${what}: ${error.stack}`);
      assert.match(error.message, reason, what);
      return true;
    });
  }
});

test('of a layer that is larger than it may be no more is read', async () => {
  const volume = new MemfsVolume({ size: 1 << 20, inodes: 1000 });
  const zeros = Buffer.alloc(1 << 16);
  let read = 0;
  const bomb = async function* (first: Buffer, then: Buffer): AsyncGenerator<Buffer> {
    yield first;
    for (;;) {
      read += then.length;
      yield await Promise.resolve(then);
    }
  };
  const file = forged(124, '77777777777').subarray(0, 512);
  await assert.rejects(volume.addLayer(bomb(file, zeros)), /ENOSPC/);
  assert.ok(read < 2 << 20, `${read}`);
  read = 0;
  let number = 0;
  const files = async function* (): AsyncGenerator<Buffer> {
    for (;;) {
      read += 1;
      yield await Promise.resolve(forged(0, `file${++number}`).subarray(0, 512));
    }
  };
  await assert.rejects(volume.addLayer(files()), /ENOSPC/);
  assert.ok(read < 2000, `${read}`);
  volume.discard();
});

test('a layer of many members, and many marks, leaves others their turns', async () => {
  const members: Record<string, Member> = { 'd/': dir };
  for (let n = 0; n < 6_000; n++) members[`d/${n}`] = {};
  const image = await Image.open(layout([tar(members), tar({ 'd/new': {}, 'd/.wh..wh..opq': {} })]));
  let turns = 0;
  const turn = (): void => {
    turns += 1;
    next = setImmediate(turn);
  };
  let next = setImmediate(turn);
  const snapshot = await image.load(LOG);
  clearImmediate(next);
  assert.ok(turns > 6_000 / 256, `${turns}`);
  const volume = snapshot.fork();
  assert.deepEqual(volume.readdirSync('/d'), ['new']);
  volume.discard();
  snapshot.discard();
});

test('what a layer adds stays where it makes the directory opaque later, however it was made', async () => {
  const lower = tar({ 'd/': dir, 'd/old': {}, 'd/sub/': dir, 'd/sub/old': {} });
  const upper = Buffer.concat([
    tar({ 'd/implied/file': {}, 'd/sub/': dir, 'd/sub/new': {}, 'd/.wh..wh..opq': {} }).subarray(0, -1024),
    tar({ 'd/late': {}, 'd/sub/.wh..wh..opq': {} }),
  ]);
  const files = await filesOf(await Image.open(layout([lower, upper])));
  assert.deepEqual(Object.keys(files).sort(), ['/d/implied/file', '/d/late', '/d/sub/new']);
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
