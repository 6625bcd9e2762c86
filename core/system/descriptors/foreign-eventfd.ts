import type { Fd } from './fd.js';
import { readlinkSync } from 'node:fs';
import { libc, result } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { EAGAIN, EINVAL, ENOTSOCK, EOPNOTSUPP } from '../calls/negative-errno.js';
import { NativeMemory, putLong } from '../memory/native-memory.js';
import type { CallList } from '../batches/call-list.js';
import { Region } from '../memory/region.js';

/*
 * Eventfds that another process shares. Whether read(2) and write(2) block on one depends on a flag
 * of the open file, which the other process may clear at any moment. If the counter is full, too,
 * write(2) sleeps for ever. So no call here depends on the flag.
 */

const aio = libc<(number: number, context: number, count: number, list: number) => number>(
  'syscall',
  'intptr_t',
  ['intptr_t', 'uintptr_t', 'intptr_t', 'uintptr_t'],
);
const { close: closeFd, open, poll, preadv2, read, send, write } = native;

const arm64 = process.arch === 'arm64';
const SYS_IO_SETUP = arm64 ? 0 : 206;
const SYS_IO_DESTROY = arm64 ? 1 : 207;
const SYS_IO_SUBMIT = arm64 ? 2 : 209;

const O_CLOEXEC = 0o2000000;
const RWF_NOWAIT = 8;
const POLLIN = 1;
const POLLOUT = 4;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const IOCB_FLAG_RESFD = 1;

/** Byte offsets in `scratch`: the number one, a sink, `struct pollfd`, an iovec for the sink. */
const ONE = 0;
const SINK = 8;
const POLLFD = 16;
const IOVEC = 24;
/** The context that io_setup(2) makes; `struct iocb`, io_submit(2), and its address. */
const CONTEXT = 40;
const IOCB = 64;
const LIST = 128;
/** Word of `aio_resfd` in the scratch. */
const RESFD = (IOCB + 60) >> 2;
/** Words of `struct aio_ring`, Linux `fs/aio.c`. */
const RING_HEAD = 2;
const RING_TAIL = 3;

const scratch = NativeMemory.allocate(4096);
const at = scratch.address;
scratch.u32[ONE >> 2] = 1;
putLong(scratch.u32, IOVEC >> 2, at + SINK);
putLong(scratch.u32, (IOVEC >> 2) + 2, 8);

interface Context {
  readonly id: number;
  readonly ring: Uint32Array;
  readonly nothing: Fd;
}

/** This thread's context of asynchronous I/O; undefined if the system gives none. */
let context: Context | undefined;
let isTried = false;

/** Descriptors that were sockets when they were last signalled. */
const sockets = new Set<Fd>();

function setUp(): void {
  isTried = true;
  const nothing = open('/dev/null', O_CLOEXEC, 0);
  if (nothing < 0) return;
  putLong(scratch.u32, CONTEXT >> 2, 0);
  if (aio(SYS_IO_SETUP, 8, at + CONTEXT, 0) !== 0) {
    closeFd(nothing);
    return;
  }
  const id = scratch.u32[CONTEXT >> 2]! + scratch.u32[(CONTEXT >> 2) + 1]! * 2 ** 32;
  // A read of no bytes (opcode 0, IOCB_CMD_PREAD), which is over before io_submit returns.
  scratch.u32[(IOCB + 20) >> 2] = nothing;
  scratch.u32[(IOCB + 56) >> 2] = IOCB_FLAG_RESFD;
  putLong(scratch.u32, LIST >> 2, at + IOCB);
  context = { id, nothing, ring: new Uint32Array(Region.borrowed(id, 4096).view(id, 4096)) };
}

