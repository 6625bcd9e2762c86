/**
 * Boots throw-away Linux guests to try exports in, under QEMU or as User-Mode Linux. Commands run
 * in the guest with their input, output and exit codes. Who serves a share does not matter: any
 * virtio-fs daemon will do.
 *
 * - `guest.ts`: a guest from start to end. `qemu.ts`, `uml.ts`: how each of the two is started.
 *   `relay.ts`: what User-Mode Linux needs to use daemons that serve QEMU.
 * - `choose-accelerator.ts`: whether KVM and User-Mode Linux work here, and what QEMU emulates.
 * - `kernel.ts`, `programs.ts`: finds a kernel with virtio-fs, QEMU and busybox.
 * - `host-programs.ts`: programs of this host for the guest.
 * - `initramfs.ts`, `cpio.ts`, `init.ts`: the initial root file system, and the script that runs
 *   in it.
 * - `temporary-folder.ts`: folders that do not outlive their process for long.
 * - `ports.ts`: the lines between host and guest that carry commands and their output.
 */
export { chooseForTrusted } from './choose-accelerator.js';
export { Guest, GuestError, type GuestOptions, type RunOptions, type RunResult } from './guest.js';
export type { Accelerator, GuestShare, MachineType } from './qemu.js';
export { TemporaryFolder } from './temporary-folder.js';
