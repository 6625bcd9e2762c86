import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Busiest } from '../../../../core/fuse/session/busiest.js';

test('what makes up more than a 64th is among the busiest, and no count is too high', () => {
  const busiest = new Busiest();
  const seen = new Map<number, number>();
  const see = (key: number): void => {
    seen.set(key, (seen.get(key) ?? 0) + 1);
    busiest.see(key, -key);
  };
  for (let i = 0; i < 20_000; i++) {
    see(1000 + i);
    if (i % 10 === 0) see(1);
    if (i % 20 === 0) see(-2);
  }
  const top = busiest.top(64);
  assert.equal(top.length, 64);
  assert.deepEqual(
    top.slice(0, 2).map(({ low, high }) => [low, high]),
    [
      [1, -1],
      [-2, 2],
    ],
  );
  for (const { low, count } of top) assert.ok(count >= 1 && count <= seen.get(low)!);
});

test('few are counted exactly', () => {
  const busiest = new Busiest();
  for (let i = 0; i < 64; i++) for (let n = 0; n <= i; n++) busiest.see(i, 7);
  assert.deepEqual(busiest.top(2), [
    { low: 63, high: 7, count: 64 },
    { low: 62, high: 7, count: 63 },
  ]);
});
