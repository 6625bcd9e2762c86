import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { Worker } from 'node:worker_threads';
import { type Fd, CallList, IoThreads, type IoWork, NativeMemory } from '../../../../core/system/index.js';
import { repetitions } from '../../../support/random.js';

const BLOCK_BYTES = 4096;
const EIO = -5;
const EBADF = -9;

/** A list with memory for its reads, which notes its end. */
class Work implements IoWork {
  readonly list: CallList;
  readonly memory = NativeMemory.allocate(64 * BLOCK_BYTES);
  readonly ended: Promise<void>;
  ends = 0;
  #resolve!: () => void;

  constructor(t: TestContext) {
    const list = CallList.open(64);
    assert.ok(list !== undefined, 'machine code is allowed here');
    this.list = list;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    t.after(() => {
      list.close();
      this.memory.free();
    });
  }

  /** Adds reads of blocks. */
  read(fd: Fd, blocks: readonly number[]): this {
    for (const [i, block] of blocks.entries()) {
      const address = this.memory.address + i * BLOCK_BYTES;
      this.list.read(fd, { address, length: BLOCK_BYTES, iov: 0, iovCount: 1 }, block * BLOCK_BYTES, 0);
    }
    return this;
  }

  end(): void {
    this.ends += 1;
    this.#resolve();
  }

  assertRead(blocks: readonly number[]): void {
    assert.equal(this.ends, 1);
    for (const [i, block] of blocks.entries()) {
      assert.equal(this.list.result(i), BLOCK_BYTES);
      const bytes = this.memory.u8.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
      assert.deepEqual(Buffer.from(bytes), Buffer.alloc(BLOCK_BYTES, block));
    }
  }
}

/** A file of 64 blocks, each filled with its number. */
function numbered(t: TestContext): Fd {
  const folder = fs.mkdtempSync(join(tmpdir(), 'vfk-io-threads-'));
  const path = join(folder, 'file');
  fs.writeFileSync(
    path,
    Buffer.alloc(64 * BLOCK_BYTES).map((_, i) => i / BLOCK_BYTES),
  );
  const fd = fs.openSync(path, 'r') as Fd;
  t.after(() => {
    fs.closeSync(fd);
    fs.rmSync(folder, { recursive: true });
  });
  return fd;
}

/** Threads that have started; a failure of one fails the test, unless it is told. */
async function started(
  count: number,
  onFailure: (error: unknown) => void = (error) => assert.fail(String(error)),
): Promise<IoThreads> {
  const threads = new IoThreads(count, onFailure);
  while (!threads.hasRoom) await new Promise((resolve) => setTimeout(resolve, 1));
  return threads;
}

test('threads carry out what they are given, and the event loop is told', async (t) => {
  const fd = numbered(t);
  const threads = await started(1);
  const one = new Work(t).read(fd, [5]);
  const many = new Work(t).read(fd, [1, 2, 60, 4, 5, 6]);
  assert.ok(threads.give(one));
  assert.ok(threads.give(many));
  assert.equal(threads.pending, 7);
  await Promise.all([one.ended, many.ended]);
  one.assertRead([5]);
  many.assertRead([1, 2, 60, 4, 5, 6]);
  assert.equal(threads.pending, 0);
  // After a sleep, too.
  await new Promise((resolve) => setTimeout(resolve, 20));
  const last = new Work(t).read(fd, [9]);
  assert.ok(threads.give(last));
  await last.ended;
  last.assertRead([9]);
  await threads.close();
});

test('a list is used again and again, by any thread', async (t) => {
  const fd = numbered(t);
  const threads = await started(3);
  const works = Array.from({ length: 6 }, () => new Work(t));
  for (let round = 0; round < repetitions(200); round++) {
    const blocks = works.map((_, i) =>
      Array.from({ length: 1 + ((round + i) % 9) }, (__, j) => (round * 7 + i * 5 + j) % 64),
    );
    for (const [i, work] of works.entries()) {
      work.ends = 0;
      work.list.clear();
      work.memory.u8.fill(0xff);
      work.read(fd, blocks[i]!);
      if (threads.give(work)) continue;
      work.list.run();
      work.end();
    }
    while (threads.pending > 0) threads.collect();
    for (const [i, work] of works.entries()) work.assertRead(blocks[i]!);
  }
  await threads.close();
});

test('a thread takes two lists at a time, and the rest stays where it is', async (t) => {
  const fd = numbered(t);
  const threads = await started(1);
  threads.attend();
  const works = Array.from({ length: 3 }, () => new Work(t).read(fd, [1]));
  assert.deepEqual(
    works.map((work) => threads.give(work)),
    [true, true, false],
  );
  assert.equal(threads.hasRoom, false);
  assert.equal(works[2]!.list.count, 1);
  while (threads.pending > 0) threads.collect();
  assert.ok(threads.give(works[2]!));
  while (threads.pending > 0) threads.collect();
  for (const work of works) work.assertRead([1]);
  await threads.close();
});

test('the event loop is not woken while somebody attends, and learns what it missed', async (t) => {
  const fd = numbered(t);
  const threads = await started(1);
  threads.attend();
  const work = new Work(t).read(fd, [3]);
  assert.ok(threads.give(work));
  while (!threads.ready) await new Promise((resolve) => setTimeout(resolve, 1));
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(work.ends, 0);
  assert.equal(threads.rest(), true);
  threads.collect();
  work.assertRead([3]);
  assert.equal(threads.rest(), false);
  await threads.close();
});

test('what goes wrong with a transfer is its result', async (t) => {
  const threads = await started(1);
  const work = new Work(t).read(-1 as Fd, [1, 2]);
  assert.ok(threads.give(work));
  await work.ended;
  assert.deepEqual([work.list.result(0), work.list.result(1)], [EBADF, EBADF]);
  await threads.close();
});

test('the end waits for what was given', async (t) => {
  const fd = numbered(t);
  for (let round = 0; round < repetitions(5); round++) {
    const threads = await started(2);
    const works = Array.from({ length: 4 }, () => new Work(t).read(fd, [1, 2, 3, 4, 5]));
    for (const work of works) {
      while (!threads.give(work)) await new Promise((resolve) => setImmediate(resolve));
    }
    await threads.close();
    for (const work of works) work.assertRead([1, 2, 3, 4, 5]);
    assert.equal(threads.pending, 0);
  }
});

test('where a thread ends by itself, what it had fails, and the others go on', async (t) => {
  const fd = numbered(t);
  const workers: Worker[] = [];
  const note = (worker: Worker): void => void workers.push(worker);
  process.on('worker', note);
  const failures: unknown[] = [];
  const threads = await started(2, (error) => failures.push(error));
  process.off('worker', note);
  assert.equal(workers.length, 2);
  // The thread must be asleep here: it must not be ended within a system call.
  await new Promise((resolve) => setTimeout(resolve, 100));
  await workers[0]!.terminate();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(failures.length, 1);
  const works = Array.from({ length: 3 }, () => new Work(t).read(fd, [8]));
  assert.deepEqual(
    works.map((work) => threads.give(work)),
    [true, true, false],
  );
  await works[1]!.ended;
  works[0]!.assertRead([8]);
  works[1]!.assertRead([8]);

  // The thread is ended at the moment in which it gets this work, so that nothing carries it out.
  const stopping = workers[1]!.terminate();
  assert.ok(threads.give(works[2]!));
  await stopping;
  await works[2]!.ended;
  assert.ok([EIO, BLOCK_BYTES].includes(works[2]!.list.result(0)));
  assert.equal(threads.pending, 0);
  assert.equal(threads.hasRoom, false);
  await threads.close();
});
