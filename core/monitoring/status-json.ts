import * as z from 'zod';
import { fromJson } from './from-json.js';

const count = z.number().nonnegative();
const counts = z.record(z.string(), count);

const guestSchema = z.object({
  /** The number of its session; lock requests name their guest by it. */
  id: count,
  isMounted: z.boolean(),
  handles: count,
  inFlight: count,
  heldBack: count.default(0),
  locks: count,
  waitingLocks: count,
});

const lockWaitSchema = z.object({
  /** The file's inode number; undefined where the backend does not tell it in time. */
  ino: z.string().optional(),
  kind: z.enum(['posix', 'flock']),
  wanted: z.enum(['read', 'write']),
  /** First and last byte. */
  start: z.string(),
  end: z.string(),
  /** The waiting guest, and the process in it. */
  guest: count,
  pid: count,
  /** Who has a lock that is in the way. */
  heldByGuest: count,
  heldByPid: count,
  /** For how long it has waited. */
  seconds: count.default(0),
});

const exportSchema = z.object({
  tag: z.string(),
  backend: z.string(),
  isUp: z.boolean(),
  detail: z.string(),
  /** When the process that serves it was started; 0 if it does not answer. */
  started: count.default(0),
  nodes: count,
  handles: count,
  inFlight: count,
  /** Requests that wait now, and have waited since the start, since the rate is limited. */
  heldBack: count.default(0),
  heldBackBefore: count.default(0),
  /** For how long the oldest request waits for the backend. */
  longestWaitSeconds: count.default(0),
  locks: count,
  waitingLocks: count,
  /** Those that could not be had again after a restart or a migration, since the start. */
  lostLocks: count,
  listingBytes: count,
  /** Mistakes of the backend, and of guests, since the start. */
  faults: count.default(0),
  malformed: count.default(0),
  /** Of the requests that were timed, one in sixteen: whose they were, in about all requests. */
  busiestFiles: z.array(z.object({ ino: z.string(), requests: count })).default([]),
  busiestProcesses: z.array(z.object({ guest: count, pid: count, requests: count })).default([]),
  /** The file system as the backend tells it; undefined if it does not, in time. */
  space: z.object({ bytes: count, freeBytes: count, files: count, freeFiles: count }).optional(),
  guests: z.array(guestSchema),
  /** At most `LOCK_WAITS_MAX`. */
  lockWaits: z.array(lockWaitSchema),
  /** By opcode, since the start. */
  requests: counts,
  failures: counts,
  /** By the name of the error. */
  errors: counts,
  readBytes: count,
  writtenBytes: count,
  /** Timed requests by opcode: microseconds in all, and one count for each bucket. */
  latencies: z.record(z.string(), z.object({ sumUs: count, buckets: z.array(count) })),
  /** The backend's own figures. */
  figures: z.array(z.object({ name: z.string(), help: z.string(), value: z.number() })),
});

/** What a daemon answers to `virtiofs-kit status`. A field may be added, none taken away. */
const statusSchema = z.object({
  pid: count,
  /** Seconds since the epoch. */
  time: count,
  started: count,
  cpuSeconds: count,
  residentBytes: count,
  heapUsedBytes: count,
  /** Lines of the log that nobody took. */
  lostLogLines: count.default(0),
  exports: z.array(exportSchema),
});

/** A status from JSON. @returns undefined for anything else. */
export function statusFromJson(text: string): DaemonStatus | undefined {
  return fromJson(statusSchema, text);
}

/** What there is to see of a daemon at one moment, as plain data. */
export type DaemonStatus = z.output<typeof statusSchema>;
export type ExportStatus = z.output<typeof exportSchema>;
export type GuestStatus = z.output<typeof guestSchema>;
export type LockWait = z.output<typeof lockWaitSchema>;
