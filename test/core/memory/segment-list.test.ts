import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { hostBuffer, NativeWindow, SegmentList, type WindowSource } from '../../../core/memory/index.js';
import { libc, Mapping, memfd, NativeMemory, result, WINDOW_SIZE } from '../../../core/system/index.js';
import { checkProperty } from '../../support/random.js';

const preadv = libc<(fd: number, iov: number, count: number, offset: number) => number>(
  'preadv',
  'intptr_t',
  ['int', 'uintptr_t', 'int', 'int64_t'],
);
const pwrite = libc<(fd: number, source: number, count: number, offset: number) => number>(
  'pwrite',
  'intptr_t',
  ['int', 'uintptr_t', 'size_t', 'int64_t'],
);

const MEMORY_BYTES = 65536;
const memory = NativeMemory.allocate(MEMORY_BYTES);
const native = new NativeWindow(memory);

/** Memory whose windows are as short as a page, so that segments cross them. */
const paged: WindowSource = {
  windowAt(address) {
    const start = address - (address % 4096);
    const at = start - memory.address;
    const part = (length: number) => [memory.u8.buffer, at, length] as const;
    return {
      start,
      end: start + 4096,
      u8: new Uint8Array(...part(4096)),
      u16: new Uint16Array(...part(2048)),
      u32: new Uint32Array(...part(1024)),
    };
  },
};

const segments = fc.array(
  fc.tuple(
    // An address where the region begins, or where the one before it ends.
    fc.oneof(fc.integer({ min: 0, max: MEMORY_BYTES - 1 }), fc.constant(-1)),
    fc.oneof(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 9000 })),
  ),
  { minLength: 1, maxLength: 80 },
);

/** A list over the given pieces of memory, and the addresses of its bytes one by one. */
function build(source: WindowSource, pieces: [number, number][]): { list: SegmentList; at: number[] } {
  const list = new SegmentList(source);
  const at: number[] = [];
  for (const [given, wanted] of pieces) {
    const start = given >= 0 ? given : Math.min((at.at(-1) ?? -1) + 1, MEMORY_BYTES - 1);
    const length = Math.min(wanted, MEMORY_BYTES - start);
    assert.ok(list.push(memory.address + start, length));
    for (let i = 0; i < length; i++) at.push(start + i);
  }
  return { list, at };
}

function joined(parts: readonly Uint8Array[]): number[] {
  return parts.flatMap((part) => [...part]);
}

function fill(): void {
  for (let i = 0; i < MEMORY_BYTES; i++) memory.u8[i] = (i * 31 + (i >> 8)) & 0xff;
}

for (const [name, source] of [
  ['one window', native],
  ['windows of a page', paged],
] as const) {
  test(`over ${name}, what is copied out is what lies in the segments`, async (t) => {
    fill();
    await checkProperty(
      t,
      fc.property(segments, fc.nat(), fc.nat(), (pieces, a, b) => {
        const { list, at } = build(source, pieces);
        assert.equal(list.length, at.length);
        const start = a % (at.length + 1);
        const count = b % (at.length - start + 1);
        const expected = at.slice(start, start + count).map((address) => memory.u8[address]!);
        const out = new Uint8Array(count + 2);
        list.copyOut(start, out, 1, count);
        assert.deepEqual([...out], [0, ...expected, 0]);
        assert.deepEqual(joined(list.arrays(start, start + count)), expected);
        assert.deepEqual(joined(list.window(start, start + count).segments), expected);
        assert.deepEqual(joined(list.slice(start, start + count).segments), expected);
        const words = new Uint32Array(Math.floor(count / 4) + 1);
        list.copyWordsOut(start, words, 1, Math.floor(count / 4));
        assert.deepEqual([...new Uint8Array(words.buffer, 4)], expected.slice(0, count & ~3));
        list.close();
      }),
      { seed: 1, numRuns: 300 },
    );
  });

  test(`over ${name}, what is copied in arrives in the segments and nowhere else`, async (t) => {
    await checkProperty(
      t,
      fc.property(segments, fc.nat(), fc.nat(), fc.integer({ min: 0, max: 2 }), (pieces, a, b, way) => {
        fill();
        const { list, at } = build(source, pieces);
        const start = a % (at.length + 1);
        const count = (b % (at.length - start + 1)) & (way === 1 ? ~3 : ~0);
        const data = Uint8Array.from({ length: count }, (_, i) => (way === 2 ? 0 : (i * 7 + 3) & 0xff));
        const expected = memory.u8.slice();
        at.slice(start, start + count).forEach((address, i) => (expected[address] = data[i]!));
        if (way === 0) list.copyIn(start, data, 0, count);
        else if (way === 1) list.copyWordsIn(start, new Uint32Array(data.buffer), 0, count / 4);
        else list.zero(start, count);
        assert.ok(Buffer.from(expected).equals(memory.u8));
        list.close();
      }),
      { seed: 2, numRuns: 300 },
    );
  });
}

