/**
 * What an operator sees of a process that serves. Where the figures come from is unknown here: the
 * owner gives a function that collects them.
 *
 * - `figures.ts`: what there is to see, as plain data.
 * - `names.ts`: names of opcodes and errors.
 * - `prometheus.ts`: the figures in Prometheus's text format.
 * - `metrics-server.ts`: serves them over HTTP, on loopback or a unix socket.
 */
export type { DaemonFigures, ExportFigures } from './figures.js';
export { errorName, opcodeName } from './names.js';
export {
  listenForMetrics,
  MetricsServer,
  parseMetricsAddress,
  type MetricsAddress,
} from './metrics-server.js';
