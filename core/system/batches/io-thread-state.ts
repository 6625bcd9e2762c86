/**
 * Lists that wait at one thread, the one at work included: one to go on with while the other's end
 * is noticed.
 */
export const ROOM = 2;

/** What a thread is started with. */
export interface ThreadData {
  /** {@link Own}, and from {@link LISTS} on a place for each list. */
  readonly own: SharedArrayBuffer;
  /** {@link ATTENDED}. */
  readonly common: SharedArrayBuffer;
  /** Eventfd that wakes the event loop. */
  readonly wake: number;
}

/** 32-bit words that a thread shares with the one that it works for. */
export const Own = {
  /** Lists given so far, modulo {@link WRAP}; that much more once there will be no others. */
  GIVEN: 0,
  /** Lists made so far, modulo {@link WRAP}. */
  DONE: 1,
  /** 1 while the thread sleeps: it has to be woken. */
  ASLEEP: 2,
  /** 1 from its start on. */
  READY: 3,
} as const;

/**
 * A 32-bit word that all threads share: 1 while somebody looks at {@link Own.DONE}, and no wake-up
 * is needed.
 */
export const ATTENDED = 0;

/** A power of two. */
export const WRAP = 2 ** 30;

/** 64-bit place of the first list: its address, then how many calls it has. */
export const LISTS = 2;
export const OWN_BYTES = (LISTS + 2 * ROOM) * 8;
export const COMMON_BYTES = 4;
