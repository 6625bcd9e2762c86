import { CallList } from '../batches/call-list.js';
import type { Fd } from '../descriptors/fd.js';
import { addSignal, signalForeign, type SignalKind } from '../descriptors/foreign-eventfd.js';

/*
 * The last answer's interrupt and the sleep, in one foreign call. Whoever is woken by the interrupt
 * may get this thread's processor at once. What the thread has to do before it sleeps is done
 * before that, so that it is not interrupted in it, to wake up once more only to fall asleep.
 */

/** For a signal and the sleep: `undefined` before it is needed, `null` where it cannot be. */
let list: CallList | null | undefined;
/** Whether what runs now is followed by {@link sleepAfterSignal} or {@link signalOwed}. */
let isBeforeSleep = false;
/** A descriptor that is to be signalled, or -1. */
let owed = -1 as Fd;
let owedKind: SignalKind = 'eventfd';

/**
 * Signals a descriptor as {@link signalForeign}, right before this thread sleeps where that comes
 * next, else at once. The descriptor must stay what it is until then: to be called last, by what a
 * source of the thread's own sleep calls.
 */
export function signalBeforeSleep(fd: Fd, kind: SignalKind): void {
  if (list === undefined) list = CallList.open(2) ?? null;
  signalOwed();
  if (!isBeforeSleep || list === null) {
    signalForeign(fd);
    return;
  }
  owed = fd;
  owedKind = kind;
}

/** Signals what is owed, if anything: before this thread does something else than to sleep. */
export function signalOwed(): void {
  if (owed < 0) return;
  const fd = owed;
  owed = -1 as Fd;
  signalForeign(fd);
}

/** The thread's own sleep begins or ends to call its sources. */
export function setBeforeSleep(isBefore: boolean): void {
  isBeforeSleep = isBefore;
}

/**
 * Waits for events, epoll_wait(2), right after what is owed was signalled.
 * @returns how many events there are, or minus the errno; undefined where nothing is owed.
 */
export function sleepAfterSignal(
  epoll: Fd,
  events: number,
  most: number,
  timeoutMs: number,
): number | undefined {
  if (owed < 0 || list === null || list === undefined) return undefined;
  if (!addSignal(list, owed, owedKind)) {
    signalOwed();
    return undefined;
  }
  owed = -1 as Fd;
  list.epollWait(epoll, events, most, timeoutMs);
  list.run();
  const count = list.result(1);
  list.clear();
  return count;
}
