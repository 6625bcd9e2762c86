import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { test } from 'node:test';
import { Errno, FsError, LockHold, wrap, type Backend } from '../../../../core/backend/index.js';
import { engine, type Engine } from '../../../support/engine.js';
import { rejectsWith, ROOT, type FileLock, type FuseClient } from '../../../support/fuse-client.js';
import { TinyBackend, type TinyNode } from '../../../support/tiny-backend.js';

const ALL = { start: 0n, end: 0x7fff_ffff_ffff_ffffn, pid: 1 };
const READ: FileLock = { ...ALL, type: 0 };
const WRITE: FileLock = { ...ALL, type: 1 };
const UNLOCK: FileLock = { ...ALL, type: 2 };
const FLOCK = 1;

/** What engines on several hosts hold of one file. */
class Outside {
  readonly holds = new Map<object, LockHold>();
  /** What was asked for, in order. */
  readonly asked: LockHold[] = [];
  /** Thrown where something is given up. */
  failure: FsError | undefined;

  /** A file system of one of the hosts, with a file `f`. */
  host(isPrompt = false): Backend<TinyNode> {
    const me = {};
    const lock = (_node: TinyNode, hold: LockHold): void => {
      this.asked.push(hold);
      const before = this.holds.get(me) ?? LockHold.NONE;
      if (hold < before && this.failure !== undefined) {
        this.holds.delete(me);
        throw this.failure;
      }
      for (const [other, held] of this.holds) {
        if (other === me || held === LockHold.NONE) continue;
        if (hold + held > LockHold.EXCLUSIVE && hold > before) throw FsError.of('EAGAIN');
      }
      this.holds.set(me, hold);
    };
    const later = async (node: TinyNode, hold: LockHold): Promise<void> => {
      await turn();
      lock(node, hold);
    };
    return wrap<TinyNode, unknown>(
      new TinyBackend() as Backend<TinyNode>,
      {},
      { add: { lock: isPrompt ? lock : later } },
    );
  }
}

interface Host {
  readonly running: Engine;
  readonly client: FuseClient;
  readonly node: bigint;
  readonly fh: bigint;
  close(): Promise<void>;
}

async function host(backend: Backend<TinyNode>): Promise<Host> {
  const running = await engine(backend);
  const { client, session } = running.guest();
  await client.init();
  const { entry, open } = await client.create(ROOT, 'f');
  const close = async (): Promise<void> => {
    await session.close();
    await running.export.close();
    assert.deepEqual(running.log.errors, []);
  };
  return { running, client, node: entry.nodeid, fh: open.fh, close };
}

for (const isPrompt of [false, true]) {
  const how = isPrompt ? 'at once' : 'later';
  test(`a backend that answers ${how} keeps locks of other hosts from a guest`, async () => {
    const outside = new Outside();
    const [a, b] = [await host(outside.host(isPrompt)), await host(outside.host(isPrompt))];
    await a.client.setlk(a.node, a.fh, 1n, WRITE);
    await rejectsWith(b.client.setlk(b.node, b.fh, 1n, READ), Errno.EAGAIN);
    assert.equal((await b.client.getlk(b.node, b.fh, 1n, READ)).type, WRITE.type);
    // In the same guest the table alone decides.
    await rejectsWith(a.client.setlk(a.node, a.fh, 2n, READ), Errno.EAGAIN);
    await a.client.setlk(a.node, a.fh, 1n, READ);
    await b.client.setlk(b.node, b.fh, 1n, READ);
    await a.client.setlk(a.node, a.fh, 1n, UNLOCK);
    await b.client.setlk(b.node, b.fh, 1n, WRITE);
    await a.close();
    await b.client.flush(b.node, b.fh, 1n);
    assert.deepEqual([...outside.holds.values()], [LockHold.NONE, LockHold.NONE]);
    await b.close();
  });

  test(`a lock of another host is waited for, and the wait can be ended; answers come ${how}`, async () => {
    const outside = new Outside();
    const [a, b] = [await host(outside.host(isPrompt)), await host(outside.host(isPrompt))];
    await a.client.setlk(a.node, a.fh, 1n, WRITE, false, FLOCK);
    const got = b.client.setlk(b.node, b.fh, 1n, WRITE, true, FLOCK);
    const interrupted = b.client.setlk(b.node, b.fh, 2n, WRITE, true, FLOCK);
    const ended = rejectsWith(interrupted, Errno.EINTR);
    await b.client.interrupt(b.client.unique);
    await ended;
    assert.equal(b.running.export.locks.counts.waiters, 1);
    await a.client.setlk(a.node, a.fh, 1n, UNLOCK, false, FLOCK);
    await got;
    assert.deepEqual(b.running.export.locks.counts, { locks: 1, waiters: 0 });
    // A session that ends takes its waiting requests with it.
    const waiting = rejectsWith(a.client.setlk(a.node, a.fh, 1n, READ, true), Errno.EINTR);
    await a.close();
    await waiting;
    await b.close();
    assert.deepEqual([...outside.holds.values()], [LockHold.NONE, LockHold.NONE]);
  });
}

test('requests that wait for other hosts are as few as those that wait for guests', async () => {
  const outside = new Outside();
  const a = await host(outside.host());
  const running = await engine(outside.host(), { limits: { locks: { sessionWaiters: 2 } } });
  const { client, session } = running.guest();
  await client.init();
  const { entry, open } = await client.create(ROOT, 'f');
  await a.client.setlk(a.node, a.fh, 1n, WRITE);
  const waiting = [1n, 2n].map((owner) =>
    rejectsWith(client.setlk(entry.nodeid, open.fh, owner, WRITE, true), Errno.EINTR),
  );
  await rejectsWith(client.setlk(entry.nodeid, open.fh, 3n, WRITE, true), Errno.ENOLCK);
  await session.close();
  await Promise.all(waiting);
  await running.export.close();
  await a.close();
});

test('a guest that gives up what was lost hears of it, and has given it up', async () => {
  const outside = new Outside();
  const a = await host(outside.host());
  await a.client.setlk(a.node, a.fh, 1n, WRITE);
  outside.failure = FsError.of('EIO');
  await rejectsWith(a.client.setlk(a.node, a.fh, 1n, UNLOCK), Errno.EIO);
  await a.client.setlk(a.node, a.fh, 1n, WRITE);
  await rejectsWith(a.client.flush(a.node, a.fh, 1n), Errno.EIO);
  assert.deepEqual(a.running.export.locks.counts, { locks: 0, waiters: 0 });
  await a.close();
});

test('locks that a backend can not keep from others are lost in a restart', async () => {
  const outside = new Outside();
  const backend = outside.host();
  const a = await host(backend);
  await a.client.setlk(a.node, a.fh, 1n, WRITE);
  const { hostLocks, locks } = a.running.export;
  const [file] = locks.files();
  assert.deepEqual(await hostLocks!.retake(new Map([[file!.node, LockHold.EXCLUSIVE]])), new Set());
  outside.holds.clear();
  const b = await host(outside.host());
  await b.client.setlk(b.node, b.fh, 1n, READ);
  assert.deepEqual(
    await hostLocks!.retake(new Map([[file!.node, LockHold.EXCLUSIVE]])),
    new Set([file!.node]),
  );
  await a.close();
  await b.close();
});
