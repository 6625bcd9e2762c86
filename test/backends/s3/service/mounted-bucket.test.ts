import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryCacheOf } from '../../../../backends/s3/service/mounted-bucket.js';

const MiB = 2 ** 20;

test('file data takes 64 MiB of memory, and a quarter at most of what this process may use', () => {
  for (const [limit, bytes] of [
    [8192, 64],
    [256, 64],
    [200, 50],
    [64, 16],
    [8, 4],
  ] as const) {
    assert.equal(memoryCacheOf({ memoryCache: undefined }, limit * MiB), bytes * MiB);
  }
  assert.equal(memoryCacheOf({ memoryCache: 512 * MiB }, 256 * MiB), 512 * MiB);
  assert.ok(memoryCacheOf({ memoryCache: undefined }) <= 64 * MiB);
});
