import assert from 'node:assert/strict';
import { ftruncateSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import {
  libc,
  Mapping,
  memfd,
  NativeMemory,
  OwnedFd,
  result,
  Seal,
  WINDOW_SIZE,
} from '../../../core/system/index.js';

const pwrite = libc<(fd: number, source: number, count: number, offset: number) => number>(
  'pwrite',
  'intptr_t',
  ['int', 'uintptr_t', 'size_t', 'int64_t'],
);

function isMapped(address: number): boolean {
  return readFileSync('/proc/self/maps', 'latin1')
    .split('\n')
    .some((line) => {
      const [start, end] = line.split(/[ -]/).map((word) => parseInt(word, 16));
      return address >= start! && address < end!;
    });
}

test('native memory has an address that system calls can use, and is zeroed', () => {
  const memory = NativeMemory.allocate(100);
  assert.equal(memory.length, 4096);
  assert.equal(memory.address % 4096, 0);
  assert.ok(memory.u8.every((byte) => byte === 0));
  using fd = memfd('test', 4096);
  memory.u8.set([1, 2, 3]);
  assert.equal(result(pwrite(fd.value, memory.address, 3, 10)), 3);
  const mapping = Mapping.map(fd.value, 4096, 0);
  assert.deepEqual([...mapping.windowAt(mapping.address).u8.subarray(9, 14)], [0, 1, 2, 3, 0]);
  mapping.unmap();
  memory.free();
  memory.free();
});

test('parts of native memory are given back by whole pages, and read as zeros then', () => {
  const memory = NativeMemory.allocate(3 * 4096);
  memory.u8.fill(7);
  memory.discard(1, 3 * 4096 - 1);
  assert.deepEqual([...new Set(memory.u8.subarray(4096, 8192))], [0]);
  assert.deepEqual([memory.u8[0], memory.u8[4095], memory.u8[8192], memory.u8[12_287]], [7, 7, 7, 7]);
  memory.discard(10, 20);
  assert.equal(memory.u8[10], 7);
  assert.throws(() => memory.discard(0, 3 * 4096 + 1), RangeError);
  memory.free();
  assert.throws(() => memory.discard(0, 4096), RangeError);
});

test('views of freed memory stay harmless', () => {
  const memory = NativeMemory.allocate(4096);
  memory.u32[0] = 7;
  memory.free();
  memory.u32[1] = 1;
  assert.equal(memory.u32[0], 0);
});

test('views of an unmapped mapping see neither the file nor change it', () => {
  using fd = memfd('test', 8192);
  const mapping = Mapping.map(fd.value, 8192, 0);
  const other = Mapping.map(fd.value, 4096, 4096);
  const { u8 } = mapping.windowAt(mapping.address);
  u8[4096] = 9;
  assert.equal(other.windowAt(other.address).u8[0], 9);
  mapping.unmap();
  mapping.unmap();
  assert.equal(u8[4096], 0);
  u8[4096] = 1;
  assert.equal(other.windowAt(other.address).u8[0], 9);
  assert.throws(() => mapping.windowAt(mapping.address), RangeError);
  assert.throws(() => mapping.view(mapping.address, 16), RangeError);
  other.unmap();
});

test('a mapping that is held is let go of when nobody holds it any more', () => {
  using fd = memfd('test', 4096);
  const mapping = Mapping.map(fd.value, 4096, 0);
  const bytes = mapping.windowAt(mapping.address).u8;
  bytes[0] = 9;
  mapping.hold();
  mapping.hold();
  mapping.unmap();
  mapping.letGo();
  assert.equal(bytes[0], 9);
  mapping.letGo();
  assert.equal(bytes[0], 0);
});

test('the addresses of released memory are given back when nobody holds a view any more', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  using fd = memfd('test', 2 ** 20);
  const first = (): number => {
    const mapping = Mapping.map(fd.value, 2 ** 20, 0);
    mapping.windowAt(mapping.address).u8[0] = 1;
    mapping.unmap();
    return mapping.address;
  };
  const held = Mapping.map(fd.value, 2 ** 20, 0);
  const { u8 } = held.windowAt(held.address);
  held.unmap();
  const addresses = Array.from({ length: 20 }, first);
  for (let i = 0; i < 100 && addresses.some(isMapped); i++) {
    collect();
    await turn();
  }
  // Something else may have been mapped into the gap by now.
  assert.ok(addresses.filter(isMapped).length < 5);
  assert.ok(isMapped(held.address));
  assert.equal(u8[0], 0);
});

test('memory that was mapped cannot be truncated away by its other owner, if it can be sealed', () => {
  using fd = memfd('test', 8192);
  Mapping.map(fd.value, 4096, 0).unmap();
  assert.throws(() => ftruncateSync(fd.value, 4096), { code: 'EPERM' });
  ftruncateSync(fd.value, 16384);
  using sealed = memfd('test', 4096, Seal.SEAL);
  Mapping.map(sealed.value, 4096, 0).unmap();
  ftruncateSync(sealed.value, 0);
});

test('a mapping beyond the end of its file is refused', () => {
  using fd = memfd('test', 8192);
  assert.throws(() => Mapping.map(fd.value, 8193, 0), /the file ends at 8192/);
  assert.throws(() => Mapping.map(fd.value, 4096, 8192), /the file ends at 8192/);
  assert.throws(() => Mapping.map(fd.value, 0, 0), RangeError);
  assert.throws(() => Mapping.map(fd.value, 4096, -4096), RangeError);
  assert.throws(() => Mapping.map(fd.value, 2 ** 60, 0), RangeError);
});

test('a mapping may begin and end anywhere in its file', () => {
  using fd = memfd('test', 3 * 4096);
  const whole = Mapping.map(fd.value, 3 * 4096, 0);
  whole.windowAt(whole.address).u8[5000] = 42;
  const part = Mapping.map(fd.value, 5000, 4999);
  assert.equal(part.length, 5000);
  assert.equal(part.address % 4096, 4999 % 4096);
  assert.equal(new Uint8Array(part.view(part.address, 5000))[1], 42);
  assert.throws(() => part.view(part.address, 5001), RangeError);
  part.unmap();
  whole.unmap();
});

test('a mapping of more than 4 GiB is covered by windows without gaps', () => {
  const size = 5 * 2 ** 30 + 4096;
  using fd = memfd('test', size, Seal.SHRINK | Seal.GROW);
  const mapping = Mapping.map(fd.value, size, 0);
  const last = mapping.address + size - 1;
  for (let start = mapping.address; start <= last;) {
    const window = mapping.windowAt(start);
    assert.equal(window.start, start);
    assert.equal(window.end, Math.min(start + WINDOW_SIZE, last + 1));
    assert.equal(mapping.windowAt(window.end - 1), window);
    start = window.end;
  }
  assert.throws(() => mapping.windowAt(last + WINDOW_SIZE), RangeError);
  mapping.windowAt(last).u32[1023] = 0xdeadbeef;
  const tail = Mapping.map(fd.value, 4096, size - 4096);
  assert.equal(tail.windowAt(tail.address).u32[1023], 0xdeadbeef);
  tail.unmap();
  mapping.unmap();
});

test('an owned descriptor is closed once, and not at all once it was taken', () => {
  const fd = memfd('test', 1);
  const number = fd.value;
  fd.close();
  assert.equal(fd.value, -1);
  using other = memfd('test', 1);
  assert.equal(other.value, number);
  fd.close();
  Mapping.map(other.value, 1, 0).unmap();
  const taken = new OwnedFd(other.take());
  other.close();
  Mapping.map(taken.value, 1, 0).unmap();
  taken.close();
});
