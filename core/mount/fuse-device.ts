import { write } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { type Message, NativeWindow, SegmentList } from '../memory/index.js';
import { type RequestSlot, RequestSlots } from './request-slots.js';
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
/** With room for headers and arguments. */
export const BUFFER_BYTES = MAX_DATA_BYTES + PAGE_SIZE;

/**
 * How many requests are served before others have their turn, and after how long no more are. The
 * time is looked at after each few.
 */
const BATCH = 64;
const BATCH_MS = 0.2;
const CLOCK_INTERVAL = 4;
/** How many idle buffers are kept. Each uses as much memory as its largest request has needed. */
const MAX_SPARE = 16;
/**
 * Slots that have all their memory, 1 MiB each: giving it back and getting it again takes longer
 * than most requests.
 */
const MAX_WHOLE = 128;
/** How often it is looked for slots that are in use for long, or idle, in milliseconds. */
const SWEEP_MS = 250;
/** Idle slots that are given back at a time. Each takes a millisecond. */
const FREED_AT_ONCE = 2;

/** Notifications that wait to be sent. Others are dropped: what is cached ends by its time. */
const MAX_NOTIFICATIONS = 4096;

/** One request that was read, and room for its reply. */
class DeviceMessage implements Message {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  readonly #device: FuseDevice;
  readonly #reply: NativeMemory;
  readonly #replyAddress: number;
  /** Where the request is, if it is not in the memory of the reply. */
  readonly #slot: RequestSlot | undefined;
  readonly #address: number;
  #isOpen = false;
  /** The sweep before which it was dispatched. */
  sweep = 0;

