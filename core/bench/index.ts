/**
 * Measures vhost-user virtio-fs daemons, this one or others, without a guest. It sends raw FUSE
 * requests, laid out as Linux does, over the front-end's rings. One synchronous loop sends and
 * receives. It sleeps on the call eventfds as a guest does, or spins by option. The figures of a
 * daemon are its operations per second, its latencies, and its CPU time for each operation, from
 * the kernel's clock of the process.
 *
 * - `bench.ts`: measures several daemons in turns. `target.ts`: a daemon that is measured.
 * - `scenarios.ts`: the rows of the table. `work-area.ts`: the files that they need.
 * - `driver.ts`: keeps requests in flight. `request-slot.ts`: the memory of one. `forgets.ts`:
 *   requests without a reply, which nobody waits for. `fuse.ts`: lays requests out.
 * - `cpu.ts`, `figures.ts`: CPU time, and what is made of many measurements.
 * - `report.ts`, `plot.ts`: tables and graphs.
 */
export { runBench, type BenchOptions, type BenchResult, type Row } from './bench.js';
export { BenchError } from './driver.js';
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
export type { Target } from './target.js';