test("a window's and a slice's iovec arrays cover exactly their part, and the list's own stays whole", async (t) => {
  using fd = memfd('data', MEMORY_BYTES);
  await checkProperty(
    t,
    fc.property(segments, fc.nat(), fc.nat(), (pieces, a, b) => {
      const { list, at } = build(native, pieces);
      const start = a % (at.length + 1);
      const end = start + (b % (at.length - start + 1));
      const read = (part: { iov: number; iovCount: number }, first: number, last: number) => {
        for (let i = 0; i < MEMORY_BYTES; i++) memory.u8[i] = 0x55;
        assert.equal(result(pwrite(fd.value, memory.address, MEMORY_BYTES, 0)), MEMORY_BYTES);
        memory.u8.fill(0xaa);
        assert.equal(
          result(preadv(fd.value, part.iov, part.iovCount, 0)),
          Math.min(last - first, MEMORY_BYTES),
        );
        if (last - first > MEMORY_BYTES) return;
        const expected = new Uint8Array(MEMORY_BYTES).fill(0xaa);
        for (const address of at.slice(first, last)) expected[address] = 0x55;
        assert.ok(Buffer.from(expected).equals(memory.u8));
      };
      const window = list.window(start, end);
      const slice = list.slice(start, end);
      read(window, start, end);
      read(slice, start, end);
      assert.equal(slice.length, end - start);
      read(list.window(0, end), 0, end);
      read(list.window(start, at.length), start, at.length);
      read(list, 0, at.length);
      list.close();
    }),
    { seed: 3, numRuns: 100 },
  );
});

test('accesses beyond the end are refused', () => {
  const { list } = build(native, [
    [0, 10],
    [100, 10],
  ]);
  const bytes = new Uint8Array(30);
  const words = new Uint32Array(2);
  for (const buffer of [list, list.window(0, 20), list.slice(0, 20)]) {
    assert.throws(() => buffer.put(11, bytes, 0, 10), RangeError);
    assert.throws(() => buffer.put(0, bytes, 25, 35), RangeError);
    assert.throws(() => buffer.put(-1, bytes, 0, 1), RangeError);
    assert.throws(() => buffer.put(NaN, bytes, 0, 1), RangeError);
    assert.throws(() => buffer.put(0, bytes, 5, 4), RangeError);
    assert.throws(() => buffer.get(20, bytes, 0, 1), RangeError);
    assert.throws(() => buffer.get(0, bytes, 25, 35), RangeError);
    assert.throws(() => buffer.zero(15, 6), RangeError);
    assert.throws(() => buffer.zero(0, -1), RangeError);
    assert.throws(() => buffer.slice(5, 21), RangeError);
    assert.throws(() => buffer.slice(6, 5), RangeError);
    buffer.put(20, bytes, 0, 0);
    buffer.zero(20, 0);
    assert.equal(buffer.slice(20).length, 0);
    assert.equal(buffer.slice(20).iovCount, 0);
    assert.deepEqual(buffer.slice(20).segments, []);
  }
  assert.throws(() => list.window(0, 21), RangeError);
  assert.throws(() => list.window(-1, 5), RangeError);
  assert.throws(() => list.copyWordsOut(16, words, 0, 2), RangeError);
  assert.throws(() => list.copyWordsOut(0, words, 1, 2), RangeError);
  assert.throws(() => list.copyWordsIn(16, words, 0, 2), RangeError);
  assert.throws(() => list.copyWordsIn(0, words, -1, 1), RangeError);
  list.clear();
  assert.throws(() => list.copyOut(0, bytes, 0, 1), RangeError);
  assert.deepEqual(list.segments, []);
  assert.equal(list.iovCount, 0);
  list.close();
});

