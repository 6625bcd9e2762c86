import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test, type TestContext } from 'node:test';
import { type RunningDaemon, startDaemon } from '../../support/daemons.js';
import { type FuseClient, ROOT } from '../../support/fuse-client.js';
import { connectKept, keeping, killEngine, LOCK, upgrade, workWhileKilled } from '../../support/keepers.js';
import { Proxy } from '../s3/proxy.js';
import { removeFolders, temporaryFolder, TestBucket } from '../s3/support.js';

after(removeFolders);

/** VIRTIOFS_KIT_ENGINES=200 for a long run. */
const KILLS = Number(process.env['VIRTIOFS_KIT_ENGINES'] ?? 2);

/** An overlay whose lower is a bucket, and whose upper is a directory. */
async function start(t: TestContext): Promise<{ running: RunningDaemon; proxy: Proxy }> {
  const bucket = await TestBucket.create();
  for (const name of ['read', 'written', 'removed', 'dir/deep', 'dir/inner/deeper', 'moved/file'])
    await bucket.put(name, `lower ${name}`);
  const proxy = await Proxy.start(bucket.endpoint);
  t.after(() => proxy.close());
  const cacheDir = await temporaryFolder();
  const daemon = keeping([]);
  const running = startDaemon(t, {
    ...daemon,
    command(directory, socket) {
      mkdirSync(join(directory, 'upper'));
      const lower = {
        type: 's3',
        bucket: bucket.name,
        endpoint: proxy.endpoint,
        pathStyle: true,
        readOnly: true,
        operationTimeout: 2,
        cacheDir,
      };
      const backend = { type: 'overlay', lowers: [lower], upper: join(directory, 'upper') };
      const file = join(directory, 'config.json');
      writeFileSync(file, JSON.stringify({ keep: true, exports: [{ tag: 'test', socket, backend }] }));
      const [node, program] = daemon.command(directory, socket);
      return [node!, program!, 'serve', '--config', file, '--log-level', 'silent'];
    },
  });
  return { running, proxy };
}

const ENDS = [
  ['killed', killEngine],
  ['upgraded', upgrade],
] as const;

for (const [how, end] of ENDS)
  test(`a guest of an overlay of a bucket goes on when its engine is ${how}`, async (t) => {
    const { running, proxy } = await start(t);
    const { fuse } = await connectKept(t, running);
    await fuse.init();
    const text = async (nodeid: bigint, fh: bigint) =>
      Buffer.from(await fuse.read(nodeid, fh, 0, 100)).toString();
    const known = async (path: string, flags = 0) => {
      const { nodeid } = await fuse.walk(path);
      return { nodeid, fh: (await fuse.open(nodeid, flags)).fh };
    };
    const read = await known('read');
    const written = await known('written', 2);
    await fuse.write(written.nodeid, written.fh, 0, Buffer.from('upper'));
    const removed = await known('removed', 2);
    await fuse.write(removed.nodeid, removed.fh, 0, Buffer.from('UPPER'));
    await fuse.unlink(ROOT, 'removed');
    const deeper = await fuse.walk('dir/inner/deeper');
    const directory = await fuse.walk('dir');
    const moved = await fuse.lookup(ROOT, 'moved');
    await fuse.rename(ROOT, 'moved', directory.nodeid, 'there');
    await fuse.setlk(read.nodeid, read.fh, 7n, LOCK);
    const listing = await fuse.opendir(directory.nodeid);
    const names = await fuse.readdir(directory.nodeid, listing.fh, 0n, 4096);
    for (let times = 0; times < KILLS; times++) {
      // The bucket does not answer at first: no node is lost for that.
      if (end === killEngine) {
        proxy.fault = () => 'reset-before';
        setTimeout(() => (proxy.fault = () => undefined), 3_000);
      }
      await end(running);
      assert.equal(await text(read.nodeid, read.fh), 'lower read');
      assert.equal(await text(written.nodeid, written.fh), 'upper written');
      assert.equal(await text(removed.nodeid, removed.fh), 'UPPER removed');
      const { fh } = await fuse.open(deeper.nodeid);
      assert.equal(await text(deeper.nodeid, fh), 'lower dir/inner/deeper');
      assert.equal((await fuse.lookup(directory.nodeid, 'there')).nodeid, moved.nodeid);
      const file = await fuse.lookup(moved.nodeid, 'file');
      assert.equal(await text(file.nodeid, (await fuse.open(file.nodeid)).fh), 'lower moved/file');
      assert.deepEqual(
        (await fuse.readdir(directory.nodeid, listing.fh, 0n, 4096)).map(({ name, off }) => [name, off]),
        names.map(({ name, off }) => [name, off]),
      );
    }
    await fuse.write(deeper.nodeid, (await fuse.open(deeper.nodeid, 2)).fh, 0, Buffer.from('UPPER'));
    const copied = join(running.directory, 'upper/dir/inner/deeper');
    assert.equal(readFileSync(copied, 'utf8'), 'UPPER dir/inner/deeper');
    assert.equal(await running.stop(), 0);
  });

test('requests are carried out once, however often the engine is killed, on an overlay of a bucket', async (t) => {
  const { running } = await start(t);
  const { fuse } = await connectKept(t, running);
  await fuse.init();
  const change = (client: FuseClient) => async (name: string) => {
    const { nodeid } = await client.mkdir(ROOT, name);
    const file = await client.create(nodeid, 'f', 0o644, 0o302);
    await client.rename(nodeid, 'f', nodeid, 'g');
    const { nodeid: deep } = await client.walk('dir/deep');
    assert.equal(Number((await client.getattr(deep)).size), 14);
    await client.unlink(nodeid, 'g');
    await client.release(file.entry.nodeid, file.open.fh);
    await client.rmdir(ROOT, name);
  };
  await workWhileKilled(t, running, fuse, {
    kills: KILLS,
    appenders: 2,
    names: ['x', 'y'],
    change: change(fuse),
    isEnough: (_lines, directories) => directories >= 4,
  });
  assert.equal(await running.stop(), 0);
});

test('an overlay whose upper is a bucket is refused with a keeper, in words', async (t) => {
  const bucket = await TestBucket.create();
  const directory = await temporaryFolder();
  mkdirSync(join(directory, 'lower'));
  const socket = join(directory, 'socket');
  const upper = {
    type: 's3',
    bucket: bucket.name,
    endpoint: bucket.endpoint,
    pathStyle: true,
    cacheDir: await temporaryFolder(),
  };
  const backend = { type: 'overlay', lowers: [join(directory, 'lower')], upper };
  const file = join(directory, 'config.json');
  writeFileSync(file, JSON.stringify({ keep: true, exports: [{ tag: 'test', socket, backend }] }));
  const [node, program] = keeping([]).command(directory, socket);
  const keeper = spawn(node!, [program!, 'serve', '--config', file, '--log-level', 'silent'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.after(() => keeper.kill('SIGKILL'));
  let said = '';
  for await (const text of keeper.stderr) {
    said += String(text);
    if (said.includes('export test: ')) break;
  }
  assert.match(said, /export test: with keep, a bucket in an overlay must be a lower that is readOnly/);
  const ended = once(keeper, 'exit');
  keeper.kill('SIGTERM');
  assert.deepEqual(await ended, [0, null]);
});
