import assert from 'node:assert/strict';
import { test } from 'node:test';
import { retryPauseMs } from '../../../../backends/s3/client/retry-pause.js';

test('pauses double up to the longest, less a random part of at most a half', () => {
  for (const [failures, most] of [
    [1, 100],
    [2, 200],
    [6, 3200],
    [7, 5000],
    [5000, 5000],
  ] as const) {
    for (let i = 0; i < 100; i++) {
      const pause = retryPauseMs({ firstMs: 100, maxMs: 5000 }, failures);
      assert.ok(pause > most / 2 && pause <= most, `${pause} ms after ${failures} failures`);
    }
  }
});
