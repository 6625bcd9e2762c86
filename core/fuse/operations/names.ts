import {
  FileType,
  FsError,
  ModeBits,
  RenameFlags,
  SYMLINK_MAX,
  encodeName,
  nameLength,
  type Awaitable,
  type Entry,
} from '../../backend/index.js';
import type { Slot } from '../../state/index.js';
import { InitFlag, InitFlag2 } from '../wire/abi.js';
import { refuseChange } from './refused-changes.js';
import { enter, noteChild } from './entry.js';
import { creating, linking, removing, renaming } from './at-most-once.js';
import { checkAcl, checkId } from './refused-ids.js';
import { finishEmpty, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import {
  fuse_entry_out,
  fuse_in_header,
  fuse_link_in,
  fuse_mkdir_in,
  fuse_mknod_in,
  fuse_rename2_in,
  fuse_rename_in,
} from '../wire/structures.js';

export const readlink: Operation<string> = {
  name: 'READLINK',
  arguments: 0,
  reply: 0,
  start(session, request) {
    const slot = session.node();
    if (session.backend.readlink === undefined) throw FsError.of('EINVAL');
    return session.backend.readlink(session.nodes.node(slot), request.context);
  },
  finish(session, request, target) {
    const length = nameLength(target);
    if (length > SYMLINK_MAX) throw FsError.of('ENAMETOOLONG');
    if (length > request.message.writable.length - BODY) throw FsError.of('ENAMETOOLONG');
    encodeName(target, session.out.bytes, BODY);
    return length;
  },
};

/** Composes the reply to a creation. */
function finishEntry(session: Session, request: Request, entry: Entry<object>): number {
  noteChild(session, request, enter(session, BODY, entry), entry);
  return fuse_entry_out.bytes;
}

/** Makes a name whose node is the result. */
function making(
  session: Session,
  request: Request,
  parent: Slot,
  name: string,
  make: () => Awaitable<Entry<object>>,
): Awaitable<Entry<object>> {
  return creating(session, request, parent, name, make, (entry) => entry);
}

function discardEntry(session: Session, _request: Request, entry: Entry<object>): void {
  session.nodes.discard(entry.node);
}

/**
 * The minor version of Linux 6.1. Linux takes set-group-id from modes itself since 6.0
 * (fs/namei.c, vfs_prepare_mode), which has the minor version of older ones.
 */
const CHECKED_SET_GROUP_ID = 37;

/**
 * Checks the end of a creation's arguments and puts its extensions into the context.
 * @param umask the guest's umask. The backend gets it only if the guest leaves masking to the
 * backend (FUSE_DONT_MASK).
 */
export function creationContext(session: Session, request: Request, umask: number): void {
  session.in.finishCreation(session.has2(InitFlag2.SECURITY_CTX));
  const { context } = request;
  checkId(context.uid);
  checkId(context.gid);
  const label = session.in.securityContext;
  if (label !== undefined) checkAcl(label.name, label.value);
  context.groups = session.in.groups;
  context.setGroupIdChecked = (session.negotiated?.minor ?? 0) >= CHECKED_SET_GROUP_ID;
  context.securityContext = session.in.securityContext;
  context.umask = session.has(InitFlag.DONT_MASK) ? umask & 0o777 : 0;
}

/**
 * The mode for a backend's `mknod`. As in mknod(2), a mode without a type means a regular file.
 * @throws EPERM for a directory, EINVAL for any other type that mknod(2) does not create.
 */
function modeOfNode(mode: number): number {
  const type = mode & FileType.MASK || FileType.REGULAR;
  switch (type) {
    case FileType.REGULAR:
    case FileType.FIFO:
    case FileType.SOCKET:
    case FileType.CHARACTER:
    case FileType.BLOCK:
      return type | (mode & ModeBits.PERMISSIONS);
    default:
      throw FsError.of(type === FileType.DIRECTORY ? 'EPERM' : 'EINVAL');
  }
}

export const mknod: Operation<Entry<object>> = {
  name: 'MKNOD',
  arguments: fuse_mknod_in.bytes,
  reply: fuse_entry_out.bytes,
  start(session, request) {
    const { backend, in: input } = session;
    const parent = session.node();
    const mode = modeOfNode(input.u32(fuse_mknod_in.mode));
    const rdev = input.u32(fuse_mknod_in.rdev);
    input.seek(fuse_mknod_in.bytes);
    const name = input.name();
    creationContext(session, request, input.u32(fuse_mknod_in.umask));
    if (backend.mknod === undefined) throw refuseChange(backend);
    return making(session, request, parent, name, () =>
      backend.mknod!(session.nodes.node(parent), name, mode, rdev, request.context),
    );
  },
  finish: finishEntry,
  discard: discardEntry,
};

export const mkdir: Operation<Entry<object>> = {
  name: 'MKDIR',
  arguments: fuse_mkdir_in.bytes,
  reply: fuse_entry_out.bytes,
  start(session, request) {
    const { backend, in: input } = session;
    const parent = session.node();
    const mode = input.u32(fuse_mkdir_in.mode) & ModeBits.PERMISSIONS;
    input.seek(fuse_mkdir_in.bytes);
    const name = input.name();
    creationContext(session, request, input.u32(fuse_mkdir_in.umask));
    if (backend.mkdir === undefined) throw refuseChange(backend);
    return making(session, request, parent, name, () =>
      backend.mkdir!(session.nodes.node(parent), name, mode, request.context),
    );
  },
  finish: finishEntry,
  discard: discardEntry,
};

export const symlink: Operation<Entry<object>> = {
  name: 'SYMLINK',
  arguments: 0,
  reply: fuse_entry_out.bytes,
  start(session, request) {
    const { backend, in: input } = session;
    const parent = session.node();
    input.seek(0);
    const name = input.name();
    const target = input.target();
    creationContext(session, request, 0);
    if (backend.symlink === undefined) throw refuseChange(backend);
    return making(session, request, parent, name, () =>
      backend.symlink!(session.nodes.node(parent), name, target, request.context),
    );
  },
  finish: finishEntry,
  discard: discardEntry,
};

export const link: Operation<Entry<object>> = {
  name: 'LINK',
  arguments: fuse_link_in.bytes,
  reply: fuse_entry_out.bytes,
  start(session, request) {
    const { backend, nodes, in: input } = session;
    const parent = session.node();
    const slot = otherNode(session, fuse_link_in.oldnodeid);
    input.seek(fuse_link_in.bytes);
    const name = input.name();
    input.finish();
    if (backend.link === undefined) throw refuseChange(backend);
    return linking(session, request, slot, parent, name, () =>
      backend.link!(nodes.node(slot), nodes.node(parent), name, request.context),
    );
  },
  finish: finishEntry,
  discard: discardEntry,
};

export const unlink: Operation<void> = {
  name: 'UNLINK',
  arguments: 0,
  reply: 0,
  start(session, request) {
    const { backend, nodes } = session;
    const { parent, name } = only(session);
    if (backend.unlink === undefined) throw refuseChange(backend);
    return removing(session, request, parent, name, () =>
      backend.unlink!(nodes.node(parent), name, request.context),
    );
  },
  finish: finishEmpty,
};

export const rmdir: Operation<void> = {
  name: 'RMDIR',
  arguments: 0,
  reply: 0,
  start(session, request) {
    const { backend, nodes } = session;
    const { parent, name } = only(session);
    if (backend.rmdir === undefined) throw refuseChange(backend);
    return removing(session, request, parent, name, () =>
      backend.rmdir!(nodes.node(parent), name, request.context),
    );
  },
  finish: finishEmpty,
};

export const rename: Operation<void> = {
  name: 'RENAME',
  arguments: fuse_rename_in.bytes,
  reply: 0,
  start(session, request) {
    return move(session, request, fuse_rename_in.bytes, 0);
  },
  finish: finishEmpty,
};

export const rename2: Operation<void> = {
  name: 'RENAME2',
  arguments: fuse_rename2_in.bytes,
  reply: 0,
  start(session, request) {
    const flags = session.in.u32(fuse_rename2_in.flags);
    const { NOREPLACE, EXCHANGE, WHITEOUT } = RenameFlags;
    if ((flags & ~(NOREPLACE | EXCHANGE | WHITEOUT)) !== 0) throw FsError.of('EINVAL');
    if ((flags & EXCHANGE) !== 0 && (flags & (NOREPLACE | WHITEOUT)) !== 0) throw FsError.of('EINVAL');
    return move(session, request, fuse_rename2_in.bytes, flags);
  },
  finish: finishEmpty,
};

function move(session: Session, request: Request, names: number, flags: number): Awaitable<void> {
  const { backend, nodes, in: input } = session;
  const parent = session.node();
  const newParent = otherNode(session, fuse_rename_in.newdir);
  input.seek(names);
  const name = input.name();
  const newName = input.name();
  input.finish();
  if (backend.rename === undefined) throw refuseChange(backend);
  return renaming(session, request, parent, name, newParent, newName, flags, () =>
    backend.rename!(nodes.node(parent), name, nodes.node(newParent), newName, flags, request.context),
  );
}

/** The slot of the node whose id is at an offset of the arguments. */
function otherNode(session: Session, offset: number): Slot {
  return session.nodeAt(fuse_in_header.bytes + offset);
}

/** Reads the arguments of a removal: one name in the node of the header. */
function only(session: Session): { parent: Slot; name: string } {
  const parent = session.node();
  session.in.seek(0);
  const name = session.in.name();
  session.in.finish();
  return { parent, name };
}
