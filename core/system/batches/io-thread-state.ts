/**
 * How many lists a thread can have, the one at work included. It continues with the second while
 * the engine's thread collects the first.
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
  /**
   * Lists given so far, modulo {@link WRAP}. {@link WRAP} is added once there will be no others.
   */
  GIVEN: 0,
  /** Lists made so far, modulo {@link WRAP}. */
  DONE: 1,
  /** 1 while the thread sleeps: it has to be woken. */
  ASLEEP: 2,
  /** 1 from its start on. */
  READY: 3,
} as const;

/**
 * Index of a 32-bit word that all threads share. It is 1 while the event loop's thread polls {@link
 * Own.DONE}, so that no wake-up is needed.
 */
export const ATTENDED = 0;

/** A power of two. */
export const WRAP = 2 ** 30;

/** 64-bit place of the first list: its address, then how many calls it has. */
export const LISTS = 2;
export const OWN_BYTES = (LISTS + 2 * ROOM) * 8;
export const COMMON_BYTES = 4;
