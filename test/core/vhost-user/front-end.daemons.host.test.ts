import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { FrontEndError } from '../../../core/vhost-user/index.js';
import {
  connectTo,
  cVirtiofsd,
  ours,
  oursThreaded,
  startDaemon,
  type Daemon,
  type RunningDaemon,
} from '../../support/daemons.js';
import { FuseClient, ROOT, rejectsWith } from '../../support/fuse-client.js';
import { fuseTransport, stopQueue } from '../../support/vhost-user.js';
import { FrontEnd, type FrontEndOptions } from '../../support/front-end.js';

const Errno = { ENOENT: 2, EEXIST: 17, ENOSYS: 38, ENOTEMPTY: 39 };

interface Mounted extends RunningDaemon {
  readonly frontEnd: FrontEnd;
  readonly fuse: FuseClient;
}

/** A daemon whose directory is mounted. */
async function mount(t: TestContext, daemon: Daemon, options: FrontEndOptions = {}): Promise<Mounted> {
  const running = startDaemon(t, daemon);
  if (daemon.threadForSecond === true) await connect(t, running, {});
  return { ...running, ...(await connect(t, running, { requestQueues: daemon.requestQueues, ...options })) };
}

async function connect(t: TestContext, daemon: RunningDaemon, options: FrontEndOptions) {
  const frontEnd = await FrontEnd.connect(await connectTo(daemon), options);
  t.after(() => frontEnd.close());
  const fuse = new FuseClient(fuseTransport(frontEnd));
  const { major } = await fuse.init();
  assert.equal(major, 7);
  return { frontEnd, fuse };
}

