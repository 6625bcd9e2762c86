import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OpenRequests, uniqueOf } from '../../../../core/state/journal/open-requests.js';
import { Random, withSeed } from '../../../support/random.js';

test('records of open requests are found and moved in the order in which they were made', async (t) => {
  await withSeed(t, 1, (seed) => {
    const random = new Random(seed);
    const requests = new OpenRequests();
    const known = new Map<number, number>();
    let position = 0;
    for (let i = 0; i < 20_000; i++) {
      // Some wait for long, so that there are more than have places.
      const [low, high] = [random.below(random.once(9) ? 300 : 40) - 20, random.below(2)];
      const unique = uniqueOf(low, high);
      assert.equal(requests.has(low, high), known.has(unique));
      if (random.once(3)) {
        requests.delete(low, high);
        known.delete(unique);
      } else {
        requests.set(low, high, ++position);
        known.delete(unique);
        known.set(unique, position);
      }
      if (!random.once(50)) continue;
      const moved: number[] = [];
      requests.move((from) => {
        moved.push(from);
        return (position += 1);
      });
      assert.deepEqual(moved, [...known.values()]);
      position -= moved.length;
      for (const each of known.keys()) known.set(each, ++position);
    }
  });
});
