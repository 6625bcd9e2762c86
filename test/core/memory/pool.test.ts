import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Pool } from '../../../core/memory/index.js';

test('a pool gives what it was given, the latest first', () => {
  const pool = new Pool<string>();
  assert.equal(pool.take(), undefined);
  pool.give('a');
  pool.give('b');
  assert.equal(pool.take(), 'b');
  pool.give('c');
  assert.equal(pool.take(), 'c');
  assert.equal(pool.take(), 'a');
  assert.equal(pool.take(), undefined);
});

test('a pool that was emptied holds nothing', () => {
  const pool = new Pool<string>();
  pool.give('a');
  pool.give('b');
  pool.take();
  assert.deepEqual(pool.takeAll(), ['a']);
  assert.equal(pool.take(), undefined);
  assert.deepEqual(pool.takeAll(), []);
});
