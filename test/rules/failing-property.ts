import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { checkProperty } from '../support/random.js';

// Fails for every number of 1000 or more. random-tests.host.test.ts runs it.
test('a property (of numbers) that does not hold', async (t) => {
  await checkProperty(
    t,
    fc.property(fc.nat(), (number) => assert.ok(number < 1000, `${number} is too large`)),
  );
});
