import type { Context, SecurityContext } from '../../backend/index.js';
import { NO_HANDLE, NO_SLOT } from '../../state/index.js';
import type { Message } from '../../memory/index.js';
import type { Operation } from '../operations/operation.js';

const NO_GROUPS: readonly number[] = Object.freeze([]);

/** What a backend learns of the caller. One per pooled {@link Request}. */
export class RequestContext implements Context {
  uid = 0;
  gid = 0;
  pid = 0;
  umask = 0;
  groups: readonly number[] = NO_GROUPS;
  securityContext: SecurityContext | undefined = undefined;
  birth = false;
  #controller: AbortController | undefined = undefined;
  #aborted = false;

  /** Made when first asked for: a synchronous backend has no use for it. */
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

  /** Back to what most requests have. */
  reset(): void {
    this.umask = 0;
    this.groups = NO_GROUPS;
    this.securityContext = undefined;
    this.birth = false;
    this.#controller = undefined;
    this.#aborted = false;
  }
}

/**
 * One request on its way: what must outlive the shared scratch when its answer has to be waited
 * for. Pooled. Numbers that take 32 bits are kept signed, in which form V8 does not box them.
 */
export class Request {
  message!: Message;
  operation!: Operation;
  readonly context = new RequestContext();
  opcode = 0;
  uniqueLow = 0;
  uniqueHigh = 0;
  /** Hash of the name that is looked up, where a thread has passed that on. */
  name = 0;
  /** Node that the request is about. */
  slot = NO_SLOT;
  /** Handles that it uses. */
  handle = NO_HANDLE;
  otherHandle = NO_HANDLE;
  /** A size or mask that the operation needs for its reply. */
  size = 0;
  /** Flags that the operation needs for its reply. */
  flags = 0;
  /** Bytes that were put into the writable segments after header and structure. */
  data = 0;
  /**
   * While it waits: its place among those in flight, its grace period, and the session's
   * incarnation.
   */
  place = -1;
  period = 0;
  incarnation = 0;
  /** While it waits for a lock: its id as the lock table knows it. */
  lockId: bigint | undefined = undefined;
  /**
   * The guest has its answer already (an error, after a deadline): the result only has to be put
   * away.
   */
  abandoned = false;

  /** Forgets the last request. */
  reset(): void {
    this.slot = NO_SLOT;
    this.handle = NO_HANDLE;
    this.otherHandle = NO_HANDLE;
    this.data = 0;
    this.place = -1;
    this.lockId = undefined;
    this.abandoned = false;
    this.context.reset();
  }
}
