import { FsError, andThen, type Awaitable } from '../../backend/index.js';
import {
  InitFlag,
  InitFlag2,
  KERNEL_MINOR_VERSION,
  KERNEL_VERSION,
  OLDEST_MINOR_VERSION,
} from '../wire/abi.js';
import { negotiate, type Offer, missingFlags } from '../session/negotiation.js';
import { finishEmpty, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import { INIT_IN_COMPAT, fuse_init_in, fuse_init_out } from '../wire/structures.js';

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
    const missing = missingFlags(offer, session.export.backend);
    if (missing.length > 0) {
      session.log.warn(
        { missing },
        'the guest was refused: its kernel does not know what the export requires',
      );
      throw FsError.of('EPROTO');
    }
    return andThen(session.reset(), () => offer);
  },
  finish(session, _request, offer) {
    const { out } = session;
    out.zero(BODY, fuse_init_out.bytes);
    out.u32(BODY + fuse_init_out.major, KERNEL_VERSION);
    out.u32(BODY + fuse_init_out.minor, KERNEL_MINOR_VERSION);
    // After a newer major version than ours the guest sends another INIT.
    if (offer === undefined) return fuse_init_out.bytes;
    const settled = negotiate(offer, session.export, session.kernelFiles !== undefined);
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
    // Files of a file system that is no layer over another one.
    if ((settled.flags2 & InitFlag2.PASSTHROUGH) !== 0) out.u32(BODY + fuse_init_out.max_stack_depth, 1);
    session.log.info({ ...settled }, 'mounted');
    session.mounted();
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
