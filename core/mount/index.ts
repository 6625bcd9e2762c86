/**
 * The second transport: an export mounted on this host through `/dev/fuse`, without a virtual
 * machine. `FuseDevice` reads requests, hands them on as messages and writes the replies.
 * {@link HostMount} mounts, by the system call or, without privilege, by fusermount3. What the
 * requests mean is unknown here.
 */
export { HostMount, type MountOptions, type MountSession } from './host-mount.js';
export { MountError } from './mount-error.js';
export type { MountFlags } from './options.js';
