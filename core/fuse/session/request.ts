import type { Context, SecurityContext } from '../../backend/index.js';
import { NO_HANDLE, NO_SLOT } from '../../state/index.js';
import type { Message } from '../../memory/index.js';
import type { Operation } from '../operations/operation.js';
import type { Observation } from './observer.js';

const NO_GROUPS: readonly number[] = Object.freeze([]);

/** What a backend learns about the caller. Each pooled {@link Request} has one. */
export class RequestContext implements Context {
  uid = 0;
  gid = 0;
  pid = 0;
  umask = 0;
  setGroupIdChecked = false;
  groups: readonly number[] = NO_GROUPS;
  securityContext: SecurityContext | undefined = undefined;
  birth = false;
  readonly guest: object;
  #controller: AbortController | undefined = undefined;
  #aborted = false;

  /** @param guest stands for the session. */
  constructor(guest: object) {
    this.guest = guest;
  }

  /** Made when it is first read: a synchronous backend does not need it. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  get aborted(): boolean {
    return this.#aborted;
  }

  abort(): void {
    this.#aborted = true;
    this.#controller?.abort();
  }

  /** Sets the values that most requests have. */
  reset(): void {
    this.umask = 0;
    this.setGroupIdChecked = false;
    this.groups = NO_GROUPS;
    this.securityContext = undefined;
    this.birth = false;
    this.#controller = undefined;
    this.#aborted = false;
  }
}

/**
 * The state of one request. It outlives the session's shared buffers ({@link Arguments}, `Reply`)
 * while a promise or lock is waited for. Requests are pooled. 32-bit ids are kept as signed
 * numbers, since V8 boxes unsigned ones of 2^31 and above.
 */
export class Request {
  message!: Message;
  operation!: Operation;
  readonly context: RequestContext;
  opcode = 0;
  /** When the request began, if it is timed: see `Counters.begin`. */
  began = 0;
  /** What somebody who looks on has kept of it. */
  observation: Observation | undefined = undefined;
  /** Since when it is kept, in milliseconds of `performance.now()`. */
  since = 0;
  uniqueLow = 0;
  uniqueHigh = 0;
  /** Hash of the name in a LOOKUP that a thread has passed on. */
  name = 0;
  /**
   * Where a journal is kept, the name that the request looks up or makes in its node, and the
   * version of `RecentNames` when it began.
   */
  child: string | undefined = undefined;
  childVersion = 0;
  /** Slot of the request's node. */
  slot = NO_SLOT;
  /** Handles that the request uses. */
  handle = NO_HANDLE;
  otherHandle = NO_HANDLE;
  /** A size or mask that the operation needs for its reply. */
  size = 0;
  /** Flags that the operation needs for its reply. */
  flags = 0;
  /** Bytes that are in the writable segments already, after header and structure. */
  data = 0;
  /**
   * For a request in flight: its index in {@link InFlight}, its grace period (`NodeTable.enter`),
   * and the session's incarnation.
   */
  place = -1;
  period = 0;
  incarnation = 0;
  /** For a request that waits for a lock: its id in the lock table. */
  lockId: bigint | undefined = undefined;
  /** Carried out by a former process: how many bytes an append wrote; -1 if it was not. */
  happened = -1;
  /**
   * The guest has got EIO already, after the drain timeout. The result, if it still comes, is only
   * discarded.
   */
  abandoned = false;

  /** @param guest as {@link RequestContext.guest}. */
  constructor(guest: object) {
    this.context = new RequestContext(guest);
  }

  /** Clears what the last request has left. */
  reset(): void {
    this.child = undefined;
    this.slot = NO_SLOT;
    this.handle = NO_HANDLE;
    this.otherHandle = NO_HANDLE;
    this.data = 0;
    this.place = -1;
    this.lockId = undefined;
    this.happened = -1;
    this.abandoned = false;
    this.observation = undefined;
    this.context.reset();
  }
}
