import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Context, Entry } from '../../../core/backend/index.js';
import { FsError } from '../../../core/backend/index.js';
import { engine } from '../../support/engine.js';
import { RequestBytes, Op, ROOT, InitFlag, usualInitFlags, rejectsWith } from '../../support/fuse-client.js';
import { QueueFailed } from '../../support/loopback.js';
import { TinyBackend, type TinyNode } from '../../support/tiny-backend.js';

const WRITE_LOCK = { start: 0n, end: 99n, type: 1, pid: 4242 };

/** Lets everything that is ready run. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A backend whose lookups of `slow` end only when they are aborted, or told to. */
class Slow extends TinyBackend {
  readonly waiting: { finish: (entry: Entry<TinyNode> | undefined) => void; signal: AbortSignal }[] = [];
  /** Ignores aborts. */
  stubborn = false;

  override lookup(parent: TinyNode, name: string, context?: Context): Entry<TinyNode> | undefined {
    if (name !== 'slow') return super.lookup(parent, name);
    const { signal } = context!;
    const result = new Promise<Entry<TinyNode> | undefined>((finish, fail) => {
      this.waiting.push({ finish, signal });
      const abort = (): void => {
        if (!this.stubborn) fail(FsError.of('EINTR'));
      };
      if (signal.aborted) abort();
      else signal.addEventListener('abort', abort);
    });
    return result as unknown as Entry<TinyNode>;
  }
}

