import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { IoBatch, NativeMemory, type Pieces } from '../../../core/system/index.js';
import { O, RWF } from '../../../core/system/files.js';

const EBADF = -9;
const EINVAL = -22;
const EOPNOTSUPP = -95;

interface Bench {
  readonly batch: IoBatch;
  readonly memory: NativeMemory;
  readonly path: string;
}

/** A batch, memory of 1 MiB, and a path for a file in a folder. */
function bench(t: TestContext, where = tmpdir()): Bench {
  const batch = IoBatch.open();
  assert.ok(batch !== undefined, 'the kernel gives a batch');
  const memory = NativeMemory.allocate(2 ** 20);
  const folder = fs.mkdtempSync(join(where, 'vfk-io-batch-'));
  t.after(() => {
    batch.close();
    memory.free();
    fs.rmSync(folder, { recursive: true, force: true });
  });
  return { batch, memory, path: join(folder, 'file') };
}

function opened(t: TestContext, path: string, flags: number): number {
  const fd = fs.openSync(path, flags, 0o600);
  t.after(() => fs.closeSync(fd));
  return fd;
}

const transfers = fc.array(
  fc.record({
    isRead: fc.boolean(),
    offset: fc.nat(20_000),
    length: fc.integer({ min: 1, max: 9000 }),
    pieces: fc.integer({ min: 1, max: 4 }),
    fill: fc.nat(255),
  }),
  { minLength: 1, maxLength: 64 },
);

/** Memory in one piece. */
function piece(address: number, length: number): Pieces {
  return { address, length, iov: 0, iovCount: 1 };
}

test('a batch does what the same calls do one after the other', (t) => {
  const { batch, memory, path } = bench(t);
  const fd = opened(t, path, O.RDWR | O.CREAT);
  const iovs = memory.length / 2;
  fc.assert(
    fc.property(transfers, (all) => {
      fs.ftruncateSync(fd, 10_000);
      const model = { bytes: Buffer.alloc(40_000), size: 10_000 };
      fs.writeSync(fd, model.bytes, 0, model.size, 0);
      const expected = all.map(({ isRead, offset, length, pieces, fill }, i) => {
        // Each has 8,128 bytes of its own; iovec arrays have the upper half.
        const at = i * 8128;
        const bytes = Math.min(length, 8128);
        memory.u8.fill(isRead ? 0xee : fill, at, at + bytes);
        const cut = Math.max(1, Math.floor(bytes / pieces));
        let from = piece(memory.address + at, bytes);
        if (pieces > 1) {
          const to = (iovs + i * 64) >> 2;
          let count = 0;
          for (let done = 0; done < bytes; count++) {
            const part = count === pieces - 1 ? bytes - done : Math.min(cut, bytes - done);
            const address = memory.address + at + done;
            memory.u32.set([address >>> 0, Math.floor(address / 2 ** 32), part, 0], to + count * 4);
            done += part;
          }
          from = { ...from, iov: memory.address + iovs + i * 64, iovCount: count };
        }
        if (isRead) batch.addRead(fd, from, offset, 0);
        else batch.addWrite(fd, from, offset);
        if (!isRead) {
          model.bytes.fill(fill, offset, offset + bytes);
          model.size = Math.max(model.size, offset + bytes);
          return { at, count: bytes, bytes: Buffer.alloc(bytes, fill) };
        }
        const count = Math.max(0, Math.min(bytes, model.size - offset));
        return { at, count, bytes: Buffer.from(model.bytes.subarray(offset, offset + count)) };
      });
      assert.equal(batch.count, all.length);
      assert.equal(batch.isFull, all.length === 64);
      assert.equal(batch.submit(), all.length);
      assert.equal(batch.count, 0);
      for (const [i, { at, count, bytes }] of expected.entries()) {
        assert.equal(batch.results[i], count);
        assert.deepEqual(Buffer.from(memory.u8.subarray(at, at + count)), bytes);
      }
      assert.deepEqual(fs.readFileSync(path), model.bytes.subarray(0, model.size));
    }),
    { numRuns: 200 },
  );
});

for (const count of [1, 12]) {
  test(`of ${count} transfers and one that is refused, each has its own result`, (t) => {
    const { batch, memory, path } = bench(t);
    fs.writeFileSync(path, 'content');
    const readable = opened(t, path, O.RDONLY);
    const writable = opened(t, path, O.WRONLY);
    for (const refused of [0, count >> 1, count]) {
      for (let i = 0; i <= count; i++) {
        const fd = i === refused ? writable : readable;
        batch.addRead(fd, piece(memory.address + i * 8, 7), 0, 0);
      }
      batch.submit();
      for (let i = 0; i <= count; i++) assert.equal(batch.results[i], i === refused ? EBADF : 7);
      batch.addWrite(readable, piece(memory.address, 7), 0);
      for (let i = 1; i <= count; i++) batch.addWrite(writable, piece(memory.address, 7), 0);
      batch.submit();
      for (let i = 0; i <= count; i++) assert.equal(batch.results[i], i === 0 ? EBADF : 7);
    }
    for (let i = 0; i <= count; i++) batch.addRead(-1, piece(memory.address, 7), 0, 0);
    batch.submit();
    for (let i = 0; i <= count; i++) assert.equal(batch.results[i], EBADF);
  });

  test(`flags that a file system does not have give EOPNOTSUPP to each of ${count}`, (t) => {
    const { batch, memory } = bench(t);
    const fd = opened(t, '/proc/self/status', O.RDONLY);
    for (let i = 0; i < count; i++) {
      batch.addRead(fd, piece(memory.address + i * 64, 64), 0, RWF.NOWAIT);
    }
    batch.submit();
    for (let i = 0; i < count; i++) assert.equal(batch.results[i], EOPNOTSUPP);
  });
}

test('transfers that the kernel completes later are waited for', (t) => {
  // O_DIRECT makes it send them to the disk and return.
  const { batch, memory, path } = bench(t, '/var/tmp');
  const content = Buffer.alloc(32 * 4096).map((_, i) => i >> 9);
  fs.writeFileSync(path, content);
  let fd: number;
  try {
    fd = opened(t, path, O.RDWR | O.DIRECT);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
    t.skip('the file system of /var/tmp has no O_DIRECT');
    return;
  }
  for (let i = 0; i < 32; i++) batch.addRead(fd, piece(memory.address + i * 4096, 4096), i * 4096, 0);
  assert.equal(batch.submit(), 32);
  for (let i = 0; i < 32; i++) assert.equal(batch.results[i], 4096);
  assert.deepEqual(Buffer.from(memory.u8.subarray(0, content.length)), content);
  for (let i = 0; i < 8; i++) batch.addRead(fd, piece(memory.address + 1, 4096), i * 4096, 0);
  batch.submit();
  for (let i = 0; i < 8; i++) assert.equal(batch.results[i], EINVAL, 'memory that is not aligned');
});
