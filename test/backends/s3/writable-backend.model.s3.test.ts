import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { parallel } from '../../../backends/s3/client/concurrency.js';
import { withSeed } from '../../support/random.js';
import { type End, Schedule } from './schedules/schedule.js';
import { removeFolders, TestBucket } from './support.js';

/*
 * Random schedules of operations, with faults at every request, and ends without warning in the
 * midst of operations. Many more: `schedules/check-schedules.ts`. SCHEDULES sets how many, `--seed`
 * where to begin, JOBS how many go on at once (they wait most of the time).
 */
const SCHEDULES: Readonly<Record<End, number>> = {
  cut: Number(process.env['SCHEDULES'] ?? 25),
  killed: Number(process.env['SCHEDULES'] ?? 6),
};
const JOBS = Number(process.env['JOBS'] ?? 8);

describe('random schedules with faults at every request', () => {
  after(removeFolders);

  for (const end of ['cut', 'killed'] as const)
    it(`what was acknowledged is in the bucket or in the journal, when mounts are ${end}`, async (t) => {
      const bucket = await TestBucket.create();
      await withSeed(t, 1, async (first) => {
        const seeds = Array.from({ length: SCHEDULES[end] }, (_, i) => first + i);
        await parallel(seeds, JOBS, async (seed) => {
          const { violations, trace } = await new Schedule(bucket, seed, end).run();
          assert.equal(violations.length, 0, `${seed}: ${violations.join('\n')}\nafter\n${trace.join('\n')}`);
        });
      });
    });
});
