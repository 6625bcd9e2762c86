import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Bandwidth } from '../../../../backends/s3/client/bandwidth.js';

/** Bytes a second, and bytes of what is not used and may be used later. */
const LIMIT = 1_000_000;
const SAVED = LIMIT / 10;

describe('a limit on bytes a second', () => {
  it('lets no more pass in a time than that time allows, whoever asks', async () => {
    const limit = new Bandwidth(LIMIT);
    const began = performance.now();
    let passed = 0;
    const user = async (piece: number): Promise<void> => {
      for (let i = 0; i < 8; i++) {
        await limit.take(piece);
        const allowed = (performance.now() - began) * (LIMIT / 1000) + SAVED;
        passed += piece;
        // A piece that needs no timer is at most so early.
        assert.ok(passed <= allowed + 6 * (LIMIT / 1000), `${passed} of ${allowed}`);
      }
    };
    await Promise.all([user(1_000), user(16_000), user(32_000)]);
  });

  it('gives everybody a turn, in the order of asking', async () => {
    const limit = new Bandwidth(LIMIT);
    void limit.take(2 * SAVED);
    const order: number[] = [];
    await Promise.all([1, 2, 3].map(async (who) => limit.take(20_000)?.then(() => void order.push(who))));
    assert.deepEqual(order, [1, 2, 3]);
  });

  it('makes nobody wait who stays below it', () => {
    const limit = new Bandwidth(LIMIT);
    assert.equal(limit.take(SAVED), undefined);
    assert.equal(Bandwidth.of(undefined), undefined);
  });
});
