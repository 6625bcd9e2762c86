import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import memfs from '../../backends/memfs/index.js';
import { Session } from '../../core/fuse/index.js';
import { openExport } from '../../core/plugins/open-export.js';
import { BackendRegistry } from '../../core/plugins/registry.js';
import { engine, MemoryLog } from '../support/engine.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { Loopback } from '../support/loopback.js';

/* Requests that are larger than any that a guest's kernel sends hold all other guests. */

async function guest(size = '256M') {
  const backend = await memfs.create(memfs.options!.parse({ size }) as never, {} as never);
  const shared = await engine(backend);
  const { client, session } = shared.guest();
  const { maxWrite, maxPages } = await client.init();
  const { entry, open } = await client.create(ROOT, 'file', 0o644);
  const other = shared.guest().client;
  await other.init();
  return { client, session, other, shared: shared.export, maxWrite, maxPages, id: entry.nodeid, fh: open.fh };
}

test('a READ gives no more than as many pages as INIT offers, of the largest pages', async () => {
  const { client, maxPages, id, fh } = await guest();
  await client.setattr(id, { size: 40 * 2 ** 20 });
  assert.equal((await client.read(id, fh, 0, 40 * 2 ** 20)).length, maxPages * 65536);
});

test('a WRITE of more than INIT offers is refused', async () => {
  const { client, maxWrite, id, fh } = await guest();
  assert.equal(await client.write(id, fh, 0, new Uint8Array(maxWrite)), maxWrite);
  await assert.rejects(client.write(id, fh, 0, new Uint8Array(maxWrite + 1)), new FuseError(16, 22));
});

test('a listing of any length is given in parts', async () => {
  const { client } = await guest();
  const names = Array.from({ length: 5000 }, (_, i) => `${'n'.repeat(200)}${i}`);
  for (const name of names) await client.mknod(ROOT, name, 0o100644);
  const { fh } = await client.opendir(ROOT);
  const found: string[] = [];
  const parts: number[] = [];
  for (let offset = 0n; ;) {
    const entries = await client.readdirplus(ROOT, fh, offset, 16 * 2 ** 20);
    if (entries.length === 0) break;
    parts.push(entries.length);
    found.push(...entries.map(({ name }) => name));
    offset = entries.at(-1)!.off;
  }
  assert.deepEqual(new Set(found), new Set([...names, 'file', '.', '..']));
  assert.equal(found.length, 5003);
  // 352 bytes or more for each.
  assert.ok(Math.max(...parts) <= (64 * 1024) / 352, String(parts));
});

test('memfs copies 256 KiB of data at a time, and shares 64 MiB', async () => {
  const { client, id, fh } = await guest('1G');
  const data = new Uint8Array(2 ** 20).fill(7);
  for (let i = 0; i < 68; i++) await client.write(id, fh, i * data.length, data);
  const { entry, open } = await client.create(ROOT, 'copy', 0o644);
  const copy = (offset: number) =>
    client.copyFileRange([id, fh, offset], [entry.nodeid, open.fh, 0], 67 * data.length);
  assert.equal(await copy(0), 64 * 2 ** 20);
  // What does not begin where a chunk of 128 KiB does cannot be shared.
  assert.equal(Math.floor((await copy(1)) / 2 ** 17), 2);
});

test('an inserted range moves no more data than is moved in a moment', async () => {
  const { client, id, fh } = await guest();
  const data = new Uint8Array(2 ** 20).fill(7);
  for (let i = 0; i < 65; i++) await client.write(id, fh, i * data.length, data);
  const insert = (at: number) => client.fallocate(id, fh, 0x20, at, 4096);
  await assert.rejects(insert(0), new FuseError(43, 95));
  assert.equal((await client.getattr(id)).size, 65 * 2 ** 20);
  await insert(4 * 2 ** 20);
  assert.equal((await client.getattr(id)).size, 65 * 2 ** 20 + 4096);
  assert.deepEqual(await client.read(id, fh, 4 * 2 ** 20 + 4095, 2), Uint8Array.of(0, 7));
  const collapse = (at: number) => client.fallocate(id, fh, 0x8, at, 4096);
  await assert.rejects(collapse(0), new FuseError(43, 95));
  assert.deepEqual(await client.read(id, fh, 0, 2), Uint8Array.of(7, 7));
  await collapse(4 * 2 ** 20);
  assert.deepEqual(await client.read(id, fh, 4 * 2 ** 20 + 4095, 2), Uint8Array.of(7, 7));
});

