import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeState, encodeState } from '../../../core/vhost-user/saved-queues.js';

const SESSION = Buffer.from('VFSKSAVE and more');
const NONE = { base: 9, heads: [] };
const WAITING = { base: 65_535, heads: [7, 0, 300] };

test('a session without waiting requests goes along as it is', () => {
  assert.equal(encodeState([NONE, NONE], SESSION), SESSION);
  assert.deepEqual(decodeState(SESSION, 2), { backlogs: [], rest: SESSION });
});

test('waiting requests come back by queue, in order', () => {
  const bytes = encodeState([NONE, WAITING, { base: 1, heads: [1] }], SESSION);
  assert.deepEqual(decodeState(bytes, 3), {
    backlogs: [
      { index: 1, ...WAITING },
      { index: 2, base: 1, heads: [1] },
    ],
    rest: SESSION,
  });
});

test('a state that is cut short, contradicts itself or is of a larger device is refused', () => {
  const bytes = encodeState([NONE, WAITING], new Uint8Array(0));
  for (let length = 8; length < bytes.length; length++)
    assert.throws(() => decodeState(bytes.subarray(0, length), 2), RangeError, `${length} bytes`);
  assert.throws(() => decodeState(bytes, 1), /queue 1/);
  assert.throws(
    () => decodeState(encodeState([{ base: 2, heads: [3, 3] }], SESSION), 1),
    /contradicts itself/,
  );
});