// Our daemon and the one in C pass the same tests. So these test the protocol, and not our reading
// of it.
for (const daemon of [ours, oursThreaded, cVirtiofsd]) {
  describe(`${daemon.name} over vhost-user`, { skip: daemon.missing ?? false }, () => {
    test('serves a file from its creation to its end', async (t) => {
      const { fuse, directory } = await mount(t, daemon);
      const { entry, open } = await fuse.create(ROOT, 'file', 0o640);
      assert.equal(entry.attr.mode, 0o100640);
      assert.equal(await fuse.write(entry.nodeid, open.fh, 2, Buffer.from('hello')), 5);
      assert.equal(Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 100)).toString(), '\0\0hello');
      assert.equal(readFileSync(join(directory, 'file')).toString(), '\0\0hello');
      assert.equal((await fuse.getattr(entry.nodeid)).size, 7);
      await fuse.fsync(entry.nodeid, open.fh);
      await fuse.flush(entry.nodeid, open.fh);
      await fuse.release(entry.nodeid, open.fh);
      await fuse.rename(ROOT, 'file', ROOT, 'renamed');
      const again = await fuse.lookup(ROOT, 'renamed');
      assert.equal(again.nodeid, entry.nodeid);
      await fuse.unlink(ROOT, 'renamed');
      await fuse.forget(entry.nodeid, 2n);
      await rejectsWith(fuse.lookup(ROOT, 'renamed'), Errno.ENOENT);
    });

    test('answers mistakes with the errors of POSIX', async (t) => {
      const { fuse, directory } = await mount(t, daemon);
      mkdirSync(join(directory, 'full/inner'), { recursive: true });
      await fuse.lookup(ROOT, 'full');
      await rejectsWith(fuse.mkdir(ROOT, 'full'), Errno.EEXIST);
      await rejectsWith(fuse.rmdir(ROOT, 'full'), Errno.ENOTEMPTY);
      await rejectsWith(fuse.lookup(ROOT, 'none'), Errno.ENOENT);
      await rejectsWith(fuse.call(200, ROOT, new Uint8Array(0), 0), Errno.ENOSYS);
    });

    for (const options of [
      {},
      { indirect: 5 },
      { eventIdx: false },
      { memorySlots: true, indirect: 8, queueSize: 64 },
    ]) {
      test(`moves data of every size with ${JSON.stringify(options)}`, async (t) => {
        const { fuse, directory } = await mount(t, daemon, options);
        const { entry, open } = await fuse.create(ROOT, 'data');
        const data = randomBytes(1_000_003);
        for (let at = 0, size = 1; at < data.length; at += size, size = Math.min(size * 3, 262_144)) {
          const part = data.subarray(at, at + size);
          assert.equal(await fuse.write(entry.nodeid, open.fh, at, part), part.length);
        }
        assert.ok(readFileSync(join(directory, 'data')).equals(data));
        for (const size of [1, 4095, 4096, 65537, 1_000_003]) {
          const read = await fuse.read(entry.nodeid, open.fh, 3, size);
          assert.ok(data.subarray(3, 3 + size).equals(read));
        }
      });
    }

    test('answers hundreds of requests at a time, on every queue', async (t) => {
      const { fuse, directory } = await mount(t, daemon, { queueSize: 64 });
      for (let i = 0; i < 50; i++) writeFileSync(join(directory, `f${i}`), `content ${i}`);
      const one = async (i: number) => {
        fuse.caller = { ...fuse.caller, queue: 1 + (i % daemon.requestQueues) };
        const { nodeid, attr } = await fuse.lookup(ROOT, `f${i % 50}`);
        assert.equal(attr.size, `content ${i % 50}`.length);
        const { fh } = await fuse.open(nodeid);
        assert.equal(Buffer.from(await fuse.read(nodeid, fh, 0, 100)).toString(), `content ${i % 50}`);
        await fuse.release(nodeid, fh);
        return nodeid;
      };
      const nodes = await Promise.all(Array.from({ length: 400 }, (_, i) => one(i)));
      assert.equal(new Set(nodes).size, 50);
      await fuse.batchForget(nodes.map((nodeid) => [nodeid, 1n]));
    });

    test('lists a directory whole, plain and with attributes', async (t) => {
      const { fuse, directory } = await mount(t, daemon);
      const names = Array.from({ length: 500 }, (_, i) => `name-${i}`).sort();
      for (const name of names) writeFileSync(join(directory, name), name);
      assert.deepEqual((await fuse.list(ROOT)).sort(), names);
      const { fh } = await fuse.opendir(ROOT);
      const seen: string[] = [];
      for (let offset = 0n; ;) {
        const entries = await fuse.readdirplus(ROOT, fh, offset);
        if (entries.length === 0) break;
        offset = entries.at(-1)!.off;
        for (const { name, entry } of entries) {
          if (name === '.' || name === '..') continue;
          seen.push(name);
          assert.equal(entry!.attr.size, name.length);
          assert.equal(entry!.attr.ino, BigInt(statSync(join(directory, name)).ino));
        }
      }
      await fuse.releasedir(ROOT, fh);
      assert.deepEqual(seen.sort(), names);
    });

    test('keeps its session while queues stop and go on, as for a paused guest', async (t) => {
      const { fuse, frontEnd } = await mount(t, daemon);
      const { entry, open } = await fuse.create(ROOT, 'file');
      const bases: number[] = [];
      for (const { index } of frontEnd.queues) bases.push(await stopQueue(frontEnd, index));
      assert.equal(bases[0], 0);
      assert.equal(bases[1], 2);
      const waiting = fuse.write(entry.nodeid, open.fh, 0, Buffer.from('after'));
      for (const { index } of frontEnd.queues) await frontEnd.startQueue(index, bases[index]!);
      assert.equal(await waiting, 5);
      assert.equal(Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 5)).toString(), 'after');
    });

    test('takes requests on without a reply to forgets', async (t) => {
      const { fuse, directory } = await mount(t, daemon);
      writeFileSync(join(directory, 'file'), '');
      for (let i = 0; i < 300; i++) {
        const { nodeid } = await fuse.lookup(ROOT, 'file');
        await fuse.forget(nodeid);
      }
    });

    test('ends the connection when it dies, and what is asked then is rejected', async (t) => {
      const { fuse, frontEnd, stop } = await mount(t, daemon);
      assert.equal(await stop('SIGKILL'), 'SIGKILL');
      // The C daemon serves in a child process, which ends a moment after the one that was killed.
      assert.ok((await frontEnd.ended) instanceof FrontEndError);
      await assert.rejects(fuse.getattr(ROOT), FrontEndError);
    });

    if (daemon.listensAgain) {
      test('listens again when its front-end has gone, and ends by SIGTERM with exit code 0', async (t) => {
        const mounted = await mount(t, daemon);
        const { entry } = await mounted.fuse.create(ROOT, 'file');
        mounted.frontEnd.close();
        const second = await connect(t, mounted, {});
        assert.equal((await second.fuse.lookup(ROOT, 'file')).attr.ino, entry.attr.ino);
        const third = await connect(t, mounted, {});
        await third.fuse.unlink(ROOT, 'file');
        await rejectsWith(second.fuse.lookup(ROOT, 'file'), Errno.ENOENT);
        assert.equal(await mounted.stop(), 0);
      });
    }
  });
}
