/**
 * Measures vhost-user virtio-fs daemons, this one or others, without a guest: raw FUSE requests
 * laid out as Linux lays them out, over the front-end's rings, in one synchronous loop that sleeps
 * on the call eventfd as a guest does (or spins, by option). What is told of a daemon is its
 * operations per second, its latencies, and its CPU time for an operation, by the scheduler's own
 * clock.
 *
 * - `bench.ts`: takes daemons in turns. `target.ts`, `life.ts`: a daemon that is measured, and
 *   what it is like from its start on.
 * - `scenarios.ts`: the rows. `growth.ts`: rows that ask what grows. `work-area.ts`: the files
 *   that they need.
 * - `driver.ts`, `lane.ts`, `fuse.ts`: keeps requests under way; a place for one; its bytes.
 * - `cpu.ts`, `figures.ts`: CPU time, and what is made of many measurements.
 * - `report.ts`, `plot.ts`: tables and graphs.
 */
export { runBench, type BenchOptions, type BenchResult, type Row } from './bench.js';
export { BenchError } from './driver.js';
export { lifeSteps, measureLife, type LifeFigures, type LifeOptions } from './life.js';
export { plot } from './plot.js';
export { toJson, toTable } from './report.js';
export {
  getattr,
  lookup,
  scenarios,
  sleepingRows,
  spinningRows,
  transfer,
  type Scenario,
} from './scenarios.js';
export { guestsBeside, openFiles, knownNodes } from './growth.js';
export type { Target } from './target.js';
