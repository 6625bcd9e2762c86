import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { CallList, NativeMemory } from '../../../core/system/index.js';
import { AT, fstat, STATX, statx } from '../../../core/system/files.js';

const EBADF = -9;
const PLACE = 512;
const NAME = 256;
const CAPACITY = 32;
const WANTED = STATX.BASIC | STATX.BTIME;

interface Bench {
  readonly list: CallList;
  readonly memory: NativeMemory;
  /** A directory, a file in it, and no descriptor at all. */
  readonly fds: readonly number[];
}

const NAMES = ['file', 'link', 'missing', 'file/below', '', 'x'.repeat(240), 'é'] as const;

function bench(t: TestContext): Bench {
  const list = CallList.open(CAPACITY);
  assert.ok(list !== undefined, 'machine code is allowed here');
  const memory = NativeMemory.allocate((CAPACITY + 1) * PLACE);
  const folder = fs.mkdtempSync(join(tmpdir(), 'vfk-call-list-'));
  fs.writeFileSync(join(folder, 'file'), 'content');
  fs.symlinkSync('file', join(folder, 'link'));
  const fds = [fs.openSync(folder, 'r'), fs.openSync(join(folder, 'file'), 'r'), -1];
  t.after(() => {
    list.close();
    memory.free();
    for (const fd of fds) if (fd >= 0) fs.closeSync(fd);
    fs.rmSync(folder, { recursive: true, force: true });
  });
  return { list, memory, fds };
}

/** Puts a name, and what no call leaves, into a place. @returns the place's address. */
function prepare({ memory }: Bench, index: number, name: string): number {
  const start = index * PLACE;
  memory.u8.fill(0xa5, start, start + NAME);
  memory.u8.set(Buffer.from(`${name}\0`), start + NAME);
  return memory.address + start;
}

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

test('a list does what the same calls do one after the other', (t) => {
  const all = bench(t);
  const { list, memory, fds } = all;
  fc.assert(
    fc.property(calls, (given) => {
      list.clear();
      for (const [i, { isName, fd, name, runs, nowhere }] of given.entries()) {
        const address = prepare(all, i, name);
        const target = nowhere ? 8 : address;
        const flags = AT.SYMLINK_NOFOLLOW | AT.NO_AUTOMOUNT;
        if (isName) list.statx(fds[fd]!, address + NAME, flags, WANTED, target);
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
          ? statx(fds[fd]!, address + NAME, flags, WANTED, target)
          : fstat(fds[fd]!, target);
        assert.equal(list.result(i), alone, JSON.stringify(given[i]));
        const of = (place: number) => Buffer.from(memory.u8.subarray(place * PLACE, place * PLACE + NAME));
        assert.deepEqual(of(i), of(CAPACITY));
      }
    }),
  );
});

test('calls are made once, when the list is run', (t) => {
  const all = bench(t);
  const { list, fds } = all;
  const file = fs.openSync(`/proc/self/fd/${fds[1]!}`, 'r');
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
