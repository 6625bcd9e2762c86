import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon } from '../../support/daemons.js';
import { InitFlag } from '../../../core/fuse/wire/abi.js';
import {
  FuseClient,
  type FuseTransport,
  ROOT,
  rejectsWith,
  usualInitFlags,
} from '../../support/fuse-client.js';
import {
  connectKept as connect,
  enginesOf,
  guestsAtWork,
  keeping,
  keptMemfs as memfs,
  keptPassthrough as passthrough,
  keptThreaded,
  killEngine,
  LOCK,
  upgrade,
  workWhileKilled,
} from '../../support/keepers.js';
import { fuseTransport } from '../../support/vhost-user.js';

/** How often an engine is killed under work; VIRTIOFS_KIT_ENGINES=200 for a long run. */
const KILLS = Number(process.env['VIRTIOFS_KIT_ENGINES'] ?? 4);

const kept = { passthrough, 'passthrough with a queue thread': keptThreaded, memfs };
const withoutHandles = keeping(
  '--backend passthrough --shared-dir DIRECTORY --inode-file-handles never'.split(' '),
);

/** Sends each request by another of two queues. */
function byTwoQueues(transport: FuseTransport): FuseTransport {
  let queue = 0;
  return {
    request: (given, ...rest) => transport.request(given === 0 ? 0 : 1 + (queue++ & 1), ...rest),
  };
}

for (const [name, daemon] of Object.entries(kept)) {
  test(`a guest goes on with its files, listings and locks when its engine is killed, on ${name}`, async (t) => {
    const running = startDaemon(t, daemon);
    const guests = await guestsAtWork(t, running);
    const { fuse, other, entry, open, removed, listing, first, theirs, waiting } = guests;

    // What the kernel has dropped from memory is opened again under Landlock, too.
    const dropping = setInterval(() => void writeFile('/proc/sys/vm/drop_caches', '2'), 20);
    t.after(() => clearInterval(dropping));
    for (let times = 0; times < 3; times++) {
      if (times === 1) await upgrade(running);
      await killEngine(running);
      assert.equal(Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 9)).toString(), 'data');
      const { nodeid } = removed.entry;
      assert.equal(Buffer.from(await fuse.read(nodeid, removed.open.fh, 0, 9)).toString(), 'no name');
      assert.equal((await fuse.getattr(nodeid)).nlink, 0);
    }
    clearInterval(dropping);
    const rest = await fuse.readdir(ROOT, listing.fh, first!.off);
    assert.equal(rest.length, 3);
    assert.equal(guests.granted, false);
    const again = await other.open(theirs.nodeid, 2);
    await rejectsWith(other.setlk(theirs.nodeid, again.fh, 8n, LOCK), 11);
    await fuse.flush(entry.nodeid, open.fh, 7n);
    await waiting;
    await killEngine(running);
    // The lock that was granted is the other guest's.
    await rejectsWith(fuse.setlk(entry.nodeid, open.fh, 7n, LOCK), 11);
    await fuse.release(removed.entry.nodeid, removed.open.fh);
    await fuse.create(ROOT, 'new');
    assert.deepEqual(
      (await other.readdir(ROOT, (await other.opendir(ROOT)).fh, 0n)).map((one) => one.name).sort(),
      ['.', '..', 'a', 'b', 'c', 'file', 'new'],
    );
    assert.equal(await running.stop(), 0);
  });
}

for (const [name, daemon] of Object.entries({ ...kept, 'passthrough without file handles': withoutHandles }))
  test(`requests are carried out once, however often the engine is killed, on ${name}`, async (t) => {
    const running = startDaemon(t, daemon);
    const { frontEnd } = await connect(t, running, { requestQueues: 2 });
    const fuse = new FuseClient(byTwoQueues(fuseTransport(frontEnd)));
    await fuse.init();
    await workWhileKilled(t, running, fuse, {
      kills: KILLS,
      appenders: 3,
      names: ['x', 'y', 'z'],
      async change(name) {
        const directory = await fuse.mkdir(ROOT, name);
        const file = await fuse.create(directory.nodeid, 'f', 0o644, 0o302);
        await fuse.release(file.entry.nodeid, file.open.fh);
        await fuse.rename(directory.nodeid, 'f', directory.nodeid, 'g');
        await fuse.link(file.entry.nodeid, directory.nodeid, 'h');
        await fuse.symlink(directory.nodeid, 's', 'target');
        await fuse.setxattr(file.entry.nodeid, 'user.a', Buffer.from('1'), 1);
        await fuse.removexattr(file.entry.nodeid, 'user.a');
        for (const each of ['g', 'h', 's']) await fuse.unlink(directory.nodeid, each);
        await fuse.rmdir(ROOT, name);
      },
      isEnough: (lines, directories) => lines > 100 && directories > 20,
    });
  });

