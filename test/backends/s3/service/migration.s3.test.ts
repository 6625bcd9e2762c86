import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { CreateBucketCommand, DeleteBucketCommand } from '@aws-sdk/client-s3';
import { InitFlag } from '../../../../core/fuse/wire/abi.js';
import { type FuseClient, ROOT, rejectsWith, usualInitFlags } from '../../../support/fuse-client.js';
import { host, migrate, warnings } from '../../../support/migrating-guests.js';
import { saveState, startQueues, stopQueues } from '../../../support/migration.js';
import { Proxy } from '../proxy.js';
import { pattern, removeFolders, temporaryFolder, TestBucket } from '../support.js';

after(removeFolders);

const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };
const EAGAIN = 11;
const ESTALE = 116;
const MiB = 2 ** 20;

interface Opened {
  readonly nodeid: bigint;
  readonly fh: bigint;
}

async function text(fuse: FuseClient, { nodeid, fh }: Opened): Promise<string> {
  return Buffer.from(await fuse.read(nodeid, fh, 0, 100)).toString();
}

test('a guest takes what S3 has staged, and its removed files, to another host', async (t) => {
  const bucket = await TestBucket.create();
  const settings = async () => ({
    backend: {
      type: 's3',
      bucket: bucket.name,
      endpoint: bucket.endpoint,
      pathStyle: true,
      cacheDir: await temporaryFolder(),
      partSize: '5m',
      writebackDelay: 600,
      maxDirtyAge: 600,
    },
  });
  const [from, to] = [await host(t, await settings()), await host(t, await settings())];
  const { fuse } = from;
  // Somebody at the destination has looked before: what it knows is old by now.
  const early = await to.another();
  assert.equal((await early.lookup(ROOT, 'staged')).nodeid, 0n);
  await fuse.init();
  const made = async (name: string, isUploaded: boolean): Promise<Opened> => {
    const { entry, open } = await fuse.create(ROOT, name, 0o640);
    await fuse.write(entry.nodeid, open.fh, 0, Buffer.from(name));
    if (isUploaded) await fuse.fsync(entry.nodeid, open.fh);
    return { nodeid: entry.nodeid, fh: open.fh };
  };
  const names = ['staged', 'renamed', 'removed', 'removed-uploaded'] as const;
  const files = new Map<string, Opened>();
  for (const name of names) files.set(name, await made(name, name.endsWith('uploaded')));
  await fuse.setxattr(files.get('removed')!.nodeid, 'user.a', Buffer.from('1'));
  await fuse.rename(ROOT, 'renamed', ROOT, 'other');
  await fuse.unlink(ROOT, 'removed');
  await fuse.unlink(ROOT, 'removed-uploaded');
  // Parts of it are on their way.
  const large = await made('large', false);
  for (let i = 0; i < 12; i++) await fuse.write(large.nodeid, large.fh, i * MiB, pattern(MiB, i));
  const directory = await fuse.mkdir(ROOT, 'directory');
  const listing = await fuse.opendir(directory.nodeid);
  await fuse.rmdir(ROOT, 'directory');
  await fuse.setlk(files.get('staged')!.nodeid, files.get('staged')!.fh, 7n, LOCK);

  assert.equal(await migrate(from, to), true, JSON.stringify([from.log.lines, to.log.lines].flat()));
  assert.deepEqual(
    warnings(to).filter((message) => !message.includes('ignores some conditions')),
    [],
  );
  await from.frontEnd.close();
  const after = to.fuse;
  for (const name of names) assert.equal(await text(after, files.get(name)!), name);
  for (let i = 0; i < 12; i++)
    assert.deepEqual(Buffer.from(await after.read(large.nodeid, large.fh, i * MiB, MiB)), pattern(MiB, i));
  const { nodeid, fh } = files.get('removed')!;
  const attributes = await after.getattr(nodeid);
  assert.equal(attributes.nlink, 0);
  assert.equal(attributes.mode & 0o777, 0o640);
  assert.equal(Buffer.from(await after.getxattr(nodeid, 'user.a')).toString(), '1');
  await after.write(nodeid, fh, 0, Buffer.from('REMOVED'));
  assert.equal(await text(after, { nodeid, fh }), 'REMOVED');
  assert.equal((await after.lookup(ROOT, 'other')).nodeid, files.get('renamed')!.nodeid);
  assert.equal((await after.getattr(directory.nodeid)).mode & 0o170000, 0o040000);
  await after.readdir(directory.nodeid, listing.fh, 0n);
  const again = await after.open(files.get('staged')!.nodeid, 2);
  await rejectsWith(after.setlk(files.get('staged')!.nodeid, again.fh, 8n, LOCK), EAGAIN);
  for (const file of [...files.values(), large]) await after.release(file.nodeid, file.fh);
  await after.forget(nodeid);
  assert.deepEqual(await bucket.keys(), ['large', 'other', 'staged']);
});

