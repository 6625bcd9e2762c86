import { Counter, Gauge, type Metric as RegisteredMetric, Registry } from 'prom-client';
import type { Logger, Metric } from '../backend/index.js';
import { LATENCY_BOUNDS_US, LATENCY_BUCKETS } from '../fuse/index.js';
import type { CounterFigures, DaemonFigures, ExportFigures } from './figures.js';
import { errorName, opcodeName } from './names.js';

/** The media type of the text. */
export const CONTENT_TYPE: string = Registry.PROMETHEUS_CONTENT_TYPE;

const PREFIX = 'virtiofs_kit_';

/** Most figures of one backend that are shown: a backend may have a mistake. */
const MAX_BACKEND_METRICS = 1000;

/** A figure of every export, with the labels that tell its values apart. */
interface Row {
  readonly name: string;
  readonly help: string;
  readonly kind: Metric['kind'];
  readonly label?: string;
  /** Calls `put` for each value. */
  each(one: ExportFigures, put: (value: number, label?: string) => void): void;
}

const gauge = (name: string, help: string, of: (one: ExportFigures) => number): Row => ({
  name,
  help,
  kind: 'gauge',
  each: (one, put) => put(of(one)),
});

const counter = (name: string, help: string, of: (counters: CounterFigures) => number): Row => ({
  name,
  help,
  kind: 'counter',
  each: (one, put) => put(of(one.counters)),
});

const counters = (
  name: string,
  help: string,
  label: string,
  of: (counters: CounterFigures) => Float64Array,
  nameOf: (index: number) => string,
): Row => ({
  name,
  help,
  kind: 'counter',
  label,
  each(one, put) {
    for (const [index, value] of of(one.counters).entries()) if (value > 0) put(value, nameOf(index));
  },
});

const ROWS: readonly Row[] = [
  gauge('up', 'Whether the backend can serve, as it says itself.', (one) => (one.isUp ? 1 : 0)),
  gauge('connections', 'Front-ends that are connected.', (one) => one.connections),
  gauge('mounts', 'Guests that have mounted the export.', (one) => one.mounts),
  gauge('nodes', 'Files and directories that guests know.', (one) => one.nodes),
  gauge('handles', 'Open files and directories.', (one) => one.handles),
  gauge('listing_bytes', 'Memory that listings of open directories take.', (one) => one.listingBytes),
  gauge('requests_in_flight', 'Requests that wait for the backend or for a lock.', (one) => one.inFlight),
  gauge('held_back_requests', 'Requests that wait since the rate is limited.', (one) => one.heldBack),
  gauge('locks', 'Locked ranges.', (one) => one.locks),
  gauge('waiting_locks', 'Lock requests that wait.', (one) => one.waitingLocks),
  counters('requests_total', 'Requests answered.', 'opcode', ({ requests }) => requests, opcodeName),
  counters(
    'failed_requests_total',
    'Requests answered with an error.',
    'opcode',
    ({ failures }) => failures,
    opcodeName,
  ),
  counters('errors_total', 'Errors that guests were told.', 'errno', ({ errors }) => errors, errorName),
  counter(
    'queue_thread_failures_total',
    'Requests that queue threads answered with an error.',
    ({ threadFailures }) => threadFailures,
  ),
  counter(
    'batches_total',
    'How often requests were taken from a ring, one or many; not by queue threads.',
    ({ batches }) => batches,
  ),
  counter('read_bytes_total', 'Bytes of content read.', ({ bytesRead }) => bytesRead),
  counter('written_bytes_total', 'Bytes of content written.', ({ bytesWritten }) => bytesWritten),
  counter(
    'held_back_requests_total',
    'Requests that waited since the rate is limited.',
    ({ heldBack }) => heldBack,
  ),
  counter('held_back_seconds_total', 'How long these have waited.', ({ heldBackMs }) => heldBackMs / 1000),
  counter('lost_locks_total', 'Locks that could not be had again.', ({ lostLocks }) => lostLocks),
  counter('malformed_requests_total', 'Messages too short to be answered.', (of) => of.unanswerable),
  counter(
    'faults_total',
    'Exceptions of the backend that were no errors of a file system.',
    (of) => of.faults,
  ),
];

/** A histogram whose values were counted by somebody else: the library's own counts itself. */
function latencies(exports: readonly ExportFigures[]): RegisteredMetric<string> {
  const name = `${PREFIX}request_duration_seconds`;
  const told = {
    name,
    help: 'From request to reply, of one request in sixteen; not of those that queue threads answer.',
    type: 'histogram',
    values: exports.flatMap((one) => latenciesOf(one, name)),
    aggregator: 'sum',
  };
  return { name, get: () => Promise.resolve(told) } as unknown as RegisteredMetric<string>;
}