/** Whether another guest is answered while a request is under way. */
async function isAnsweredDuring(other: FuseClient, request: Promise<unknown>): Promise<boolean> {
  let isOver = false;
  void request.finally(() => (isOver = true));
  await other.getattr(ROOT);
  const wasOver = isOver;
  await request;
  return !wasOver;
}

test('memfs allocates and frees much in turns, while other guests are answered', async () => {
  const { client, other, id, fh } = await guest('16G');
  const length = 10 * 2 ** 30;
  for (const mode of [0, 0x10, 3]) {
    assert.equal(
      await isAnsweredDuring(other, client.fallocate(id, fh, mode, 0, length)),
      true,
      String(mode),
    );
    const { size, blocks } = await client.getattr(id);
    assert.deepEqual([size, blocks * 512], [length, mode === 3 ? 0 : length]);
  }
  await assert.rejects(client.fallocate(id, fh, 0, 0, 2 ** 35), new FuseError(43, 28));
  assert.equal((await client.getattr(id)).blocks, 0);
  // Two at a time, and the space is right at the end.
  await Promise.all([
    client.fallocate(id, fh, 0, 0, length),
    client.fallocate(id, fh, 0, length, length / 2),
  ]);
  assert.equal((await client.getattr(id)).blocks * 512, 1.5 * length);
  assert.equal((await client.statfs()).bfree, (2 ** 34 - 1.5 * length) / 4096);
  await client.setattr(id, { size: 1 });
  assert.equal((await client.getattr(id)).blocks, 8);
  assert.equal((await client.statfs()).bfree, 2 ** 34 / 4096 - 1);
});

test('a listing that begins far behind is read in turns, while other guests are answered', async () => {
  const { client, other } = await guest();
  for (let i = 0; i < 5000; i++) await client.mknod(ROOT, `name-${i}`, 0o100644);
  const { fh } = await client.opendir(ROOT);
  const far = client.readdir(ROOT, fh, 5000n, 4096);
  assert.equal(await isAnsweredDuring(other, far), true);
  assert.equal((await far).at(-1)!.off, 5003n);
});

test('a BATCH_FORGET takes no more nodes than are forgotten in a moment', async () => {
  const { client } = await guest();
  const { nodeid: first } = await client.mknod(ROOT, 'first', 0o100644);
  const { nodeid: last } = await client.mknod(ROOT, 'last', 0o100644);
  const unknown = Array.from({ length: 131_071 }, () => [999n, 1n] as const);
  await client.batchForget([...unknown, [first, 1n], [last, 1n]]);
  await assert.rejects(client.getattr(first), FuseError);
  assert.equal((await client.getattr(last)).size, 0);
});

for (const [what, act] of [
  ['a BATCH_FORGET', ({ client }, ids) => client.batchForget(ids.map((id) => [id, 1n]))],
  ['a second INIT', ({ client }) => client.init()],
  ['the end of a session', ({ session }) => session.close()],
] satisfies [
  string,
  (all: Awaited<ReturnType<typeof guest>>, ids: readonly bigint[]) => Promise<unknown>,
][]) {
  test(`${what} releases thousands of nodes and directories in turns`, async () => {
    const guests = await guest();
    const { client, other } = guests;
    const ids: bigint[] = [];
    for (let i = 0; i < 5000; i++) {
      ids.push((await client.mknod(ROOT, `name-${i}`, 0o100644)).nodeid);
      await client.opendir(ROOT);
    }
    assert.equal(guests.shared.nodes.size, 5002);
    assert.equal(await isAnsweredDuring(other, act(guests, ids)), true);
    while (guests.shared.nodes.size > 2) await new Promise(setImmediate);
    assert.deepEqual(await other.list(ROOT), await other.list(ROOT));
  });
}

