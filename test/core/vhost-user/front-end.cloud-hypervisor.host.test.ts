import assert from 'node:assert/strict';
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { CloudHypervisor } from '../../support/cloud-hypervisor.js';
import { connectTo, launch, ours, startDaemon } from '../../support/daemons.js';
import { HOLD } from '../../support/echo-session.js';
import { FuseClient, ROOT, rejectsWith } from '../../support/fuse-client.js';
import { keptPassthrough, killEngine } from '../../support/keepers.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';

const EIO = 5;
const EAGAIN = 11;
const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

async function connect(t: TestContext, socket: string, requestQueues = 1) {
  const monitor = await CloudHypervisor.connect(socket, { requestQueues });
  t.after(() => monitor.close());
  return { monitor, fuse: new FuseClient(fuseTransport(monitor)) };
}

/** A file that is open and locked, and whether it still is. */
async function openFile(fuse: FuseClient): Promise<(after: FuseClient, content: string) => Promise<void>> {
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.setlk(entry.nodeid, open.fh, 7n, LOCK);
  return async (after, content) => {
    await after.write(entry.nodeid, open.fh, 0, Buffer.from(content));
    assert.equal(Buffer.from(await after.read(entry.nodeid, open.fh, 0, 99)).toString(), content);
    const second = await after.open(entry.nodeid, 2);
    await rejectsWith(after.setlk(entry.nodeid, second.fh, 8n, LOCK), EAGAIN);
    await after.release(entry.nodeid, second.fh);
  };
}

test('a guest of Cloud Hypervisor mounts, gets more memory, is paused, and boots again', async (t) => {
  const running = startDaemon(t, ours);
  const { monitor, fuse } = await connect(t, running.socket, 2);
  await fuse.init();
  await (
    await openFile(fuse)
  )(fuse, 'first');
  await monitor.addMemory();
  await fuse.mkdir(ROOT, 'with more memory');
  await monitor.pause();
  const waiting = fuse.mkdir(ROOT, 'after a pause');
  await monitor.resume();
  await waiting;
  await monitor.restartDriver();
  await fuse.init();
  await (
    await openFile(fuse)
  )(fuse, 'second boot');
  assert.equal(readFileSync(join(running.directory, 'file'), 'utf8'), 'second boot');
  assert.equal(readdirSync(running.directory).length, 3);
});

test('a guest of Cloud Hypervisor goes on after a snapshot, and from one on another daemon', async (t) => {
  const running = startDaemon(t, ours);
  const { monitor, fuse } = await connect(t, running.socket);
  await fuse.init();
  const check = await openFile(fuse);
  await monitor.pause();
  const first = await monitor.snapshot();
  await monitor.resumeAt(first);
  await check(fuse, 'after a snapshot');

  await monitor.pause();
  const second = await monitor.snapshot();
  const destination = launch(ours, running.directory, `${running.socket}.2`);
  t.after(() => destination.stop('SIGKILL'));
  await monitor.restore(destination.socket, second);
  await check(fuse, 'on another daemon');
  await fuse.mkdir(ROOT, 'new');
});

const echo = fileURLToPath(new URL('./echo-child.js', import.meta.url));

async function startEcho(t: TestContext, path: string): Promise<ChildProcess> {
  const child = fork(echo, [path], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  t.after(() => child.kill('SIGKILL'));
  await once(child, 'message');
  return child;
}

test('Cloud Hypervisor connects again, and what was in flight is answered by the next daemon', async (t) => {
  const path = join(temporaryFolder(t), 'socket');
  let child = await startEcho(t, path);
  const { monitor } = await connect(t, path, 2);
  const request = async (i: number): Promise<void> => {
    const bytes = Uint8Array.of(i % HOLD, i >> 8);
    assert.deepEqual(await monitor.request(1 + (i % 2), [bytes], [2]), bytes);
  };
  for (let round = 0; round < 3; round++) {
    const before = Array.from({ length: 300 }, (_, i) => request(i));
    await before[round * 10];
    child.kill('SIGKILL');
    await monitor.ended;
    // The guest's kicks of these reach nobody until the next daemon has the descriptor.
    const between = Array.from({ length: 50 }, (_, i) => request(i));
    const again = monitor.reconnect(path);
    child = await startEcho(t, path);
    await again;
    await Promise.all([...before, ...between]);
  }
});

test('after a restart of its daemon a guest of Cloud Hypervisor gets EIO until it mounts again', async (t) => {
  const running = startDaemon(t, ours);
  const { monitor, fuse } = await connect(t, running.socket);
  await fuse.init();
  await fuse.mkdir(ROOT, 'before');
  await running.stop('SIGKILL');
  const waiting = fuse.mkdir(ROOT, 'meanwhile');
  const next = launch(ours, running.directory, running.socket);
  t.after(() => next.stop('SIGKILL'));
  await monitor.reconnect(running.socket);
  await rejectsWith(waiting, EIO);
  await rejectsWith(fuse.lookup(ROOT, 'before'), EIO);
  await fuse.init();
  await fuse.lookup(ROOT, 'before');
  await fuse.mkdir(ROOT, 'after');
  assert.deepEqual(readdirSync(running.directory).toSorted(), ['after', 'before']);
});

test('with a keeper, Cloud Hypervisor and its guest notice nothing of an engine that is killed', async (t) => {
  const running = startDaemon(t, keptPassthrough);
  (await connectTo(running)).close();
  const { monitor, fuse } = await connect(t, running.socket);
  await fuse.init();
  const check = await openFile(fuse);
  await killEngine(running);
  await check(fuse, 'by the next engine');
  await monitor.pause();
  await monitor.resumeAt(await monitor.snapshot());
  await killEngine(running);
  await check(fuse, 'after a snapshot and a kill');
});
