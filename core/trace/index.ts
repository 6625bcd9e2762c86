/**
 * Requests, one by one, for operators: the access log, what `virtiofs-kit trace` shows, and
 * captures that are served again by another backend. The sessions of core/fuse tell a
 * {@link Tracing} of each request while somebody reads. It makes binary records, which are made
 * readable apart from that.
 *
 * - `record.ts`: the form of a capture.
 * - `tracing.ts`: makes records of requests. `record-buffer.ts`: those that wait to be read, up to
 *   a limit.
 * - `access-log.ts`: the reader that writes lines into a file. `feeds.ts`: readers from outside,
 *   who ask at the control socket.
 * - `reader.ts`: from records to requests, with the help of `arguments.ts` (what the arguments of
 *   each opcode are) and `paths.ts` (what nodes are called).
 * - `filter.ts`: which requests are shown. `lines.ts`: how.
 * - `replay.ts`: serves the requests of a capture by another backend, and compares.
 */
export { Feeds } from './feeds.js';
export { filterOf, filterSchema, type TraceFilter } from './filter.js';
export { lostRequestsLine, requestJson, requestLine } from './lines.js';
export { CaptureReader, type TracedRequest } from './reader.js';
export { Replay } from './replay.js';
export { Tracing } from './tracing.js';
