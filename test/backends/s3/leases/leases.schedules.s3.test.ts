import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { removeFolders } from '../support.js';
import { run } from './schedules.js';

after(removeFolders);

test('hosts that count under a lock count right, with faults, a cut line and a kill', async () => {
  const outcome = await run({ seed: 1, workers: 2, steps: 6, faults: 20, cuts: 1, kills: 1 });
  assert.deepEqual(outcome.violations, []);
});
