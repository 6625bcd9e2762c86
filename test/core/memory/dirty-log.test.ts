import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DirtyLog } from '../../../core/memory/index.js';
import { Mapping, memfd } from '../../../core/system/index.js';

test('each page that a write touches gets its bit, and no other', () => {
  using fd = memfd('log', 4096);
  const mapping = Mapping.map(fd.value, 4096, 0);
  const log = new DirtyLog(mapping);
  const bits = mapping.windowAt(mapping.address).u8;
  log.mark(0, 0);
  assert.equal(bits[0], 0);
  log.mark(4096, 4096);
  assert.equal(bits[0], 0b10);
  log.mark(4 * 4096 - 1, 2);
  assert.equal(bits[0], 0b11010);
  log.mark(7 * 4096 + 5, 2 * 4096);
  assert.deepEqual([bits[0], bits[1]], [0b10011010, 0b11]);
  log.mark(4096 * 8 * 4096 - 1, 10 * 4096);
  assert.equal(bits[4095], 0b1000_0000);
  log.mark(2 ** 50, 4096);
  mapping.unmap();
});
