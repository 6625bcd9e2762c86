import type { Fd } from '../descriptors/fd.js';
import { libc, result } from './libc.js';

/**
 * File handles: names for inodes that outlive descriptors, name_to_handle_at(2).
 * A `struct file_handle` is `u32 handle_bytes; i32 handle_type; u8 handle[]`.
 */

/** Largest `handle_bytes` (Linux `MAX_HANDLE_SZ`). */
export const MAX_HANDLE_BYTES = 128;

const calls = {
  nameToHandleAt: libc<(fd: Fd, path: number, handle: number, mountId: number, flags: number) => number>(
    'name_to_handle_at',
    'int',
    ['int', 'uintptr_t', 'uintptr_t', 'uintptr_t', 'int'],
  ),
  openByHandleAt: libc<(mountFd: Fd, handle: number, flags: number) => number>('open_by_handle_at', 'int', [
    'int',
    'uintptr_t',
    'int',
  ]),
};

/**
 * name_to_handle_at(2). `handle` is the address of a `struct file_handle` whose `handle_bytes` is
 * the size of its array; `mountId` is the address of an i32.
 */
export function nameToHandleAt(fd: Fd, path: number, handle: number, mountId: number, flags: number): number {
  return result(calls.nameToHandleAt(fd, path, handle, mountId, flags));
}

const O_CLOEXEC = 0o2000000;

/**
 * Opens a handle's inode, CAP_DAC_READ_SEARCH needed. `mountFd` is any descriptor on the same
 * mount, but none of O_PATH.
 * @returns a descriptor, closed on exec; -ESTALE when the inode is gone.
 */
export function openByHandleAt(mountFd: Fd, handle: number, flags: number): Fd {
  return result(calls.openByHandleAt(mountFd, handle, flags | O_CLOEXEC)) as Fd;
}
