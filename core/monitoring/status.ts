import { LATENCY_BUCKETS } from '../fuse/index.js';
import { type CounterFigures, type DaemonFigures, type ExportFigures, processFigures } from './figures.js';
import { errorName, opcodeName } from './names.js';
import type { DaemonStatus, ExportStatus, GuestStatus, LockWait } from './status-json.js';

/** The most waiting lock requests of an export that are told one by one. */
export const LOCK_WAITS_MAX = 64;

/** Where a smaller part of the space, or of the inodes, is free, that is told. */
export const LEAST_FREE = 0.02;

/** How many of the busiest files and processes of an export are told. */
export const BUSIEST = 10;

/** What a status says of an export beside the figures that Prometheus has, too. */
export interface ExportDetails {
  readonly figures: ExportFigures;
  readonly guests: readonly GuestStatus[];
  readonly lockWaits: readonly LockWait[];
  readonly longestWaitSeconds: number;
  readonly space: ExportStatus['space'];
  readonly busiestFiles: ExportStatus['busiestFiles'];
  readonly busiestProcesses: ExportStatus['busiestProcesses'];
}

/** The status of this process. */
export function statusOf(
  { started, lostLogLines }: Pick<DaemonFigures, 'started'> & Pick<DaemonStatus, 'lostLogLines'>,
  exports: readonly ExportDetails[],
): DaemonStatus {
  const { cpuUserSeconds, cpuSystemSeconds, residentBytes, heapUsedBytes } = processFigures();
  return {
    pid: process.pid,
    time: Date.now() / 1000,
    started,
    cpuSeconds: cpuUserSeconds + cpuSystemSeconds,
    residentBytes,
    heapUsedBytes,
    lostLogLines,
    exports: exports.map((one) => exportStatus(one, started)),
  };
}

function exportStatus(
  { figures, guests, lockWaits, longestWaitSeconds, space, busiestFiles, busiestProcesses }: ExportDetails,
  started: number,
): ExportStatus {
  const { counters, metrics } = figures;
  return {
    tag: figures.tag,
    backend: figures.backend,
    isUp: figures.isUp,
    detail: figures.detail,
    started,
    nodes: figures.nodes,
    handles: figures.handles,
    inFlight: figures.inFlight,
    heldBack: figures.heldBack,
    heldBackBefore: counters.heldBack,
    longestWaitSeconds,
    locks: figures.locks,
    waitingLocks: figures.waitingLocks,
    lostLocks: counters.lostLocks,
    listingBytes: figures.listingBytes,
    faults: counters.faults,
    malformed: counters.unanswerable,
    ...(space !== undefined && { space }),
    busiestFiles: [...busiestFiles],
    busiestProcesses: [...busiestProcesses],
    guests: [...guests],
    lockWaits: [...lockWaits],
    requests: named(counters.requests, opcodeName),
    failures: named(counters.failures, opcodeName),
    errors: named(counters.errors, errorName),
    readBytes: counters.bytesRead,
    writtenBytes: counters.bytesWritten,
    latencies: latenciesOf(counters),
    figures: metrics.map(({ name, help, value, labels = {} }) => {
      const words = Object.entries(labels).map(([key, label]) => `${key}=${label}`);
      return { name: words.length === 0 ? name : `${name} ${words.join(' ')}`, help, value };
    }),
  };
}

function named(values: Float64Array, nameOf: (index: number) => string): Record<string, number> {
  const result: Record<string, number> = {};
  for (const [index, value] of values.entries()) if (value > 0) result[nameOf(index)] = value;
  return result;
}

function latenciesOf({ latencies, latencySum }: CounterFigures): ExportStatus['latencies'] {
  const result: ExportStatus['latencies'] = {};
  for (const [opcode, sumUs] of latencySum.entries()) {
    const from = opcode * LATENCY_BUCKETS;
    const buckets = [...latencies.subarray(from, from + LATENCY_BUCKETS)];
    if (buckets.some((each) => each > 0)) result[opcodeName(opcode)] = { sumUs, buckets };
  }
  return result;
}
