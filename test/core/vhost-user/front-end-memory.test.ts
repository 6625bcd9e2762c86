import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { SharedMemory } from '../../../core/vhost-user/index.js';
import { checkProperty } from '../../support/random.js';

const PAGE_BYTES = 4096;
const PAGES = 32;

test('memory is given out in disjoint pages, and all of it comes back', async (t) => {
  await checkProperty(
    t,
    fc.property(fc.array(fc.nat(9 * PAGE_BYTES), { minLength: 1, maxLength: 60 }), (sizes) => {
      const memory = new SharedMemory(PAGES * PAGE_BYTES);
      const used = new Map<number, number>();
      for (const size of sizes) {
        // Large sizes give the oldest run back, so that holes of all kinds appear.
        const [oldest] = used.keys();
        if (size > 4 * PAGE_BYTES && oldest !== undefined) {
          memory.release(oldest);
          used.delete(oldest);
        }
        const offset = memory.allocate(size);
        if (offset < 0) continue;
        const end = offset + Math.max(1, Math.ceil(size / PAGE_BYTES)) * PAGE_BYTES;
        assert.ok(end <= PAGES * PAGE_BYTES);
        for (const [start, other] of used) assert.ok(end <= start || other <= offset, 'two runs overlap');
        used.set(offset, end);
      }
      for (const offset of used.keys()) memory.release(offset);
      assert.equal(memory.allocate(PAGES * PAGE_BYTES), 0);
      memory.close();
    }),
    { numRuns: 200 },
  );
});
