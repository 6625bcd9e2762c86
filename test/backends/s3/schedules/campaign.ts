import { parallel } from '../../../../backends/s3/client/concurrency.js';
import { Random } from '../../../support/random.js';
import type { TestBucket } from '../support.js';
import { killTogether } from './killed.js';
import { type End, type Outcome, Schedule } from './schedule.js';

/** Rounds of a schedule, each with a start, steps, and an end without warning. */
const ROUNDS = 2;
/** Of a hundred rounds, those whose next start is killed, too, while it takes up what is left. */
const KILLED_TWICE = 30;
/** Schedules whose mounts are in one process, at most: starting one costs more than a mount. */
const TOGETHER = 16;

/**
 * Runs schedules, several at once: they wait most of the time.
 * @param jobs how many, for `killed` that many processes of up to {@link TOGETHER} mounts
 * @param ended called for each
 */
export async function runSchedules(
  bucket: TestBucket,
  end: End,
  seeds: readonly number[],
  jobs: number,
  ended: (seed: number, outcome: Outcome) => void,
): Promise<void> {
  if (end === 'cut') {
    await parallel(seeds, jobs, async (seed) => {
      const schedule = new Schedule(bucket, seed, end);
      for (let round = 0; round < ROUNDS && schedule.isRight; round++) {
        await schedule.cut();
        await schedule.verify();
      }
      ended(seed, await schedule.end());
    });
    return;
  }
  const groups = Array.from({ length: Math.ceil(seeds.length / TOGETHER) }, (_, i) =>
    seeds.slice(i * TOGETHER, (i + 1) * TOGETHER),
  );
  await parallel(groups, jobs, async (group) => {
    const random = new Random(group[0]!);
    const schedules = group.map((seed) => new Schedule(bucket, seed, end));
    for (let round = 0; round < ROUNDS; round++) {
      const right = schedules.filter(({ isRight }) => isRight);
      if (right.length === 0) break;
      for (let kills = random.chance(KILLED_TWICE) ? 2 : 1; kills > 0; kills--)
        await killTogether(right, random);
      await Promise.all(right.map((schedule) => schedule.verify()));
    }
    for (const [i, schedule] of schedules.entries()) ended(group[i]!, await schedule.end());
  });
}
