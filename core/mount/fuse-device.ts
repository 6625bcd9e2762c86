import { write } from 'node:fs';
import { type Message, NativeWindow, SegmentList } from '../memory/index.js';
import {
  type Fd,
  type Log,
  advancePromises,
  NativeMemory,
  type OwnedFd,
  PAGE_SIZE,
  result,
  type CloseWatch,
  watchClosely,
} from '../system/index.js';
import { dup } from '../system/calls/files.js';
import { native } from '../system/calls/libc-functions.js';
import { EAGAIN, EINTR, EINVAL, ENODEV, ENOENT } from '../system/calls/negative-errno.js';

/**
 * The most bytes of data in one request and in one reply: 256 pages. The kernel refuses a read
 * (EINVAL) into a buffer that has no room for a header and a write of that size (Linux
 * `fs/fuse/dev.c`, `fuse_dev_do_read`).
 */
const MAX_DATA_BYTES = 1024 * 1024;
/** Room for headers and arguments. */
const BUFFER = MAX_DATA_BYTES + PAGE_SIZE;

/** How many requests are served in one turn of the event loop, which has other work too. */
const BATCH = 64;
/** How many idle buffers are kept. Each uses as much memory as its largest request has needed. */
const MAX_SPARE = 16;

/** Notifications that wait to be sent. Others are dropped: what is cached ends by its time. */
const MAX_NOTIFICATIONS = 4096;

/** One request that was read, and room for its reply. */
class DeviceMessage implements Message {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  readonly #device: FuseDevice;
  readonly #memory = NativeMemory.allocate(2 * BUFFER);

  constructor(device: FuseDevice) {
    this.#device = device;
    const window = new NativeWindow(this.#memory);
    this.readable = new SegmentList(window, 1);
    this.writable = new SegmentList(window, 1);
    this.writable.push(this.#memory.address + BUFFER, BUFFER);
  }

  /** Reads the next request. @returns its length, or minus the errno. */
  receive(fd: Fd): number {
    const length = result(native.read(fd, this.#memory.address, BUFFER));
    this.readable.clear();
    if (length > 0) this.readable.push(this.#memory.address, length);
    return length;
  }

  complete(written: number): void {
    this.#device.answer(this, this.#memory.address + BUFFER, written);
  }

  fail(): void {
    this.#device.refuse(this);
  }

  free(): void {
    this.readable.close();
    this.writable.close();
    this.#memory.free();
  }
}

/** Serves the requests that come from the device. */
export interface DeviceReceiver {
  dispatch(message: Message): void;
  /** No more requests will come. @param errno 0 if it was unmounted, else what went wrong. */
  ended(errno: number): void;
}

/**
 * The requests of one mount, from an open `/dev/fuse`. Each read takes one request and each write
 * gives one reply, each in one piece (Linux `Documentation/filesystems/fuse.rst`).
 */
export class FuseDevice {
  readonly #fd: OwnedFd;
  readonly #receiver: DeviceReceiver;
  readonly #log: Log;
  readonly #watch: CloseWatch;
  readonly #spare: DeviceMessage[] = [];
  readonly #notifications: Uint8Array[] = [];
  #isNotifying = false;
  #inFlight = 0;
  #stopped = false;

  /** Begins to serve a mounted, non-blocking descriptor, which it owns from here on. */
  constructor(fd: OwnedFd, receiver: DeviceReceiver, log: Log) {
    this.#fd = fd;
    this.#receiver = receiver;
    this.#log = log;
    this.#watch = watchClosely(fd.value, () => this.#serve());
  }

  /** Reads no more requests; those in flight can still be answered. Idempotent. */
  stop(): void {
    this.#stopped = true;
    this.#watch.close();
  }

  /** Closes the connection. If it is still mounted, its users get ENOTCONN. Idempotent. */
  close(): void {
    this.stop();
    this.#fd.close();
    for (const message of this.#spare.splice(0)) message.free();
  }

  /**
   * Sends a notification. It goes by another thread: the kernel waits for what holds the directory
   * or page, which may be a request that this thread has yet to answer (Linux `fs/fuse/dir.c`,
   * `fuse_reverse_inval_entry`).
   */
  notify(message: Uint8Array): void {
    if (this.#notifications.length >= MAX_NOTIFICATIONS || this.#stopped) return;
    this.#notifications.push(message);
    if (!this.#isNotifying) this.#sendNotifications();
  }

  #sendNotifications(): void {
    const copy = dup(this.#fd.value);
    if (copy < 0) {
      this.#notifications.length = 0;
      return;
    }
    this.#isNotifying = true;
    const next = (): void => {
      const message = this.#stopped ? undefined : this.#notifications.shift();
      if (message === undefined) {
        this.#isNotifying = false;
        native.close(copy);
        return;
      }
      // It may fail with ENOENT: the kernel does not know the node or name any more.
      write(copy, message, next);
    };
    next();
  }

  /** Sends a reply, or none if `written` is 0, and puts the message back into the pool. */
  answer(message: DeviceMessage, address: number, written: number): void {
    if (written > 0 && this.#fd.value >= 0) {
      const sent = result(native.write(this.#fd.value, address, written));
      // ENOENT: the caller was killed meanwhile. ENODEV: the file system was unmounted.
      if (sent < 0 && sent !== ENOENT && sent !== ENODEV) {
        this.#log.error({ errno: -sent, bytes: written }, 'the kernel refused a reply');
      }
    }
    this.#recycle(message);
  }

  /** Ends serving after a request that cannot be answered. */
  refuse(message: DeviceMessage): void {
    this.#recycle(message);
    this.#log.error({}, 'the kernel sent a request that cannot be answered');
    this.#end(-EINVAL);
  }

  #serve(): void {
    for (let i = 0; i < BATCH && !this.#stopped; i++) {
      const message = this.#spare.pop() ?? new DeviceMessage(this);
      this.#inFlight += 1;
      const length = message.receive(this.#fd.value);
      if (length < 0) {
        this.#recycle(message);
        // ENOENT: the request was interrupted before it was read.
        if (length === ENOENT || length === EINTR) continue;
        if (length !== EAGAIN) this.#end(length === ENODEV ? 0 : -length);
        break;
      }
      this.#receiver.dispatch(message);
    }
    if (this.#inFlight > 0) advancePromises();
  }

  #end(errno: number): void {
    this.stop();
    this.#receiver.ended(errno);
  }

  #recycle(message: DeviceMessage): void {
    this.#inFlight -= 1;
    if (this.#spare.length < MAX_SPARE && this.#fd.value >= 0) this.#spare.push(message);
    else message.free();
  }
}
