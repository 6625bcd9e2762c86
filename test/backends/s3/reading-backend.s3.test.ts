import assert from 'node:assert/strict';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { countTurns } from '../../support/event-loop-turns.js';
import { context, denied, Mount, pattern, removeFolders, temporaryFolder, TestBucket } from './support.js';

describe('reading a bucket', () => {
  let bucket: TestBucket;
  before(async () => {
    bucket = await TestBucket.create();
    await bucket.put('top.txt', 'top');
    await bucket.put('implicit/deep/file', 'deep');
    await bucket.put('marked/', '', { Metadata: { mode: '16832', uid: '5', gid: '6' } });
    await bucket.put('s3fs', 'x', {
      Metadata: { mode: '33256', uid: '11', gid: '12', mtime: '1600000000.5' },
    });
    await bucket.put('link', 'implicit/deep', { Metadata: { mode: '41471' } });
    await bucket.put('goose', '', { Metadata: { '--symlink-target': 'top.txt' } });
  });
  after(removeFolders);

  it('keys are paths, with markers and without, and what has no attributes gets the defaults', async () => {
    const mount = await Mount.open(bucket, {
      readOnly: true,
      uid: 9,
      gid: 10,
      fileMode: '0600',
      directoryMode: '0700',
    });
    assert.deepEqual(await mount.names(''), ['goose', 'implicit', 'link', 'marked', 's3fs', 'top.txt']);
    assert.deepEqual(await mount.names('implicit'), ['deep']);
    assert.equal((await mount.content('implicit/deep/file')).toString(), 'deep');
    const shown = async (path: string): Promise<unknown[]> => {
      const { mode, uid, gid, size } = await mount.backend.getattr(await mount.at(path), undefined, context);
      return [mode.toString(8), uid, gid, size];
    };
    assert.deepEqual(await shown('top.txt'), ['100600', 9, 10, 3]);
    assert.deepEqual(await shown('implicit'), ['40700', 9, 10, 0]);
    assert.deepEqual(await shown('marked'), ['40700', 5, 6, 0]);
    assert.deepEqual(await shown('s3fs'), ['100750', 11, 12, 1]);
    assert.deepEqual(await shown('link'), ['120777', 9, 10, 13]);
    assert.equal(await mount.backend.readlink(await mount.at('link'), context), 'implicit/deep');
    assert.equal(await mount.backend.readlink(await mount.at('goose'), context), 'top.txt');
    const { mtime, mtimeNsec } = await mount.backend.getattr(await mount.at('s3fs'), undefined, context);
    assert.deepEqual([mtime, mtimeNsec], [1_600_000_000, 500_000_000]);
    assert.equal(await mount.node('top'), undefined);
    assert.equal(await mount.node('implicit/deep/file2'), undefined);
    await mount.close();
  });

  it('a prefix is the root, and nothing beside it is seen', async () => {
    const mount = await Mount.open(bucket, { readOnly: true, prefix: 'implicit/deep' });
    assert.deepEqual(await mount.names(''), ['file']);
    assert.equal((await mount.content('file')).toString(), 'deep');
    await mount.close();
  });

  it('a listing that sorts otherwise than names hides nothing, and a directory shadows a file', async () => {
    const own = await TestBucket.create();
    for (const key of ['a', 'a-/x', 'a!', 'a/y', 'a.txt', 'a0', 'ab/', 'b-', 'b/z']) await own.put(key, key);
    const mount = await Mount.open(own, { readOnly: true });
    // They are looked up one by one, before there is a listing and after.
    assert.equal((await mount.at('a')).kind, 'directory');
    assert.equal((await mount.at('b')).kind, 'directory');
    assert.deepEqual(await mount.names(''), ['a', 'a!', 'a-', 'a.txt', 'a0', 'ab', 'b', 'b-']);
    assert.equal((await mount.at('a')).kind, 'directory');
    assert.equal((await mount.at('a-')).kind, 'directory');
    assert.equal((await mount.content('a/y')).toString(), 'a/y');
    assert.ok(mount.log.lines.some((line) => line.includes('"path":"a"')));
    await mount.close();
  });

  it('a name known as a file becomes the directory that keys below it make of it', async () => {
    const own = await TestBucket.create();
    await own.put('k', 'file');
    const mount = await Mount.open(own, { readOnly: true, metadataTtl: 0.05 });
    assert.equal((await mount.at('k')).kind, 'file');
    await own.put('k/x', 'below');
    const end = performance.now() + 20_000;
    // The directory is not listed. Look-ups alone notice it too.
    while ((await mount.at('k')).kind === 'file' && performance.now() < end)
      await new Promise((resolve) => setTimeout(resolve, 60));
    assert.equal((await mount.content('k/x')).toString(), 'below');
    await mount.close();
  });

  it('keys that are no names are left out, and that is said once', async () => {
    const own = await TestBucket.create();
    await own.put('good', '');
    await own.put('d//x', '');
    await own.put('d/./y', '');
    await own.put(`${'n'.repeat(256)}`, '');
    await own.put('\u201bC3', '');
    const mount = await Mount.open(own, { readOnly: true });
    assert.deepEqual(await mount.names(''), ['d', 'good', '\udcc3']);
    assert.deepEqual(await mount.names('d'), []);
    assert.equal(mount.log.lines.filter((line) => line.includes('no file names')).length, 1);
    assert.equal(mount.backend.mounted.services.metrics.snapshot()['skippedKeys'], 3);
    await mount.close();
  });

  it('a directory of 1,500 is listed whole by two requests, and looked up without any more where that is asked', async () => {
    const own = await TestBucket.create();
    const names = Array.from({ length: 1500 }, (_, i) => `f${String(i).padStart(4, '0')}`);
    for (let at = 0; at < names.length; at += 50) {
      await Promise.all(names.slice(at, at + 50).map((name) => own.put(`d/${name}`, name)));
    }
    const mount = await Mount.open(own, { readOnly: true, attributes: 'listing', metadataTtl: 600 });
    const before = mount.requests('ListObjectsV2');
    const directory = await mount.at('d');
    assert.deepEqual(await mount.names('d'), names);
    assert.ok(mount.requests('ListObjectsV2') - before <= 3);
    const heads = mount.requests('HeadObject');
    const lists = mount.requests('ListObjectsV2');
    for (const name of names) {
      const entry = await mount.backend.lookup(directory, name, context);
      assert.equal(entry?.attributes.size, 5);
    }
    assert.deepEqual([mount.requests('HeadObject'), mount.requests('ListObjectsV2')], [heads, lists]);
    await mount.close();
    const other = await Mount.open(own, { readOnly: true });
    const parent = await other.at('d');
    // Look-ups stop a listing after its first page. A reader who lists at the same moment still
    // gets everything.
    const lookups = names.slice(0, 5).map((name) => other.backend.lookup(parent, name, context));
    assert.deepEqual(await other.names('d'), names);
    for (const found of await Promise.all(lookups)) assert.equal(found?.attributes.size, 5);
    await other.close();
  });

  it('attributes that were seen once are believed while listings show the same version', async () => {
    const own = await TestBucket.create();
    for (let i = 0; i < 20; i++) await own.put(`f${i}`, '', { Metadata: { mode: '33152' } });
    const mount = await Mount.open(own, { readOnly: true, metadataTtl: 0.2 });
    // An object that changed in this very second may change again with the same time.
    await sleep(3000);
    const look = async (): Promise<void> => {
      for (const name of await mount.names('')) {
        const entry = await mount.backend.lookup(mount.root, name, context);
        assert.equal(entry?.attributes.mode, 0o100600);
      }
    };
    await look();
    const heads = mount.requests('HeadObject');
    await sleep(300);
    await look();
    assert.equal(mount.requests('HeadObject'), heads);
    for (const uid of ['1', '2']) {
      await own.put('f0', '', { Metadata: { mode: '33152', uid } });
      await sleep(300);
      await look();
      assert.equal((await mount.at('f0')).posix.uid, Number(uid));
    }
    assert.ok(mount.requests('HeadObject') <= heads + 4);
    await mount.close();
  });

  it('so are those of files in a directory that was out of use meanwhile, and its names are asked for again', async () => {
    const own = await TestBucket.create();
    for (let i = 0; i < 20; i++) await own.put(`d/f${i}`, '', { Metadata: { mode: '33152' } });
    const mount = await Mount.open(own, { readOnly: true });
    await sleep(3000);
    const look = async (): Promise<number> => {
      const names = await mount.names('d');
      const directory = await mount.at('d');
      for (const name of names) {
        const { node, attributes } = (await mount.backend.lookup(directory, name, context))!;
        assert.equal(attributes.mode, 0o100600);
        mount.backend.forget(node);
      }
      mount.backend.forget(directory);
      return names.length;
    };
    assert.equal(await look(), 20);
    const heads = mount.requests('HeadObject');
    await own.remove('d/f7');
    assert.equal(await look(), 19);
    assert.equal(await mount.node('d/f7'), undefined);
    // One more request may be for the directory itself.
    assert.ok(mount.requests('HeadObject') <= heads + 1);
    await mount.close();
  });

  it('whatever is read, at whatever offset, is what the object holds', async () => {
    const own = await TestBucket.create();
    const bytes = pattern(5_000_001);
    await own.put('big', bytes);
    const mount = await Mount.open(own, { readOnly: true, memoryCache: 4 * 2 ** 20, diskCache: 0 });
    assert.ok((await mount.content('big')).equals(bytes));
    const file = await mount.openFile('big', 0);
    let state = 7;
    for (let i = 0; i < 60; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      const at = state % 5_100_000;
      const length = 1 + (state % 300_000);
      assert.ok(
        (await mount.read(file, at, length)).equals(bytes.subarray(at, at + length)),
        `${at}+${length}`,
      );
    }
    await mount.release(file);
    await mount.close();
  });

  it('a sequential reader asks for more and more, a random one only for what it reads', async () => {
    const own = await TestBucket.create();
    await own.put('big', pattern(8 * 2 ** 20));
    const mount = await Mount.open(own, { readOnly: true, diskCache: 0 });
    await mount.content('big');
    assert.ok(mount.requests('GetObject') <= 16, `${mount.requests('GetObject')}`);
    const other = await Mount.open(own, { readOnly: true, diskCache: 0 });
    const file = await other.openFile('big', 0);
    for (const block of [40, 3, 60, 21, 11]) await other.read(file, block * 131_072, 65_536);
    assert.equal(other.requests('GetObject'), 5);
    assert.equal(other.backend.mounted.services.metrics.snapshot()['bytesDown'], 5 * 131_072);
    await Promise.all([mount.close(), other.close()]);
  });

  it('an object that changes under an open file gives ESTALE, and the new content at the next open', async () => {
    const own = await TestBucket.create();
    await own.put('f', pattern(1_000_000, 1));
    const mount = await Mount.open(own, { readOnly: true, diskCache: 0, openTtl: 0, metadataTtl: 0 });
    const file = await mount.openFile('f', 0);
    await mount.read(file, 0, 10);
    await own.put('f', pattern(900_000, 2));
    await assert.rejects(mount.read(file, 900_000, 10), denied('ESTALE'));
    await mount.release(file);
    assert.ok((await mount.content('f')).equals(pattern(900_000, 2)));
    await mount.close();
  });

  it("other writers' files, changes and deletions appear after the time for which news are believed", async () => {
    const own = await TestBucket.create();
    await own.put('d/a', 'one');
    const mount = await Mount.open(own, { readOnly: true, metadataTtl: 0.2, negativeTtl: 0.2, openTtl: 0 });
    assert.equal((await mount.content('d/a')).toString(), 'one');
    assert.equal(await mount.node('d/b'), undefined);
    await own.put('d/a', 'three');
    await own.put('d/b', 'new');
    await sleep(250);
    assert.deepEqual(await mount.names('d'), ['a', 'b']);
    assert.equal((await mount.content('d/a')).toString(), 'three');
    assert.equal((await mount.content('d/b')).toString(), 'new');
    await mount.close();
  });

  it('the disk cache has the blocks that were read, and more of them as more is read', async () => {
    const own = await TestBucket.create();
    const bytes = pattern(9 * 2 ** 20 + 1000, 5);
    await own.put('f', bytes);
    const cacheDir = await temporaryFolder();
    const options = { readOnly: true, cacheDir, readAhead: 0, memoryCache: '4m' };
    const block = 128 * 1024;
    const random = [3, 72, 0, 31, 32, 5, 4, 40];
    const readRandom = async (expected: number): Promise<void> => {
      const mount = await Mount.open(own, options);
      const file = await mount.openFile('f', 0);
      for (const index of random) {
        const at = index * block + 17;
        assert.ok((await mount.read(file, at, 1000)).equals(bytes.subarray(at, at + 1000)), `${index}`);
      }
      assert.equal(mount.requests('GetObject'), expected);
      await mount.release(file);
      await mount.close();
    };
    await readRandom(random.length);
    await readRandom(0);
    // 73 blocks, 8 of which are there.
    const whole = await Mount.open(own, options);
    assert.ok((await whole.content('f')).equals(bytes));
    assert.equal(whole.requests('GetObject'), 65);
    await whole.close();
    const again = await Mount.open(own, options);
    assert.ok((await again.content('f')).equals(bytes));
    assert.equal(again.requests('GetObject'), 0);
    assert.equal(again.backend.mounted.services.metrics.snapshot()['diskCorrupt'], 0);
    await again.close();
  });

  it('the disk cache outlives the process, keeps to its limit, and notices when a block is not what it was', async () => {
    const own = await TestBucket.create();
    const bytes = pattern(2 * 2 ** 20);
    await own.put('f', bytes);
    const first = await Mount.open(own, { readOnly: true });
    await first.content('f');
    await first.close();
    const { cacheDir } = first;
    const second = await Mount.open(own, { readOnly: true, cacheDir });
    assert.ok((await second.content('f')).equals(bytes));
    assert.equal(second.requests('GetObject'), 0);
    await second.close();

    const blocks = join(cacheDir, 'blocks');
    const [group] = await readdir(blocks);
    const [block] = await readdir(join(blocks, group!));
    const path = join(blocks, group!, block!);
    const stored = await readFile(path);
    stored[5000]! ^= 1;
    await writeFile(path, stored);
    const third = await Mount.open(own, { readOnly: true, cacheDir });
    assert.ok((await third.content('f')).equals(bytes));
    assert.equal(third.backend.mounted.services.metrics.snapshot()['diskCorrupt'], 1);
    assert.equal(third.requests('GetObject'), 1);
    await third.close();

    // A process that is killed leaves no list.
    for (const spoil of [() => rm(`${blocks}.index`), () => writeFile(`${blocks}.index`, '[["a",1]]')]) {
      await spoil();
      const next = await Mount.open(own, { readOnly: true, cacheDir });
      assert.ok((await next.content('f')).equals(bytes));
      assert.equal(next.requests('GetObject'), 0);
      assert.equal(next.backend.mounted.services.metrics.snapshot()['diskCorrupt'], 0);
      await next.close();
    }

    const small = await Mount.open(own, { readOnly: true, cacheDir, diskCache: 600_000 });
    await own.put('g', pattern(2 * 2 ** 20, 3));
    await small.content('g');
    await small.close();
    let sum = 0;
    for (const folder of await readdir(blocks)) {
      for (const name of await readdir(join(blocks, folder)))
        sum += (await readFile(join(blocks, folder, name))).length;
    }
    assert.ok(sum <= 600_000, `${sum}`);
  });
});

it('others are served while large directories are listed, however many at a time', async () => {
  const bucket = await TestBucket.create();
  const [names, listings] = [1100, 8];
  const all = Array.from({ length: names }, (_, i) => `name-${i}`);
  for (let at = 0; at < names; at += 50)
    await Promise.all(all.slice(at, at + 50).map((name) => bucket.put(name, name)));
  const mount = await Mount.open(bucket, { readOnly: true });
  assert.equal((await mount.names('')).length, names);
  const [found, turns] = await countTurns(() =>
    Promise.all(Array.from({ length: listings }, () => mount.names(''))),
  );
  for (const listed of found) assert.deepEqual(listed.sort(), all.toSorted());
  assert.ok(turns >= listings * Math.floor(names / 256), `${turns} turns`);
  await mount.close();
});
