/**
 * What an operator sees of a process that serves. Where the figures come from is unknown here: the
 * owner gives a function that collects them.
 *
 * - `figures.ts`: what there is to see, as plain data; `figures-json.ts` makes JSON of it.
 *   `from-json.ts` reads it.
 * - `several-processes.ts`: one view of a daemon that has several processes.
 * - `names.ts`: names of opcodes and errors.
 * - `prometheus.ts`: the figures in Prometheus's text format.
 * - `status.ts`: the same and more as plain data, for `virtiofs-kit status` and `top`;
 *   `status-json.ts` reads it, `status-text.ts` makes lines of it. `slow-opcodes.ts`: which
 *   requests take long. `sum.ts`.
 * - `doctor/`: what is wrong with a host or a daemon, in plain words.
 * - `metrics-server.ts`: serves them over HTTP, on loopback or a unix socket.
 */
export type { DaemonFigures, ExportFigures } from './figures.js';
export { errorName, opcodeName } from './names.js';
export { statusFromJson, type DaemonStatus, type LockWait } from './status-json.js';
export { statusText, topText } from './status-text.js';
export {
  listenForMetrics,
  MetricsServer,
  parseMetricsAddress,
  type MetricsAddress,
} from './metrics-server.js';