  constructor(device: FuseDevice, slot: RequestSlot | undefined) {
    this.#device = device;
    this.#slot = slot;
    this.#reply = NativeMemory.allocate(slot === undefined ? 2 * BUFFER_BYTES : BUFFER_BYTES);
    const reply = new NativeWindow(this.#reply);
    this.#address = slot?.memory.address ?? this.#reply.address;
    this.#replyAddress = this.#reply.address + (slot === undefined ? BUFFER_BYTES : 0);
    this.readable = new SegmentList(slot === undefined ? reply : new NativeWindow(slot.memory), 1);
    this.writable = new SegmentList(reply, 1);
    this.writable.push(this.#replyAddress, BUFFER_BYTES);
  }

  /** Reads the next request. @returns its length, or minus the errno. */
  receive(fd: Fd): number {
    this.#slot?.claim();
    const length = result(native.read(fd, this.#address, BUFFER_BYTES));
    if (length > 0) this.#open(length);
    return length;
  }

  /** Takes the request that a former process has left. @returns whether there is one. */
  resume(): boolean {
    // The first word of `struct fuse_in_header` is the length.
    const length = Math.min(this.#slot!.memory.u32[0]!, BUFFER_BYTES);
    if (length > 0) this.#open(length);
    return length > 0;
  }

  #open(length: number): void {
    this.#isOpen = true;
    this.readable.clear();
    this.readable.push(this.#address, length);
  }

  /** Whether the request lies in a slot and is not answered. */
  get isInSlot(): boolean {
    return this.#isOpen && this.#slot !== undefined;
  }

  /** It waits for long: the memory behind it is given back. */
  trim(): void {
    this.#slot?.trim(this.readable.length);
  }

  complete(written: number): void {
    this.#device.answer(this, this.#replyAddress, written);
  }

  fail(): void {
    this.#device.refuse(this);
  }

  /** The request stays in its slot, for the process that follows. */
  putBack(): boolean {
    if (this.#slot === undefined) return false;
    this.#device.leave(this);
    return true;
  }

  /** The request was answered. */
  close(): void {
    this.#isOpen = false;
    this.#slot?.release();
  }

  free(): void {
    this.readable.close();
    this.writable.close();
    this.#reply.free();
    this.#slot?.free();
  }
}

/** Serves the requests that come from the device. */
export interface DeviceReceiver {
  dispatch(message: Message): void;
  /** Called after some were dispatched. */
  dispatched?(): void;
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
  readonly #slots: RequestSlots | undefined;
  readonly #spare: DeviceMessage[] = [];
  /** Requests in whole slots that were not answered at once, the oldest first. */
  readonly #lingering = new Set<DeviceMessage>();
  #sweeps = 0;
  #sweeper: NodeJS.Timeout | undefined;
  readonly #notifications: Uint8Array[] = [];
  #isNotifying = false;
  #inFlight = 0;
  #stopped = false;
  #closed = false;
  /** Whether nothing is read, since there is no room. */
  #isFull = false;

  /**
   * Serves a mounted, non-blocking descriptor, which it owns from here on.
   * @param slots where requests are kept for a process that follows, as it owns them, too; then
   * {@link begin} must follow at once.
   */
  constructor(fd: OwnedFd, receiver: DeviceReceiver, log: Log, slots?: RequestSlots) {
    this.#fd = fd;
    this.#receiver = receiver;
    this.#log = log;
    this.#slots = slots;
    this.#watch = watchClosely(fd.value, () => this.#serve());
  }

  /** Serves what a former process has left in the slots. */
  begin(): void {
    for (const slot of this.#slots!.left()) this.#resume(slot);
    this.#afterSome();
  }

  /** Requests that were read and not answered. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Reads no more requests; those in flight can still be answered. Idempotent. */
  stop(): void {
    this.#stopped = true;
    this.#watch.pause();
  }

  /** Reads on after {@link stop}. */
  goOn(): void {
    if (this.#closed) return;
    this.#stopped = false;
    if (!this.#isFull) this.#watch.resume();
    if (this.#notifications.length > 0 && !this.#isNotifying) this.#sendNotifications();
  }

  /** Closes the connection. If it is still mounted, its users get ENOTCONN. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#sweeper);
    this.stop();
    this.#watch.close();
    this.#fd.close();
    for (const message of this.#spare.splice(0)) message.free();
    this.#slots?.close();
  }

  /**
   * Sends a notification. It goes by another thread: the kernel waits for what holds the directory
   * or page, which may be a request that this thread has yet to answer (Linux `fs/fuse/dir.c`,
   * `fuse_reverse_inval_entry`). While this is stopped it waits for {@link goOn}.
   */
  notify(message: Uint8Array): void {
    if (this.#notifications.length >= MAX_NOTIFICATIONS || this.#closed) return;
    this.#notifications.push(message);
    if (!this.#isNotifying && !this.#stopped) this.#sendNotifications();
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

  /** @internal A request stays unanswered here. */
  leave(message: DeviceMessage): void {
    this.#lingering.delete(message);
    this.#inFlight -= 1;
    message.free();
  }

  #serve(): void {
    let endMs = Infinity;
    for (let i = 0; i < BATCH && !this.#stopped; i++) {
      if (i > 0 && i % CLOCK_INTERVAL === 0) {
        const now = performance.now();
        if (endMs === Infinity) endMs = now + BATCH_MS;
        else if (now > endMs) break;
      }
      const message = this.#spare.pop() ?? this.#newMessage();
      if (message === undefined) {
        this.#isFull = true;
        this.#watch.pause();
        break;
      }
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
      this.#dispatched(message);
    }
    this.#afterSome();
  }

  #dispatched(message: DeviceMessage): void {
    if (!message.isInSlot) return;
    if (this.#lingering.size >= MAX_WHOLE) {
      message.trim();
      return;
    }
    message.sweep = this.#sweeps;
    this.#lingering.add(message);
    this.#sweeper ??= setInterval(() => this.#sweep(), SWEEP_MS).unref();
  }

  /** Gives memory back: of requests that wait, and of idle slots once there are fewer requests. */
  #sweep(): void {
    for (const message of this.#lingering) {
      if (message.sweep === this.#sweeps) break;
      message.trim();
      this.#lingering.delete(message);
    }
    this.#sweeps += 1;
    if (this.#lingering.size > 0) return;
    for (let i = 0; i < FREED_AT_ONCE && this.#spare.length > MAX_SPARE; i++) this.#spare.shift()!.free();
    if (this.#spare.length > MAX_SPARE) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }

  #afterSome(): void {
    this.#receiver.dispatched?.();
    if (this.#inFlight > 0) advancePromises();
  }

  /** @returns undefined if there is no room. */
  #newMessage(): DeviceMessage | undefined {
    if (this.#slots === undefined) return new DeviceMessage(this, undefined);
    const slot = this.#slots.take();
    return slot === undefined ? undefined : new DeviceMessage(this, slot);
  }

  /** Serves a request that a former process has read. */
  #resume(slot: RequestSlot): void {
    const message = new DeviceMessage(this, slot);
    this.#inFlight += 1;
    if (!message.resume()) {
      this.#recycle(message);
      return;
    }
    this.#receiver.dispatch(message);
    this.#dispatched(message);
  }

  #end(errno: number): void {
    this.stop();
    this.#receiver.ended(errno);
  }

  #recycle(message: DeviceMessage): void {
    this.#inFlight -= 1;
    this.#lingering.delete(message);
    message.close();
    const most = this.#slots === undefined ? MAX_SPARE : MAX_WHOLE;
    if (this.#spare.length < most && this.#fd.value >= 0) this.#spare.push(message);
    else message.free();
    if (!this.#isFull) return;
    this.#isFull = false;
    if (!this.#stopped) this.#watch.resume();
  }
}
