import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buffer } from 'node:stream/consumers';
import fc from 'fast-check';
import { Draft, DraftMemory } from '../../../../core/adapters/webdav/draft.js';
import { checkProperty } from '../../../support/random.js';

/** Bytes around the ends of pieces, of which a draft has four at most here. */
const place = fc
  .nat(4)
  .chain((piece) => fc.integer({ min: -3, max: 3 }).map((by) => Math.max(0, piece * 65_536 + by)));

test('a draft holds what a file would, and takes the memory of its pieces', async (t) => {
  const step = fc.oneof(
    fc.record({ write: place, length: fc.oneof(fc.nat(9), place), value: fc.integer({ min: 1, max: 255 }) }),
    fc.record({ resize: place }),
  );
  await checkProperty(
    t,
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      const memory = new DraftMemory(4 * 65_536);
      const draft = new Draft(memory);
      let file = Buffer.alloc(0);
      for (const one of steps) {
        const end = 'write' in one ? Math.max(file.length, one.write + one.length) : one.resize;
        const apply = (): void =>
          'write' in one ? draft.write(Buffer.alloc(one.length, one.value), one.write) : draft.resize(end);
        if (end > 4 * 65_536) {
          assert.throws(apply, { code: 'ENOSPC' });
          continue;
        }
        apply();
        const next = Buffer.alloc(end);
        file.copy(next);
        if ('write' in one) next.fill(one.value, one.write, one.write + one.length);
        file = next;
      }
      assert.equal(draft.length, file.length);
      assert.deepEqual(await buffer(draft.content()), file);
      const part = Buffer.alloc(70_000, 1);
      const count = draft.read(part, 65_530);
      assert.deepEqual(part.subarray(0, count), file.subarray(65_530, 135_530));
      draft.resize(0);
      memory.take(4 * 65_536);
    }),
  );
});
