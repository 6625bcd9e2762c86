import type { DaemonFigures, ExportFigures, ProcessFigures } from './figures.js';
import { NO_COUNTERS } from './figures.js';
import type { DaemonStatus, ExportStatus } from './status-json.js';

/** An export of a process that shows nothing of its own. */
export interface PlacedExport {
  /** Its tag; where several exports of the daemon have the same one, followed by the socket. */
  readonly tag: string;
  readonly backend: string;
}

/** A process that serves some of a daemon's exports, and what it has told. */
export interface Part<T> {
  readonly exports: readonly PlacedExport[];
  /** Undefined if it did not answer; then `detail` says so. */
  readonly told: T | undefined;
  readonly detail: string;
}

/** Figures of all processes together, the first of which serves nothing. */
export function figuresOfAll(own: DaemonFigures, parts: readonly Part<DaemonFigures>[]): DaemonFigures {
  const processes = [own, ...parts.flatMap(({ told }) => told ?? [])].map((one) => one.process);
  return {
    started: own.started,
    process: sumOf(processes),
    exports: parts.flatMap((part) => exportsOf(part, silentFigures)),
  };
}

/** As {@link figuresOfAll}, for a status. */
export function statusOfAll(own: DaemonStatus, parts: readonly Part<DaemonStatus>[]): DaemonStatus {
  const all = [own, ...parts.flatMap(({ told }) => told ?? [])];
  const sum = (of: (status: DaemonStatus) => number): number =>
    all.reduce((total, status) => total + of(status), 0);
  return {
    ...own,
    cpuSeconds: sum(({ cpuSeconds }) => cpuSeconds),
    residentBytes: sum(({ residentBytes }) => residentBytes),
    heapUsedBytes: sum(({ heapUsedBytes }) => heapUsedBytes),
    lostLogLines: sum(({ lostLogLines }) => lostLogLines),
    exports: parts.flatMap((part) => exportsOf(part, silentStatus)),
  };
}

/** Exports of a part, by the tags that they have among all. */
function exportsOf<E extends { readonly tag: string }>(
  { exports, told, detail }: Part<{ readonly exports: readonly E[] }>,
  silent: (one: PlacedExport, detail: string) => E,
): readonly E[] {
  if (told === undefined) return exports.map((one) => silent(one, detail));
  // Of several some may have ended: those that are left have told their own tags.
  if (told.exports.length !== exports.length) return told.exports;
  return told.exports.map((one, index) => ({ ...one, tag: exports[index]!.tag }));
}

function sumOf(all: readonly ProcessFigures[]): ProcessFigures {
  const sum = (of: keyof ProcessFigures): number => all.reduce((total, one) => total + one[of], 0);
  return {
    cpuUserSeconds: sum('cpuUserSeconds'),
    cpuSystemSeconds: sum('cpuSystemSeconds'),
    residentBytes: sum('residentBytes'),
    heapUsedBytes: sum('heapUsedBytes'),
    heapTotalBytes: sum('heapTotalBytes'),
    externalBytes: sum('externalBytes'),
    arrayBufferBytes: sum('arrayBufferBytes'),
    wakeUps: sum('wakeUps'),
  };
}

const NOTHING = {
  isUp: false,
  nodes: 0,
  handles: 0,
  inFlight: 0,
  heldBack: 0,
  listingBytes: 0,
  locks: 0,
  waitingLocks: 0,
};

function silentFigures({ tag, backend }: PlacedExport, detail: string): ExportFigures {
  return { ...NOTHING, tag, backend, detail, connections: 0, mounts: 0, counters: NO_COUNTERS, metrics: [] };
}

function silentStatus({ tag, backend }: PlacedExport, detail: string): ExportStatus {
  return {
    ...NOTHING,
    tag,
    backend,
    detail,
    started: 0,
    longestWaitSeconds: 0,
    lostLocks: 0,
    heldBackBefore: 0,
    faults: 0,
    malformed: 0,
    busiestFiles: [],
    busiestProcesses: [],
    guests: [],
    lockWaits: [],
    requests: {},
    failures: {},
    errors: {},
    readBytes: 0,
    writtenBytes: 0,
    latencies: {},
    figures: [],
  };
}
