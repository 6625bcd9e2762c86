import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Extents } from '../../../../backends/s3/journal/extents.js';
import { checkProperty } from '../../../support/random.js';

describe('extents', () => {
  it('show for each byte what wrote it last, as a plain array does', async (t) => {
    const operation = fc.record({
      kind: fc.constantFrom('data', 'hole', 'truncate', 'drop'),
      start: fc.nat(60),
      length: fc.integer({ min: 1, max: 20 }),
    });
    await checkProperty(
      t,
      fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
        const extents = new Extents();
        let model: (string | undefined)[] = Array.from({ length: 100 }, () => undefined);
        let position = 1000;
        for (const { kind, start, length } of operations) {
          const end = start + length;
          if (kind === 'truncate') {
            extents.truncate(start);
            model.fill(undefined, start);
          } else if (kind === 'drop') {
            // Each offset is the start of a record. A record of the log is dropped as a whole or
            // not at all.
            const limit = position - Math.floor(start / 10) * 100;
            extents.dropBefore(limit);
            model = model.map((owner) => (Number(owner?.split(':')[1] ?? 0) >= limit ? owner : undefined));
          } else {
            extents.insert(start, end, position, kind === 'hole');
            for (let at = start; at < end; at++) {
              model[at] = kind === 'hole' ? `hole:${position}` : `log:${position}:${position + at - start}`;
            }
            position += 100;
          }
        }
        const shown: (string | undefined)[] = [];
        for (const piece of extents.cover(0, 100)) {
          for (let at = piece.start; at < piece.end; at++) {
            const where = piece.position + at - piece.start;
            if (piece.source === 'gap') shown.push(undefined);
            else if (piece.source === 'hole') shown.push(`hole:${piece.position}`);
            else shown.push(`log:${where - (where % 100)}:${where}`);
          }
        }
        assert.deepEqual(shown, model);
        assert.equal(extents.live, model.filter((owner) => owner?.startsWith('log') === true).length);
      }),
      { numRuns: 1000 },
    );
  });
});
