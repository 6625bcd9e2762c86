import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { acceleratorOf } from '../../../../core/backend/accelerator.js';
import { type Awaitable, OpenFlags, readOnly, WriteFlags } from '../../../../core/backend/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { O } from '../../../../core/system/calls/files.js';
import { bufferOf, root, type Share, serve } from '../harness.js';
import { host } from '../host-calls.js';

const BLOCK_BYTES = 4096;
const EBADF = 9;

function share(t: TestContext, where: string, given: Record<string, unknown> = {}): Share {
  const served = serve(where, given);
  t.after(() => served.close());
  return served;
}

/** A file of so many blocks, each filled with its number, open to a guest. */
async function numbered(served: Share, blocks: number, flags: number = OpenFlags.READ_WRITE) {
  const path = join(served.directory, 'file');
  fs.writeFileSync(
    path,
    Buffer.alloc(blocks * BLOCK_BYTES).map((_, i) => i / BLOCK_BYTES),
  );
  const { node } = (await served.backend.lookup(served.node, 'file', root))!;
  const { file } = await served.backend.open(node, flags, root);
  return { path, node, file };
}

/** Carries out what was gathered. */
function submitted(served: Share): Promise<number[]> {
  const results: Awaitable<number>[] = [];
  served.accelerator.submit(results);
  return Promise.all(results);
}

for (const where of [tmpdir(), '/var/tmp', '/dev/shm']) {
  test(`reads that were gathered find pages in memory and on the disk (${where})`, async (t) => {
    const served = share(t, where);
    const { path, node, file } = await numbered(served, 200);
    for (let round = 0; round < 3; round++) {
      const fd = fs.openSync(path, 'r+');
      host.dropPages(fd);
      if (round === 1) fs.readSync(fd, Buffer.alloc(BLOCK_BYTES), 0, BLOCK_BYTES, 40 * BLOCK_BYTES);
      fs.closeSync(fd);
      const places = Array.from({ length: 20 }, (_, i) => (i * 37 + round) % 200);
      const buffers = places.map(() => hostBuffer(2 * BLOCK_BYTES));
      for (const [i, place] of places.entries()) {
        const length = place === 199 ? BLOCK_BYTES : 2 * BLOCK_BYTES;
        const buffer = buffers[i]!.slice(0, length);
        assert.ok(served.accelerator.gatherRead(node, file, buffer, place * BLOCK_BYTES, root));
      }
      const counts = await submitted(served);
      for (const [i, place] of places.entries()) {
        const length = place === 199 ? BLOCK_BYTES : 2 * BLOCK_BYTES;
        assert.equal(counts[i], length);
        const expected = Buffer.alloc(length).map((_, at) => place + at / BLOCK_BYTES);
        assert.deepEqual(Buffer.from(buffers[i]!.bytes.subarray(0, length)), expected);
        buffers[i]!.close();
      }
    }
  });
}

test('a read that was gathered ends at the end of the file, and tells what went wrong', async (t) => {
  const served = share(t, '/var/tmp');
  const { node, file } = await numbered(served, 4, OpenFlags.WRITE_ONLY);
  const { file: readable } = await served.backend.open(node, OpenFlags.READ_ONLY, root);
  const buffer = hostBuffer(2 * BLOCK_BYTES);
  for (const place of [0, 3 * BLOCK_BYTES, 3 * BLOCK_BYTES + 1, 4 * BLOCK_BYTES, 9 * BLOCK_BYTES]) {
    assert.ok(served.accelerator.gatherRead(node, readable, buffer, place, root));
  }
  assert.ok(served.accelerator.gatherWrite(node, readable, bufferOf('x'), 0, 0, root));
  assert.ok(served.accelerator.gatherWrite(node, file, bufferOf('xy'), 0, 0, root));
  assert.deepEqual(await submitted(served), [2 * BLOCK_BYTES, BLOCK_BYTES, BLOCK_BYTES - 1, 0, 0, -EBADF, 2]);
});

const asRoot = process.geteuid!() === 0 ? {} : { skip: 'needs root' };