for (const [name, daemon] of Object.entries({ passthrough, memfs })) {
  test(`a directory that was removed just before the engine is killed is there for who is in it, on ${name}`, async (t) => {
    const running = startDaemon(t, daemon);
    const { fuse } = await connect(t, running);
    await fuse.init();
    for (let times = 0; times < 3; times++) {
      const removed = await fuse.mkdir(ROOT, 'removed');
      const listed = await fuse.opendir(removed.nodeid);
      const replaced = await fuse.mkdir(ROOT, 'replaced');
      const full = await fuse.mkdir(ROOT, 'full');
      await fuse.mkdir(full.nodeid, 'child');
      await fuse.mkdir(ROOT, 'other');
      while (enginesOf(running).length < 2) await sleep(10);
      await fuse.rmdir(ROOT, 'removed');
      await fuse.rename(ROOT, 'other', ROOT, 'replaced');
      await rejectsWith(fuse.rmdir(ROOT, 'full'), constants.errno.ENOTEMPTY);
      await killEngine(running);
      for (const { nodeid } of [removed, replaced]) {
        const { fh } = await fuse.opendir(nodeid);
        await fuse.releasedir(nodeid, fh);
        assert.equal((await fuse.getattr(nodeid)).mode & 0o170000, 0o040000);
        await rejectsWith(fuse.create(nodeid, 'file'), constants.errno.ENOENT);
      }
      await fuse.releasedir(removed.nodeid, listed.fh);
      assert.deepEqual(await fuse.list(full.nodeid), ['child']);
      await fuse.rmdir(full.nodeid, 'child');
      for (const each of ['full', 'replaced']) await fuse.rmdir(ROOT, each);
    }
    assert.equal(await running.stop(), 0);
  });
}

test('files without file handles are found by their names when the engine is killed, and no others', async (t) => {
  const running = startDaemon(t, withoutHandles);
  const { fuse } = await connect(t, running);
  await fuse.init();
  const above = await fuse.mkdir(ROOT, 'above');
  const within = await fuse.mkdir(above.nodeid, 'within');
  const file = await fuse.create(within.nodeid, 'file');
  await fuse.write(file.entry.nodeid, file.open.fh, 0, Buffer.from('data'));
  const linked = await fuse.create(within.nodeid, 'linked');
  await fuse.link(linked.entry.nodeid, ROOT, 'link');
  await fuse.unlink(within.nodeid, 'linked');
  const replaced = await fuse.create(ROOT, 'replaced');
  await fuse.rename(ROOT, 'above', ROOT, 'moved');
  await fuse.rename(within.nodeid, 'file', above.nodeid, 'moved');
  const here = join(running.directory, 'here');
  writeFileSync(here, 'another');
  renameSync(here, join(running.directory, 'replaced'));

  for (let times = 0; times < 3; times++) {
    if (times === 1) await upgrade(running);
    await killEngine(running);
    const { nodeid } = file.entry;
    assert.equal(Buffer.from(await fuse.read(nodeid, file.open.fh, 0, 9)).toString(), 'data');
    assert.equal((await fuse.lookup(above.nodeid, 'moved')).nodeid, nodeid);
    assert.equal((await fuse.lookup(above.nodeid, 'within')).nodeid, within.nodeid);
    assert.equal((await fuse.getattr(within.nodeid)).nlink, 2);
    assert.equal((await fuse.read(linked.entry.nodeid, linked.open.fh, 0, 9)).length, 0);
    assert.equal((await fuse.lookup(ROOT, 'link')).nodeid, linked.entry.nodeid);
    await rejectsWith(fuse.getattr(replaced.entry.nodeid), constants.errno.ESTALE);
  }
  assert.equal(await running.stop(), 0);
});

