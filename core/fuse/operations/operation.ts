import type { Awaitable } from '../../backend/index.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';

/**
 * Result of an operation that has given its request to {@link Session.park} and will be answered
 * later.
 */
export const PARKED = Symbol('parked');

/**
 * Result of an operation that the backend has put aside, to be carried out by {@link
 * Session.submit}.
 */
export const GATHERED = Symbol('gathered');

/**
 * How one opcode is served. A request is started, its result waited for if it is a promise, and
 * then finished.
 */
export interface Operation<R = unknown> {
  /** The opcode's name, for logs and figures. */
  readonly name: string;
  /** Least bytes of arguments, names not included. */
  readonly arguments: number;
  /** Bytes that the reply needs after its header: where they are not there, nothing is done. */
  readonly reply: number;
  /** The request has no reply. */
  readonly silent?: boolean;
  /** Served before INIT too. */
  readonly always?: boolean;
  /**
   * Started even while others are gathered: it neither closes nor forgets anything that they use.
   */
  readonly startsDuringBatch?: boolean;
  /**
   * Reads the arguments, which are gone afterwards, and asks the backend.
   * @throws FsError to refuse.
   */
  start(session: Session, request: Request): Awaitable<R> | typeof PARKED | typeof GATHERED;
  /**
   * Puts the reply's structure into `session.out`.
   * @returns its size in bytes (`request.data` more may be in place already), or minus an errno.
   */
  finish(session: Session, request: Request, result: R): number;
  /** The result comes too late, the guest is gone: puts it away. */
  discard?(session: Session, request: Request, result: R): void;
}

/** `finish` of what is answered by a bare header. */
export function finishEmpty(): number {
  return 0;
}

/** An opcode that is always answered with one errno. */
export function refusal(name: string, errno: number): Operation<number> {
  return {
    name,
    arguments: 0,
    reply: 0,
    start: () => -errno,
    finish: (_session, _request, result) => result,
  };
}

/** What a request without reply becomes when it can't be served. */
export const IGNORED: Operation<number> = {
  name: 'ignored request',
  arguments: 0,
  reply: 0,
  silent: true,
  start: () => 0,
  finish: finishEmpty,
};
