import type { SegmentList } from './segment-list.js';

/**
 * One request of a transport: what the guest has sent, and the room for its reply. Messages are
 * pooled: one must not be used after it was answered.
 */
export interface Message {
  /** The request: header, arguments, data to write. */
  readonly readable: SegmentList;
  /** Room for the reply; empty if the guest expects none. */
  readonly writable: SegmentList;
  /** Whether a queue thread has passed the request on, because it could not serve it itself. */
  readonly passedOn?: boolean;
  /**
   * If it was: a number that no other request has until this one was returned, of those that the
   * guest's queue threads have passed on. They return it some time after `complete`.
   */
  readonly place?: number;
  /**
   * Returns the request to the guest. To be called once; requests may be completed in any order.
   * @param written how many bytes of `writable` are filled, from its start. 0 for a request without
   * a reply.
   */
  complete(written: number): void;
  /**
   * To be called instead of `complete` if the request cannot be answered at all. Its queue stops.
   */
  fail(): void;
  /**
   * Puts the request back, if its queue has stopped: when that starts again, it is dispatched
   * again. @returns whether it was put back; it must not be used any more then.
   */
  putBack?(): boolean;
  /** Whether the thread that serves this request serves other guests, too. Default false. */
  readonly isThreadShared?: boolean;
  /**
   * Whether another guest waits for that thread, and this one has had it for a moment: a long
   * request had better end, or go on later. To be asked every few microseconds.
   */
  isThreadWanted?(): boolean;
  /**
   * Calls `goOn` once, when other guests have had their turn. It must not throw. Required beside
   * {@link isThreadWanted}.
   */
  goOnLater?(goOn: () => void): void;
}
