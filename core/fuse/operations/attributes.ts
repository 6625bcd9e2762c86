import {
  FsError,
  ModeBits,
  type AttributeChanges,
  type Attributes,
  type FsStatistics,
  type Time,
} from '../../backend/index.js';
import { HandleKind } from '../../state/index.js';
import {
  FATTR_ATIME,
  FATTR_ATIME_NOW,
  FATTR_CTIME,
  FATTR_FH,
  FATTR_GID,
  FATTR_KILL_SUIDGID,
  FATTR_MODE,
  FATTR_MTIME,
  FATTR_MTIME_NOW,
  FATTR_SIZE,
  FATTR_UID,
  GETATTR_FH,
  InitFlag,
} from '../wire/abi.js';
import { resizing } from './at-most-once.js';
import { checkId } from './refused-ids.js';
import { refuseChange } from './refused-changes.js';
import { GATHERED, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import { attributesHold, putAttributesValid } from '../wire/reply-writers.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import {
  fuse_attr_out,
  fuse_getattr_in,
  fuse_setattr_in,
  fuse_statfs_out,
  fuse_statx_in,
  fuse_statx_out,
} from '../wire/structures.js';

export const getattr: Operation<Attributes> = {
  name: 'GETATTR',
  arguments: fuse_getattr_in.bytes,
  reply: fuse_attr_out.bytes,
  startsDuringBatch: true,
  start(session, request) {
    const throughHandle = (session.in.u32(fuse_getattr_in.getattr_flags) & GETATTR_FH) !== 0;
    const file = target(session, request, throughHandle, fuse_getattr_in.fh);
    const { backend, accelerator } = session;
    const node = session.nodes.node(request.slot);
    if (session.mayGather(0) && accelerator.gatherGetattr?.(node, file, request.context)) return GATHERED;
    return backend.getattr(node, file, request.context);
  },
  finish: finishAttributes,
};

/** Served by the backend's `getattr`; the reply's mask covers what that gives. */
export const statx: Operation<Attributes> = {
  name: 'STATX',
  arguments: fuse_statx_in.bytes,
  reply: fuse_statx_out.bytes,
  start(session, request) {
    const throughHandle = (session.in.u32(fuse_statx_in.getattr_flags) & GETATTR_FH) !== 0;
    request.context.birth = true;
    const file = target(session, request, throughHandle, fuse_statx_in.fh);
    return session.backend.getattr(session.nodes.node(request.slot), file, request.context);
  },
  finish(session, request, attributes) {
    const { nodes, out } = session;
    const { slot } = request;
    const { seconds, nanoseconds } = attributesHold(attributes.mode, session.attributeValidity);
    out.zero(BODY, fuse_statx_out.stat);
    out.u64(BODY + fuse_statx_out.attr_valid, seconds);
    out.u32(BODY + fuse_statx_out.attr_valid_nsec, nanoseconds);
    out.statx(BODY + fuse_statx_out.stat, attributes, nodes.idLow(slot), nodes.idHigh(slot));
    return fuse_statx_out.bytes;
  },
};

export const setattr: Operation<Attributes> = {
  name: 'SETATTR',
  arguments: fuse_setattr_in.bytes,
  reply: fuse_attr_out.bytes,
  start(session, request) {
    const { backend, nodes } = session;
    const valid = session.in.u32(fuse_setattr_in.valid);
    const file = target(session, request, (valid & FATTR_FH) !== 0, fuse_setattr_in.fh);
    if (backend.setattr === undefined) throw refuseChange(backend);
    resizing(session, request.slot);
    return backend.setattr(nodes.node(request.slot), changes(session, valid), file, request.context);
  },
  finish: finishAttributes,
};

export const statfs: Operation<FsStatistics | undefined> = {
  name: 'STATFS',
  arguments: 0,
  reply: fuse_statfs_out.bytes,
  start(session, request) {
    const slot = session.node();
    return session.backend.statfs?.(session.nodes.node(slot), request.context);
  },
  finish(session, _request, statistics) {
    session.out.statistics(BODY, statistics ?? {});
    return fuse_statfs_out.bytes;
  },
};

/**
 * Resolves the request's node into `request.slot`.
 * @returns the open file, if the request is made through one.
 */
function target(session: Session, request: Request, throughHandle: boolean, fhOffset: number): unknown {
  if (!throughHandle) {
    request.slot = session.node();
    return undefined;
  }
  const handle = session.handle(fhOffset, HandleKind.FILE);
  request.handle = handle;
  request.slot = session.handles.slot(handle);
  return session.handles.object(handle);
}

function finishAttributes(session: Session, request: Request, attributes: Attributes): number {
  const { nodes, out, attributeValidity } = session;
  const { slot } = request;
  const low = nodes.idLow(slot);
  out.attributes(BODY + fuse_attr_out.attr, attributes, low, nodes.idHigh(slot));
  putAttributesValid(out.words, attributeValidity);
  session.keepCache?.tell(slot, attributes, low);
  if (request.message.passedOn === true) session.publishNode(slot, attributes);
  return fuse_attr_out.bytes;
}

function changes(session: Session, valid: number): AttributeChanges {
  const input = session.in;
  const result: { -readonly [F in keyof AttributeChanges]: AttributeChanges[F] } = {};
  if ((valid & FATTR_MODE) !== 0) result.mode = input.u32(fuse_setattr_in.mode) & ModeBits.PERMISSIONS;
  if ((valid & FATTR_UID) !== 0) checkId((result.uid = input.u32(fuse_setattr_in.uid)));
  if ((valid & FATTR_GID) !== 0) checkId((result.gid = input.u32(fuse_setattr_in.gid)));
  if ((valid & FATTR_SIZE) !== 0) {
    const size = input.u64(fuse_setattr_in.size);
    if (size > Number.MAX_SAFE_INTEGER) throw FsError.of('EFBIG');
    result.size = size;
  }
  if ((valid & FATTR_ATIME_NOW) !== 0) result.atime = 'now';
  else if ((valid & FATTR_ATIME) !== 0)
    result.atime = time(session, fuse_setattr_in.atime, fuse_setattr_in.atimensec);
  if ((valid & FATTR_MTIME_NOW) !== 0) result.mtime = 'now';
  else if ((valid & FATTR_MTIME) !== 0)
    result.mtime = time(session, fuse_setattr_in.mtime, fuse_setattr_in.mtimensec);
  if ((valid & FATTR_CTIME) !== 0)
    result.ctime = time(session, fuse_setattr_in.ctime, fuse_setattr_in.ctimensec);
  if ((valid & FATTR_KILL_SUIDGID) !== 0 && session.has(InitFlag.HANDLE_KILLPRIV_V2))
    result.killSuidGid = true;
  return result;
}

/**
 * A time to set. Seconds beyond the exact ones, some 285 million years from now, are cut to these,
 * as Linux cuts what a file system has no room for (`timestamp_truncate`).
 */
function time(session: Session, secondsOffset: number, nanosecondsOffset: number): Time {
  const given = session.in.i64(secondsOffset);
  const nanoseconds = session.in.u32(nanosecondsOffset);
  if (nanoseconds > 999_999_999) throw FsError.of('EINVAL');
  const seconds = Math.min(Math.max(given, Number.MIN_SAFE_INTEGER), Number.MAX_SAFE_INTEGER);
  return seconds === given ? { seconds, nanoseconds } : { seconds, nanoseconds: 0 };
}
