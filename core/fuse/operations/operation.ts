import type { Awaitable } from '../../backend/index.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';

/**
 * Result of an operation that has called {@link Session.park}: the request is answered later, by
 * {@link Session.answer}.
 */
export const PARKED = Symbol('parked');

/**
 * Result of an operation whose request the backend has gathered: {@link Session.submit} carries it
 * out.
 */
export const GATHERED = Symbol('gathered');

/**
 * How one opcode is served. `start` asks the backend. If the result is a promise, the session waits
 * for it. `finish` then composes the reply.
 */
export interface Operation<R = unknown> {
  /** The opcode's name, for logs and figures. */
  readonly name: string;
  /** The least bytes of arguments, names not included. */
  readonly arguments: number;
  /** Bytes that the reply needs after its header. A request with less room is refused unserved. */
  readonly reply: number;
  /** The request has no reply. */
  readonly silent?: boolean;
  /** The operation is served before INIT too. */
  readonly always?: boolean;
  /**
   * May start while other requests are gathered but not carried out. It must not close or forget
   * anything that they use.
   */
  readonly startsDuringBatch?: boolean;
  /**
   * Reads the arguments, which are valid only until it returns, and asks the backend.
   * @throws FsError to refuse the request.
   */
  start(session: Session, request: Request): Awaitable<R> | typeof PARKED | typeof GATHERED;
  /**
   * Puts the reply's structure into `session.out`.
   * @returns the structure's size in bytes, or minus an errno. `request.data` says how many bytes
   * of data follow, which are in the guest's buffers already.
   */
  finish(session: Session, request: Request, result: R): number;
  /** Releases a result that came too late: the guest is gone or has its reply already. */
  discard?(session: Session, request: Request, result: R): void;
}

/** The `finish` of operations whose reply is a header alone. */
export function finishEmpty(): number {
  return 0;
}

function nothing(): void {}

/**
 * An operation with all of its fields, in the same order as every other one. V8 compiles the path
 * of a request for the shapes of objects that it has met, and drops that code at the first other
 * one.
 */
export function inOneShape<R>(operation: Operation<R>): Operation<R> {
  const { name, arguments: least, reply, start, finish, discard = nothing } = operation;
  const { silent = false, always = false, startsDuringBatch = false } = operation;
  return { name, arguments: least, reply, silent, always, startsDuringBatch, start, finish, discard };
}

/** An operation that is always answered with the same errno. */
export function refusal(name: string, errno: number): Operation<number> {
  return inOneShape({
    name,
    arguments: 0,
    reply: 0,
    start: () => -errno,
    finish: (_session, _request, result) => result,
  });
}

/** The operation of a request that cannot be served and must not have a reply. */
export const IGNORED: Operation<number> = inOneShape({
  name: 'ignored request',
  arguments: 0,
  reply: 0,
  silent: true,
  start: () => 0,
  finish: finishEmpty,
});

/** Checks a count from the backend. @throws RangeError for one that no backend may return. */
export function checkCount(count: number, most: number): void {
  if (!(count >= 0 && count <= most && Math.floor(count) === count)) {
    throw new RangeError(`the backend returned ${count}, not a whole number from 0 to ${most}`);
  }
}

/**
 * Whether the guest has started anew or got its reply while the request waited. Its buffers and
 * lookup counts must not be touched then.
 */
export function isGone(session: Session, request: Request): boolean {
  return request.abandoned || request.incarnation !== session.incarnation;
}
