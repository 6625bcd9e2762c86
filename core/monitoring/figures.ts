import type { Metric } from '../backend/index.js';
import type { Counters } from '../fuse/index.js';

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
  /** Bytes that the listings of open directories take, of the limit that all guests share. */
  readonly listingBytes: number;
  /** Locked ranges, and lock requests that wait. */
  readonly locks: number;
  readonly waitingLocks: number;
  /** Of all guests since the start. */
  readonly counters: Counters;
  /** The backend's own figures. */
  readonly metrics: readonly Metric[];
}

/** What there is to see of a daemon. */
export interface DaemonFigures {
  /** Seconds since the epoch. */
  readonly started: number;
  readonly exports: readonly ExportFigures[];
}
