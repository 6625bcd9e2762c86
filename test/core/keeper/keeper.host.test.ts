import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Daemon, startDaemon, type RunningDaemon } from '../../support/daemons.js';
import { ROOT, rejectsWith } from '../../support/fuse-client.js';
import {
  connectKept as connect,
  appending,
  enginesOf,
  guestsAtWork,
  keeping,
  keptMemfs as memfs,
  keptPassthrough as passthrough,
  killEngine,
  LOCK,
  upgrade,
} from '../../support/keepers.js';
import { program } from '../../support/program.js';

const plugin = fileURLToPath(new URL('../../../examples/environment.js', import.meta.url));
/** Serves a backend that cannot tell the next process what a node is. */
const withoutKeys = keeping(['--backend', plugin, '--confine', 'none']);

const UNSAVED = fileURLToPath(new URL('../../support/unsaved-backend.js', import.meta.url));
const unsaved = keeping(['--backend', UNSAVED, '--mark', 'DIRECTORY/saving', '--confine', 'none']);

const overlayWords = ['--backend', 'overlay', '--lower', 'DIRECTORY/lower', '--upper', 'DIRECTORY/upper'];
const overlay: Daemon = {
  ...keeping(overlayWords),
  command(directory, socket) {
    for (const layer of ['lower', 'upper']) mkdirSync(join(directory, layer));
    return keeping(overlayWords).command(directory, socket);
  },
};

for (const [name, daemon] of Object.entries({ passthrough, memfs, overlay })) {
  describe(`upgrade of an engine on ${name}`, () => {
    test('a guest goes on with its files, listings and locks', async (t) => {
      const running = startDaemon(t, daemon);
      const guests = await guestsAtWork(t, running);
      const { fuse, other, entry, open, removed, listing, first, theirs, waiting } = guests;
      const left = await fuse.mkdir(ROOT, 'left');
      await fuse.rmdir(ROOT, 'left');

      for (let times = 0; times < 2; times++) {
        // How long it takes depends on what else this machine does.
        t.diagnostic(`paused for ${await upgrade(running)} ms`);
      }
      assert.equal(Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 9)).toString(), 'data');
      const { nodeid } = removed.entry;
      assert.equal(Buffer.from(await fuse.read(nodeid, removed.open.fh, 0, 9)).toString(), 'no name');
      assert.equal((await fuse.getattr(nodeid)).nlink, 0);
      const rest = await fuse.readdir(ROOT, listing.fh, first!.off);
      assert.equal(rest.length, 3);
      // A process may be in it.
      await rejectsWith(fuse.lookup(left.nodeid, 'name'), 2);
      assert.equal((await fuse.getattr(left.nodeid)).mode & 0o170000, 0o040000);
      assert.equal(guests.granted, false);
      const again = await other.open(theirs.nodeid, 2);
      await rejectsWith(other.setlk(theirs.nodeid, again.fh, 8n, LOCK), 11);
      await fuse.flush(entry.nodeid, open.fh, 7n);
      await waiting;
      await fuse.create(ROOT, 'new');
      assert.deepEqual(
        (await other.readdir(ROOT, (await other.opendir(ROOT)).fh, 0n)).map((one) => one.name).sort(),
        ['.', '..', 'a', 'b', 'c', 'file', 'new'],
      );
      assert.equal(await running.stop(), 0);
      assert.deepEqual(readdirSync(join(running.directory, '..')), ['shared']);
    });
  });
}

test('requests that come during an upgrade are answered once, in time', async (t) => {
  const running = startDaemon(t, passthrough);
  const { fuse } = await connect(t, running, { requestQueues: 2 });
  await fuse.init();
  const stop = new AbortController();
  const appended = await appending(fuse, 3, stop.signal);
  for (let times = 0; times < 3; times++) await upgrade(running);
  stop.abort();
  await appended.over;
  const lines = readFileSync(join(running.directory, 'log'), 'utf8').length / 5;
  assert.equal(lines, appended.lines());
  assert.ok(lines > 100, `${lines} lines`);
});

/** A daemon whose configuration file the test changes. */
function configured(t: TestContext): { running: RunningDaemon; write: (change: object) => void } {
  let write!: (change: object) => void;
  const running = startDaemon(t, {
    ...passthrough,
    command: (directory, socket) => {
      const path = `${directory}.yaml`;
      const backend = { type: 'passthrough', sharedDir: directory };
      write = (change) => {
        const one = { socket, backend, requestQueues: 2, ...change };
        writeFileSync(path, JSON.stringify({ keep: true, exports: [one] }));
      };
      write({});
      return [process.execPath, program, 'serve', '--config', path, '--log-level', 'silent'];
    },
  });
  return { running, write };
}

