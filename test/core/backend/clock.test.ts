import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Clock } from '../../../core/backend/clock.js';

/** Where the wall clock begins, in milliseconds. */
const BASE_MS = 1_700_000_000_000;

test('time does not go back by itself, follows steps of the wall clock, and is that of the host', (t) => {
  const clock = new Clock();
  const time = (): bigint => {
    clock.tick();
    return BigInt(clock.seconds) * 1_000_000_000n + BigInt(clock.nanoseconds);
  };
  const before = BigInt(Date.now()) * 1_000_000n;
  let last = time();
  assert.ok(last >= before);
  for (let i = 0; i < 100_000; i++) {
    const next = time();
    assert.ok(next >= last, `${next} after ${last}`);
    last = next;
  }
  assert.ok(last < BigInt(Date.now() + 1) * 1_000_000n);

  let wall = BASE_MS;
  let monotonic = 50_000;
  t.mock.method(Date, 'now', () => wall);
  t.mock.method(performance, 'now', () => monotonic);
  const at = (wallMs: number, monotonicMs: number): number => {
    wall = BASE_MS + wallMs;
    monotonic = 50_000 + monotonicMs;
    return Number(time() - BigInt(BASE_MS) * 1_000_000n);
  };
  assert.equal(at(0, 0), 0);
  assert.equal(at(0, 0.25), 250_000);
  // Held for 20 ms after the wall clock was read: not before what was told already.
  assert.equal(at(0, 20.25), 250_001);
  assert.equal(at(20, 20.5), 20_000_000);
  assert.equal(at(20, 20.75), 20_250_000);
  // A host that was suspended: only the wall clock has gone on.
  assert.equal(at(3_600_000, 21), 3_600_000_000_000);
  assert.equal(at(3_600_000, 21.5), 3_600_000_500_000);
  // A clock that is set back.
  assert.equal(at(-5000, 22), -5_000_000_000);
  assert.equal(at(-5000, 22.5), -4_999_500_000);
});
