import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { type Fd, CallList, NativeMemory, type Pieces } from '../../../../core/system/index.js';
import { AT, fstat, O, RWF, STATX, statx } from '../../../../core/system/calls/files.js';
import { MAX_HANDLE_BYTES, nameToHandleAt } from '../../../../core/system/calls/file-handles.js';
import { checkProperty } from '../../../support/random.js';

const EIO = -5;
const EBADF = -9;
const EOPNOTSUPP = -95;
const PLACE_BYTES = 512;
const NAME_BYTES = 256;
const CAPACITY = 32;
const WANTED = STATX.BASIC | STATX.BTIME;

interface Bench {
  readonly list: CallList;
  readonly memory: NativeMemory;
  /** A directory, a file in it, and no descriptor at all. */
  readonly fds: readonly Fd[];
}

const NAMES = ['file', 'link', 'missing', 'file/below', '', 'x'.repeat(240), 'é'] as const;

function bench(t: TestContext): Bench {
  const list = CallList.open(CAPACITY);
  assert.ok(list !== undefined, 'machine code is allowed here');
  const memory = NativeMemory.allocate((CAPACITY + 1) * PLACE_BYTES);
  const folder = fs.mkdtempSync(join(tmpdir(), 'vfk-call-list-'));
  fs.writeFileSync(join(folder, 'file'), 'content');
  fs.symlinkSync('file', join(folder, 'link'));
  const fds = [fs.openSync(folder, 'r'), fs.openSync(join(folder, 'file'), 'r'), -1] as Fd[];
  t.after(() => {
    list.close();
    memory.free();
    for (const fd of fds) if (fd >= 0) fs.closeSync(fd);
    fs.rmSync(folder, { recursive: true, force: true });
  });
  return { list, memory, fds };
}

/** Fills a place with a name, and with bytes that no call leaves behind. @returns its address. */
function prepare({ memory }: Bench, index: number, name: string): number {
  const start = index * PLACE_BYTES;
  memory.u8.fill(0xa5, start, start + NAME_BYTES);
  memory.u8.set(Buffer.from(`${name}\0`), start + NAME_BYTES);
  return memory.address + start;
}

test('file handles that a list takes are those that the call gives', (t) => {
  const one = bench(t);
  const { list, memory } = one;
  const HANDLE = 1024;
  const MOUNT = HANDLE + 8 + MAX_HANDLE_BYTES;
  const room = NativeMemory.allocate(2048);
  t.after(() => room.free());
  for (const name of ['file', 'link', 'missing']) {
    const address = prepare(one, 0, name) + NAME_BYTES;
    const taken = [room, memory].map(({ u8, u32, address: base }, i) => {
      u8.fill(0, HANDLE, MOUNT + 4);
      u32[HANDLE >>> 2] = MAX_HANDLE_BYTES;
      if (i === 0) return nameToHandleAt(one.fds[0]!, address, base + HANDLE, base + MOUNT, 0);
      list.nameToHandle(one.fds[0]!, address, base + HANDLE, base + MOUNT);
      list.run();
      return list.result(0);
    });
    list.clear();
    assert.equal(taken[1], taken[0], name);
    assert.deepEqual(memory.u8.subarray(HANDLE, MOUNT + 4), room.u8.subarray(HANDLE, MOUNT + 4));
  }
});

const calls = fc.array(
  fc.record({
    isName: fc.boolean(),
    fd: fc.nat(2),
    name: fc.constantFrom(...NAMES),
    runs: fc.boolean(),
    nowhere: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
  }),
  { minLength: 1, maxLength: CAPACITY },
);

test('a list does what the same calls do one after the other', async (t) => {
  const all = bench(t);
  const { list, memory, fds } = all;
  await checkProperty(
    t,
    fc.property(calls, (given) => {
      list.clear();
      for (const [i, { isName, fd, name, runs, nowhere }] of given.entries()) {
        const address = prepare(all, i, name);
        const target = nowhere ? 8 : address;
        const flags = AT.SYMLINK_NOFOLLOW | AT.NO_AUTOMOUNT;
        if (isName) list.statx(fds[fd]!, address + NAME_BYTES, flags, WANTED, target);
        else list.fstat(fds[fd]!, target);
        if (runs) list.run();
      }
      assert.equal(list.count, given.length);
      assert.equal(list.isFull, given.length === CAPACITY);
      list.run();
      for (const [i, { isName, fd, name, nowhere }] of given.entries()) {
        const address = prepare(all, CAPACITY, name);
        const target = nowhere ? 8 : address;
        const flags = AT.SYMLINK_NOFOLLOW | AT.NO_AUTOMOUNT;
        const alone = isName
          ? statx(fds[fd]!, address + NAME_BYTES, flags, WANTED, target)
          : fstat(fds[fd]!, target);
        assert.equal(list.result(i), alone, JSON.stringify(given[i]));
        const of = (place: number) =>
          Buffer.from(memory.u8.subarray(place * PLACE_BYTES, place * PLACE_BYTES + NAME_BYTES));
        assert.deepEqual(of(i), of(CAPACITY));
      }
    }),
  );
});

