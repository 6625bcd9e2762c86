import { Errno, FsError, andThen, type Awaitable, type IoctlResult } from '../../backend/index.js';
import { HandleKind } from '../../state/index.js';
import {
  IOCTL_DIR,
  IOCTL_UNRESTRICTED,
  InitFlag,
  KERNEL_MINOR_VERSION,
  KERNEL_VERSION,
  OLDEST_MINOR_VERSION,
} from '../wire/abi.js';
import { negotiate, type Offer } from '../session/negotiation.js';
import { finishEmpty, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import {
  INIT_IN_COMPAT,
  fuse_in_header,
  fuse_init_in,
  fuse_init_out,
  fuse_interrupt_in,
  fuse_ioctl_in,
  fuse_ioctl_out,
  fuse_syncfs_in,
} from '../wire/structures.js';

/**
 * How many background requests the guest may have in flight, and from how many on it regards the
 * daemon as congested.
 */
const MAX_BACKGROUND = 0xffff;
const CONGESTION_THRESHOLD = 0xbfff;

/**
 * Begins a mount. A guest that sends INIT again has started anew, so its former state is released
 * first. Versions are negotiated as `fuse.h` says under "Version negotiation".
 */
export const init: Operation<Offer | undefined> = {
  name: 'INIT',
  arguments: INIT_IN_COMPAT,
  reply: fuse_init_out.bytes,
  always: true,
  start(session): Awaitable<Offer | undefined> {
    const { in: input } = session;
    const major = input.u32(fuse_init_in.major);
    const minor = input.u32(fuse_init_in.minor);
    const flags = input.u32(fuse_init_in.flags);
    if (major < KERNEL_VERSION || (major === KERNEL_VERSION && minor < OLDEST_MINOR_VERSION)) {
      session.log.warn({ major, minor }, 'the guest speaks a FUSE protocol older than 7.31');
      throw FsError.of('EPROTO');
    }
    if (major > KERNEL_VERSION) return undefined;
    const extended = (flags & InitFlag.INIT_EXT) !== 0;
    if (extended && input.length < fuse_init_in.bytes) throw FsError.of('EINVAL');
    const offer: Offer = {
      minor,
      flags,
      flags2: extended ? input.u32(fuse_init_in.flags2) : 0,
      maxReadahead: input.u32(fuse_init_in.max_readahead),
    };
    return andThen(session.reset(), () => offer);
  },
  finish(session, _request, offer) {
    const { out } = session;
    out.zero(BODY, fuse_init_out.bytes);
    out.u32(BODY + fuse_init_out.major, KERNEL_VERSION);
    out.u32(BODY + fuse_init_out.minor, KERNEL_MINOR_VERSION);
    // After a newer major version than ours the guest sends another INIT.
    if (offer === undefined) return fuse_init_out.bytes;
    const { backend, export: one } = session;
    const settled = negotiate(offer, backend, one.cache, one.localLocks);
    session.negotiated = settled;
    session.journal?.describe();
    out.u32(BODY + fuse_init_out.minor, settled.minor);
    out.u32(BODY + fuse_init_out.max_readahead, settled.maxReadahead);
    out.u32(BODY + fuse_init_out.flags, settled.flags);
    out.u32(BODY + fuse_init_out.flags2, settled.flags2);
    out.u16(BODY + fuse_init_out.max_background, MAX_BACKGROUND);
    out.u16(BODY + fuse_init_out.congestion_threshold, CONGESTION_THRESHOLD);
    out.u32(BODY + fuse_init_out.max_write, settled.maxWrite);
    out.u32(BODY + fuse_init_out.time_gran, 1);
    out.u16(BODY + fuse_init_out.max_pages, settled.maxPages);
    session.log.info({ ...settled }, 'mounted');
    return fuse_init_out.bytes;
  },
};

/** The guest unmounts. */
export const destroy: Operation<void> = {
  name: 'DESTROY',
  arguments: 0,
  reply: 0,
  start(session) {
    return session.reset();
  },
  finish: finishEmpty,
};

/**
 * Aborts a request. If it is not in flight, it was answered already or is still to come on another
 * queue, so its id is kept for a while (Linux Documentation/filesystems/fuse, "Interrupting
 * filesystem operations"). There is no reply. The kernel would take one over `/dev/fuse`, but it
 * could only ask for the interrupt to be sent again.
 */
export const interrupt: Operation<undefined> = {
  name: 'INTERRUPT',
  arguments: fuse_interrupt_in.bytes,
  reply: 0,
  silent: true,
  start(session) {
    const at = (fuse_in_header.bytes + fuse_interrupt_in.unique) >> 2;
    const low = session.in.ints[at]!;
    const high = session.in.ints[at + 1]!;
    if (!session.interrupt(low, high)) session.expectInterrupted(low, high);
    return undefined;
  },
  finish: finishEmpty,
};

/** The guest's answer to a notification. None is ever sent, so this is ignored. */
export const notifyReply: Operation<undefined> = {
  name: 'NOTIFY_REPLY',
  arguments: 0,
  reply: 0,
  silent: true,
  start: () => undefined,
  finish: finishEmpty,
};

export const syncfs: Operation<void> = {
  name: 'SYNCFS',
  arguments: fuse_syncfs_in.bytes,
  reply: 0,
  start(session, request) {
    session.node();
    if (session.backend.syncfs === undefined) throw FsError.of('ENOSYS');
    return session.backend.syncfs(request.context);
  },
  finish: finishEmpty,
};

/**
 * Serves ioctls on files only, and only "restricted" ones: their number tells Linux the sizes of
 * their argument and result.
 */
export const ioctl: Operation<IoctlResult> = {
  name: 'IOCTL',
  arguments: fuse_ioctl_in.bytes,
  reply: fuse_ioctl_out.bytes,
  start(session, request) {
    const { backend, handles, in: input } = session;
    const flags = input.u32(fuse_ioctl_in.flags);
    if (backend.ioctl === undefined || (flags & (IOCTL_DIR | IOCTL_UNRESTRICTED)) !== 0)
      throw FsError.of('ENOTTY');
    const handle = session.handle(fuse_ioctl_in.fh, HandleKind.FILE);
    input.seek(fuse_ioctl_in.bytes);
    const argument = input.rest();
    if (argument.length !== input.u32(fuse_ioctl_in.in_size)) throw FsError.of('EINVAL');
    const room = request.message.writable.length - BODY - fuse_ioctl_out.bytes;
    const size = Math.min(input.u32(fuse_ioctl_in.out_size), room);
    const node = session.nodes.node(handles.slot(handle));
    request.handle = handle;
    request.size = size;
    const command = input.u32(fuse_ioctl_in.cmd);
    return backend.ioctl(node, handles.object(handle), command, argument, size, request.context);
  },
  finish(session, request, { result, output }) {
    session.out.zero(BODY, fuse_ioctl_out.bytes);
    session.out.u32(BODY + fuse_ioctl_out.result, result);
    if (output !== undefined) {
      if (output.length > request.size)
        throw new RangeError(`ioctl gave ${output.length} bytes, not ${request.size}`);
      request.message.writable.copyIn(BODY + fuse_ioctl_out.bytes, output, 0, output.length);
      request.data = output.length;
    }
    return fuse_ioctl_out.bytes;
  },
};

/** The errnos of opcodes that no backend can serve. */
export const refusals = {
  /**
   * Linux checks permissions itself (`default_permissions`). After ENOSYS it does not ask again.
   */
  ACCESS: Errno.ENOSYS,
  /** BMAP is only for file systems on a block device. */
  BMAP: Errno.ENOSYS,
  /** After ENOSYS Linux regards every file as ready, as on other file systems. */
  POLL: Errno.ENOSYS,
  /** There is no DAX window: INIT never agrees to FUSE_MAP_ALIGNMENT. */
  SETUPMAPPING: Errno.ENOSYS,
  REMOVEMAPPING: Errno.ENOSYS,
} as const;
