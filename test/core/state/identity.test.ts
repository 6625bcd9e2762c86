import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import type { NodeKey } from '../../../core/backend/index.js';
import {
  Counter,
  GENERATION,
  HIGH,
  LOW,
  ROOT_ID,
  identify,
  nextIdentity,
} from '../../../core/state/index.js';
import { checkProperty } from '../../support/random.js';

function idOf(key: NodeKey): string {
  const words = new Int32Array(3);
  identify(key, words);
  return [...words].join(' ');
}

describe('a node id', () => {
  it('is the same for the same key, in every process', () => {
    assert.equal(idOf('bucket/key'), idOf('bucket/key'));
    const words = new Int32Array(3);
    identify('bucket/key', words);
    assert.deepEqual(
      [words[LOW]! >>> 0, words[HIGH]! >>> 0, words[GENERATION]! >>> 0],
      [3239422064, 2583656446, 2993437823],
    );
  });

  it('differs for different keys', async (t) => {
    await checkProperty(
      t,
      fc.property(fc.string(), fc.string(), (a, b) => a === b || idOf(a) !== idOf(b)),
      { numRuns: 2000 },
    );
  });

  it('differs where one byte of the key does', async (t) => {
    await checkProperty(
      t,
      fc.property(
        fc.uint8Array({ maxLength: 40 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (bytes, at, flip) => {
          if (bytes.length === 0) return;
          const other = bytes.slice();
          other[at % bytes.length]! ^= flip;
          assert.notEqual(idOf(other), idOf(bytes));
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('collides for none of 200,000 numbers and names, and spreads over all bits', () => {
    const seen = new Set<string>();
    const ones = Array.from({ length: 64 }, () => 0);
    const words = new Int32Array(3);
    for (let i = 0; i < 100_000; i++) {
      for (const key of [i * 256, `directory/file-${i}`]) {
        identify(key, words);
        seen.add(`${words[LOW]} ${words[HIGH]}`);
        for (let bit = 0; bit < 64; bit++) ones[bit]! += (words[bit < 32 ? LOW : HIGH]! >>> (bit & 31)) & 1;
      }
    }
    assert.equal(seen.size, 200_000);
    for (const [bit, count] of ones.entries()) {
      assert.ok(Math.abs(count - 100_000) < 2000, `bit ${bit} is set in ${count} of 200,000`);
    }
  });

  it('is never 0 nor the root’s, and goes on to the next on a collision', () => {
    const words = Int32Array.of(-1, -1, 7);
    nextIdentity(words);
    assert.deepEqual([...words], [2, 0, 7]);
    words[LOW] = -1;
    words[HIGH] = 5;
    nextIdentity(words);
    assert.deepEqual([...words], [0, 6, 7]);
    words[LOW] = ROOT_ID - 1;
    words[HIGH] = 0;
    nextIdentity(words);
    assert.equal(words[HIGH] === 0 && words[LOW]! <= ROOT_ID, false);
  });

  it('without a key is a counter’s, under an epoch of the process', () => {
    const counter = new Counter();
    const words = new Int32Array(3);
    counter.identify(words);
    const [low, high, generation] = words;
    counter.identify(words);
    assert.deepEqual([...words], [low! + 1, high, generation]);
    assert.notEqual(generation, 0);
  });
});
