import type { Fd } from '../descriptors/fd.js';
import { libc, result } from './libc.js';

/**
 * Extended attributes, xattr(7). Paths, names and values are addresses in native memory. Each
 * function returns 0 or more, or minus the errno. Paths lie below /proc/self/fd. The calls follow
 * symbolic links; but where an O_PATH descriptor is open on a symbolic link, its path there leads
 * to the link itself.
 */

const calls = {
  getxattr: libc<(path: number, name: number, value: number, size: number) => number>(
    'getxattr',
    'intptr_t',
    ['uintptr_t', 'uintptr_t', 'uintptr_t', 'size_t'],
  ),
  fgetxattr: libc<(fd: Fd, name: number, value: number, size: number) => number>('fgetxattr', 'intptr_t', [
    'int',
    'uintptr_t',
    'uintptr_t',
    'size_t',
  ]),
  setxattr: libc<(path: number, name: number, value: number, size: number, flags: number) => number>(
    'setxattr',
    'int',
    ['uintptr_t', 'uintptr_t', 'uintptr_t', 'size_t', 'int'],
  ),
  listxattr: libc<(path: number, list: number, size: number) => number>('listxattr', 'intptr_t', [
    'uintptr_t',
    'uintptr_t',
    'size_t',
  ]),
  removexattr: libc<(path: number, name: number) => number>('removexattr', 'int', ['uintptr_t', 'uintptr_t']),
};

/** getxattr(2): bytes of the value. */
export function getxattr(path: number, name: number, value: number, size: number): number {
  return result(calls.getxattr(path, name, value, size));
}

/** fgetxattr(2), of a descriptor that is not one of O_PATH: it has no path below /proc to walk. */
export function fgetxattr(fd: Fd, name: number, value: number, size: number): number {
  return result(calls.fgetxattr(fd, name, value, size));
}

export function setxattr(path: number, name: number, value: number, size: number, flags: number): number {
  return result(calls.setxattr(path, name, value, size, flags));
}

/** listxattr(2): bytes of the list of names, each with its terminator. */
export function listxattr(path: number, list: number, size: number): number {
  return result(calls.listxattr(path, list, size));
}

export function removexattr(path: number, name: number): number {
  return result(calls.removexattr(path, name));
}