describe('a lock that has to be waited for', () => {
  it('holds up no other request, and is granted when the other guest lets go', async () => {
    const { guest } = await engine(new TinyBackend());
    const one = guest();
    const other = guest();
    await one.client.init();
    await other.client.init();
    const mine = await one.client.create(ROOT, 'file');
    const theirs = await other.client.lookup(ROOT, 'file');
    const { fh } = await other.client.open(theirs.nodeid, 2);
    await one.client.setlk(mine.entry.nodeid, mine.open.fh, 1n, WRITE_LOCK);
    await rejectsWith(other.client.setlk(theirs.nodeid, fh, 1n, WRITE_LOCK), 11);
    let granted = false;
    const waiting = other.client.setlk(theirs.nodeid, fh, 1n, WRITE_LOCK, true).then(() => (granted = true));
    await other.client.getattr(theirs.nodeid);
    await turn();
    assert.equal(granted, false);
    assert.equal(other.session.inFlight, 1);
    const conflict = await other.client.getlk(theirs.nodeid, fh, 1n, WRITE_LOCK);
    assert.deepEqual(conflict, { start: 0n, end: 99n, type: 1, pid: 0 });
    await one.client.flush(mine.entry.nodeid, mine.open.fh, 1n);
    await waiting;
    assert.equal(other.session.inFlight, 0);
    await rejectsWith(one.client.setlk(mine.entry.nodeid, mine.open.fh, 1n, WRITE_LOCK), 11);
  });

  it('is given up with EINTR on INTERRUPT, even on one that came first', async () => {
    const { guest } = await engine(new TinyBackend());
    const { client, session } = guest();
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    await client.setlk(entry.nodeid, open.fh, 1n, WRITE_LOCK);
    const waiting = client.setlk(entry.nodeid, open.fh, 2n, WRITE_LOCK, true);
    await client.interrupt(client.unique);
    await rejectsWith(waiting, 4);
    await client.interrupt(client.unique + 4n);
    await rejectsWith(client.setlk(entry.nodeid, open.fh, 2n, WRITE_LOCK, true), 4);
    assert.equal(session.inFlight, 0);
  });

  it('is refused beyond the number that may wait', async () => {
    const { guest } = await engine(new TinyBackend());
    const { client } = guest({ maxWaiters: 2 });
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    await client.setlk(entry.nodeid, open.fh, 1n, WRITE_LOCK);
    const waiting = [2n, 3n].map((owner) => client.setlk(entry.nodeid, open.fh, owner, WRITE_LOCK, true));
    await rejectsWith(client.setlk(entry.nodeid, open.fh, 4n, WRITE_LOCK, true), 37);
    await client.flush(entry.nodeid, open.fh, 1n);
    await waiting[0];
    await client.flush(entry.nodeid, open.fh, 2n);
    await waiting[1];
  });

  it('is refused beyond the export’s limit for a guest, unless its transport has no ring to fill', async () => {
    const running = await engine(new TinyBackend(), {
      limits: { locks: { sessionWaiters: 1, totalWaiters: 3 } },
    });
    const guest = running.guest().client;
    await guest.init();
    const { entry, open } = await guest.create(ROOT, 'file');
    await guest.setlk(entry.nodeid, open.fh, 1n, WRITE_LOCK);
    const first = guest.setlk(entry.nodeid, open.fh, 2n, WRITE_LOCK, true);
    await rejectsWith(guest.setlk(entry.nodeid, open.fh, 3n, WRITE_LOCK, true), 37);
    // A host mount sets no limit of its own: the table's total is its limit.
    const mount = running.guest({ maxWaiters: Number.POSITIVE_INFINITY }).client;
    await mount.init();
    const { nodeid } = await mount.lookup(ROOT, 'file');
    const { fh } = await mount.open(nodeid, 2);
    const others = [4n, 5n].map((owner) => mount.setlk(nodeid, fh, owner, WRITE_LOCK, true));
    await rejectsWith(mount.setlk(nodeid, fh, 6n, WRITE_LOCK, true), 37);
    await guest.flush(entry.nodeid, open.fh, 1n);
    await first;
    await guest.flush(entry.nodeid, open.fh, 2n);
    await others[0];
    await mount.flush(nodeid, fh, 4n);
    await others[1];
  });

  it('is its guest’s own by option, who then need not tell of closed descriptors', async () => {
    const { guest } = await engine(new TinyBackend(), { localLocks: true });
    const { client } = guest();
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    await rejectsWith(client.flush(entry.nodeid, open.fh, 1n), 38);
    // A backend that has a use for them is told.
    const flushed: string[] = [];
    class Told extends TinyBackend {
      flush(): void {
        flushed.push('file');
      }
    }
    const told = (await engine(new Told(), { localLocks: true })).guest().client;
    await told.init();
    const other = await told.create(ROOT, 'file');
    await told.flush(other.entry.nodeid, other.open.fh, 1n);
    assert.deepEqual(flushed, ['file']);
  });

  it('is released, flock and all, when its handle is', async () => {
    const { guest, export: shared } = await engine(new TinyBackend());
    const { client } = guest();
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    const second = await client.open(entry.nodeid, 2);
    await client.setlk(entry.nodeid, open.fh, 5n, WRITE_LOCK, false, 1);
    await rejectsWith(client.setlk(entry.nodeid, second.fh, 6n, WRITE_LOCK, false, 1), 11);
    const waiting = client.setlk(entry.nodeid, second.fh, 6n, WRITE_LOCK, true, 1);
    await client.release(entry.nodeid, open.fh, 0, 2, 5n);
    await waiting;
    await client.release(entry.nodeid, second.fh, 0, 2, 6n);
    assert.deepEqual(shared.locks.counts, { locks: 0, waiters: 0 });
  });

  it('keeps its node known to the backend after the guest forgot it', async () => {
    const tiny = new TinyBackend();
    const { guest } = await engine(tiny);
    const { client } = guest();
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    await client.setlk(entry.nodeid, open.fh, 1n, WRITE_LOCK);
    await client.forget(entry.nodeid);
    assert.equal(tiny.known.size, 1);
    await client.release(entry.nodeid, open.fh);
    assert.equal(tiny.known.size, 0);
  });
});