test('writes that were gathered leave set-id bits or clear them, as each one says', asRoot, async (t) => {
  const served = share(t, tmpdir());
  const { path, node, file } = await numbered(served, 1);
  const mode = () => fs.statSync(path).mode & 0o7777;
  const { backend, accelerator } = served;
  const one = (flags: number) => accelerator.gatherWrite(node, file, bufferOf('x'), 0, flags, root);

  fs.chmodSync(path, 0o6755);
  for (let i = 0; i < 6; i++) assert.ok(one(0));
  assert.equal(one(WriteFlags.KILL_SUIDGID), false, 'both kinds are not in one batch');
  // Such a one comes by itself meanwhile.
  fs.chmodSync(path, 0o6755);
  await backend.write(node, file, bufferOf('y'), 0, WriteFlags.KILL_SUIDGID, root);
  assert.equal(mode(), 0o755);
  fs.chmodSync(path, 0o6755);
  assert.deepEqual(await submitted(served), [1, 1, 1, 1, 1, 1]);
  assert.equal(mode(), 0o6755);
  for (let i = 0; i < 6; i++) assert.ok(one(WriteFlags.KILL_SUIDGID));
  assert.deepEqual(await submitted(served), [1, 1, 1, 1, 1, 1]);
  assert.equal(mode(), 0o755);
});

test('what would take long, or not go through the page cache, is not gathered', async (t) => {
  const served = share(t, '/var/tmp', { allowDirectIo: true, specialFiles: 'open' });
  const { node, file } = await numbered(served, 32);
  const { backend, accelerator } = served;
  const large = hostBuffer(16 * 1024 + 1);
  const small = hostBuffer(BLOCK_BYTES);
  assert.equal(accelerator.gatherRead(node, file, large, 0, root), false);
  assert.equal(accelerator.gatherWrite(node, file, large, 0, 0, root), false);
  for (const flags of [O.SYNC, O.DSYNC, O.APPEND, O.DIRECT]) {
    const opened = await backend.open(node, OpenFlags.READ_WRITE | flags, root);
    const fromCache = WriteFlags.CACHE;
    assert.equal(accelerator.gatherWrite(node, opened.file, small, 0, fromCache, root), false);
    const isDirect = flags === O.DIRECT;
    assert.equal(accelerator.gatherRead(node, opened.file, small, 0, root), !isDirect);
    if (!isDirect) assert.deepEqual(await submitted(served), [BLOCK_BYTES]);
    await backend.release(node, opened.file);
  }
  const { node: fifo } = await backend.mknod(served.node, 'fifo', 0o010600, 0, root);
  const pipe = await backend.open(fifo, OpenFlags.READ_WRITE, root);
  assert.equal(accelerator.gatherRead(fifo, pipe.file, small, 0, root), false);
  assert.equal(accelerator.gatherWrite(fifo, pipe.file, small, 0, 0, root), false);
});

test('a share that is read-only gathers reads, and takes no writes', async (t) => {
  const served = share(t, '/dev/shm');
  const { node, file } = await numbered(served, 8, OpenFlags.READ_ONLY);
  const view = readOnly(served.backend);
  const accelerator = acceleratorOf(view);
  assert.ok(accelerator !== undefined);
  assert.equal(accelerator.gatherWrite, undefined);
  assert.equal(view.write, undefined);
  const buffers = Array.from({ length: 8 }, () => hostBuffer(BLOCK_BYTES));
  for (const [i, buffer] of buffers.entries()) {
    assert.equal(accelerator.gatherRead?.(node, file, buffer, i * BLOCK_BYTES, root), true);
  }
  const results: Awaitable<number>[] = [];
  accelerator.submit?.(results);
  assert.deepEqual(
    await Promise.all(results),
    buffers.map(() => BLOCK_BYTES),
  );
  for (const [i, buffer] of buffers.entries()) {
    assert.deepEqual(Buffer.from(buffer.bytes), Buffer.alloc(BLOCK_BYTES, i));
    buffer.close();
  }
});