interface Value {
  readonly metricName: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

function latenciesOf({ tag, counters: of }: ExportFigures, name: string): Value[] {
  const values: Value[] = [];
  for (const [opcode, sum] of of.latencySum.entries()) {
    const labels = { export: tag, opcode: opcodeName(opcode) };
    let count = 0;
    const buckets: Value[] = [];
    for (let bucket = 0; bucket < LATENCY_BUCKETS; bucket++) {
      count += of.latencies[opcode * LATENCY_BUCKETS + bucket]!;
      const bound = LATENCY_BOUNDS_US[bucket];
      const le = bound === undefined ? '+Inf' : bound / 1e6;
      buckets.push({ metricName: `${name}_bucket`, labels: { ...labels, le }, value: count });
    }
    if (count === 0) continue;
    values.push(...buckets);
    values.push({ metricName: `${name}_sum`, labels, value: sum / 1e6 });
    values.push({ metricName: `${name}_count`, labels, value: count });
  }
  return values;
}

/** The figures in Prometheus's text format. */
export function prometheusText(figures: DaemonFigures, log: Logger): Promise<string> {
  const { exports } = figures;
  const registry = new Registry();
  const registers = [registry];
  for (const { name, help, kind, label, each } of ROWS) {
    const labelNames = label === undefined ? ['export'] : ['export', label];
    const config = { name: PREFIX + name, help, labelNames, registers };
    const metric = kind === 'counter' ? new Counter(config) : new Gauge(config);
    for (const one of exports) {
      each(one, (value, of) => metric.inc({ export: one.tag, ...(label && { [label]: of }) }, value));
    }
  }
  registry.registerMetric(latencies(exports));
  for (const one of exports) addBackendMetrics(registry, one, log);
  addProcessMetrics(registers, figures);
  return registry.metrics();
}

/** Adds a backend's own figures. One that is not as it must be is left out, and logged. */
function addBackendMetrics(registry: Registry, { tag, backend, metrics }: ExportFigures, log: Logger): void {
  for (const { name, help, kind, value, labels = {} } of metrics.slice(0, MAX_BACKEND_METRICS)) {
    const full = `${PREFIX}${backend.replaceAll(/[^a-z0-9]/gi, '_')}_${name}`;
    try {
      const labelNames = ['export', ...Object.keys(labels)];
      const config = { name: full, help, labelNames, registers: [registry] };
      const known = registry.getSingleMetric(full) as Counter | Gauge | undefined;
      const metric = known ?? (kind === 'counter' ? new Counter(config) : new Gauge(config));
      metric.inc({ export: tag, ...labels }, value);
    } catch (error) {
      log.warn({ export: tag, metric: name, err: error }, 'a figure of the backend was left out');
    }
  }
}

function addProcessMetrics(registers: Registry[], { started, process }: DaemonFigures): void {
  const { cpuUserSeconds, cpuSystemSeconds, residentBytes, heapUsedBytes, heapTotalBytes } = process;
  const { externalBytes, arrayBufferBytes, wakeUps } = process;
  const put = (kind: Metric['kind'], name: string, help: string, value: number): void => {
    const config = { name, help, registers };
    (kind === 'counter' ? new Counter(config) : new Gauge(config)).inc(value);
  };
  put('gauge', 'process_start_time_seconds', 'Start of the process, in seconds since the epoch.', started);
  put('counter', 'process_cpu_user_seconds_total', 'CPU time in user mode.', cpuUserSeconds);
  put('counter', 'process_cpu_system_seconds_total', 'CPU time in the kernel.', cpuSystemSeconds);
  put('gauge', 'process_resident_memory_bytes', 'Resident memory.', residentBytes);
  put('gauge', 'nodejs_heap_size_used_bytes', 'JavaScript heap in use.', heapUsedBytes);
  put('gauge', 'nodejs_heap_size_total_bytes', 'JavaScript heap.', heapTotalBytes);
  put('gauge', 'nodejs_external_memory_bytes', 'Memory outside of the heap, by V8’s count.', externalBytes);
  put('gauge', 'nodejs_array_buffers_bytes', 'Memory of ArrayBuffers.', arrayBufferBytes);
  put('counter', `${PREFIX}wake_ups_total`, "How often the engine's thread was woken.", wakeUps);
}
