import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Awaitable, isPromise, run, type Steps, andThen, wait } from '../../../core/backend/index.js';

function* sum(a: Awaitable<number>, b: Awaitable<number>): Steps<number> {
  return (yield* wait(a)) + (yield* wait(b));
}

function* guarded(value: Awaitable<number>): Steps<string> {
  try {
    return `got ${yield* wait(value)}`;
  } catch (error) {
    return `caught ${(error as Error).message}`;
  }
}

test('a routine over values ends in the same turn, with no promise', () => {
  assert.equal(run(sum(1, 2)), 3);
});

test('a routine over promises ends later, whichever of them is a promise', async () => {
  for (const [a, b] of [
    [1, Promise.resolve(2)],
    [Promise.resolve(1), 2],
    [Promise.resolve(1), Promise.resolve(2)],
  ] as const) {
    const result = run(sum(a, b));
    assert.ok(isPromise(result));
    assert.equal(await result, 3);
  }
});

test('a rejection is thrown into the routine where it waits', async () => {
  assert.equal(await run(guarded(Promise.reject(new Error('late')))), 'caught late');
});

test('an error that the routine does not catch comes out as it would without it', async () => {
  // eslint-disable-next-line require-yield
  function* failing(): Steps<never> {
    throw new Error('early');
  }
  assert.throws(() => run(failing()), /early/);
  await assert.rejects(async () => run(sum(1, Promise.reject(new Error('late')))), /late/);
});

test('andThen continues at once with a value and later with a promise', async () => {
  assert.equal(
    andThen(1, (n) => n + 1),
    2,
  );
  assert.equal(await andThen(Promise.resolve(1), (n) => n + 1), 2);
});
