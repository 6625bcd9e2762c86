import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { AddressSpace, MAX_REGIONS, SegmentList } from '../../../core/memory/index.js';
import { Mapping, memfd } from '../../../core/system/index.js';
import { checkProperty } from '../../support/random.js';

function mapping(bytes: number): Mapping {
  using fd = memfd('region', bytes);
  return Mapping.map(fd.value, bytes, 0);
}

function close(space: AddressSpace): void {
  for (const region of space.clear()) region.unmap();
}

test('addresses are translated in each region and nowhere else', () => {
  const space = new AddressSpace();
  const low = mapping(8192);
  const high = mapping(4096);
  space.add(high, 2 ** 32, 0x5000);
  space.add(low, 0, 2 ** 46);
  assert.equal(space.translateGuest(0, 8192), low.address);
  assert.equal(space.translateGuest(8191, 1), low.address + 8191);
  assert.equal(space.translateGuest(8191, 2), -1);
  assert.equal(space.translateGuest(8192, 0), -1);
  assert.equal(space.translateGuest(2 ** 32 + 100, 3996), high.address + 100);
  assert.equal(space.translateGuest(2 ** 32 - 1, 1), -1);
  assert.equal(space.translateUser(2 ** 46, 1), low.address);
  assert.equal(space.translateUser(0x5fff, 1), high.address + 4095);
  assert.equal(space.translateUser(0, 1), -1);
  for (const address of [-1, NaN, Infinity, 2 ** 53, 2 ** 64])
    assert.equal(space.translateGuest(address, 1), -1);
  for (const length of [-1, NaN, Infinity, 2 ** 53]) assert.equal(space.translateGuest(0, length), -1);
  const ranges: [number, number][] = [];
  space.eachGuestRange(high.address + 7, 5, (at, length) => ranges.push([at, length]));
  space.eachGuestRange(1, 4, (at, length) => ranges.push([at, length]));
  assert.deepEqual(ranges, [[2 ** 32 + 7, 5]]);
  close(space);
  assert.equal(space.translateGuest(0, 1), -1);
});

test('regions may not overlap, nor lie beyond 2^53', () => {
  const space = new AddressSpace();
  const first = mapping(8192);
  const other = mapping(8192);
  space.add(first, 0x10000, 0x10000);
  assert.throws(() => space.add(other, 0x11000, 0x90000), /overlap/);
  assert.throws(() => space.add(other, 0xf000, 0x90000), /overlap/);
  assert.throws(() => space.add(other, 0x90000, 0x11000), /overlap/);
  assert.throws(() => space.add(other, 2 ** 53 - 4096, 0), RangeError);
  assert.throws(() => space.add(other, 0, 2 ** 53), RangeError);
  assert.throws(() => space.add(other, -1, 0), RangeError);
  space.add(other, 0x12000, 0xe000);
  assert.equal(space.mappings.length, 2);
  close(space);
});

test('a region is removed by exactly its addresses and length', () => {
  const space = new AddressSpace();
  const region = mapping(4096);
  space.add(region, 0x1000, 0x2000);
  assert.equal(space.remove(0x1000, 0x2000, 8192), undefined);
  assert.equal(space.remove(0x2000, 0x2000, 4096), undefined);
  assert.equal(space.remove(0x1000, 0x2000, 4096), region);
  assert.equal(space.translateGuest(0x1000, 1), -1);
  assert.throws(() => space.windowAt(region.address), RangeError);
  region.unmap();
});

test('as many regions as a front-end has slots are served, and no more', () => {
  const space = new AddressSpace();
  for (let i = 0; i < MAX_REGIONS; i++) space.add(mapping(4096), i * 8192, i * 8192);
  const extra = mapping(4096);
  assert.throws(() => space.add(extra, 2 ** 40, 2 ** 40), /more than 509/);
  extra.unmap();
  for (let i = 0; i < MAX_REGIONS; i++) {
    const host = space.translateGuest(i * 8192 + 4095, 1);
    assert.equal(host, space.translateUser(i * 8192 + 4095, 1));
    assert.equal(space.windowAt(host).end - host, 1);
    assert.equal(space.translateGuest(i * 8192 + 4096, 1), -1);
  }
  close(space);
});

test('memory that goes on from region to region becomes several segments', () => {
  const space = new AddressSpace();
  for (let i = 0; i < 3; i++) space.add(mapping(4096), i * 4096, i * 65536);
  const list = new SegmentList(space);
  assert.ok(space.append(list, 100, 3 * 4096 - 200));
  assert.deepEqual(
    Array.from({ length: list.count }, (_, i) => list.segmentLength(i)),
    [3996, 4096, 3996],
  );
  list.zero(0, list.length);
  assert.ok(!space.append(list, 100, 3 * 4096));
  assert.ok(!space.append(list, 3 * 4096, 1));
  assert.ok(!space.append(list, NaN, 1));
  list.close();
  close(space);
});

test('translation agrees with a search of all regions', async (t) => {
  const region = fc.record({ gap: fc.integer({ min: 0, max: 3 }), pages: fc.integer({ min: 1, max: 3 }) });
  await checkProperty(
    t,
    fc.property(
      fc.array(region, { minLength: 1, maxLength: 6 }),
      fc.array(fc.tuple(fc.integer({ min: 0, max: 40 * 4096 }), fc.integer({ min: 0, max: 3 * 4096 }))),
      (regions, questions) => {
        const space = new AddressSpace();
        const model: { start: number; end: number; host: number }[] = [];
        let start = 0;
        for (const { gap, pages } of regions) {
          start += gap * 4096;
          const memory = mapping(pages * 4096);
          space.add(memory, start, start + 2 ** 40);
          model.push({ start, end: start + pages * 4096, host: memory.address });
          start += pages * 4096;
        }
        for (const [address, length] of questions) {
          const found = model.find((part) => address >= part.start && address < part.end);
          const expected = found && address + length <= found.end ? found.host + address - found.start : -1;
          assert.equal(space.translateGuest(address, length), expected);
          assert.equal(space.translateUser(address + 2 ** 40, length), expected);
        }
        close(space);
      },
    ),
    { seed: 7, numRuns: 200 },
  );
});
