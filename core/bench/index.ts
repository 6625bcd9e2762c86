/**
 * Measures vhost-user virtio-fs daemons, this one or others, without a guest. It sends raw FUSE
 * requests, laid out as Linux does, over the front-end's rings. One synchronous loop sends and
 * receives; it never sleeps, or by option sleeps on the call eventfd. The figures of a daemon are
 * its operations per second, its latencies, and its CPU time for each operation, from the kernel's
 * clock of the process.
 *
 * A `Lane` has the memory of one request, a `Load` says what lanes do, and the `Driver` keeps them
 * busy. `scenarios.ts` has the rows of the table, `growth.ts` further ones with many files or many
 * guests. `runBench` measures several daemons in turns.
 */
export { runBench, type BenchOptions, type BenchResult, type Row, type Target } from './bench.js';
export { BenchError } from './driver.js';
export { plot } from './plot.js';
export { toJson, toTable } from './report.js';
export { getattr, lookup, scenarios, transfer, type Scenario } from './scenarios.js';
export { guestsBeside, openFiles, knownNodes } from './growth.js';
