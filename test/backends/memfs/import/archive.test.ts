import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  linkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { MemfsVolume } from '../../../../backends/memfs/index.js';
import { decodeName, FileType, makeDevice, UsageError } from '../../../../core/backend/index.js';
import { caller, host } from '../support.js';
import { entriesOf } from '../../../support/listings.js';

let folder: string;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'memfs-archive-'));
});

after(() => rmSync(folder, { recursive: true, force: true }));

function run(program: string, ...words: string[]): string {
  const { status, stdout, stderr } = spawnSync(program, words, { encoding: 'utf8' });
  assert.equal(status, 0, `${program} ${words.join(' ')}: ${stderr}`);
  return stdout;
}

/** A volume with a file of every kind. */
function variety(): MemfsVolume {
  const volume = MemfsVolume.fromJSON({ '/d/file': 'content', '/empty-directory': null });
  const { backend } = volume;
  const top = backend.mount(host);
  const odd = decodeName(Uint8Array.of(0x66, 0xff, 0xe9, 0x2e));
  const root = caller({ uid: 70_000, gid: 3_000_000 });
  backend.mknod(top, odd, FileType.REGULAR | 0o600, 0, root);
  backend.mknod(top, 'n'.repeat(250), FileType.FIFO | 0o622, 0, root);
  backend.mknod(top, 'device', FileType.CHARACTER | 0o666, makeDevice(10, 200), root);
  backend.symlink(top, 'link', `nowhere/${'x'.repeat(300)}`, root);
  volume.linkSync('/d/file', '/hard');
  volume.truncateSync('/d/file', 5 * 2 ** 30);
  const { node } = backend.lookup(top, 'device')!;
  backend.setxattr(node, 'trusted.binary', Uint8Array.of(0, 255, 10, 61, 0), 0, false);
  backend.setattr(node, { mtime: { seconds: -5, nanoseconds: 250_000_000 } }, undefined);
  const file = backend.lookup(backend.lookup(top, 'd')!.node, 'file')!.node;
  backend.setattr(file, { mode: 0o4755, mtime: { seconds: 2 ** 33, nanoseconds: 123_456_789 } }, undefined);
  return volume;
}

/** Everything about every file, by path. */
function describe(volume: MemfsVolume): Map<string, unknown> {
  const { backend } = volume;
  const shown = new Map<string, unknown>();
  const visit = (path: string, node: ReturnType<typeof backend.mount>): void => {
    const {
      ino,
      ctime: _1,
      ctimeNsec: _2,
      btime: _3,
      btimeNsec: _4,
      atime: _5,
      atimeNsec: _6,
      ...rest
    } = backend.getattr(node);
    const xattrs = backend
      .listxattr(node, caller())
      .map((name) => [name, [...backend.getxattr(node, name)!]]);
    const target = node.target ?? '';
    const content = [...(node.content?.extents() ?? [])];
    shown.set(path, { ...rest, xattrs, target, content, sameAs: ino });
    for (const { name } of node.entries === undefined ? [] : entriesOf(backend.readdir(node))) {
      visit(`${path}/${name}`, backend.lookup(node, name)!.node);
    }
  };
  visit('', backend.mount(host));
  // Inode numbers may differ. They must only tell which names are of one file.
  const numbers = new Map<unknown, number>();
  for (const value of shown.values()) {
    const one = value as { sameAs: unknown };
    if (!numbers.has(one.sameAs)) numbers.set(one.sameAs, numbers.size);
    one.sameAs = numbers.get(one.sameAs);
  }
  return new Map([...shown].sort(([a], [b]) => (a < b ? -1 : 1)));
}