test('a file that a guest has forgotten is found by its handle over an upgrade, and not when the engine is killed', async (t) => {
  const daemon = keeping('--backend passthrough --shared-dir DIRECTORY --max-remembered 10'.split(' '));
  const running = startDaemon(t, daemon);
  const { fuse } = await connect(t, running);
  await fuse.init(usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT));
  const { nodeid } = await fuse.mkdir(ROOT, 'directory');
  await fuse.forget(nodeid, 1n);
  await upgrade(running);
  assert.equal((await fuse.lookup(nodeid, '.')).nodeid, nodeid);
  await fuse.forget(nodeid, 1n);
  await killEngine(running);
  await rejectsWith(fuse.lookup(nodeid, '.'), constants.errno.ESTALE);
  assert.equal(await running.stop(), 0);
});

test('a keeper that is killed takes its engines with it, and a monitor sees its connection end', async (t) => {
  const running = startDaemon(t, passthrough);
  const { fuse, frontEnd } = await connect(t, running);
  await fuse.init();
  while (enginesOf(running).length < 2) await sleep(10);
  const engines = enginesOf(running);
  await running.stop('SIGKILL');
  assert.ok((await frontEnd.ended) instanceof Error);
  while (engines.some((pid) => existsSync(`/proc/${pid}`))) await sleep(20);
});

test('what memfs began with is not loaded again', async (t) => {
  const running = startDaemon(t, {
    ...memfs,
    command(directory, socket) {
      writeFileSync(join(directory, 'file'), 'content');
      return keeping(['--backend', 'memfs', '--from', directory]).command(directory, socket);
    },
  });
  const { fuse } = await connect(t, running);
  await fuse.init();
  const { nodeid } = await fuse.lookup(ROOT, 'file');
  const { fh } = await fuse.open(nodeid, 2);
  rmSync(running.directory, { recursive: true });
  mkdirSync(running.directory);
  writeFileSync(join(running.directory, 'other'), '');
  await killEngine(running);
  assert.equal(Buffer.from(await fuse.read(nodeid, fh, 0, 9)).toString(), 'content');
  await upgrade(running);
  await fuse.write(nodeid, fh, 0, Buffer.from('C'));
  await killEngine(running);
  assert.equal(Buffer.from(await fuse.read(nodeid, fh, 0, 9)).toString(), 'Content');
  assert.deepEqual(await fuse.list(ROOT), ['file']);
  assert.equal(await running.stop(), 0);
});

/** Words of the journal's header, and of a record: `core/state/journal`. */
const ORDER = 2;
const FIRST_RECORD = 1024;
const HANDLE_RECORD = 6;

/** Where a journal is broken, given its words, and what is put there. */
const breaks: Readonly<Record<string, (words: Int32Array) => [at: number, word: number]>> = {
  'cannot be read': () => [ORDER, 9],
  'contradicts itself': (words) => {
    let at = FIRST_RECORD;
    while ((words[at]! & 0xff) !== HANDLE_RECORD) at += words[at]! >>> 8;
    return [at + 2, -5];
  },
};

for (const [what, where] of Object.entries(breaks)) {
  test(`a journal that ${what} ends its guests, and others are served`, async (t) => {
    const running = startDaemon(t, passthrough);
    const { fuse, frontEnd } = await connect(t, running);
    await fuse.init();
    await fuse.create(ROOT, 'file');
    while (enginesOf(running).length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
    const [serving] = enginesOf(running);
    process.kill(serving!, 'SIGSTOP');
    const descriptors = `/proc/${running.process.pid}/fd`;
    const journal = readdirSync(descriptors)
      .map((name) => join(descriptors, name))
      .find((path) => readlinkSync(path).includes('virtiofs-kit sessions'))!;
    const fd = openSync(journal, 'r+');
    const words = new Int32Array(8192);
    readSync(fd, words, 0, words.byteLength, 0);
    const [at, word] = where(words);
    writeSync(fd, Int32Array.of(word), 0, 4, at * 4);
    closeSync(fd);
    process.kill(serving!, 'SIGKILL');
    await frontEnd.ended;
    const { fuse: next } = await connect(t, running);
    await next.init();
    assert.deepEqual(await next.list(ROOT), ['file']);
    assert.equal(await running.stop(), 0);
  });
}