describe('a request that takes time', () => {
  it('holds up no other, and is aborted by INTERRUPT', async () => {
    const slow = new Slow();
    const { guest } = await engine(slow);
    const { client, session } = guest();
    await client.init();
    const waiting = client.lookup(ROOT, 'slow');
    const { unique } = client;
    await client.getattr(ROOT);
    assert.equal(session.inFlight, 1);
    await client.interrupt(unique);
    await rejectsWith(waiting, 4);
    assert.equal(session.inFlight, 0);
    await client.interrupt(client.unique + 4n);
    await rejectsWith(client.lookup(ROOT, 'slow'), 4);
  });

  it('is finished by a drain, where it finishes', async () => {
    const slow = new Slow();
    const { guest } = await engine(slow);
    const { client, session } = guest();
    await client.init();
    const waiting = client.lookup(ROOT, 'slow');
    const drained = session.drain();
    await turn();
    slow.waiting[0]!.finish(undefined);
    await rejectsWith(waiting, 2);
    await drained;
  });

  it('is aborted by a drain after its time, and answered with EIO where even that does not end it', async () => {
    const slow = new Slow();
    const { guest, log } = await engine(slow);
    const { client, session } = guest({ drainTimeoutMs: 20 });
    await client.init();
    const aborted = client.lookup(ROOT, 'slow');
    await session.drain();
    await rejectsWith(aborted, 4);
    slow.stubborn = true;
    const stuck = client.lookup(ROOT, 'slow');
    await session.drain();
    await rejectsWith(stuck, 5);
    assert.equal(log.lines.at(-1)!.level, 'warn');
    const node = slow.mkdir(slow.root, 'late', 0o755);
    slow.waiting.at(-1)!.finish(node);
    await turn();
    assert.equal(slow.known.size, 0);
    assert.equal(session.inFlight, 0);
  });

  it('that never ends does not count as one that waits for a lock, which a successor takes up', async () => {
    const slow = new Slow();
    slow.stubborn = true;
    const { guest } = await engine(slow);
    const { client, session } = guest({ drainTimeoutMs: 20 });
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    await client.setlk(entry.nodeid, open.fh, 1n, WRITE_LOCK);
    const locking = client.setlk(entry.nodeid, open.fh, 2n, WRITE_LOCK, true);
    const stuck = client.lookup(ROOT, 'slow');
    assert.equal(session.inFlight, 2);
    assert.equal(await session.quiesce(), 1);
    await Promise.all([session.drain(), rejectsWith(locking, 4), rejectsWith(stuck, 5)]);
    slow.waiting[0]!.finish(undefined);
  });

  it('of a guest that started anew is put away when it ends', async () => {
    const slow = new Slow();
    slow.stubborn = true;
    const { guest, export: shared } = await engine(slow);
    const { client } = guest();
    await client.init();
    const waiting = client.lookup(ROOT, 'slow');
    await client.init();
    assert.equal(slow.waiting[0]!.signal.aborted, true);
    slow.waiting[0]!.finish(slow.mkdir(slow.root, 'late', 0o755));
    await rejectsWith(waiting, 5);
    assert.equal(slow.known.size, 0);
    assert.equal(shared.nodes.size, 1);
  });
});

describe('a mistake in a backend', () => {
  it('gives the guest EIO and the operator a log line, and the session lives', async () => {
    class Broken extends TinyBackend {
      override getattr(node: TinyNode): ReturnType<TinyBackend['getattr']> {
        if (this.broken === 'throw') throw new Error('a bug');
        if (this.broken === 'mode') return { mode: 0o644 };
        if (this.broken === 'size') return { mode: 0o100644, size: Number.NaN };
        return super.getattr(node);
      }

      broken: 'throw' | 'mode' | 'size' | '' = '';
    }
    const broken = new Broken();
    const { guest, log } = await engine(broken);
    const { client, session } = guest();
    await client.init();
    for (const kind of ['throw', 'mode', 'size'] as const) {
      broken.broken = kind;
      await rejectsWith(client.getattr(ROOT), 5);
    }
    assert.deepEqual(log.errors, ['GETATTR failed', 'GETATTR failed', 'GETATTR failed']);
    assert.equal(session.counters.faults, 3);
    assert.equal(session.counters.failures[Op.GETATTR], 3);
    broken.broken = '';
    await client.getattr(ROOT);
    assert.equal(session.counters.requests[Op.GETATTR], 4);
  });

  it('does not fill the log', async () => {
    class Broken extends TinyBackend {
      override statfs(): never {
        throw new Error('a bug');
      }
    }
    const { guest, log } = await engine(new Broken());
    const { client } = guest();
    await client.init();
    for (let i = 0; i < 200; i++) await rejectsWith(client.statfs(), 5);
    assert.ok(log.errors.length <= 22, `${log.errors.length} lines`);
  });
});

