import { Errno, FsError, encodeName, nameLength } from '../../backend/index.js';
import { InitFlag, SETXATTR_ACL_KILL_SGID, XATTR_LIST_MAX, XATTR_SIZE_MAX } from '../wire/abi.js';
import { checkAcl } from './refused-ids.js';
import { changingXattr } from './at-most-once.js';
import { finishEmpty, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import {
  SETXATTR_IN_COMPAT,
  fuse_getxattr_in,
  fuse_getxattr_out,
  fuse_setxattr_in,
} from '../wire/structures.js';

/**
 * Without the backend's method the errno is ENOSYS, here and below. Linux then stops asking and
 * returns EOPNOTSUPP to its callers.
 */
export const getxattr: Operation<Uint8Array | undefined> = {
  name: 'GETXATTR',
  arguments: fuse_getxattr_in.bytes,
  reply: 0,
  start(session, request) {
    const slot = session.node();
    request.size = session.in.u32(fuse_getxattr_in.size);
    session.in.seek(fuse_getxattr_in.bytes);
    const name = session.in.xattrName();
    session.in.finish();
    if (session.backend.getxattr === undefined) throw FsError.of('ENOSYS');
    return session.backend.getxattr(session.nodes.node(slot), name, request.context);
  },
  finish(session, request, value) {
    if (value === undefined) return -Errno.ENODATA;
    const { writable } = request.message;
    if (request.size === 0) return finishSize(session.out, writable.length, value.length);
    if (value.length > request.size || value.length > writable.length - BODY) return -Errno.ERANGE;
    writable.copyIn(BODY, value, 0, value.length);
    request.data = value.length;
    return 0;
  },
};

export const listxattr: Operation<readonly string[]> = {
  name: 'LISTXATTR',
  arguments: fuse_getxattr_in.bytes,
  reply: 0,
  start(session, request) {
    const slot = session.node();
    request.size = session.in.u32(fuse_getxattr_in.size);
    if (session.backend.listxattr === undefined) throw FsError.of('ENOSYS');
    return session.backend.listxattr(session.nodes.node(slot), request.context);
  },
  finish(session, request, names) {
    let length = 0;
    for (const name of names) length += nameLength(name) + 1;
    if (length > XATTR_LIST_MAX) return -Errno.E2BIG;
    const room = request.message.writable.length;
    if (request.size === 0) return finishSize(session.out, room, length);
    if (length > request.size || length > room - BODY) return -Errno.ERANGE;
    const { bytes } = session.out;
    let at = BODY;
    for (const name of names) {
      at = encodeName(name, bytes, at);
      bytes[at++] = 0;
    }
    return length;
  },
};

/** The reply to a caller that asked with size 0: the size of the value or list. */
function finishSize(out: { u64(at: number, value: number): void }, room: number, size: number): number {
  if (room < BODY + fuse_getxattr_out.bytes) return -Errno.EIO;
  out.u64(BODY + fuse_getxattr_out.size, size);
  return fuse_getxattr_out.bytes;
}

export const setxattr: Operation<void> = {
  name: 'SETXATTR',
  arguments: SETXATTR_IN_COMPAT,
  reply: 0,
  start(session, request) {
    const { backend, in: input } = session;
    const slot = session.node();
    const extended = session.has(InitFlag.SETXATTR_EXT);
    const size = input.u32(fuse_setxattr_in.size);
    const flags = input.u32(fuse_setxattr_in.flags);
    const killSgid = extended && (input.u32(fuse_setxattr_in.setxattr_flags) & SETXATTR_ACL_KILL_SGID) !== 0;
    input.seek(extended ? fuse_setxattr_in.bytes : SETXATTR_IN_COMPAT);
    const name = input.xattrName();
    const value = input.rest();
    if (value.length !== size) throw FsError.of('EINVAL');
    if (size > XATTR_SIZE_MAX) throw FsError.of('E2BIG');
    checkAcl(name, value);
    if (backend.setxattr === undefined) throw FsError.of('ENOSYS');
    return changingXattr(session, request, slot, name, flags, () =>
      backend.setxattr!(session.nodes.node(slot), name, value, flags, killSgid, request.context),
    );
  },
  finish: finishEmpty,
};

export const removexattr: Operation<void> = {
  name: 'REMOVEXATTR',
  arguments: 0,
  reply: 0,
  start(session, request) {
    const slot = session.node();
    session.in.seek(0);
    const name = session.in.xattrName();
    session.in.finish();
    if (session.backend.removexattr === undefined) throw FsError.of('ENOSYS');
    return changingXattr(session, request, slot, name, undefined, () =>
      session.backend.removexattr!(session.nodes.node(slot), name, request.context),
    );
  },
  finish: finishEmpty,
};