test('segments that touch are one', () => {
  const list = new SegmentList(native);
  for (const [start, length] of [
    [0, 16],
    [4096, 4096],
    [8192, 4096],
    [16384, 10],
  ] as const) {
    assert.ok(list.push(memory.address + start, length));
  }
  assert.deepEqual(
    [list.count, list.length, list.segmentAddress(1) - memory.address, list.segmentLength(1)],
    [3, 8218, 4096, 8192],
  );
  const part = list.window(20, 8210);
  assert.deepEqual([part.iovCount, part.length], [2, 8190]);
  list.close();
});

test('a slice of a window counts from the window', () => {
  const { list } = build(native, [
    [0, 10],
    [100, 10],
  ]);
  memory.u8.set([1, 2, 3, 4], 100);
  const part = list.window(8, 14).slice(2, 5);
  assert.deepEqual(joined(part.segments), [1, 2, 3]);
  const bytes = new Uint8Array(2);
  part.slice(1).get(0, bytes);
  assert.deepEqual([...bytes], [2, 3]);
  list.close();
});

test('a list holds 1024 segments and not one more', () => {
  const list = new SegmentList(native);
  for (let i = 0; i < 1024; i++) assert.ok(list.push(memory.address + 2 * i, 1));
  assert.ok(!list.push(memory.address, 1));
  assert.ok(list.push(memory.address, 0));
  assert.equal(list.iovCount, 1024);
  assert.equal(list.length, 1024);
  fill();
  const bytes = new Uint8Array(1024);
  list.get(0, bytes);
  assert.deepEqual(
    bytes,
    memory.u8.slice(0, 2048).filter((_, i) => i % 2 === 0),
  );
  list.clear();
  assert.ok(list.push(memory.address, MEMORY_BYTES));
  assert.ok(!list.push(memory.address, 2 ** 32 - MEMORY_BYTES));
  assert.ok(list.push(memory.address, 2 ** 32 - MEMORY_BYTES - 1));
  list.close();
});

test('a segment may cross the windows of a mapping', () => {
  const size = WINDOW_SIZE + 65536;
  using fd = memfd('large', size);
  const mapping = Mapping.map(fd.value, size, 0);
  const list = new SegmentList(mapping);
  assert.ok(list.push(mapping.address + WINDOW_SIZE - 1001, 2000));
  const data = Uint8Array.from({ length: 2000 }, (_, i) => i & 0xff);
  list.put(0, data);
  const back = new Uint8Array(2000);
  list.get(0, back);
  assert.deepEqual(back, data);
  assert.equal(list.segments.length, 2);
  assert.equal(list.iovCount, 1);
  list.close();
  mapping.unmap();
});

test('a host buffer is one segment of memory, until it is closed', () => {
  const buffer = hostBuffer(5000);
  assert.equal(buffer.length, 5000);
  assert.equal(buffer.bytes.length, 5000);
  buffer.put(4990, new Uint8Array(10).fill(7));
  assert.equal(buffer.bytes[4999], 7);
  assert.throws(() => buffer.put(4991, new Uint8Array(10)), RangeError);
  buffer.close();
  buffer.close();
  assert.equal(buffer.bytes.length, 0);
});

test('an iovec array that a system call may still read is not used again', () => {
  const list = new SegmentList(native);
  for (const at of [0, 5000]) assert.ok(list.push(memory.address + at, 100));
  const whole = list.window(0, 200).iov;
  const slice = list.slice(50, 150).iov;
  list.leaveArrays();
  list.close();
  const others = Array.from({ length: 5000 }, () => {
    const other = new SegmentList(native);
    for (const at of [8192, 9000]) assert.ok(other.push(memory.address + at, 10));
    return { other, iov: other.window(0, 20).iov };
  });
  for (const { other, iov } of others) {
    assert.ok(iov !== whole && iov !== slice);
    other.close();
  }
});
