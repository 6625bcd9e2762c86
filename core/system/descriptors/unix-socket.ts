import type { Fd } from './fd.js';
import { lstatSync, unlinkSync } from 'node:fs';
import { check, libc, result, SystemError } from '../calls/libc.js';
import { NativeMemory } from '../memory/native-memory.js';
import { OwnedFd } from './owned-fd.js';
import { acceptsDescriptors, ReceivedFd } from './received-fd.js';
import { setNonBlocking } from './eventfd.js';
import { EADDRINUSE, ECONNREFUSED, EMFILE, EMSGSIZE, ENAMETOOLONG } from '../calls/negative-errno.js';

const socket = libc<(domain: number, type: number, protocol: number) => number>('socket', 'int', [
  'int',
  'int',
  'int',
]);
const socketpair = libc<(domain: number, type: number, protocol: number, fds: number) => number>(
  'socketpair',
  'int',
  ['int', 'int', 'int', 'uintptr_t'],
);
export const bind = libc<(fd: Fd, address: number, length: number) => number>('bind', 'int', [
  'int',
  'uintptr_t',
  'uint',
]);
export const listen = libc<(fd: Fd, backlog: number) => number>('listen', 'int', ['int', 'int']);
const connect = libc<(fd: Fd, address: number, length: number) => number>('connect', 'int', [
  'int',
  'uintptr_t',
  'uint',
]);
const accept4 = libc<(fd: Fd, address: number, length: number, flags: number) => number>('accept4', 'int', [
  'int',
  'uintptr_t',
  'uintptr_t',
  'int',
]);
const recvmsg = libc<(fd: Fd, message: number, flags: number) => number>('recvmsg', 'intptr_t', [
  'int',
  'uintptr_t',
  'int',
]);
const sendmsg = libc<(fd: Fd, message: number, flags: number) => number>('sendmsg', 'intptr_t', [
  'int',
  'uintptr_t',
  'int',
]);

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const MSG_CTRUNC = 0x08;

/** Descriptors that one message can carry (Linux `SCM_MAX_FD`). */
export const MAX_FDS = 253;

/** The most bytes that one `send` or `recv` moves. */
export const MAX_TRANSFER_BYTES = 65536;

/** `sun_path` holds 108 bytes with the terminator, unix(7). */
export const MAX_PATH_BYTES = 107;

/**
 * Memory for one call of sendmsg(2) or recvmsg(2), with the LP64 layout of <sys/socket.h>: at 0 a
 * msghdr { name 0, namelen 8, iov 16, iovlen 24, control 32, controllen 40, flags 48 }, at 64 an
 * iovec, at 128 the control messages, at 4096 the data.
 */
const HEADER = 0;
const IOVEC = 64;
const CONTROL = 128;
const CMSG_HEADER = 16;
const CONTROL_LENGTH = 1040;
const DATA = 4096;
const scratch = NativeMemory.allocate(DATA + MAX_TRANSFER_BYTES);

function setPointer(at: number, address: number): void {
  scratch.u32[at >>> 2] = address >>> 0;
  scratch.u32[(at >>> 2) + 1] = Math.floor(address / 2 ** 32);
}

function prepare(bytes: number, controlBytes: number): number {
  setPointer(HEADER, 0);
  setPointer(HEADER + 8, 0);
  setPointer(HEADER + 16, scratch.address + IOVEC);
  setPointer(HEADER + 24, 1);
  setPointer(HEADER + 32, controlBytes === 0 ? 0 : scratch.address + CONTROL);
  setPointer(HEADER + 40, controlBytes);
  setPointer(HEADER + 48, 0);
  setPointer(IOVEC, scratch.address + DATA);
  setPointer(IOVEC + 8, bytes);
  return scratch.address + HEADER;
}

/** Writes a sockaddr_un for `path` at the start of `scratch`. @returns its length in bytes. */
function socketAddress(path: string): number {
  const bytes = Buffer.from(path);
  if (bytes.length > MAX_PATH_BYTES || bytes.length === 0 || bytes.includes(0)) {
    throw new SystemError(`${path}: a socket path has 1 to ${MAX_PATH_BYTES} bytes`, -ENAMETOOLONG);
  }
  scratch.u16[0] = AF_UNIX;
  scratch.u8.set(bytes, 2);
  scratch.u8[2 + bytes.length] = 0;
  return 3 + bytes.length;
}

