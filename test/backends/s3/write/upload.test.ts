import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { partStart } from '../../../../backends/s3/write/upload.js';

describe('parts', () => {
  it('grow so that 10,000 hold the largest object, and follow one another', () => {
    const MiB = 2 ** 20;
    assert.equal(partStart(1, 8 * MiB), 8 * MiB);
    assert.equal(partStart(1000, 8 * MiB), 8000 * MiB);
    assert.equal(partStart(1001, 8 * MiB), 8016 * MiB);
    assert.ok(partStart(10_000, 8 * MiB) >= 5 * 2 ** 40);
    for (const index of [0, 1, 999, 1000, 1001, 5000, 9999]) {
      const size = partStart(index + 1, 8 * MiB) - partStart(index, 8 * MiB);
      assert.ok(size >= 5 * MiB && size <= 5 * 2 ** 30);
    }
  });
});
