/**
 * The FUSE protocol: turns requests into calls of a backend's methods, and their results into
 * replies. A {@link Session} is one mounted guest. It takes messages and answers each once; where
 * they come from (a virtqueue, `/dev/fuse`) is unknown here.
 *
 * - `wire/`: the protocol's constants and structures, the reading of arguments and the layout of
 *   replies.
 * - `session/`: the session, what INIT negotiates, requests in flight, batches of gathered
 *   requests, the file table for queue threads, saving and restoring.
 * - `operations/`: one operation for each opcode, grouped by subject, and the table of them
 *   (`table.ts`).
 */
export { GETATTR_FH, InitFlag, Opcode } from './wire/abi.js';
export { Arguments, isName } from './wire/arguments.js';
export type { Busy } from './session/busiest.js';
export { Counters, LATENCY_BOUNDS_US, LATENCY_BUCKETS, TIMED_ONE_OF } from './session/counters.js';
export { batchSize, GATHERED_FROM, GATHERED_MOST } from './session/gathering.js';
export { Observed } from './session/observer.js';
export type { Observation, ObservedRequest, RequestObserver } from './session/observer.js';
export { isReadOnly } from './operations/refused-changes.js';
export { ExportPace, type RateLimits } from './session/pace.js';
export type { Negotiated } from './session/negotiation.js';
export { BODY, type Reply, type Validity } from './wire/reply.js';
export { invalidEntry, invalidInode, prune, PRUNE_MINOR_VERSION } from './wire/notifications.js';
export * from './wire/reply-writers.js';
export * from './wire/transfer.js';
export type {
  HandleGeneration,
  HandleIndex,
  NodeGeneration,
  NodeIdHigh,
  NodeIdLow,
  Slot,
} from '../state/index.js';
export { Session, type SessionOptions } from './session/session.js';
export { hashOfName } from './session/file-table.js';
export type { FileTable, EntryName, EntryNode, FileTableOwner, Validities } from './session/file-table.js';
export { recoverRequests } from './session/recovery.js';
export { restoreSession, saveSession } from './session/saved-session.js';
export { loadMigratingSession, saveMigratingSession, type OnMigrationError } from './session/migration.js';
export {
  fuse_attr,
  fuse_attr_out,
  fuse_entry_out,
  fuse_getattr_in,
  fuse_in_header,
  fuse_init_in,
  fuse_init_out,
  fuse_open_out,
  fuse_out_header,
  fuse_read_in,
  fuse_write_in,
  fuse_write_out,
} from './wire/structures.js';
