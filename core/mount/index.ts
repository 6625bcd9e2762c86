/**
 * The second transport: an export mounted on this host through `/dev/fuse`, without a virtual
 * machine. What the requests mean is unknown here.
 *
 * - `host-mount.ts`: one mount, from its beginning to its end, with `mount-point.ts`, `options.ts`
 *   and `mount-error.ts`.
 * - `mounted.ts`: how mounts begin, with `direct-mount.ts` and `fusermount.ts`: by the system call,
 *   or without privilege by fusermount3.
 * - `backing-files.ts`: files that the kernel reads and writes itself.
 * - `fuse-device.ts`: reads requests, hands them on as messages and writes the replies.
 * - `request-slots.ts`: requests that outlive the process that has read them.
 * - `held-mount.ts`: a mount as the process has it that holds it for others.
 * - `mount-server.ts`: the same mount in the process that serves it.
 */
export { HeldMount } from './held-mount.js';
export { type GivenMount, type KeptMount, MAX_KEPT_WAITERS, MountServer } from './mount-server.js';
export { HostMount, type MountOptions, type MountSession } from './host-mount.js';
export { MountError } from './mount-error.js';
export { mountPoint } from './mount-point.js';
export type { MountFlags } from './options.js';