for (const name of ['all.tar', 'all.tar.gz']) {
  test(`a volume that is saved as ${name} and loaded again is the same, to the byte and the nanosecond`, async () => {
    const volume = variety();
    const path = join(folder, name);
    await volume.save(path);
    assert.ok(statSync(path).size < 100_000);
    const loaded = new MemfsVolume();
    await loaded.load(path);
    const ours = describe(loaded);
    const theirs = describe(volume);
    assert.deepEqual([...ours.keys()].sort(), [...theirs.keys()].sort());
    for (const [key, value] of theirs) {
      const { sameAs: _a, ...expected } = value as { sameAs: number };
      const { sameAs: _b, ...found } = ours.get(key) as { sameAs: number };
      assert.deepEqual(found, expected, key);
    }
    assert.equal(loaded.statSync('/hard').ino, loaded.statSync('/d/file').ino);
    assert.equal(loaded.tree.space.pages, volume.tree.space.pages);
  });
}

test('GNU tar reads what is saved, holes, attributes and all', async () => {
  const volume = MemfsVolume.fromJSON({ '/a/b': 'text', '/c': 'x' });
  volume.truncateSync('/c', 1 << 20);
  volume.appendFileSync('/c', 'end');
  volume.utimesSync('/a/b', 1, 1_600_000_000);
  const { backend } = volume;
  backend.setxattr(
    backend.lookup(backend.mount(host), 'c')!.node,
    'user.key',
    Buffer.from('value'),
    0,
    false,
  );
  const path = join(folder, 'ours.tar');
  await volume.save(path);
  const out = join(folder, 'out');
  mkdirSync(out);
  run('tar', '-C', out, '--xattrs', '--xattrs-include=*', '-xf', path);
  assert.equal(readFileSync(join(out, 'a/b'), 'utf8'), 'text');
  assert.equal(statSync(join(out, 'a/b')).mtimeMs, 1_600_000_000_000);
  const holed = readFileSync(join(out, 'c'));
  assert.deepEqual([holed.length, holed[0], holed.toString('utf8', 1 << 20)], [(1 << 20) + 3, 120, 'end']);
  assert.ok(statSync(join(out, 'c')).blocks < 100);
  assert.match(run('getfattr', '-d', join(out, 'c')), /user\.key="value"/);
});

for (const format of ['gnu', 'pax', 'ustar', 'v7', 'oldgnu']) {
  test(`archives of GNU tar in its ${format} format are loaded`, async () => {
    const source = mkdtempSync(join(folder, 'source-'));
    const long = format === 'v7' ? 'short' : 'l'.repeat(90);
    mkdirSync(join(source, long));
    writeFileSync(join(source, long, 'file'), 'content', { mode: 0o640 });
    utimesSync(join(source, long, 'file'), 1_500_000_000, 1_500_000_000);
    linkSync(join(source, long, 'file'), join(source, 'hard'));
    symlinkSync('target', join(source, 'link'));
    if (format === 'gnu' || format === 'pax' || format === 'oldgnu') {
      writeFileSync(join(source, long, 'm'.repeat(200)), 'deep');
    }
    if (format === 'pax') truncateSync(join(source, 'hard'), 10 << 20);
    const path = join(folder, `${format}.tgz`);
    const sparse = format === 'pax' ? ['--sparse'] : [];
    run('tar', '-C', source, `--format=${format}`, ...sparse, '-czf', path, '.');
    const volume = new MemfsVolume();
    await volume.load(path);
    assert.equal(volume.readlinkSync('/link'), 'target');
    const stat = volume.statSync(`/${long}/file`);
    assert.deepEqual([stat.mode & 0o7777, stat.nlink], [0o640, 2]);
    if (format === 'pax') assert.ok(volume.tree.space.pages < 5);
    else assert.equal(volume.readFileSync('/hard', 'utf8'), 'content');
    if (format === 'gnu') assert.equal(volume.readFileSync(`/${long}/${'m'.repeat(200)}`, 'utf8'), 'deep');
    if (format !== 'pax') assert.equal(stat.mtimeMs, 1_500_000_000_000);
  });
}

