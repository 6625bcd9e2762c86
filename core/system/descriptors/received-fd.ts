import { deferred } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { whyNotMemory } from '../memory/foreign-memory.js';
import type { Fd } from './fd.js';
import { isEventfd } from './foreign-eventfd.js';
import { OwnedFd } from './owned-fd.js';

/*
 * close(2) may wait: FUSE and network file systems tell their server (flush), a socket may linger.
 * A descriptor from another process may be any of these, and its server stopped.
 */

const closeLater = deferred(native.close);

/** How many descriptors may wait to be closed. */
const WAITING_MAX = 256;

const waiting: Fd[] = [];
let isClosing = false;

/**
 * Whether descriptors of other processes are to be accepted. They are not while too many wait to be
 * closed: the kernel drops those that nobody takes, without a word to their file systems.
 */
export function acceptsDescriptors(): boolean {
  return waiting.length < WAITING_MAX;
}

/**
 * A descriptor that another process sent. If it is neither an eventfd nor shared memory, it is
 * closed on the thread pool, one after the other: those that never end hold one thread.
 */
export class ReceivedFd extends OwnedFd {
  override close(): void {
    const fd = this.take();
    if (fd < 0) return;
    if (isEventfd(fd) || whyNotMemory(fd) === undefined) {
      native.close(fd);
      return;
    }
    waiting.push(fd);
    if (!isClosing) void closeWaiting();
  }
}

async function closeWaiting(): Promise<void> {
  isClosing = true;
  for (let fd = waiting[0]; fd !== undefined; fd = waiting[0]) {
    await closeLater(fd);
    waiting.shift();
  }
  isClosing = false;
}
