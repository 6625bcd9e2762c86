import assert from 'node:assert/strict';
import { test } from 'node:test';
import memfs from '../../backends/memfs/index.js';
import { engine } from '../support/engine.js';
import { FuseError, ROOT } from '../support/fuse-client.js';

/* Requests that are larger than any that a guest's kernel sends hold all other guests. */

async function guest() {
  const backend = await memfs.create(memfs.options!.parse({ size: '256M' }) as never, {} as never);
  const { client } = (await engine(backend)).guest();
  const { maxWrite, maxPages } = await client.init();
  const { entry, open } = await client.create(ROOT, 'file', 0o644);
  return { client, maxWrite, maxPages, id: entry.nodeid, fh: open.fh };
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
  assert.ok(Math.max(...parts) <= (256 * 1024) / 352, String(parts));
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
