/**
 * Boots throw-away Linux guests under QEMU to try exports in: finds QEMU, a kernel and busybox,
 * packs an initial root file system, mounts shares that somebody serves over vhost-user sockets,
 * and runs commands with their output and exit codes. The room knows nothing of how a share is
 * served: any virtio-fs daemon will do.
 */
export type { Accelerator } from './accelerator.js';
export { Guest, GuestError, type GuestOptions, type RunOptions, type RunResult } from './guest.js';
export type { GuestShare } from './qemu.js';
