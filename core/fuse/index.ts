/**
 * The FUSE wire: requests as bytes become calls of a backend's methods, and what these return becomes replies. It knows
 * the protocol's numbers and structures (`abi.ts`, `structures.ts`), what INIT settles, and one operation per opcode,
 * grouped by subject. Where the bytes come from (a virtqueue, `/dev/fuse`) is not known here: a {@link Session} takes
 * messages and answers each once.
 */
export { Opcode } from './abi.js';
export type { Counters } from './counters.js';
export type { Negotiated } from './negotiation.js';
export { Session, type SessionOptions } from './session.js';
export { restoreSession, saveSession } from './snapshot.js';
