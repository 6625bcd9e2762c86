import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { FileType, type Backend, type Entry } from '../../../../core/backend/index.js';
import { engine, type Engine, type Guest } from '../../../support/engine.js';
import { RequestBytes, Op, ROOT, rejectsWith } from '../../../support/fuse-client.js';
import { TinyBackend, type TinyNode, asynchronous } from '../../../support/tiny-backend.js';

async function mounted(tiny: TinyBackend, backend: Backend = tiny): Promise<Guest & { engine: Engine }> {
  const running = await engine(backend);
  const guest = running.guest();
  await guest.client.init();
  return { ...guest, engine: running };
}

/** A file system with one directory, whose nodes have no durable identity. */
function withoutKeys(): Backend {
  const tiny = new TinyBackend();
  tiny.mkdir(tiny.root, 'dir', 0o755);
  return new Proxy<Backend>(tiny, {
    get(target, name) {
      if (name === 'key') return undefined;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

describe('lookup counts', () => {
  it('keep a node until the guest has forgotten every one of its lookups', async () => {
    const tiny = new TinyBackend();
    const { client } = await mounted(tiny);
    const { nodeid } = await client.mkdir(ROOT, 'dir');
    for (let i = 0; i < 9; i++) assert.equal((await client.lookup(ROOT, 'dir')).nodeid, nodeid);
    await client.forget(nodeid, 4n);
    await client.forget(nodeid, 5n);
    assert.equal(tiny.known.size, 1);
    await client.getattr(nodeid);
    await client.forget(nodeid);
    assert.equal(tiny.known.size, 0);
    await rejectsWith(client.getattr(nodeid), 116);
  });

  it('never go below zero, and the root is never forgotten', async () => {
    const tiny = new TinyBackend();
    const { client } = await mounted(tiny);
    const { nodeid } = await client.mkdir(ROOT, 'dir');
    await client.forget(nodeid, 1000n);
    await client.forget(nodeid, 1n);
    await client.forget(ROOT, 1n << 63n);
    await client.batchForget([
      [ROOT, 5n],
      [nodeid, 5n],
      [12345n, 1n],
    ]);
    assert.equal(tiny.forgotten.length, 1);
    assert.equal((await client.lookup(ROOT, 'dir')).nodeid, nodeid);
    await client.getattr(ROOT);
  });

  it('are lowered by a BATCH_FORGET of any length, and by no more entries than it has', async () => {
    const tiny = new TinyBackend();
    const { client } = await mounted(tiny);
    const { nodeid } = await client.mkdir(ROOT, 'dir');
    const others = Array.from({ length: 20_000 }, (_, i): [bigint, bigint] => [BigInt(i + 2), 1n]);
    await client.batchForget([...others, [nodeid, 1n]]);
    assert.equal(tiny.known.size, 0);
    await client.lookup(ROOT, 'dir');
    await client.send(Op.BATCH_FORGET, 0n, new RequestBytes().u32(1000).u32(0).u64(nodeid).u64(1).bytes());
    assert.equal(tiny.known.size, 0);
  });

  it('are each guest’s own', async () => {
    const tiny = new TinyBackend();
    const { guest } = await engine(tiny);
    const one = guest().client;
    const other = guest().client;
    await one.init();
    await other.init();
    const { nodeid } = await one.mkdir(ROOT, 'dir');
    await rejectsWith(other.getattr(nodeid), 116);
    assert.equal((await other.lookup(ROOT, 'dir')).nodeid, nodeid);
    await one.forget(nodeid);
    await rejectsWith(one.getattr(nodeid), 116);
    await other.getattr(nodeid);
    await other.destroy();
    assert.equal(tiny.known.size, 0);
  });

  it('are not taken for entries that have no room in a READDIRPLUS', async () => {
    const tiny = new TinyBackend();
    const { client } = await mounted(tiny);
    for (let i = 0; i < 10; i++) await client.forget((await client.mkdir(ROOT, `d${i}`)).nodeid);
    const { fh } = await client.opendir(ROOT);
    const entries = await client.readdirplus(ROOT, fh, 2n, 500);
    assert.equal(entries.length, 3);
    assert.deepEqual([...tiny.known].length, 3);
    for (const { entry } of entries) await client.forget(entry!.nodeid);
    assert.equal(tiny.known.size, 0);
    await rejectsWith(client.readdirplus(ROOT, fh, 2n, 100), 22);
  });

  it('are not taken for a name that READDIRPLUS lists and lookup no longer finds', async () => {
    class Vanishing extends TinyBackend {
      override lookup(parent: TinyNode, name: string): Entry<TinyNode> | undefined {
        return name === 'b' ? undefined : super.lookup(parent, name);
      }
    }
    const tiny = new Vanishing();
    const { client } = await mounted(tiny);
    await client.forget((await client.mkdir(ROOT, 'a')).nodeid);
    await client.forget((await client.mkdir(ROOT, 'b')).nodeid);
    const { fh } = await client.opendir(ROOT);
    const entries = await client.readdirplus(ROOT, fh, 2n);
    assert.deepEqual(
      entries.map(({ name, entry }) => [name, entry!.nodeid === 0n]),
      [
        ['a', false],
        ['b', true],
      ],
    );
  });
});

describe('node ids', () => {
  it('come from the backend’s keys: the same after a restart, generation included', async () => {
    const tiny = new TinyBackend();
    const before = await (await mounted(tiny)).client.mkdir(ROOT, 'dir');
    const after = await (await mounted(tiny)).client.lookup(ROOT, 'dir');
    assert.equal(after.nodeid, before.nodeid);
    assert.equal(after.generation, before.generation);
    assert.equal(after.attr.ino, before.nodeid);
  });

  it('differ from one daemon to the next where the backend has no keys', async () => {
    const one = await mounted(new TinyBackend(), withoutKeys());
    const other = await mounted(new TinyBackend(), withoutKeys());
    const first = await one.client.lookup(ROOT, 'dir');
    const second = await other.client.lookup(ROOT, 'dir');
    assert.notDeepEqual([first.nodeid, first.generation], [second.nodeid, second.generation]);
    await one.client.forget(first.nodeid);
    await rejectsWith(one.client.getattr(first.nodeid), 116);
    assert.notEqual((await one.client.lookup(ROOT, 'dir')).nodeid, 1n);
  });

  it('beyond the limit are refused with ENFILE, and the backend’s node is let go', async () => {
    const tiny = new TinyBackend();
    const { guest } = await engine(tiny, { limits: { nodes: 4 } });
    const { client } = guest();
    await client.init();
    const nodes = [];
    for (const name of ['a', 'b', 'c']) nodes.push(await client.mkdir(ROOT, name));
    await rejectsWith(client.mkdir(ROOT, 'd'), 23);
    await rejectsWith(client.create(ROOT, 'e'), 23);
    assert.equal(tiny.known.size, 3);
    assert.equal(tiny.openFiles.size, 0);
    await client.forget(nodes[0]!.nodeid);
    await client.lookup(ROOT, 'd');
  });

  it('are not used up by a lookup of a node that was forgotten while the lookup was under way', async () => {
    const tiny = new TinyBackend();
    const { client, engine: running } = await mounted(tiny, asynchronous(tiny));
    const { nodeid } = await client.mkdir(ROOT, 'dir');
    const racing = client.lookup(ROOT, 'dir');
    await client.forget(nodeid);
    assert.equal(tiny.forgotten.length, 0);
    assert.equal((await racing).nodeid, nodeid);
    assert.equal(tiny.forgotten.length, 0);
    await client.forget(nodeid);
    assert.equal(tiny.forgotten.length, 1);
    assert.equal(running.export.nodes.size, 1);
  });
});

describe('handles', () => {
  it('are the node’s that they were opened on, and of their kind', async () => {
    const { client } = await mounted(new TinyBackend());
    const a = await client.create(ROOT, 'a');
    const b = await client.create(ROOT, 'b');
    const dir = await client.opendir(ROOT);
    await rejectsWith(client.read(a.entry.nodeid, b.open.fh, 0, 10), 9);
    await rejectsWith(client.read(ROOT, dir.fh, 0, 10), 9);
    await rejectsWith(client.readdir(a.entry.nodeid, a.open.fh), 9);
    await rejectsWith(client.release(ROOT, dir.fh), 9);
    await rejectsWith(client.read(a.entry.nodeid, 77n, 0, 10), 9);
  });

  it('are told from later ones in the same place', async () => {
    const { client } = await mounted(new TinyBackend());
    const { entry, open } = await client.create(ROOT, 'a');
    await client.release(entry.nodeid, open.fh);
    const again = await client.open(entry.nodeid);
    assert.equal(again.fh & 0xffffffffn, open.fh & 0xffffffffn);
    assert.notEqual(again.fh, open.fh);
    await rejectsWith(client.read(entry.nodeid, open.fh, 0, 10), 9);
    await rejectsWith(client.release(entry.nodeid, open.fh), 9);
    await client.read(entry.nodeid, again.fh, 0, 10);
  });

  it('beyond the limit are refused with ENFILE before the backend opens anything', async () => {
    const tiny = new TinyBackend();
    const { guest } = await engine(tiny, { limits: { handles: 2 } });
    const { client } = guest();
    await client.init();
    const { entry } = await client.create(ROOT, 'a');
    await client.open(entry.nodeid);
    await rejectsWith(client.open(entry.nodeid), 23);
    await rejectsWith(client.opendir(ROOT), 23);
    await rejectsWith(client.create(ROOT, 'b'), 23);
    assert.equal(tiny.openFiles.size, 2);
    assert.equal(tiny.root.children.has('b'), false);
  });

  it('are closed after the reads that are under way', async () => {
    const tiny = new TinyBackend();
    const { client, session } = await mounted(tiny, asynchronous(tiny));
    const { entry, open } = await client.create(ROOT, 'a');
    await client.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
    const reading = client.read(entry.nodeid, open.fh, 0, 10);
    const releasing = client.release(entry.nodeid, open.fh);
    assert.equal(Buffer.from(await reading).toString(), 'data');
    await releasing;
    while (session.handles.size > 0 || tiny.openFiles.size > 0)
      await new Promise((resolve) => setTimeout(resolve, 1));
  });
});

describe('DESTROY', () => {
  it('releases handles, lookups and locks, and the guest may mount again', async () => {
    const tiny = new TinyBackend();
    const { client, session, engine: running } = await mounted(tiny, asynchronous(tiny));
    const { entry, open } = await client.create(ROOT, 'a');
    await client.setlk(entry.nodeid, open.fh, 1n, { start: 0n, end: 1n, type: 1, pid: 1 });
    await client.destroy();
    assert.equal(tiny.openFiles.size, 0);
    assert.equal(tiny.known.size, 0);
    assert.equal(session.handles.size, 0);
    assert.deepEqual(running.export.locks.counts, { locks: 0, waiters: 0 });
    await rejectsWith(client.getattr(ROOT), 5);
    await client.init();
    assert.equal((await client.getattr(ROOT)).mode & FileType.MASK, FileType.DIRECTORY);
  });
});

describe('a negative entry', () => {
  it('is remembered by the guest where the policy says so', async () => {
    const { guest } = await engine(new TinyBackend(), { cache: { negativeTimeout: 2.5 } });
    const { client } = guest();
    await client.init();
    const entry = await client.lookup(ROOT, 'missing');
    assert.equal(entry.nodeid, 0n);
    assert.equal(entry.entryValid, 2.5);
  });
});

describe('names', () => {
  it('that Linux would not send are refused', async () => {
    const { client } = await mounted(new TinyBackend());
    const look = (bytes: Uint8Array): Promise<Uint8Array> => client.call(Op.LOOKUP, ROOT, bytes, 128);
    await rejectsWith(look(Buffer.from('a/b\0')), 22);
    await rejectsWith(look(Buffer.from('.\0')), 22);
    await rejectsWith(look(Buffer.from('..\0')), 22);
    await rejectsWith(look(Buffer.from('abc')), 22);
    await rejectsWith(look(Buffer.from('abc\0def\0')), 22);
    await rejectsWith(look(new Uint8Array(0)), 22);
    await rejectsWith(look(Buffer.from('\0')), 2);
    await rejectsWith(look(Buffer.from(`${'x'.repeat(256)}\0`)), 36);
    await rejectsWith(look(Buffer.from(`${'x'.repeat(255)}\0`)), 2);
  });

  it('that are no UTF-8 come back as they were', async () => {
    const { client } = await mounted(new TinyBackend());
    const bytes = Uint8Array.of(0x66, 0xff, 0xc3, 0xa9, 0x80);
    const made = await client.call(
      Op.MKDIR,
      ROOT,
      new RequestBytes().u32(0o755).u32(0).name(bytes).bytes(),
      128,
    );
    assert.equal(made.length, 128);
    assert.equal((await client.lookup(ROOT, bytes)).attr.mode, 0o40755);
    const { fh } = await client.opendir(ROOT);
    const args = new RequestBytes().u64(fh).u64(2).u32(4096).u32(0).u64(0).u32(0).u32(0);
    const listing = await client.call(Op.READDIR, ROOT, args.bytes(), 4096);
    assert.deepEqual(listing.subarray(24, 29), bytes);
  });
});

describe('the mode of a MKNOD', () => {
  it('stands for a regular file where it names no type, and no type but those of mknod(2) is made', async () => {
    const { client, engine: running } = await mounted(new TinyBackend());
    assert.equal((await client.mknod(ROOT, 'plain', 0o640)).attr.mode, FileType.REGULAR | 0o640);
    const types = [FileType.REGULAR, FileType.FIFO, FileType.SOCKET, FileType.CHARACTER, FileType.BLOCK];
    for (const type of types)
      assert.equal((await client.mknod(ROOT, `of ${type}`, type | 0o7600)).attr.mode, type | 0o7600);
    await rejectsWith(client.mknod(ROOT, 'refused', FileType.DIRECTORY | 0o755), 1);
    for (const type of [FileType.SYMLINK, 0o030000, 0o150000, FileType.MASK])
      await rejectsWith(client.mknod(ROOT, 'refused', type | 0o644), 22);
    await rejectsWith(client.lookup(ROOT, 'refused'), 2);
    assert.deepEqual(running.log.errors, []);
  });
});
