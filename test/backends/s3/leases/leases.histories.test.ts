import assert from 'node:assert/strict';
import { test } from 'node:test';
import { violations, type Step } from './histories.js';

function step(mark: string, value: number, began: number, ended: number, isDone = true): Step {
  return { mark, began, ended, value, isDone };
}

test('a history of steps one after the other is right, whatever became of those that failed', () => {
  const steps = [step('a', 1, 0, 10), step('b', 2, 5, 12), step('c', 3, 6, 20, false), step('d', 3, 13, 30)];
  assert.deepEqual(violations(steps, 3, ['a', 'b', 'd']), []);
  const other = [step('a', 1, 0, 10), step('c', 2, 6, 20, false), step('d', 3, 13, 30)];
  assert.deepEqual(violations(other, 3, ['a', 'c', 'd']), []);
});

test('what can not be in a history of locks is found', () => {
  const a = step('a', 1, 0, 10);
  const wrong: [string, Step[], number, string[]][] = [
    ['twice', [a, step('b', 1, 1, 11)], 1, ['a', 'b']],
    ['lost from the log', [a, step('b', 2, 1, 11)], 2, ['b']],
    ['lost from the counter', [a, step('b', 2, 1, 11)], 1, ['a', 'b']],
    ['counted by nobody', [a], 2, ['a']],
    ['logged by nobody', [a], 1, ['a', 'x']],
    ['logged twice', [a], 1, ['a', 'a']],
    ['logged too early', [a, step('b', 2, 1, 11)], 2, ['b', 'a']],
    ['out of time', [a, step('b', 2, -9, -1)], 2, ['a', 'b']],
    ['out of time, with one between', [a, step('m', 2, -9, 9), step('b', 3, -9, -1)], 3, ['a', 'm', 'b']],
  ];
  for (const [name, steps, counter, log] of wrong) {
    assert.notDeepEqual(violations(steps, counter, log), [], name);
  }
});
