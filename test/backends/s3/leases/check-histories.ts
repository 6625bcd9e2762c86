import { parseArgs } from 'node:util';
import { removeFolders } from '../support.js';
import { run } from './schedules.js';

/*
 * Many schedules of faults, for hosts that keep to each other's locks:
 *
 *   node dist/test/backends/s3/leases/check-histories.js [--seed N] [--schedules N] [--steps N]
 *
 * Prints a line for each, and ends with 1 if one has a violation.
 */
const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    schedules: { type: 'string', default: '10' },
    steps: { type: 'string', default: '20' },
  },
});
const first = Number(values.seed);
for (let seed = first; seed < first + Number(values.schedules); seed++) {
  const schedule = {
    seed,
    workers: 2 + (seed % 2),
    steps: Number(values.steps),
    faults: [0, 10, 30, 60][seed % 4]!,
    cuts: seed % 3,
    kills: (seed >> 1) % 3,
  };
  const outcome = await run(schedule);
  console.log(JSON.stringify({ ...schedule, ...outcome }));
  if (outcome.violations.length > 0) process.exitCode = 1;
}
await removeFolders();
process.exit();
