import type { DirtyLog, SegmentList } from '../memory/index.js';

/** {@link DeviceRing.pop} found no chain. */
export const EMPTY = -1;
/** {@link DeviceRing.pop} found a chain, or a ring, that breaks the rules; `violation` says how. */
export const BROKEN = -2;

/**
 * The device's side of a ring's format in guest memory. It holds positions and nothing else: no
 * descriptors, no timing. What the guest wrote is read once and checked before use; nothing here
 * throws.
 */
export interface DeviceRing {
  /** Where the device stands: what GET_VRING_BASE returns and SET_VRING_BASE sets. */
  readonly base: number;
  /**
   * Where a device that took and gave back one chain after another stands by the ring itself,
   * whichever ring object it used.
   */
  readonly given: number;
  /** Whether {@link pop} would find something. */
  readonly ready: boolean;
  /** Chains that {@link pop} has seen, but not yet taken. */
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
   * @returns whether it keeps the rules.
   */
  walk(id: number, readable: SegmentList, writable: SegmentList): boolean;
  /** Gives a chain back with the number of bytes written into it. */
  push(id: number, written: number): void;
  /** Whether the guest wants to be interrupted for the chains given back since the last call. */
  takeInterrupt(): boolean;
  /** Asks the guest for no notifications while the device looks at the ring anyway. */
  suppressNotifications(): void;
  /**
   * Asks for notifications again.
   * @returns true if chains came meanwhile: look at them, no notification will come.
   */
  enableNotifications(): boolean;
  /**
   * Logs writes to the ring itself from here on, as if it began at a guest address; or no longer.
   */
  logTo(log: DirtyLog | undefined, guestAddress: number): void;
}