/** A stream socket, non-blocking and closed on execution. @throws SystemError */
export function newSocket(domain = AF_UNIX): OwnedFd {
  return new OwnedFd(
    check(result(socket(domain, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), 'socket') as Fd,
  );
}

/**
 * A datagram socket that is connected to another, non-blocking and closed on execution: each
 * write(2) is a message.
 * @param path `@` at its start stands for the byte 0 of an abstract address, unix(7).
 * @throws SystemError
 */
export function connectDatagram(path: string): OwnedFd {
  const withEnd = socketAddress(path);
  const isAbstract = path.startsWith('@');
  if (isAbstract) scratch.u8[2] = 0;
  const length = isAbstract ? withEnd - 1 : withEnd;
  const type = SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  const fd = new OwnedFd(check(result(socket(AF_UNIX, type, 0)), 'socket') as Fd);
  const code = result(connect(fd.value, scratch.address, length));
  if (code === 0) return fd;
  fd.close();
  throw new SystemError(`connect ${path}`, -code);
}

/** A non-blocking stream socket that carries descriptors. */
export class UnixConnection {
  readonly #fd: OwnedFd;

  private constructor(fd: OwnedFd) {
    this.#fd = fd;
  }

  /** The socket, for {@link watch}; -1 once closed. */
  get fd(): Fd {
    return this.#fd.value;
  }

  /**
   * Connects to the socket at a path.
   * @throws SystemError (ENOENT: no socket there; ECONNREFUSED: nobody listens; EAGAIN: the backlog
   * is full).
   */
  static connect(path: string): UnixConnection {
    const length = socketAddress(path);
    const fd = newSocket();
    const code = result(connect(fd.value, scratch.address, length));
    if (code < 0) {
      fd.close();
      throw new SystemError(`connect ${path}`, -code);
    }
    return new UnixConnection(fd);
  }

  /** Takes over a connected socket. @throws SystemError if the descriptor is not open. */
  static adopt(fd: Fd): UnixConnection {
    check(setNonBlocking(fd), `descriptor ${fd}`);
    return new UnixConnection(new OwnedFd(fd));
  }

  /** Two sockets that are connected to each other. @throws SystemError */
  static pair(): [UnixConnection, UnixConnection] {
    const type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    check(result(socketpair(AF_UNIX, type, 0, scratch.address)), 'socketpair');
    const [first, second] = scratch.i32;
    return [new UnixConnection(new OwnedFd(first as Fd)), new UnixConnection(new OwnedFd(second as Fd))];
  }

  /**
   * Receives up to {@link MAX_TRANSFER_BYTES} into `target`. Descriptors that came with them are
   * appended to `fds`.
   * @param accepts whether descriptors are taken. {@link acceptsDescriptors} says so for those of a
   * peer that may send any number.
   * @returns bytes, 0 at the end of the stream, or minus the errno. EAGAIN: nothing has arrived.
   * EMFILE: descriptors were lost, because this process has too many, or too many that wait to be
   * closed.
   */
  recv(target: Uint8Array, fds: OwnedFd[], accepts = acceptsDescriptors()): number {
    const count = Math.min(target.length, MAX_TRANSFER_BYTES);
    const header = prepare(count, accepts ? CONTROL_LENGTH : 0);
    const received = result(recvmsg(this.#fd.value, header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
    if (received < 0) return received;
    const first = fds.length;
    takeDescriptors(fds);
    if ((scratch.u32[(HEADER + 48) >>> 2]! & MSG_CTRUNC) !== 0) {
      for (const fd of fds.splice(first)) fd.close();
      return EMFILE;
    }
    target.set(scratch.u8.subarray(DATA, DATA + received));
    return received;
  }

  /**
   * Sends up to {@link MAX_TRANSFER_BYTES}, at least one byte, with at most {@link MAX_FDS}
   * descriptors. The caller still owns those. They are sent with the first byte.
   * @returns bytes sent, or minus the errno. EAGAIN: the peer reads too slowly. EPIPE: it is gone.
   */
  send(bytes: Uint8Array, fds: readonly Fd[] = []): number {
    if (fds.length > MAX_FDS) return EMSGSIZE;
    const count = Math.min(bytes.length, MAX_TRANSFER_BYTES);
    const controlLength = fds.length === 0 ? 0 : CMSG_HEADER + 4 * fds.length;
    // CMSG_SPACE: rounded up to 8 bytes.
    const header = prepare(count, (controlLength + 7) & ~7);
    if (controlLength > 0) {
      setPointer(CONTROL, controlLength);
      scratch.i32[(CONTROL + 8) >>> 2] = SOL_SOCKET;
      scratch.i32[(CONTROL + 12) >>> 2] = SCM_RIGHTS;
      scratch.i32.set(fds, (CONTROL + CMSG_HEADER) >>> 2);
    }
    scratch.u8.set(bytes.subarray(0, count), DATA);
    return result(sendmsg(this.#fd.value, header, MSG_DONTWAIT | MSG_NOSIGNAL));
  }

  /** Idempotent. A {@link watch} on it must be closed before. */
  close(): void {
    this.#fd.close();
  }

  /** Gives the socket, and the duty to close it, to the caller. */
  take(): Fd {
    return this.#fd.take();
  }
}

/** Appends the descriptors in the control messages that recvmsg wrote. */
function takeDescriptors(fds: OwnedFd[]): void {
  const end = CONTROL + scratch.u32[(HEADER + 40) >>> 2]!;
  let at = CONTROL;
  while (at + CMSG_HEADER <= end) {
    const length = scratch.u32[at >>> 2]!;
    if (length < CMSG_HEADER || at + length > end) return;
    if (scratch.i32[(at + 8) >>> 2] === SOL_SOCKET && scratch.i32[(at + 12) >>> 2] === SCM_RIGHTS) {
      for (let i = at + CMSG_HEADER; i + 4 <= at + length; i += 4)
        fds.push(new ReceivedFd(scratch.i32[i >>> 2] as Fd));
    }
    at += (length + 7) & ~7;
  }
}

/** Has sockets that listen already, for a process that can make no more. */
export interface ListenerSupply {
  /**
   * Gives a socket a path.
   * @throws SystemError as {@link UnixListener.listen}; EPERM: none is left.
   */
  take(path: string): OwnedFd;
  /** Takes one back, or closes any other. */
  giveBack(fd: OwnedFd): void;
}

/** The next connection at a socket that listens, or minus the errno (EAGAIN: none waits). */
export function accept(listening: Fd): UnixConnection | number {
  const fd = result(accept4(listening, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK)) as Fd;
  return fd < 0 ? fd : UnixConnection.adopt(fd);
}

let supply: ListenerSupply | undefined;

/** From here on all sockets to listen on are another's. */
export function listenBy(other: ListenerSupply): void {
  supply = other;
}

/** A listening stream socket. */
export class UnixListener {
  readonly #fd: OwnedFd;
  readonly #path: string | undefined;
  readonly #inode: number | undefined;
  #isClosed = false;

  private constructor(fd: OwnedFd, path: string | undefined) {
    this.#fd = fd;
    this.#path = path;
    this.#inode = path === undefined ? undefined : inodeOf(path);
  }

  /** For {@link watch}. */
  get fd(): Fd {
    return this.#fd.value;
  }

  /**
   * Listens on a path. A stale socket file, on which nobody listens, is replaced.
   * @throws SystemError (EADDRINUSE: another process listens there, or the path is not a socket).
   */
  static listen(path: string, backlog = 16): UnixListener {
    if (supply !== undefined) return new UnixListener(supply.take(path), path);
    const fd = newSocket();
    try {
      let code = result(bind(fd.value, scratch.address, socketAddress(path)));
      if (code === EADDRINUSE && isStale(path)) {
        unlinkSync(path);
        code = result(bind(fd.value, scratch.address, socketAddress(path)));
      }
      check(code, `bind ${path}`);
      check(result(listen(fd.value, backlog)), `listen ${path}`);
    } catch (error) {
      fd.close();
      throw error;
    }
    return new UnixListener(fd, path);
  }

  /** Takes over a listening descriptor; its path is not removed on close. @throws SystemError */
  static adopt(fd: Fd): UnixListener {
    check(setNonBlocking(fd), `descriptor ${fd}`);
    return new UnixListener(new OwnedFd(fd), undefined);
  }

  /** The next connection, or minus the errno (EAGAIN: none waits). */
  accept(): UnixConnection | number {
    return accept(this.#fd.value);
  }

  /**
   * Stops listening and removes the socket file, unless another one has taken its place.
   * Idempotent. A {@link watch} on it must be closed before.
   */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#path !== undefined && inodeOf(this.#path) === this.#inode) unlinkSync(this.#path);
    if (supply === undefined) this.#fd.close();
    else supply.giveBack(this.#fd);
  }
}

function inodeOf(path: string): number | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.ino;
}

/** Whether there is a socket file on which nobody listens. */
export function isStale(path: string): boolean {
  if (!lstatSync(path).isSocket()) return false;
  try {
    UnixConnection.connect(path).close();
    return false;
  } catch (error) {
    return error instanceof SystemError && error.errno === -ECONNREFUSED;
  }
}