test('calls are made once, when the list is run', (t) => {
  const all = bench(t);
  const { list, fds } = all;
  const file = fs.openSync(`/proc/self/fd/${fds[1]!}`, 'r') as Fd;
  list.fstat(file, prepare(all, 0, ''));
  list.run();
  fs.closeSync(file);
  list.fstat(file, prepare(all, 1, ''));
  list.run();
  list.run();
  assert.deepEqual([list.result(0), list.result(1)], [0, EBADF]);
  list.clear();
  assert.equal(list.count, 0);
  list.fstat(file, prepare(all, 0, ''));
  list.run();
  assert.equal(list.result(0), EBADF);
});

interface TransferBench {
  readonly list: CallList;
  readonly memory: NativeMemory;
  readonly path: string;
}

/** A list, memory of 1 MiB, and a path for a file in a folder. */
function transferBench(t: TestContext): TransferBench {
  const list = CallList.open(64);
  assert.ok(list !== undefined, 'machine code is allowed here');
  const memory = NativeMemory.allocate(2 ** 20);
  const folder = fs.mkdtempSync(join(tmpdir(), 'vfk-call-list-'));
  t.after(() => {
    list.close();
    memory.free();
    fs.rmSync(folder, { recursive: true, force: true });
  });
  return { list, memory, path: join(folder, 'file') };
}

function opened(t: TestContext, path: string, flags: number): Fd {
  const fd = fs.openSync(path, flags, 0o600) as Fd;
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

test('transfers in a list do what the same calls do one after the other', async (t) => {
  const { list, memory, path } = transferBench(t);
  const fd = opened(t, path, O.RDWR | O.CREAT);
  const iovs = memory.length / 2;
  await checkProperty(
    t,
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
        if (isRead) list.read(fd, from, offset, 0);
        else list.write(fd, from, offset);
        if (!isRead) {
          model.bytes.fill(fill, offset, offset + bytes);
          model.size = Math.max(model.size, offset + bytes);
          return { at, count: bytes, bytes: Buffer.alloc(bytes, fill) };
        }
        const count = Math.max(0, Math.min(bytes, model.size - offset));
        return { at, count, bytes: Buffer.from(model.bytes.subarray(offset, offset + count)) };
      });
      assert.equal(list.count, all.length);
      assert.equal(list.isFull, all.length === 64);
      list.run();
      for (const [i, { at, count, bytes }] of expected.entries()) {
        assert.equal(list.result(i), count);
        assert.deepEqual(Buffer.from(memory.u8.subarray(at, at + count)), bytes);
      }
      list.clear();
      assert.deepEqual(fs.readFileSync(path), model.bytes.subarray(0, model.size));
    }),
    { numRuns: 200 },
  );
});

test('of transfers of which one is refused, each has its own result', (t) => {
  const { list, memory, path } = transferBench(t);
  fs.writeFileSync(path, 'content');
  const readable = opened(t, path, O.RDONLY);
  const writable = opened(t, path, O.WRONLY);
  const results = (): number[] => {
    list.run();
    const all = Array.from({ length: list.count }, (_, i) => list.result(i));
    list.clear();
    return all;
  };
  const seven = piece(memory.address, 7);
  for (const refused of [0, 3, 6]) {
    const fds = Array.from({ length: 7 }, (_, i) => i === refused);
    const expected = fds.map((isRefused) => (isRefused ? EBADF : 7));
    for (const isRefused of fds) list.read(isRefused ? writable : readable, seven, 0, 0);
    assert.deepEqual(results(), expected);
    for (const isRefused of fds) list.write(isRefused ? readable : writable, seven, 0);
    assert.deepEqual(results(), expected);
  }
});

test('a read has its flags', (t) => {
  const { list, memory, path } = transferBench(t);
  fs.writeFileSync(path, 'content');
  const status = opened(t, '/proc/self/status', O.RDONLY);
  const file = opened(t, path, O.RDONLY);
  const at = memory.length / 2;
  memory.u32.set([memory.address >>> 0, Math.floor(memory.address / 2 ** 32), 7, 0], at >> 2);
  const one = { address: memory.address, length: 7, iov: memory.address + at, iovCount: 1 };
  list.read(status, one, 0, RWF.NOWAIT);
  list.read(file, one, 3, 0);
  list.read(file, one, 3, 1 << 20);
  list.run();
  assert.deepEqual([list.result(0), list.result(1), list.result(2)], [EOPNOTSUPP, 4, EOPNOTSUPP]);
});

test('what was taken is made elsewhere, or has failed', (t) => {
  const { list, memory, path } = transferBench(t);
  fs.writeFileSync(path, 'content');
  const fd = opened(t, path, O.RDONLY);
  for (let i = 0; i < 3; i++) list.read(fd, piece(memory.address + 8 * i, 8), i, 0);
  assert.equal(list.take(), 3);
  list.fail(EIO);
  list.run();
  assert.deepEqual([list.result(0), list.result(1), list.result(2)], [EIO, EIO, EIO]);
  CallList.make(list.address, 3);
  assert.deepEqual([list.result(0), list.result(1), list.result(2)], [7, 6, 5]);
});