test('a guest stays where it is if its bucket does not take what is staged', async (t) => {
  const bucket = await TestBucket.create();
  const { name, endpoint } = bucket;
  const cacheDir = await temporaryFolder();
  const backend = { type: 's3', bucket: name, endpoint, pathStyle: true, cacheDir, writebackDelay: 600 };
  const { frontEnd, fuse, log } = await host(t, { backend });
  await fuse.init();
  // By then nothing is in the bucket that finds out what the server keeps.
  await fuse.mkdir(ROOT, 'directory');
  await bucket.remove('directory/');
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('mine'));
  await bucket.client.send(new DeleteBucketCommand({ Bucket: name }));
  const bases = await stopQueues(frontEnd);
  assert.equal(await saveState(frontEnd), undefined);
  assert.match(JSON.stringify(log.lines.at(-1)), /a guest cannot leave.*not everything could be uploaded/);
  await bucket.client.send(new CreateBucketCommand({ Bucket: name }));
  await startQueues(frontEnd, bases);
  assert.equal(await text(fuse, { nodeid: entry.nodeid, fh: open.fh }), 'mine');
  await fuse.fsync(entry.nodeid, open.fh);
  assert.deepEqual(await bucket.keys(), ['file']);
});

test('a guest stays where it is if the bucket does not answer its destination', async (t) => {
  const bucket = await TestBucket.create();
  const proxy = await Proxy.start(bucket.endpoint);
  t.after(() => proxy.close());
  const settings = async (endpoint: string) => ({
    // What the destination does not have would fail by itself.
    migrationOnError: 'guest-error' as const,
    backend: {
      type: 's3',
      bucket: bucket.name,
      endpoint,
      pathStyle: true,
      operationTimeout: 2,
      cacheDir: await temporaryFolder(),
    },
  });
  const [from, to] = [
    await host(t, await settings(bucket.endpoint)),
    await host(t, await settings(proxy.endpoint)),
  ];
  await from.fuse.init();
  const { entry, open } = await from.fuse.create(ROOT, 'file');
  await from.fuse.write(entry.nodeid, open.fh, 0, Buffer.from('mine'));
  proxy.fault = () => 'reset-before';
  assert.equal(await migrate(from, to), false);
  assert.match(JSON.stringify(to.log.lines), /cannot be taken over[^}]*the bucket does not answer/);
  assert.deepEqual(await bucket.keys(), ['file']);
});

test('a guest stays where it is if its bucket does not give what a removed file has', async (t) => {
  const bucket = await TestBucket.create();
  await bucket.put('file', 'mine');
  const proxy = await Proxy.start(bucket.endpoint);
  t.after(() => proxy.close());
  const { name } = bucket;
  const options = { bucket: name, endpoint: proxy.endpoint, pathStyle: true, operationTimeout: 2 };
  const backend = { type: 's3', ...options, cacheDir: await temporaryFolder() };
  const { frontEnd, fuse, log } = await host(t, { backend });
  await fuse.init();
  const { nodeid } = await fuse.lookup(ROOT, 'file');
  const { fh } = await fuse.open(nodeid, 2);
  await fuse.unlink(ROOT, 'file');
  proxy.fault = ({ operation }) => (operation === 'GetObject' ? 'slow-down' : undefined);
  const bases = await stopQueues(frontEnd);
  assert.equal(await saveState(frontEnd), undefined);
  assert.match(JSON.stringify(log.lines.at(-1)), /a guest cannot leave/);
  proxy.fault = () => undefined;
  await startQueues(frontEnd, bases);
  assert.equal(await text(fuse, { nodeid, fh }), 'mine');
});

test('file handles of a guest lead to files that it had forgotten, on another host and on the next', async (t) => {
  const bucket = await TestBucket.create();
  const { name, endpoint } = bucket;
  const settings = async () => ({
    limits: { remembered: 100 },
    backend: { type: 's3', bucket: name, endpoint, pathStyle: true, cacheDir: await temporaryFolder() },
  });
  const from = await host(t, await settings());
  const { fuse } = from;
  const flags = usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT);
  await fuse.init(flags);
  const directory = await fuse.mkdir(ROOT, 'directory');
  const { entry, open } = await fuse.create(directory.nodeid, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
  await fuse.release(entry.nodeid, open.fh);
  const moved = await fuse.create(ROOT, 'before');
  await fuse.release(moved.entry.nodeid, moved.open.fh);
  await fuse.rename(ROOT, 'before', ROOT, 'moved');
  const gone = await fuse.mkdir(ROOT, 'gone');
  await fuse.rmdir(ROOT, 'gone');
  const later = await fuse.mkdir(ROOT, 'later');
  for (const { nodeid } of [entry, directory, moved.entry, gone, later]) await fuse.forget(nodeid);
  let at = from;
  for (let moves = 0; moves < 2; moves++) {
    const to = await host(t, await settings());
    assert.equal(await migrate(at, to), true, JSON.stringify([at.log.lines, to.log.lines]));
    await bucket.remove('later/');
    const after = to.fuse;
    const found = await after.lookup(entry.nodeid, '.');
    assert.deepEqual([found.nodeid, found.generation], [entry.nodeid, entry.generation]);
    const { fh } = await after.open(entry.nodeid, 0);
    assert.equal(await text(after, { nodeid: entry.nodeid, fh }), 'content');
    await after.release(entry.nodeid, fh);
    assert.equal((await after.lookup(directory.nodeid, '.')).nodeid, directory.nodeid);
    assert.equal((await after.lookup(directory.nodeid, 'file')).nodeid, entry.nodeid);
    assert.equal((await after.lookup(moved.entry.nodeid, '.')).nodeid, moved.entry.nodeid);
    for (const { nodeid } of [gone, later]) await rejectsWith(after.lookup(nodeid, '.'), ESTALE);
    await after.forget(entry.nodeid, 2n);
    for (const { nodeid } of [directory, moved.entry]) await after.forget(nodeid);
    at = to;
  }
});
