import { type Fd, check, libc, NativeMemory, result } from '../system/index.js';

const getsockopt = libc<(fd: Fd, level: number, name: number, value: number, length: number) => number>(
  'getsockopt',
  'int',
  ['int', 'int', 'int', 'uintptr_t', 'uintptr_t'],
);

const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_PEERCRED = 17;
const SO_ACCEPTCONN = 30;
const SO_DOMAIN = 39;
const AF_UNIX = 1;
const SOCK_STREAM = 1;

/** For getsockopt(2): the option's value, and at byte 16 its length. */
const scratch = NativeMemory.allocate(32);

function option(fd: Fd, name: number, bytes: number): Uint32Array {
  scratch.u32.fill(0, 0, 4);
  scratch.u32[4] = bytes;
  check(result(getsockopt(fd, SOL_SOCKET, name, scratch.address, scratch.address + 16)), `descriptor ${fd}`);
  return scratch.u32;
}

/**
 * Whether an inherited socket listens, or is connected already.
 * @throws SystemError if it is no socket.
 */
export function isListeningSocket(fd: Fd): boolean {
  return option(fd, SO_ACCEPTCONN, 4)[0] !== 0;
}

/** Whether a socket is a unix stream socket. @throws SystemError if it is no socket. */
export function isUnixStream(fd: Fd): boolean {
  return option(fd, SO_DOMAIN, 4)[0] === AF_UNIX && option(fd, SO_TYPE, 4)[0] === SOCK_STREAM;
}

/**
 * Id of the process that listened on the socket of a connection. 0 if that process has no id in
 * this PID namespace.
 * @throws SystemError if it is no unix socket.
 */
export function peerProcess(fd: Fd): number {
  // struct ucred: pid, uid, gid.
  return option(fd, SO_PEERCRED, 12)[0]!;
}
