import {
  FsError,
  ModeBits,
  OpenFlags,
  andThen,
  type Awaitable,
  type Created,
  type Opened,
} from '../../backend/index.js';
import { HandleKind, type HandleIndex, type Slot } from '../../state/index.js';
import {
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  FOPEN_NONSEEKABLE,
  FOPEN_PARALLEL_DIRECT_WRITES,
  FOPEN_PASSTHROUGH,
  InitFlag,
  InitFlag2,
  Opcode,
  OPEN_KILL_SUIDGID,
  RELEASE_FLOCK_UNLOCK,
} from '../wire/abi.js';
import { isReadOnly, refuseChange } from './refused-changes.js';
import { enter, noteChild } from './entry.js';
import { closeHandle, discardFile, openHandle } from './handles.js';
import { creationContext } from './names.js';
import { creating, resizing } from './at-most-once.js';
import { finishEmpty, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import {
  fuse_create_in,
  fuse_entry_out,
  fuse_flush_in,
  fuse_open_in,
  fuse_open_out,
  fuse_release_in,
} from '../wire/structures.js';

/** The result of an OPEN if the backend has no `open`. */
const JUST_OPEN: Opened<unknown> = { file: undefined };

export const open: Operation<Opened<unknown>> = {
  name: 'OPEN',
  arguments: fuse_open_in.bytes,
  reply: fuse_open_out.bytes,
  start(session, request) {
    const { backend, in: input } = session;
    const slot = session.node();
    const flags = passedFlags(session, input.u32(fuse_open_in.flags));
    const kill = (input.u32(fuse_open_in.open_flags) & OPEN_KILL_SUIDGID) !== 0;
    admitHandle(session);
    if (backend.write === undefined && (flags & OpenFlags.ACCESS_MODE) !== OpenFlags.READ_ONLY) {
      throw isReadOnly(backend) ? FsError.of('EROFS') : FsError.of('EPERM');
    }
    request.slot = slot;
    request.flags = flags;
    if (backend.open === undefined) return JUST_OPEN;
    if ((flags & OpenFlags.TRUNC) !== 0) resizing(session, slot);
    const node = session.nodes.node(slot);
    if (kill && (flags & OpenFlags.TRUNC) !== 0 && backend.setattr !== undefined) {
      return openAndTruncate(session, request, node, flags & ~OpenFlags.TRUNC);
    }
    return backend.open(node, flags, request.context);
  },
  finish(session, request, opened) {
    const handle = finishOpen(session, BODY, request.slot, opened, request.flags);
    if (request.message.passedOn === true) session.publishFile(handle);
    return fuse_open_out.bytes;
  },
  discard(session, request, { file }) {
    discardFile(session, session.nodes.node(request.slot), file);
  },
};

/**
 * Opens and truncates a file whose set-id bits must be cleared (FUSE_OPEN_KILL_SUIDGID). The
 * truncation is a `setattr`, since `open` cannot be asked to clear them.
 */
function openAndTruncate(
  session: Session,
  request: Request,
  node: object,
  flags: number,
): Awaitable<Opened<unknown>> {
  const { backend } = session;
  return andThen(backend.open!(node, flags, request.context), (opened) => {
    const { file } = opened;
    try {
      const done = backend.setattr!(node, { size: 0, killSuidGid: true }, file, request.context);
      if (!(done instanceof Promise)) return opened;
      return done.then(
        () => opened,
        (error: unknown) => {
          discardFile(session, node, file);
          throw error;
        },
      );
    } catch (error) {
      discardFile(session, node, file);
      throw error;
    }
  });
}

/** What CREATE and TMPFILE have alike. */
const CREATION = {
  arguments: fuse_create_in.bytes,
  reply: fuse_entry_out.bytes + fuse_open_out.bytes,
  finish: finishCreate,
  discard: discardCreated,
} as const;

export const create: Operation<Created<object, unknown>> = {
  name: 'CREATE',
  ...CREATION,
  start(session, request) {
    const { backend, in: input } = session;
    const parent = session.node();
    const mode = creationArguments(session, request);
    const name = input.name();
    creationContext(session, request, input.u32(fuse_create_in.umask));
    if (backend.create === undefined)
      throw backend.mknod === undefined ? refuseChange(backend) : FsError.of('ENOSYS');
    admitHandle(session);
    const { context, flags } = request;
    // The file may be there.
    if ((flags & OpenFlags.TRUNC) !== 0) resizing(session);
    return creating(
      session,
      request,
      parent,
      name,
      () => backend.create!(session.nodes.node(parent), name, mode, flags, context),
      ({ node, attributes }) => {
        const again = flags & ~(OpenFlags.CREAT | OpenFlags.EXCL | OpenFlags.TRUNC);
        // The backend may use the object again.
        const made = { node, attributes: { ...attributes } };
        const opened = backend.open?.(node, again, context) ?? JUST_OPEN;
        return andThen(opened, (file) => ({ ...file, ...made }));
      },
    );
  },
};

/** Makes a file without a name. Linux sends `/` in the place of a name. */
export const tmpfile: Operation<Created<object, unknown>> = {
  name: 'TMPFILE',
  ...CREATION,
  start(session, request) {
    const { backend, in: input } = session;
    const parent = session.node();
    const mode = creationArguments(session, request);
    input.target();
    creationContext(session, request, input.u32(fuse_create_in.umask));
    if (backend.tmpfile === undefined) throw FsError.of('ENOSYS');
    admitHandle(session);
    return backend.tmpfile(session.nodes.node(parent), mode, request.flags, request.context);
  },
};

/**
 * A descriptor of a file was closed. After ENOSYS Linux sends no further FLUSH and lets close(2)
 * succeed (`fuse_flush` in Linux `fs/fuse/file.c`): it saves a request for each close where neither
 * the backend nor a lock of the closing process has any use for it.
 */
export const flush: Operation<void> = {
  name: 'FLUSH',
  arguments: fuse_flush_in.bytes,
  reply: 0,
  start(session, request) {
    const { backend, handles } = session;
    const handle = session.handle(fuse_flush_in.fh, HandleKind.FILE, undefined, true);
    if (backend.flush === undefined && !session.has(InitFlag.POSIX_LOCKS)) throw FsError.of('ENOSYS');
    const slot = handles.slot(handle);
    request.handle = handle;
    const node = session.nodes.node(slot);
    const file = handles.object(handle);
    const unlocked = session.export.hasLocks
      ? session.locks.releaseOwner(slot, session.in.bigint(fuse_flush_in.lock_owner))
      : undefined;
    const flushed = (): Awaitable<void> => backend.flush?.(node, file, request.context);
    const closed = unlocked === undefined ? flushed() : unlocked.then(flushed);
    const lowered = session.export.hostLocks?.lower(slot);
    return lowered === undefined ? closed : closedThere(lowered, closed);
  },
  finish: finishEmpty,
};

/** Waits until the locks that close(2) gives up are given up at the backend, too. */
async function closedThere(lowered: Promise<number>, closed: Awaitable<void>): Promise<void> {
  const [errno] = await Promise.all([lowered, closed]);
  if (errno !== 0) throw FsError.of('EIO');
}

export const release: Operation<void> = {
  name: 'RELEASE',
  arguments: fuse_release_in.bytes,
  reply: 0,
  start(session) {
    const handle = session.handle(fuse_release_in.fh, HandleKind.FILE, undefined, true);
    if (session.export.hasLocks) {
      const flags = session.in.u32(fuse_release_in.release_flags);
      const owner = session.in.bigint(fuse_release_in.lock_owner);
      if ((flags & RELEASE_FLOCK_UNLOCK) !== 0)
        session.locks.releaseFlock(session.handles.slot(handle), owner);
    }
    return closeHandle(session, handle);
  },
  finish: finishEmpty,
};

/** O_DIRECT. Its value depends on the architecture; the guest's is the host's. */
const O_DIRECT = process.arch === 'arm64' ? 0o200000 : 0o40000;

/** The open flags that a backend gets to see. */
export const PASSED_FLAGS =
  O_DIRECT |
  OpenFlags.ACCESS_MODE |
  OpenFlags.TRUNC |
  OpenFlags.APPEND |
  OpenFlags.NONBLOCK |
  OpenFlags.SYNC |
  OpenFlags.DSYNC |
  OpenFlags.NOATIME;

/**
 * With write-back caching the guest reads around what it writes, even on a file opened for writing
 * only, and places appends itself.
 */
function passedFlags(session: Session, flags: number): number {
  let passed = flags & PASSED_FLAGS;
  if (session.has(InitFlag.WRITEBACK_CACHE)) {
    if ((passed & OpenFlags.ACCESS_MODE) === OpenFlags.WRITE_ONLY) {
      passed = (passed & ~OpenFlags.ACCESS_MODE) | OpenFlags.READ_WRITE;
    }
    passed &= ~OpenFlags.APPEND;
  }
  return passed;
}

/**
 * Reads what CREATE and TMPFILE have before the name, and keeps the flags in the request. The name
 * is next then.
 * @returns the mode's permissions.
 */
function creationArguments(session: Session, request: Request): number {
  const { in: input } = session;
  const flags = input.u32(fuse_create_in.flags);
  request.flags = passedFlags(session, flags) | (flags & (OpenFlags.CREAT | OpenFlags.EXCL));
  const mode = input.u32(fuse_create_in.mode) & ModeBits.PERMISSIONS;
  input.seek(fuse_create_in.bytes);
  return mode;
}

/** Checks that there is room for a handle, before the backend opens a file. @throws ENFILE */
function admitHandle(session: Session): void {
  if (session.handles.full) throw FsError.of('ENFILE');
}

/** Opens the handle and puts `struct fuse_open_out` into the reply. @returns its index. */
function finishOpen(
  session: Session,
  at: number,
  slot: Slot,
  opened: Opened<unknown>,
  flags: number,
): HandleIndex {
  const { file, directIo, keepCache, nonSeekable } = opened;
  const { data } = session.export.cache;
  const { nodes, fileTable } = session;
  if (session.keepCache !== undefined)
    fileTable?.reportDifferences(slot, nodes.idLow(slot), nodes.idHigh(slot));
  let openFlags = 0;
  if (directIo ?? data === 'never') openFlags |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  if (keepCache ?? (data === 'always' || session.keepCache?.open(slot) === true))
    openFlags |= FOPEN_KEEP_CACHE;
  if (nonSeekable === true) openFlags |= FOPEN_NONSEEKABLE;
  let handle: HandleIndex;
  try {
    handle = openHandle(session, HandleKind.FILE, slot, file, flags);
  } catch (error) {
    discardFile(session, session.nodes.node(slot), file);
    throw error;
  }
  const id = beginKernelFile(session, slot, file, openFlags);
  putHandle(session, at, handle, id > 0 ? FOPEN_PASSTHROUGH : openFlags, id);
  return handle;
}

/** Has the kernel read and write an open file itself, if it can. @returns its number, or 0. */
function beginKernelFile(session: Session, slot: Slot, file: unknown, openFlags: number): number {
  const { kernelFiles, accelerator, nodes } = session;
  if (kernelFiles === undefined || !session.has2(InitFlag2.PASSTHROUGH)) return 0;
  const backing = accelerator.backing?.(nodes.node(slot), file);
  const isPlain = (openFlags & (FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE)) !== 0 || backing?.writes !== true;
  return kernelFiles.begin(slot, isPlain ? -1 : backing.fd);
}

/** Puts `struct fuse_open_out` into the reply. */
export function putHandle(
  session: Session,
  at: number,
  handle: HandleIndex,
  openFlags: number,
  backingId = 0,
): void {
  const { words } = session.out;
  words[(at + fuse_open_out.fh) >> 2] = handle;
  words[(at + fuse_open_out.fh + 4) >> 2] = session.handles.generation(handle);
  words[(at + fuse_open_out.open_flags) >> 2] = openFlags;
  words[(at + fuse_open_out.backing_id) >> 2] = backingId;
}

function finishCreate(session: Session, request: Request, created: Created<object, unknown>): number {
  const { node, file } = created;
  let slot: Slot;
  try {
    slot = enter(session, BODY, created);
    noteChild(session, request, slot, created);
  } catch (error) {
    discardFile(session, node, file);
    throw error;
  }
  try {
    finishOpen(session, BODY + fuse_entry_out.bytes, slot, created, request.flags);
  } catch (error) {
    session.counts.forget(slot, 1);
    throw error;
  }
  // A file without a name would be lost with this process.
  if (request.opcode === Opcode.TMPFILE) session.journal?.hold(slot);
  return fuse_entry_out.bytes + fuse_open_out.bytes;
}

function discardCreated(session: Session, _request: Request, { node, file }: Created<object, unknown>): void {
  discardFile(session, node, file);
  session.nodes.discard(node);
}
