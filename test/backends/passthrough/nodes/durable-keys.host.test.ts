import assert from 'node:assert/strict';
import { closeSync, fstatSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { passthrough } from '../../../../backends/passthrough/backend.js';
import { options } from '../../../../backends/passthrough/options.js';
import { restoreSession, saveSession, type NodeIdHigh, type NodeIdLow } from '../../../../core/fuse/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { restoreExport, saveExport, type HeldDescriptors } from '../../../../core/state/index.js';
import { engine, MemoryLog } from '../../../support/engine.js';
import { FuseClient, FuseError, ROOT } from '../../../support/fuse-client.js';
import { Loopback } from '../../../support/loopback.js';

const O_RDWR = 2;

for (const inodeFileHandles of ['prefer', 'never'] as const) {
  test(`a successor on the same host takes removed open files over, file handles: ${inodeFileHandles}`, async (t) => {
    const sharedDir = mkdtempSync(join(tmpdir(), 'vfk-held-'));
    t.after(() => rmSync(sharedDir, { recursive: true, force: true }));
    const mount = () => passthrough(options.parse({ sharedDir, inodeFileHandles }), new MemoryLog());
    writeFileSync(join(sharedDir, 'stays'), 'stays');
    const running = await engine(mount());
    const { client, session } = running.guest();
    await client.init();
    const removed = await client.create(ROOT, 'removed');
    await client.write(removed.entry.nodeid, removed.open.fh, 0, Buffer.from('removed'));
    const stays = await client.lookup(ROOT, 'stays');
    const open = await client.open(stays.nodeid, O_RDWR);
    await client.unlink(ROOT, 'removed');
    assert.deepEqual(readdirSync(sharedDir), ['stays']);

    const fds: number[] = [];
    const hold = (fd: number) => fds.push(openSync(`/proc/self/fd/${fd}`, 'r+')) - 1;
    const bytes = await saveExport(running.export, [(node) => saveSession(session, node, hold)]);
    assert.equal(fds.length, 2);
    await session.close();
    await running.export.close();

    const held: HeldDescriptors = {
      at: (index) => fds[index] ?? -1,
      take: (index) => fds.splice(index, 1, -1)[0] ?? -1,
    };
    const log = new MemoryLog();
    const restored = await restoreExport(mount(), bytes, { log, createBuffer: hostBuffer }, held);
    const back = await restoreSession(restored, restored.sessions[0]!);
    restored.finish();
    assert.deepEqual(log.lines, []);
    assert.deepEqual(fds, [-1, -1]);
    const again = new FuseClient(new Loopback(back));
    const { nodeid } = removed.entry;
    assert.equal(Buffer.from(await again.read(nodeid, removed.open.fh, 0, 99)).toString(), 'removed');
    assert.equal((await again.getattr(nodeid)).nlink, 0);
    await again.write(stays.nodeid, open.fh, 0, Buffer.from('STAYS'));
    assert.equal(Buffer.from(await again.read(stays.nodeid, open.fh, 0, 99)).toString(), 'STAYS');
    await again.release(nodeid, removed.open.fh);
    await again.forget(nodeid, 1n);
    await assert.rejects(again.getattr(nodeid), (error) => error instanceof FuseError && error.errno === 116);
    await back.close();
    await restored.export.close();
  });
}

test('a descriptor of another file is not taken for a node', async (t) => {
  const sharedDir = mkdtempSync(join(tmpdir(), 'vfk-held-'));
  t.after(() => rmSync(sharedDir, { recursive: true, force: true }));
  for (const name of ['one', 'two']) writeFileSync(join(sharedDir, name), name);
  const running = await engine(passthrough(options.parse({ sharedDir }), new MemoryLog()));
  const { client } = running.guest();
  await client.init();
  const { nodeid } = await client.lookup(ROOT, 'one');
  const { nodes, accelerator } = running.export;
  const low = (Number(nodeid & 0xffffffffn) | 0) as NodeIdLow;
  const slot = nodes.find(low, (Number(nodeid >> 32n) | 0) as NodeIdHigh);
  const fd = openSync(join(sharedDir, 'two'), 'r');
  assert.throws(() => accelerator.adoptFile!(nodes.node(slot), fd, 0), { code: 'ESTALE' });
  assert.ok(fstatSync(fd).isFile());
  closeSync(fd);
  await running.export.close();
});
