import type { DirtyLog, SegmentList } from '../memory/index.js';

/** {@link DeviceRing.pop} found no chain. */
export const EMPTY = -1;
/** {@link DeviceRing.pop} found a chain, or a ring, that breaks the rules; `violation` says how. */
export const BROKEN = -2;

/**
 * The device's side of a ring in guest memory. It knows the ring's format and the device's position
 * in it. Eventfds and timing belong to the run. Data from the guest is read once and checked before
 * use. Nothing here throws.
 */
export interface DeviceRing {
  /** Entries. */
  readonly size: number;
  /** Whether both sides say by index when they are to be notified (EVENT_IDX). */
  readonly notifiesByIndex: boolean;
  /** The next available index, which GET_VRING_BASE returns and SET_VRING_BASE sets. */
  readonly base: number;
  /**
   * How many chains the device has returned, modulo 2^16, as the ring itself says. If every chain
   * that was taken has been returned, this is the next available index. It does not depend on this
   * object's own position.
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
  /** Tells the guest that it need not notify the device, which polls the ring. */
  suppressNotifications(): void;
  /**
   * Asks for notifications again.
   * @param many of how many chains the guest is to notify: with EVENT_IDX 1 or more, else 1.
   * @returns true if so many are available already. They must be taken now: no notification comes.
   */
  enableNotifications(many: number): boolean;
  /**
   * Sets the log of writes to the used ring; undefined ends logging.
   * @param guestAddress the used ring's guest address, by which the log counts.
   */
  logTo(log: DirtyLog | undefined, guestAddress: number): void;
}