for (const [name, daemon] of Object.entries({ passthrough, memfs })) {
  test(`an engine that is asked to end by a signal hands its guests over, on ${name}`, async (t) => {
    const running = startDaemon(t, daemon);
    const { fuse } = await connect(t, running);
    await fuse.init();
    const { entry, open } = await fuse.create(ROOT, 'file');
    await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
    while (enginesOf(running).length < 2) await sleep(10);
    const [serving] = enginesOf(running);
    process.kill(serving!, 'SIGTERM');
    while (enginesOf(running).includes(serving!)) await sleep(10);
    assert.equal(Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 9)).toString(), 'data');
    assert.equal(await running.stop(), 0);
  });
}

test('a keeper that is asked to end while its first engine starts ends with it', async (t) => {
  const running = startDaemon(t, passthrough);
  while (enginesOf(running).length === 0) await sleep(2);
  assert.equal(await running.stop(), 0);
});

test('a keeper that is asked to end while another engine starts ends with all of them', async (t) => {
  const running = startDaemon(t, passthrough);
  const { fuse } = await connect(t, running);
  await fuse.init();
  while (enginesOf(running).length < 2) await sleep(10);
  const [serving] = enginesOf(running);
  process.kill(serving!, 'SIGTERM');
  while (enginesOf(running).length < 3) await sleep(2);
  const engines = enginesOf(running);
  assert.equal(await running.stop(), 0);
  assert.deepEqual(
    engines.filter((pid) => existsSync(`/proc/${pid}`)),
    [],
  );
});

test('an engine that does not start leaves the old one in its place', async (t) => {
  const { running, write } = configured(t);
  const { fuse } = await connect(t, running);
  await fuse.init();
  write({ nonsense: 1 });
  await assert.rejects(upgrade(running), /the new engine does not start/);
  assert.equal((await fuse.getattr(ROOT)).mode & 0o170000, 0o040000);
});

test('an engine with fewer queues than a guest uses is refused, until one has them again', async (t) => {
  const { running, write } = configured(t);
  const { fuse } = await connect(t, running, { requestQueues: 2 });
  await fuse.init();
  const { entry, open } = await fuse.create(ROOT, 'file');
  write({ requestQueues: 1 });
  let isUpgraded = false;
  const upgraded = upgrade(running).finally(() => {
    isUpgraded = true;
  });
  // Requests are answered until the old engine has handed over.
  let attributes: ReturnType<typeof fuse.getattr>;
  for (let isAnswered = true; isAnswered;) {
    attributes = fuse.getattr(entry.nodeid);
    const answered = attributes.then(() => true);
    isAnswered = await Promise.race([answered, sleep(3000).then(() => false)]);
    await sleep(20);
    assert.equal(isUpgraded, false);
  }
  write({});
  await upgraded;
  assert.equal((await attributes!).size, 0);
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('on'));
  assert.equal(readFileSync(join(running.directory, 'file'), 'utf8'), 'on');
});

test('a request of a queue thread that waits for a lock is handed over', async (t) => {
  const threaded = keeping(['--backend', 'passthrough', '--shared-dir', 'DIRECTORY'], '--queue-threads', '1');
  const running = startDaemon(t, threaded);
  const { fuse } = await connect(t, running, { requestQueues: 2 });
  await fuse.init();
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.setlk(entry.nodeid, open.fh, 7n, LOCK);
  const waiting = fuse.setlk(entry.nodeid, open.fh, 8n, LOCK, true);
  await upgrade(running);
  await fuse.flush(entry.nodeid, open.fh, 7n);
  await waiting;
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('on'));
  assert.equal(readFileSync(join(running.directory, 'file'), 'utf8'), 'on');
});

test('what cannot be handed over stays with its engine', async (t) => {
  const keyless = startDaemon(t, withoutKeys);
  const { fuse: other } = await connect(t, keyless);
  await other.init();
  await assert.rejects(upgrade(keyless), /its backend has no durable node keys/);
  assert.ok((await other.readdir(ROOT, (await other.opendir(ROOT)).fh, 0n)).length > 2);
});

test('guests that connect while an engine refuses to hand over are served by it', async (t) => {
  const running = startDaemon(t, unsaved);
  const saving = join(running.directory, 'saving');
  await (await connect(t, running)).fuse.init();
  const refused = assert.rejects(upgrade(running), /cannot be saved/);
  while (!existsSync(saving)) await sleep(20);
  const late = [connect(t, running), connect(t, running)];
  await sleep(100);
  rmSync(saving);
  await refused;
  for (const guest of late) await (await guest).fuse.init();
});

test('an engine that is killed is followed by another; guests that cannot go on are told to end', async (t) => {
  const running = startDaemon(t, withoutKeys);
  const { fuse, frontEnd } = await connect(t, running);
  await fuse.init();
  const killed = await killEngine(running);
  while (frontEnd.channel.poll()) await sleep(10);
  const { fuse: next } = await connect(t, running);
  await next.init();
  assert.ok((await next.readdir(ROOT, (await next.opendir(ROOT)).fh, 0n)).length > 2);
  assert.ok(!enginesOf(running).includes(killed));
});
