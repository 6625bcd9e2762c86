/**
 * The FUSE wire: requests as bytes become calls of a backend's methods, and what these return
 * becomes replies. It knows the protocol's numbers and structures (`abi.ts`, `structures.ts`), what
 * INIT settles, and one operation per opcode, grouped by subject. Where the bytes come from (a
 * virtqueue, `/dev/fuse`) is not known here: a {@link Session} takes messages and answers each
 * once.
 */
export { GETATTR_FH, Opcode } from './wire/abi.js';
export { Arguments, isName } from './wire/arguments.js';
export type { Counters } from './session/counters.js';
export { batchSize, FROM as GATHERED_FROM, MOST as GATHERED_MOST } from './session/gathering.js';
export type { Negotiated } from './session/negotiation.js';
export { BODY, type Validity } from './wire/reply.js';
export * from './wire/reply-structures.js';
export * from './wire/transfer.js';
export { Session, type SessionOptions } from './session/session.js';
export { hashOfName } from './session/file-table.js';
export type { FileTable, EntryName, EntryNode, FileTableOwner, Validities } from './session/file-table.js';
export { restoreSession, saveSession } from './session/snapshot.js';
export {
  fuse_attr,
  fuse_attr_out,
  fuse_entry_out,
  fuse_getattr_in,
  fuse_in_header,
  fuse_read_in,
  fuse_write_in,
  fuse_write_out,
} from './wire/structures.js';
