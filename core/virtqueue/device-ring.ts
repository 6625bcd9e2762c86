import type { DirtyLog, SegmentList } from '../memory/index.js';

/** {@link DeviceRing.pop} found no chain. */
export const EMPTY = -1;
/** {@link DeviceRing.pop} found a chain, or a ring, that breaks the rules; `violation` says how. */
export const BROKEN = -2;

/**
 * The device's side of a ring's format in guest memory. It keeps only positions in the ring;
 * eventfds and timing are the run's. Data from the guest is read once and checked before use.
 * Nothing here throws.
 */
export interface DeviceRing {
  /** The next available index, which GET_VRING_BASE returns and SET_VRING_BASE sets. */
  readonly base: number;
  /**
   * The next available index according to the ring itself: that of a device which has returned
   * every chain that it took. It does not depend on this object's own position.
   */
  readonly given: number;
  /** Whether {@link pop} would find something. */
  readonly ready: boolean;
  /** How many more chains are known to be available. */
  readonly following: number;
  /** After {@link BROKEN}: the rule that was broken. */
  readonly violation: string;
  /**
   * Takes the next available chain and appends its segments.
   * @returns the chain's id for {@link push}, {@link EMPTY} or {@link BROKEN}.
   */
  pop(readable: SegmentList, writable: SegmentList): number;
  /**
   * Appends the segments of a chain that another ring object on the same ring has taken.
   * @returns false if the chain breaks a rule.
   */
  walk(id: number, readable: SegmentList, writable: SegmentList): boolean;
  /** Returns a chain to the guest, with the number of bytes written into it. */
  push(id: number, written: number): void;
  /** Whether the guest wants an interrupt for the chains returned since the last call. */
  takeInterrupt(): boolean;
  /** Tells the guest that it need not notify, while the device polls the ring. */
  suppressNotifications(): void;
  /**
   * Asks for notifications again.
   * @returns true if chains came before that. They must be taken now: no notification will come.
   */
  enableNotifications(): boolean;
  /**
   * Begins or ends to log writes to the used ring.
   * @param guestAddress the used ring's guest address, as the log counts.
   */
  logTo(log: DirtyLog | undefined, guestAddress: number): void;
}