/**
 * Adds 1 to an eventfd, unless its counter is at its maximum: 1 or more, or minus the errno. It
 * never blocks. It submits a read that ends at once, and the kernel signals the eventfd for that
 * without waiting (`eventfd_signal`). Where the system refuses asynchronous I/O, the eventfd is
 * polled first. Only a front-end that fills the counter after that poll could block this thread.
 *
 * A socket, by which User-Mode Linux is interrupted, gets eight bytes, unless it is full.
 */
export function signalForeign(fd: Fd): number {
  if (sockets.has(fd)) {
    const code = overSocket(fd);
    if (code !== ENOTSOCK) return code;
    // The number was given to another descriptor.
    sockets.delete(fd);
  }
  if (!isTried) setUp();
  if (context === undefined) return ifReady(fd, POLLOUT, () => write(fd, at + ONE, 8));
  prepareSignal(context, fd);
  const code = result(aio(SYS_IO_SUBMIT, context.id, 1, at + LIST));
  if (code !== EINVAL) return code;
  sockets.add(fd);
  return overSocket(fd);
}

/** What {@link signalForeign} may be given. */
export type SignalKind = 'eventfd' | 'socket';

/**
 * Adds the call of {@link signalForeign} to a list that is run at once.
 * @param kind what the descriptor is, which the caller has made sure of.
 * @returns false where it takes more than one call.
 */
export function addSignal(list: CallList, fd: Fd, kind: SignalKind): boolean {
  if (kind === 'socket') {
    list.send(fd, at + ONE, 8, MSG_DONTWAIT | MSG_NOSIGNAL);
    return true;
  }
  if (!isTried) setUp();
  if (context === undefined) return false;
  prepareSignal(context, fd);
  list.ioSubmit(context.id, 1, at + LIST);
  return true;
}

function prepareSignal({ ring }: Context, fd: Fd): void {
  // Skips the results of earlier reads.
  ring[RING_HEAD] = ring[RING_TAIL]!;
  scratch.u32[RESFD] = fd;
}

/** Sends a one over a socket; flags of this call alone keep it from waiting, send(2). */
function overSocket(fd: Fd): number {
  return result(send(fd, at + ONE, 8, MSG_DONTWAIT | MSG_NOSIGNAL));
}

/** Takes the count of an eventfd: 8, or minus the errno (EAGAIN: it was not signalled). */
export function drainForeign(fd: Fd): number {
  const code = result(preadv2(fd, at + IOVEC, 1, -1, RWF_NOWAIT));
  if (code !== EOPNOTSUPP) return code;
  // Linux before 5.8.
  return ifReady(fd, POLLIN, () => read(fd, at + SINK, 8));
}

/** Frees this thread's context of asynchronous I/O. */
export function endForeignSignals(): void {
  if (context === undefined) return;
  aio(SYS_IO_DESTROY, context.id, 0, 0);
  closeFd(context.nothing);
  context = undefined;
}

function ifReady(fd: Fd, event: number, call: () => number): number {
  scratch.u32[POLLFD >> 2] = fd;
  scratch.u32[(POLLFD >> 2) + 1] = event;
  return poll(at + POLLFD, 1, 0) === 1 ? result(call()) : EAGAIN;
}

/**
 * Whether a descriptor that came from elsewhere is an eventfd. No file system is asked: the link
 * below /proc is the kernel's own text, and any path would begin with a slash.
 */
export function isEventfd(fd: Fd): boolean {
  return kindOf(fd) === 'anon_inode:[eventfd]';
}

/** Whether {@link signalForeign} takes a descriptor: an eventfd or a socket, asked as above. */
export function isSignal(fd: Fd): boolean {
  return signalKind(fd) !== undefined;
}

/** What a descriptor is, asked as above; undefined if {@link signalForeign} does not take it. */
export function signalKind(fd: Fd): SignalKind | undefined {
  const kind = kindOf(fd);
  if (kind === 'anon_inode:[eventfd]') return 'eventfd';
  return kind.startsWith('socket:[') ? 'socket' : undefined;
}

function kindOf(fd: Fd): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}
