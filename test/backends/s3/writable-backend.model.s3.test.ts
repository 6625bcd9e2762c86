import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { withSeed } from '../../support/random.js';
import { runSchedules } from './schedules/campaign.js';
import type { End } from './schedules/schedule.js';
import { removeFolders, TestBucket } from './support.js';

/*
 * Random schedules of operations, with faults at every request, and ends without warning in the
 * midst of operations. Many more: `schedules/check-schedules.ts`. SCHEDULES sets how many, `--seed`
 * where to begin, JOBS how many that are cut go on at once (they wait most of the time).
 */
const SCHEDULES: Readonly<Record<End, number>> = {
  cut: Number(process.env['SCHEDULES'] ?? 25),
  killed: Number(process.env['SCHEDULES'] ?? 12),
};
const JOBS = Number(process.env['JOBS'] ?? 8);

describe('random schedules with faults at every request', () => {
  after(removeFolders);

  for (const end of ['cut', 'killed'] as const)
    it(`what was acknowledged is in the bucket or in the journal, when mounts are ${end}`, async (t) => {
      const bucket = await TestBucket.create();
      await withSeed(t, 1, async (first) => {
        const seeds = Array.from({ length: SCHEDULES[end] }, (_, i) => first + i);
        await runSchedules(bucket, end, seeds, end === 'cut' ? JOBS : 2, (seed, { violations, trace }) => {
          assert.equal(violations.length, 0, `${seed}: ${violations.join('\n')}\nafter\n${trace.join('\n')}`);
        });
      });
    });
});
