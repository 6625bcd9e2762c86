import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomBytes } from '../../../../core/system/calls/random.js';

test('random bytes are as many as asked for, and others each time', () => {
  for (const length of [4, 16, 256]) {
    const [one, other] = [randomBytes(length), randomBytes(length)];
    assert.equal(one.length, length);
    assert.notDeepEqual(one, other);
  }
});
