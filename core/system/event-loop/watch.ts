import type { Fd } from '../descriptors/fd.js';
import koffi from 'koffi';
import { check, result } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { NativeMemory } from '../memory/native-memory.js';
import { EEXIST } from '../calls/negative-errno.js';

const { epollCreate, epollCtl, close: closeFd } = native;

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;

/** A poll of the event loop on one descriptor. */
export interface Watch {
  /** Stops for good. Must come before the descriptor is closed. Idempotent. */
  close(): void;
  /** Stops until {@link resume}. */
  pause(): void;
  resume(): void;
  /** Lets the process end although the descriptor is watched. */
  unref(): void;
}

/**
 * Live watches by descriptor. koffi's handles stop polling once they are collected, so that they
 * are held here.
 */
const live = new Map<Fd, Watch>();

const noEvents = NativeMemory.allocate(16).address;
let trial = -1 as Fd;

/**
 * Whether {@link watch} would take a descriptor: koffi ends the process where libuv refuses one, so
 * that it is tried on an epoll instance of its own first. @throws SystemError as `watch`.
 */
export function checkPollable(fd: Fd): void {
  const what = `polling descriptor ${fd}`;
  if (live.has(fd)) check(EEXIST, what);
  if (trial < 0) trial = check(result(epollCreate(EPOLL_CLOEXEC)), 'epoll_create1') as Fd;
  check(result(epollCtl(trial, EPOLL_CTL_ADD, fd, noEvents)), what);
  epollCtl(trial, EPOLL_CTL_DEL, fd, noEvents);
}

function endTrials(): void {
  if (trial >= 0) closeFd(trial);
  trial = -1 as Fd;
}

/**
 * Calls `onReadable` in each turn of the event loop in which the descriptor is readable or at its
 * end (level-triggered). It must not throw.
 *
 * Node does not run promise reactions after such a callback. They run within a millisecond; a
 * caller that knows that some are due calls {@link advancePromises}.
 * @throws SystemError if the descriptor cannot be polled (EPERM: a regular file), or is watched
 * already (EEXIST).
 */
export function watch(fd: Fd, onReadable: () => void): Watch {
  return watchBarely(fd, () => {
    onReadable();
    advanceLater();
  });
}

/**
 * As {@link watch}, for a callback that makes no promises due, or that sees to them itself.
 * @throws SystemError as `watch`.
 */
export function watchBarely(fd: Fd, callback: () => void): Watch {
  checkPollable(fd);
  const handle = koffi.node.poll(fd, callback);
  let state: 'active' | 'paused' | 'closed' = 'active';
  const self: Watch = {
    close() {
      if (state === 'closed') return;
      state = 'closed';
      handle.close();
      live.delete(fd);
      if (live.size === 0) endTrials();
    },
    pause() {
      if (state !== 'active') return;
      state = 'paused';
      handle.stop();
    },
    resume() {
      if (state !== 'paused') return;
      state = 'active';
      handle.start(callback);
    },
    unref() {
      handle.unref();
    },
  };
  live.set(fd, self);
  return self;
}

let soon = false;
let later = false;

/**
 * Runs promise reactions at the end of this turn of the event loop: call it where a watch's
 * callback made some due.
 */
export function advancePromises(): void {
  if (soon) return;
  soon = true;
  setImmediate(() => {
    soon = false;
  });
}

function advanceLater(): void {
  if (soon || later) return;
  later = true;
  setTimeout(() => {
    later = false;
  }, 1).unref();
}
