import { check, libc, result } from '../calls/libc.js';
import { NativeMemory } from '../memory/native-memory.js';
import { OwnedFd } from './owned-fd.js';
import { bind, listen, newSocket, SOL_SOCKET } from './unix-socket.js';
import type { Fd } from './fd.js';

const setsockopt = libc<(fd: Fd, level: number, name: number, at: number, length: number) => number>(
  'setsockopt',
  'int',
  ['int', 'int', 'int', 'uintptr_t', 'uint'],
);

const AF_INET = 2;
const AF_INET6 = 10;
const SO_REUSEADDR = 2;
const BACKLOG = 16;
/** Bytes of `struct sockaddr_in` and `struct sockaddr_in6`, ip(7) and ipv6(7). */
const IPV4_ADDRESS_BYTES = 16;
const IPV6_ADDRESS_BYTES = 28;

/** At 0 a socket address, at 32 the value of an option. */
const scratch = NativeMemory.allocate(64);
const OPTION = 32;

/**
 * Listens on a port of the loopback interface. A process that has just ended does not keep it taken
 * (SO_REUSEADDR, socket(7)).
 * @param host an address of 127.0.0.0/8, or `::1`.
 * @throws SystemError
 */
export function listenOnLoopback(host: string, port: number): OwnedFd {
  const isIpv6 = host === '::1';
  const fd = newSocket(isIpv6 ? AF_INET6 : AF_INET);
  try {
    scratch.u8.fill(0);
    scratch.u16[0] = isIpv6 ? AF_INET6 : AF_INET;
    scratch.u8.set([port >>> 8, port & 0xff], 2);
    if (isIpv6) scratch.u8[8 + 15] = 1;
    else scratch.u8.set(host.split('.').map(Number), 4);
    scratch.u32[OPTION >>> 2] = 1;
    const code = result(setsockopt(fd.value, SOL_SOCKET, SO_REUSEADDR, scratch.address + OPTION, 4));
    check(code, 'setsockopt SO_REUSEADDR');
    const length = isIpv6 ? IPV6_ADDRESS_BYTES : IPV4_ADDRESS_BYTES;
    check(result(bind(fd.value, scratch.address, length)), `bind port ${port}`);
    check(result(listen(fd.value, BACKLOG)), `listen on port ${port}`);
    return fd;
  } catch (error) {
    fd.close();
    throw error;
  }
}
