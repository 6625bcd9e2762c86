import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { it } from 'node:test';
import { SLICE_BYTES, sumOf } from '../../../../backends/s3/client/checksums.js';
import { countTurns } from '../../../support/event-loop-turns.js';

it('however many large bodies are summed at a time, others are served between any two slices', async () => {
  const [bodies, slices] = [16, 8];
  const body = Buffer.alloc(slices * SLICE_BYTES, 'body');
  const [sums, turns] = await countTurns(() =>
    Promise.all(Array.from({ length: bodies }, () => sumOf('sha256', [body]))),
  );
  for (const sum of sums) assert.deepEqual(sum, createHash('sha256').update(body).digest());
  assert.ok(turns >= bodies * (slices - 1), `${turns} turns`);
});

it('pieces of any size make one sum', async () => {
  const pieces = [0, 1, SLICE_BYTES - 1, SLICE_BYTES, 2 * SLICE_BYTES + 3].map((size) =>
    Buffer.alloc(size, 'x'),
  );
  assert.deepEqual(await sumOf('md5', pieces), createHash('md5').update(Buffer.concat(pieces)).digest());
});
