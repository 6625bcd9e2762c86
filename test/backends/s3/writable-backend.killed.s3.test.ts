import assert from 'node:assert/strict';
import { after, test, type TestContext } from 'node:test';
import { type RunningDaemon, startDaemon } from '../../support/daemons.js';
import { type FuseClient, ROOT, rejectsWith } from '../../support/fuse-client.js';
import {
  connectKept,
  guestsAtWork,
  keeping,
  killEngine,
  LOCK,
  upgrade,
  workWhileKilled,
} from '../../support/keepers.js';
import { removeFolders, temporaryFolder, TestBucket } from './support.js';

after(removeFolders);

/** Guests of a bucket whose engine is killed. VIRTIOFS_KIT_ENGINES=200 for a long run. */
const KILLS = Number(process.env['VIRTIOFS_KIT_ENGINES'] ?? 1);

async function start(t: TestContext): Promise<{ running: RunningDaemon; bucket: TestBucket }> {
  const bucket = await TestBucket.create();
  const cacheDir = await temporaryFolder();
  const words = [
    '--bucket',
    bucket.name,
    '--endpoint',
    bucket.endpoint,
    '--path-style',
    '--cache-dir',
    cacheDir,
  ];
  const daemon = keeping(['--backend', 's3', ...words]);
  return { running: startDaemon(t, daemon), bucket };
}

interface Opened {
  readonly nodeid: bigint;
  readonly fh: bigint;
}

async function text(fuse: FuseClient, { nodeid, fh }: Opened): Promise<string> {
  return Buffer.from(await fuse.read(nodeid, fh, 0, 100)).toString();
}

/** Makes a file with its name as content, and leaves it open. */
async function made(fuse: FuseClient, parent: bigint, name: string, isUploaded: boolean): Promise<Opened> {
  const { entry, open } = await fuse.create(parent, name, 0o640);
  const { nodeid } = entry;
  await fuse.write(nodeid, open.fh, 0, Buffer.from(name));
  if (isUploaded) await fuse.fsync(nodeid, open.fh);
  return { nodeid, fh: open.fh };
}

/** How engines end. */
const ENDS = [
  ['killed', killEngine],
  ['upgraded', upgrade],
] as const;

test('a guest goes on with its files, listings and locks when its engine is killed, on S3', async (t) => {
  const { running } = await start(t);
  const guests = await guestsAtWork(t, running);
  const { fuse, other, entry, open, removed, listing, first, theirs, waiting } = guests;
  for (let times = 0; times < KILLS; times++) {
    await killEngine(running);
    assert.equal(await text(fuse, { nodeid: entry.nodeid, fh: open.fh }), 'data');
    assert.equal(await text(fuse, { nodeid: removed.entry.nodeid, fh: removed.open.fh }), 'no name');
  }
  assert.equal((await fuse.readdir(ROOT, listing.fh, first!.off)).length, 3);
  assert.equal(guests.granted, false);
  const again = await other.open(theirs.nodeid, 2);
  await rejectsWith(other.setlk(theirs.nodeid, again.fh, 8n, LOCK), 11);
  await fuse.flush(entry.nodeid, open.fh, 7n);
  await waiting;
  assert.equal(await running.stop(), 0);
});

for (const [how, end] of ENDS)
  test(`renamed, replaced and removed files stay what they are when the engine is ${how}, on S3`, async (t) => {
    const { running, bucket } = await start(t);
    const { fuse } = await connectKept(t, running);
    await fuse.init();
    const makeSet = async (isUploaded: boolean) => {
      const root = (await fuse.mkdir(ROOT, isUploaded ? 'uploaded' : 'staged')).nodeid;
      const make = (parent: bigint, name: string) => made(fuse, parent, name, isUploaded);
      const directory = (await fuse.mkdir(root, 'directory')).nodeid;
      const below = await make(directory, 'below');
      const renamed = await make(root, 'renamed');
      const replaced = await make(root, 'replaced');
      const removed = await make(root, 'removed');
      const empty = (await fuse.mkdir(root, 'empty')).nodeid;
      await fuse.rename(root, 'directory', root, 'moved');
      await fuse.rename(root, 'renamed', root, 'replaced');
      await fuse.unlink(root, 'removed');
      await fuse.rmdir(root, 'empty');
      // Another comes to the name that is free now.
      const successor = await make(root, 'renamed');
      return { root, directory, empty, successor, files: { below, renamed, replaced, removed } };
    };
    const sets = [await makeSet(false), await makeSet(true)];
    for (let times = 0; times < KILLS; times++) {
      await end(running);
      for (const { root, directory, empty, successor, files } of sets) {
        for (const [name, file] of Object.entries(files)) assert.equal(await text(fuse, file), name);
        assert.equal(await text(fuse, successor), 'renamed');
        assert.equal((await fuse.lookup(root, 'moved')).nodeid, directory);
        assert.equal((await fuse.lookup(directory, 'below')).nodeid, files.below.nodeid);
        assert.equal((await fuse.lookup(root, 'replaced')).nodeid, files.renamed.nodeid);
        assert.equal((await fuse.lookup(root, 'renamed')).nodeid, successor.nodeid);
        assert.equal((await fuse.lookup(root, 'removed')).nodeid, 0n);
        assert.equal((await fuse.getattr(files.removed.nodeid)).nlink, 0);
        assert.equal((await fuse.getattr(empty)).mode & 0o170000, 0o040000);
      }
    }
    for (const { files } of sets)
      await fuse.write(files.removed.nodeid, files.removed.fh, 0, Buffer.from('REMOVED'));
    await end(running);
    for (const { files, successor } of sets) {
      assert.equal(await text(fuse, files.removed), 'REMOVED');
      for (const { nodeid, fh } of [...Object.values(files), successor]) await fuse.release(nodeid, fh);
    }
    assert.equal(await running.stop(), 0);
    // Nothing is left of those without a name.
    const left = ['', 'moved/', 'moved/below', 'renamed', 'replaced'];
    const expected = ['staged/', 'uploaded/'].flatMap((root) => left.map((key) => root + key));
    assert.deepEqual(await bucket.keys(), expected);
    assert.equal((await bucket.get('uploaded/replaced')).toString(), 'renamed');
  });

test('requests are carried out once, however often the engine is killed, on S3', async (t) => {
  const { running } = await start(t);
  const { fuse } = await connectKept(t, running);
  await fuse.init();
  await workWhileKilled(t, running, fuse, {
    kills: KILLS,
    appenders: 2,
    names: ['x', 'y'],
    async change(name) {
      const { nodeid } = await fuse.mkdir(ROOT, name);
      const file = await fuse.create(nodeid, 'f', 0o644, 0o302);
      await fuse.rename(nodeid, 'f', nodeid, 'g');
      await fuse.symlink(nodeid, 's', 'target');
      await fuse.setxattr(file.entry.nodeid, 'user.a', Buffer.from('1'), 1);
      await fuse.removexattr(file.entry.nodeid, 'user.a');
      for (const each of ['g', 's']) await fuse.unlink(nodeid, each);
      await fuse.release(file.entry.nodeid, file.open.fh);
      await fuse.rmdir(ROOT, name);
    },
    isEnough: (_lines, directories) => directories >= 4,
  });
  assert.equal(await running.stop(), 0);
});
