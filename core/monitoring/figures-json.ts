import * as z from 'zod';
import { fromJson } from './from-json.js';
import type { DaemonFigures, ExportFigures } from './figures.js';

/*
 * Figures as plain data, by which a process that serves a part of the exports tells them to the
 * one that shows all.
 */

const count = z.number().nonnegative();
const column = z
  .array(count)
  .max(4096)
  .transform((values) => Float64Array.from(values));

const countersSchema = z.object({
  requests: column,
  failures: column,
  errors: column,
  latencies: column,
  latencySum: column,
  bytesRead: count,
  bytesWritten: count,
  threadFailures: count,
  unanswerable: count,
  lostLocks: count,
  heldBack: count,
  heldBackMs: count,
  faults: count,
  batches: count,
});

const metricSchema = z.object({
  name: z.string(),
  help: z.string(),
  kind: z.enum(['counter', 'gauge']),
  value: z.number(),
  labels: z.record(z.string(), z.string()).default({}),
});

const exportSchema = z.object({
  tag: z.string(),
  backend: z.string(),
  isUp: z.boolean(),
  detail: z.string(),
  connections: count,
  mounts: count,
  nodes: count,
  handles: count,
  inFlight: count,
  heldBack: count,
  listingBytes: count,
  locks: count,
  waitingLocks: count,
  counters: countersSchema,
  metrics: z.array(metricSchema),
});

const schema = z.object({
  started: count,
  process: z.object({
    cpuUserSeconds: count,
    cpuSystemSeconds: count,
    residentBytes: count,
    heapUsedBytes: count,
    heapTotalBytes: count,
    externalBytes: count,
    arrayBufferBytes: count,
    wakeUps: count,
  }),
  exports: z.array(exportSchema),
});

/** Figures as JSON. */
export function figuresJson({ started, process, exports }: DaemonFigures): string {
  return JSON.stringify({ started, process, exports: exports.map(plainExport) });
}

function plainExport({ counters, metrics, ...one }: ExportFigures): z.input<typeof exportSchema> {
  const { requests, failures, errors, latencies, latencySum } = counters;
  return {
    ...one,
    counters: {
      requests: [...requests],
      failures: [...failures],
      errors: [...errors],
      latencies: [...latencies],
      latencySum: [...latencySum],
      bytesRead: counters.bytesRead,
      bytesWritten: counters.bytesWritten,
      threadFailures: counters.threadFailures,
      unanswerable: counters.unanswerable,
      lostLocks: counters.lostLocks,
      heldBack: counters.heldBack,
      heldBackMs: counters.heldBackMs,
      faults: counters.faults,
      batches: counters.batches,
    },
    // JSON has no other numbers, and a backend may have a mistake.
    metrics: metrics
      .filter(({ value }) => Number.isFinite(value))
      .map(({ labels = {}, ...metric }) => ({ ...metric, labels })),
  };
}

/** Figures from what {@link figuresJson} gave. @returns undefined for anything else. */
export function figuresFromJson(text: string): DaemonFigures | undefined {
  return fromJson(schema, text);
}