/** Locks every other byte of the file, by one owner or by as many. */
async function lockMuch(
  { client, id, fh }: Awaited<ReturnType<typeof guest>>,
  owner: (i: number) => bigint,
  flags = 0,
): Promise<void> {
  for (let i = 0; i < 6000; i++) {
    const at = flags === 0 ? BigInt(2 * i) : 0n;
    await client.setlk(id, fh, owner(i), { start: at, end: at, type: 0, pid: 1 }, false, flags);
  }
}

for (const [what, act] of [
  ['the end of a session', ({ session }) => session.close()],
  ['the close of a file', ({ client, id, fh }) => client.release(id, fh)],
] satisfies [string, (all: Awaited<ReturnType<typeof guest>>) => Promise<unknown>][]) {
  for (const [whose, owner, flags] of [
    ['one owner', () => 1n, 0],
    ['as many owners', BigInt, 0],
    ['as many owners of the whole file', BigInt, 1],
  ] as const) {
    test(`${what} releases thousands of locks of ${whose} in turns`, async () => {
      const guests = await guest();
      const { other, id, shared } = guests;
      await lockMuch(guests, owner, flags);
      assert.equal(shared.locks.counts.locks, 6000);
      assert.equal(await isAnsweredDuring(other, act(guests)), true);
      assert.equal(shared.locks.counts.locks, 0);
      await other.lookup(ROOT, 'file');
      const { fh } = await other.open(id, 2);
      await other.setlk(id, fh, 5n, { start: 0n, end: 2n ** 63n - 1n, type: 1, pid: 1 });
    });
  }
}

test('a process that closes a file gives up thousands of locks in turns, and those of others stay', async () => {
  const guests = await guest();
  const { client, other, id, fh, shared } = guests;
  await lockMuch(guests, () => 1n);
  await client.setlk(id, fh, 2n, { start: 13_000n, end: 13_000n, type: 1, pid: 1 });
  assert.equal(await isAnsweredDuring(other, client.flush(id, fh, 1n)), true);
  assert.equal(shared.locks.counts.locks, 1);
});

test('a file that an append makes larger than any number can say is found, cut and removed', async (t) => {
  const sharedDir = mkdtempSync('/dev/shm/vfk-sizes-');
  t.after(() => rmSync(sharedDir, { recursive: true }));
  const shared = await openExport(
    { type: 'passthrough', sharedDir } as { type: string },
    { readOnly: false, locks: 'shared', cache: {}, limits: {} },
    { registry: new BackendRegistry(), log: new MemoryLog() },
  );
  const client = new FuseClient(new Loopback(new Session(shared)));
  await client.init();
  const { entry, open } = await client.create(ROOT, 'file', 0o644, 0o2002);
  await client.setattr(entry.nodeid, { size: Number.MAX_SAFE_INTEGER });
  assert.equal(await client.write(entry.nodeid, open.fh, 0, new Uint8Array(9000)), 9000);
  assert.ok(statSync(join(sharedDir, 'file'), { bigint: true }).size > Number.MAX_SAFE_INTEGER);
  assert.equal((await client.lookup(ROOT, 'file')).nodeid, entry.nodeid);
  const { fh } = await client.opendir(ROOT);
  assert.ok((await client.readdirplus(ROOT, fh)).some(({ name }) => name === 'file'));
  assert.equal((await client.setattr(entry.nodeid, { size: 1 })).size, 1);
  await client.unlink(ROOT, 'file');
  await shared.close();
});

test('an overlay forgets directories as deep as guests make them', async () => {
  const shared = await openExport(
    { type: 'overlay', lowers: [{ type: 'memfs' }], upper: { type: 'memfs' } } as { type: string },
    { readOnly: false, locks: 'shared', cache: {}, limits: {} },
    { registry: new BackendRegistry(), log: new MemoryLog() },
  );
  const client = new FuseClient(new Loopback(new Session(shared)));
  await client.init();
  const chain: bigint[] = [ROOT];
  for (let i = 0; i < 8000; i++) chain.push((await client.mkdir(chain.at(-1)!, 'd')).nodeid);
  for (const id of chain.slice(1)) await client.forget(id);
  assert.equal((await client.lookup(ROOT, 'd')).nodeid, chain[1]);
  assert.equal((await client.lookup(chain[1]!, 'd')).nodeid, chain[2]);
  await shared.close();
});
