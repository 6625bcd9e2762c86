import type { Metric } from '../backend/index.js';
import { Counters } from '../fuse/index.js';
import { wakeUpCount } from '../system/index.js';

/** What is counted of an export. */
export type CounterFigures = Readonly<
  Pick<
    Counters,
    | 'requests'
    | 'failures'
    | 'errors'
    | 'latencies'
    | 'latencySum'
    | 'bytesRead'
    | 'bytesWritten'
    | 'threadFailures'
    | 'unanswerable'
    | 'lostLocks'
    | 'heldBack'
    | 'heldBackMs'
    | 'faults'
    | 'batches'
  >
>;

/** Of an export of which nothing was counted. */
export const NO_COUNTERS: CounterFigures = new Counters();

/** What there is to see of one export. */
export interface ExportFigures {
  /** Its tag; where several exports have the same one, followed by the socket. */
  readonly tag: string;
  /** The kind of its backend. */
  readonly backend: string;
  /** Whether the backend says that it can serve, or does not say; `detail` is its own line. */
  readonly isUp: boolean;
  readonly detail: string;
  /** Front-ends that are connected, and those whose guests have mounted the export. */
  readonly connections: number;
  readonly mounts: number;
  /** Nodes that guests know, open files and directories, requests that are not answered yet. */
  readonly nodes: number;
  readonly handles: number;
  readonly inFlight: number;
  /** Requests that wait since the export's rate is limited. */
  readonly heldBack: number;
  /** Bytes that the listings of open directories take, of the limit that all guests share. */
  readonly listingBytes: number;
  /** Locked ranges, and lock requests that wait. */
  readonly locks: number;
  readonly waitingLocks: number;
  /** Of all guests since the start. */
  readonly counters: CounterFigures;
  /** The backend's own figures. */
  readonly metrics: readonly Metric[];
}

/** What a process uses. */
export interface ProcessFigures {
  readonly cpuUserSeconds: number;
  readonly cpuSystemSeconds: number;
  readonly residentBytes: number;
  readonly heapUsedBytes: number;
  readonly heapTotalBytes: number;
  /** Memory outside of the heap, by V8's count. */
  readonly externalBytes: number;
  readonly arrayBufferBytes: number;
  /** How often the engine's thread was woken by a notification or another descriptor. */
  readonly wakeUps: number;
}

/** What this process uses. */
export function processFigures(): ProcessFigures {
  const { rss, heapUsed, heapTotal, external, arrayBuffers } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  return {
    cpuUserSeconds: user / 1e6,
    cpuSystemSeconds: system / 1e6,
    residentBytes: rss,
    heapUsedBytes: heapUsed,
    heapTotalBytes: heapTotal,
    externalBytes: external,
    arrayBufferBytes: arrayBuffers,
    wakeUps: wakeUpCount(),
  };
}

/** What there is to see of a daemon. */
export interface DaemonFigures {
  /** Seconds since the epoch. */
  readonly started: number;
  /** Of all its processes together. */
  readonly process: ProcessFigures;
  readonly exports: readonly ExportFigures[];
}
