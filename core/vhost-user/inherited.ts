import { check, libc, NativeMemory, result } from '../system/index.js';

const getsockopt = libc<(fd: number, level: number, name: number, value: number, length: number) => number>(
  'getsockopt',
  'int',
  ['int', 'int', 'int', 'uintptr_t', 'uintptr_t'],
);

const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;

const scratch = NativeMemory.allocate(8);

/** Whether an inherited socket listens, or is connected already. @throws SystemError if it is no socket. */
export function isListening(fd: number): boolean {
  scratch.u32.set([0, 4]);
  check(
    result(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, scratch.address, scratch.address + 4)),
    `descriptor ${fd}`,
  );
  return scratch.u32[0] !== 0;
}
