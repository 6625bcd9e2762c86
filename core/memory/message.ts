import type { SegmentList } from './segment-list.js';

/**
 * One request in a transport: what the guest wrote, and where the answer goes. Pooled: not to be
 * touched after it was answered.
 */
export interface Message {
  /** The request: header, arguments, data to write. */
  readonly readable: SegmentList;
  /** Room for the reply; empty where none is awaited. */
  readonly writable: SegmentList;
  /** Whether it comes from a thread that serves a queue and could not serve it. */
  readonly passedOn?: boolean;
  /**
   * Gives the request back to the guest, once, in any order with others.
   * @param written bytes of `writable` that were filled, from its start; 0 for a request without a
   * reply.
   */
  complete(written: number): void;
  /**
   * Instead of `complete`: the request can be neither understood nor answered, and its queue stops.
   */
  fail(): void;
}