test('a directory of the host is loaded with owners, times, links and holes', async () => {
  const source = mkdtempSync(join(folder, 'directory-'));
  mkdirSync(join(source, 'd'), { mode: 0o750 });
  writeFileSync(join(source, 'd/f'), 'text');
  linkSync(join(source, 'd/f'), join(source, 'g'));
  symlinkSync('d/f', join(source, 's'));
  writeFileSync(join(source, 'sparse'), 'start');
  truncateSync(join(source, 'sparse'), 3 << 20);
  utimesSync(join(source, 'd'), 5, 7);
  const volume = new MemfsVolume();
  await volume.load(source);
  assert.deepEqual(volume.readdirSync('/'), ['d', 'g', 's', 'sparse']);
  assert.equal(volume.statSync('/g').ino, volume.statSync('/d/f').ino);
  assert.equal(volume.statSync('/d').mtimeMs, 7000);
  assert.equal(volume.statSync('/d').mode & 0o777, 0o750);
  assert.equal(volume.readFileSync('/s', 'utf8'), 'text');
  assert.equal(volume.statSync('/sparse').size, 3 << 20);
  assert.equal(volume.tree.space.pages, 2);
});

test('a memfs JSON volume is loaded', async () => {
  const path = join(folder, 'volume.json');
  writeFileSync(path, JSON.stringify({ '/a': 'one', d: { e: 'two', empty: null } }));
  const volume = new MemfsVolume();
  await volume.load(path);
  assert.deepEqual(volume.toJSON(), { '/a': 'one', '/d/e': 'two', '/d/empty': null });
});

/** Asserts that loading is refused with this message, of one line. */
async function refused(
  path: string,
  content: string | Uint8Array | undefined,
  message: RegExp,
): Promise<void> {
  if (content !== undefined) writeFileSync(path, content);
  await assert.rejects(new MemfsVolume({ size: 1 << 16 }).load(path), (error: unknown) => {
    assert.ok(error instanceof UsageError);
    assert.match(error.message, message);
    assert.ok(!error.message.includes('\n'));
    return true;
  });
}

test('what cannot be loaded is refused in one line that names it', async () => {
  await refused(join(folder, 'missing'), undefined, /missing: no such file or directory/);
  await refused(
    join(folder, 'noise.tar'),
    Buffer.alloc(2000, 7),
    /no header at byte 0: damaged, or no tar archive/,
  );
  const path = join(folder, 'good.tar');
  await MemfsVolume.fromJSON({ '/f': 'x'.repeat(5000) }).save(path);
  const good = readFileSync(path);
  await refused(join(folder, 'cut.tar'), good.subarray(0, good.length - 3000), /cut off/);
  await refused(
    join(folder, 'cut.tgz'),
    spawnSync('gzip', ['-c'], { input: good }).stdout.subarray(0, 100),
    /unexpected end|cut off/,
  );
  const big = MemfsVolume.fromJSON({ '/f': 'x'.repeat(100_000) });
  await big.save(join(folder, 'big.tar'));
  await refused(join(folder, 'big.tar'), undefined, /does not fit; give more --size/);
  await refused(join(folder, 'bad.json'), '{', /JSON/);
});

test('an archive cannot reach out of the volume, nor through a link', async () => {
  for (const name of ['../escape', 'a/../../escape']) {
    const source = mkdtempSync(join(folder, 'evil-'));
    writeFileSync(join(source, 'f'), 'x');
    const path = join(folder, 'evil.tar');
    run('tar', '-C', source, '-P', '--transform', `s|^f$|${name}|`, '-cf', path, 'f');
    await assert.rejects(new MemfsVolume().load(path), UsageError);
  }
  const source = mkdtempSync(join(folder, 'evil-'));
  symlinkSync('/etc', join(source, 'link'));
  const path = join(folder, 'evil.tar');
  run('tar', '-C', source, '-cf', path, 'link');
  writeFileSync(join(source, 'f'), 'x');
  run('tar', '-C', source, '--transform', 's|^f$|link/f|', '-rf', path, 'f');
  await assert.rejects(new MemfsVolume().load(path), UsageError);
});
