import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Recent } from '../../../../core/wrappers/watched/events.js';

test('what was done last is remembered, as long as its paths have room', () => {
  const recent = new Recent(60_000);
  for (let i = 0; i < 5000; i++) recent.add(`${i}`);
  assert.ok(recent.has('0') && recent.has('4999'));
  const long = (i: number): string => `${'directory/'.repeat(400)}${i}`;
  for (let i = 0; i < 1000; i++) recent.add(long(i));
  const kept = Array.from({ length: 1000 }, (_, i) => recent.has(long(i)));
  assert.ok(kept[999] && kept[900]);
  assert.equal(kept[500], false);
  assert.equal(recent.has('4999'), false);
  assert.ok(recent.take(long(999)));
  assert.ok(!recent.take(long(999)));
});
