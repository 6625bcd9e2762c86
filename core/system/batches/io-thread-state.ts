import type { Fd } from '../descriptors/fd.js';

/**
 * How many lists a thread can have, the one that it makes included. It makes the second while the
 * engine's thread collects the first.
 */
export const ROOM = 2;

/** What a thread is started with. */
export interface ThreadData {
  /** The words of {@link Own}, and from {@link LISTS} on two 64-bit numbers for each list. */
  readonly own: SharedArrayBuffer;
  /** The word {@link ATTENDED}. */
  readonly common: SharedArrayBuffer;
  /** Eventfd that wakes the event loop. */
  readonly wake: Fd;
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

/** Counters of lists begin again at 0 here. A multiple of {@link ROOM}. */
export const WRAP = 2 ** 30;

/** Index of the 64-bit number that is the first list's address. The count of its calls follows. */
export const LISTS = 2;
export const OWN_BYTES = (LISTS + 2 * ROOM) * 8;
export const COMMON_BYTES = 4;