describe('a request that is out of shape', () => {
  it('is answered with an error where there is room for one, and fails its queue where not', async () => {
    const { guest } = await engine(new TinyBackend());
    const { client, loopback, session } = guest();
    await client.init();
    await rejectsWith(client.call(999, ROOT, new Uint8Array(0), 0), 38);
    await rejectsWith(client.call(Op.GETATTR, ROOT, new Uint8Array(8), 104), 22);
    await rejectsWith(client.call(Op.GETATTR, ROOT, new Uint8Array(16), 100), 5);
    const longer = client.encode(Op.GETATTR, ROOT, new Uint8Array(16));
    longer[0] = 57;
    assert.deepEqual(
      [...(await loopback.request(1, longer, 120)).subarray(0, 8)],
      [16, 0, 0, 0, 251, 255, 255, 255],
    );
    await assert.rejects(loopback.request(1, new Uint8Array(39), 120), QueueFailed);
    await assert.rejects(
      loopback.request(1, client.encode(Op.GETATTR, ROOT, new Uint8Array(16)), 15),
      QueueFailed,
    );
    assert.equal(session.counters.unanswerable, 2);
    assert.equal((await loopback.request(0, client.encode(Op.FORGET, ROOT, new Uint8Array(3)), 0)).length, 0);
    await client.getattr(ROOT);
  });
});

describe('a creation', () => {
  it('tells the backend of groups, umask and security context as negotiated', async () => {
    class Recording extends TinyBackend {
      readonly semantics = { posixAcl: true, securityContext: true };
      readonly seen: Context[] = [];

      override mkdir(parent: TinyNode, name: string, mode: number, context?: Context): Entry<TinyNode> {
        const { uid, gid, umask, groups, securityContext } = context!;
        this.seen.push({ ...context!, uid, gid, umask, groups, securityContext });
        return super.mkdir(parent, name, mode);
      }
    }
    const backend = new Recording();
    const { guest } = await engine(backend);
    const { client, loopback } = guest();
    await client.init(
      usualInitFlags | InitFlag.DONT_MASK | InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP,
    );
    client.caller = { uid: 1000, gid: 100, pid: 7, queue: 1 };
    const label = Buffer.from('label');
    const name = Buffer.from('security.selinux\0');
    const record = new RequestBytes()
      .u32(label.length)
      .u32(0)
      .raw(name)
      .raw(label)
      .raw(new Uint8Array(2))
      .bytes();
    const contexts = new RequestBytes()
      .u32(8 + record.length)
      .u32(1)
      .raw(record)
      .bytes();
    const groups = new RequestBytes().u32(16).u32(32).u32(1).u32(27).bytes();
    const args = new RequestBytes().u32(0o700).u32(0o022).name('dir').raw(contexts).raw(groups).bytes();
    const request = client.encode(Op.MKDIR, ROOT, args);
    new DataView(request.buffer).setUint16(36, (contexts.length + groups.length) / 8, true);
    assert.equal((await loopback.request(1, request, 144)).length, 144);
    const [context] = backend.seen;
    assert.equal(context!.uid, 1000);
    assert.equal(context!.gid, 100);
    assert.equal(context!.umask, 0o022);
    assert.deepEqual(context!.groups, [27]);
    assert.equal(context!.securityContext!.name, 'security.selinux');
    assert.equal(Buffer.from(context!.securityContext!.value).toString(), 'label');
    // Before 7.38 a security context was not counted in the header.
    const old = new RequestBytes().u32(0o700).u32(0).name('old').raw(contexts).bytes();
    await client.call(Op.MKDIR, ROOT, old, 128);
    assert.equal(backend.seen[1]!.securityContext!.name, 'security.selinux');
    const cut = new RequestBytes().u32(0o700).u32(0).name('bad').raw(contexts.subarray(0, 20)).bytes();
    await rejectsWith(client.call(Op.MKDIR, ROOT, cut, 128), 22);
  });
});
