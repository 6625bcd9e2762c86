/**
 * Boots throw-away Linux guests under QEMU, to try exports in. It finds QEMU, a kernel and busybox,
 * packs an initial root file system, and mounts shares from vhost-user sockets. Commands run in the
 * guest with their input, output and exit codes. Who serves a share does not matter: any virtio-fs
 * daemon will do.
 *
 * With the accelerator `uml` the guest is User-Mode Linux (`uml.ts`): the same init, with serial
 * lines over socket pairs instead of virtio-serial ports.
 */
export type { Accelerator } from './accelerator.js';
export { Guest, GuestError, type GuestOptions, type RunOptions, type RunResult } from './guest.js';
export type { GuestShare } from './qemu.js';
