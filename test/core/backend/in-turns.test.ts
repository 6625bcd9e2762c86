import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eachInTurns } from '../../../core/backend/in-turns.js';

test('work that begins other work goes on, and so does the other', async () => {
  const done = { outer: 0, inner: 0 };
  let inner: Promise<void> | undefined;
  const count = (): void => void (done.inner += 1);
  await eachInTurns(
    0,
    100,
    (item) => {
      done.outer += 1;
      if (item === 50) inner = eachInTurns(0, 100, count, 0);
    },
    0,
  );
  await inner;
  // A turn too many would be an exception that nobody catches.
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(done, { outer: 100, inner: 100 });
});
