import { parseArgs } from 'node:util';
import { removeFolders, TestBucket } from '../support.js';
import { runSchedules } from './campaign.js';
import type { End } from './schedule.js';

/*
 * Many schedules of faults, with ends that are cut or by kill -9:
 *
 *   cd dist/test/backends/s3/schedules
 *   node check-schedules.js --end killed --seed 1 --schedules 10 --jobs 4
 *
 * Prints a line for each that has a violation and one for the whole, and ends with 1 if there is
 * one. Most of a schedule is waiting: several go on at once.
 */
const { values } = parseArgs({
  options: {
    end: { type: 'string', default: 'killed' },
    seed: { type: 'string', default: '1' },
    schedules: { type: 'string', default: '10' },
    jobs: { type: 'string', default: '4' },
  },
});
const first = Number(values.seed);
const seeds = Array.from({ length: Number(values.schedules) }, (_, i) => first + i);
const sum = { schedules: 0, violations: 0, ends: 0, kills: 0, requests: 0, faults: 0, steps: 0, reads: 0 };
const counted = ['ends', 'kills', 'requests', 'faults', 'steps', 'reads'] as const;
const bucket = await TestBucket.create();
await runSchedules(bucket, values.end as End, seeds, Number(values.jobs), (seed, outcome) => {
  sum.schedules += 1;
  for (const name of counted) sum[name] += outcome[name];
  if (outcome.violations.length === 0) return;
  sum.violations += 1;
  process.exitCode = 1;
  console.log(`seed ${seed}: ${outcome.violations.join('\n')}\nafter\n${outcome.trace.join('\n')}\n`);
});
console.log(JSON.stringify({ end: values.end, seed: first, ...sum }));
await removeFolders();
process.exit();
