/**
 * The second transport: an export mounted on this host through `/dev/fuse`, without a virtual
 * machine. What the requests mean is unknown here.
 *
 * - `host-mount.ts`: one mount, from its beginning to its end, with its `options.ts` and
 *   `mount-error.ts`.
 * - `direct-mount.ts`, `fusermount.ts`: mounting by the system call, or without privilege by
 *   fusermount3.
 * - `backing-files.ts`: files that the kernel reads and writes itself.
 * - `fuse-device.ts`: reads requests, hands them on as messages and writes the replies.
 */
export { HostMount, type MountOptions, type MountSession } from './host-mount.js';
export { MountError } from './mount-error.js';
export type { MountFlags } from './options.js';
