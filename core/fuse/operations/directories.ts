import { FileType, FsError, run, type Awaitable, type Entry, type Steps } from '../../backend/index.js';
import { DirectoryStream, HandleKind, NO_SLOT, ROOT_SLOT, type Slot } from '../../state/index.js';
import { FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, FSYNC_FDATASYNC, UNKNOWN_INO } from '../wire/abi.js';
import { enter, noteChild } from './entry.js';
import { closeHandle, openHandle } from './handles.js';
import { LookAhead } from './look-ahead.js';
import { putHandle } from './open.js';
import { finishEmpty, isGone, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import {
  fuse_attr,
  fuse_dirent,
  fuse_direntplus,
  fuse_entry_out,
  fuse_fsync_in,
  fuse_open_in,
  fuse_open_out,
  fuse_read_in,
  fuse_release_in,
} from '../wire/structures.js';

export const opendir: Operation<undefined> = {
  name: 'OPENDIR',
  arguments: fuse_open_in.bytes,
  reply: fuse_open_out.bytes,
  start(session, request) {
    request.slot = session.node();
    if (session.backend.readdir === undefined) throw FsError.of('EACCES');
    if (session.handles.full) throw FsError.of('ENFILE');
    return undefined;
  },
  finish(session, request) {
    const stream = new DirectoryStream(session.export.listings);
    const handle = openHandle(session, HandleKind.DIRECTORY, request.slot, stream, 0);
    const cached = session.export.cache.data === 'always';
    putHandle(session, BODY, handle, cached ? FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE : 0);
    return fuse_open_out.bytes;
  },
};

export const releasedir: Operation<void> = {
  name: 'RELEASEDIR',
  arguments: fuse_release_in.bytes,
  reply: 0,
  start(session) {
    return closeHandle(session, session.handle(fuse_release_in.fh, HandleKind.DIRECTORY));
  },
  finish: finishEmpty,
};

export const fsyncdir: Operation<void> = {
  name: 'FSYNCDIR',
  arguments: fuse_fsync_in.bytes,
  reply: 0,
  start(session, request) {
    const { backend, handles, in: input } = session;
    const handle = session.handle(fuse_fsync_in.fh, HandleKind.DIRECTORY);
    const dataOnly = (input.u32(fuse_fsync_in.fsync_flags) & FSYNC_FDATASYNC) !== 0;
    request.handle = handle;
    if (backend.fsyncdir === undefined) throw FsError.of('ENOSYS');
    return backend.fsyncdir(session.nodes.node(handles.slot(handle)), dataOnly, request.context);
  },
  finish: finishEmpty,
};

export const readdir: Operation<number> = {
  name: 'READDIR',
  arguments: fuse_read_in.bytes,
  reply: 0,
  start(session, request) {
    return list(session, request, false);
  },
  finish: finishListing,
};

/** As READDIR, with a lookup of each name: the guest then knows the nodes, as after LOOKUP. */
export const readdirplus: Operation<number> = {
  name: 'READDIRPLUS',
  arguments: fuse_read_in.bytes,
  reply: 0,
  start(session, request) {
    return list(session, request, true);
  },
  finish: finishListing,
};

function finishListing(session: Session, request: Request, bytes: number): number {
  session.journal?.listing(request.handle);
  request.data = bytes;
  return 0;
}

function list(session: Session, request: Request, plus: boolean): Awaitable<number> {
  const { backend, handles, in: input } = session;
  const handle = session.handle(fuse_read_in.fh, HandleKind.DIRECTORY);
  const offset = input.u64(fuse_read_in.offset);
  const { length } = request.message.writable;
  const room = Math.min(input.u32(fuse_read_in.size), length - BODY, MAX_ROOM_BYTES);
  request.handle = handle;
  if (offset > LAST_COOKIE) return 0;
  const stream = handles.object(handle) as DirectoryStream;
  const node = session.nodes.node(handles.slot(handle));
  const { context } = request;
  request.slot = handles.slot(handle);
  if (session.journal !== undefined) request.childVersion = session.journal.names.version;
  return stream.read(
    offset,
    () => backend.readdir!(node, context),
    () => run(fill({ session, request, stream, node, plus, room }, offset)),
  );
}

/** The most bytes of entries that one request gives: the guest asks again for more. */
const MAX_ROOM_BYTES = 64 * 1024;
/** After so many entries it is looked whether another guest waits. */
const LOOKED_EVERY = 16;
/** Cookies are indexes below 2^31. */
const LAST_COOKIE = 0x7fffffff;
/** Bytes of entries that are composed in `session.out` before they are copied to the guest. */
const BATCH_BYTES = 64 * 1024;

interface Target {
  readonly session: Session;
  readonly request: Request;
  readonly stream: DirectoryStream;
  /** The directory. */
  readonly node: object;
  readonly plus: boolean;
  /** Bytes of entries that the guest has room for. */
  readonly room: number;
}

/**
 * Fills the guest's buffer with entries from `index` on. An error is reported only if it comes
 * before the first entry. Later, the entries so far are the reply (their lookups are counted
 * already), and the guest's next request meets the error.
 * @returns the bytes filled; 0 at the end of the directory.
 * @throws EINVAL if there is no room for one entry.
 */
function* fill(target: Target, index: number): Steps<number> {
  const { session, request, stream, plus, room } = target;
  const ahead = new LookAhead(target, (at) => entrySize(stream, at, true));
  let filled = 0;
  let composed = 0;
  let waited = false;
  let look = index + LOOKED_EVERY;
  let parent: Awaitable<Slot> = NO_SLOT;
  try {
    for (; ; index++) {
      let there = stream.at(index);
      if (there instanceof Promise) {
        composed = pause(target, filled, composed);
        there = (yield there) as boolean;
        waited = true;
        if (isGone(session, request)) throw FsError.of('EIO');
      }
      if (!there) break;
      // Fewer entries than there is room for are no end: the guest asks again.
      if (index >= look && !ahead.hasMore) {
        look = index + LOOKED_EVERY;
        if (filled > 0 && request.message.isThreadWanted?.() === true) break;
      }
      const size = entrySize(stream, index, plus);
      if (filled + size > room) {
        if (filled === 0) throw FsError.of('EINVAL');
        break;
      }
      if (composed + size > BATCH_BYTES) composed = place(target, filled, composed);
      // The entries `.` and `..` have no lookup.
      if (index < 2) {
        if (index === 1 && isUnnumbered(stream, 1)) {
          parent = parentOf(target);
          if (parent instanceof Promise) {
            composed = pause(target, filled, composed);
            parent = (yield parent) as Slot;
            waited = true;
            if (isGone(session, request)) {
              if (parent !== NO_SLOT) session.nodes.reap(parent);
              throw FsError.of('EIO');
            }
          }
        }
        putEntry(session, BODY + composed, stream, index, plus, undefined);
        const slot = index === 0 ? session.handles.slot(request.handle) : parent;
        if (slot !== NO_SLOT && isUnnumbered(stream, index)) {
          const inoAt = BODY + composed + (plus ? fuse_direntplus.dirent : 0) + fuse_dirent.ino;
          session.out.inode(inoAt, undefined, session.nodes.idLow(slot), session.nodes.idHigh(slot));
          session.nodes.reap(slot);
        }
      } else if (!plus || stream.isLater(index))
        putEntry(session, BODY + composed, stream, index, plus, undefined);
      else {
        let entry: Awaitable<Entry<object> | undefined>;
        try {
          entry = ahead.take(index, room - filled);
          if (entry instanceof Promise) {
            composed = pause(target, filled, composed);
            waited = true;
            entry = (yield entry) as Entry<object> | undefined;
          }
        } catch {
          // The name is listed without its node. The guest looks it up when it needs it.
          entry = undefined;
        }
        if (waited && isGone(session, request)) {
          if (entry !== undefined) session.nodes.discard(entry.node);
          throw FsError.of('EIO');
        }
        const slot = putEntry(session, BODY + composed, stream, index, plus, entry);
        if (entry !== undefined && session.journal !== undefined) {
          request.child = ahead.name;
          noteChild(session, request, slot, entry);
        }
      }
      composed += size;
      filled += size;
    }
  } catch (error) {
    if (filled === 0 || (waited && isGone(session, request))) throw error;
  } finally {
    ahead.discard();
  }
  place(target, filled, composed);
  return filled;
}

/** Whether the backend did not tell the inode number of an entry. */
function isUnnumbered(stream: DirectoryStream, index: number): boolean {
  return stream.inoLow(index) === 0 && stream.inoHigh(index) === 0;
}

/**
 * The slot of the directory above the one that is listed, for the number of `..`: its node id, as
 * that of every node whose backend gives no number. The root's is the root itself.
 * @returns {@link NO_SLOT} if it is not known. Else the caller calls `reap` for it.
 */
function parentOf({ session, request, node }: Target): Awaitable<Slot> {
  const { backend, nodes, handles } = session;
  const own = handles.slot(request.handle);
  if (own === ROOT_SLOT || backend.parent === undefined) return own === ROOT_SLOT ? own : NO_SLOT;
  const slotOf = (found: object): Slot => {
    const slot = nodes.intern(found);
    if (slot === NO_SLOT) nodes.discard(found);
    return slot;
  };
  try {
    const found = backend.parent(node, request.context);
    return found instanceof Promise ? found.then(slotOf, () => NO_SLOT) : slotOf(found);
  } catch {
    return NO_SLOT;
  }
}

/**
 * Copies the composed entries to the guest; they are the last of those filled.
 * @returns the bytes composed from here on: 0.
 */
function place({ session, request }: Target, filled: number, composed: number): number {
  if (composed > 0)
    request.message.writable.copyIn(BODY + filled - composed, session.out.bytes, BODY, composed);
  return 0;
}

/** As {@link place}, before other requests have their turn. */
function pause(target: Target, filled: number, composed: number): number {
  const { uniqueLow, uniqueHigh } = target.request;
  target.session.journal?.waits(uniqueLow, uniqueHigh);
  return place(target, filled, composed);
}

/** FUSE_DIRENT_SIZE and FUSE_DIRENTPLUS_SIZE: multiples of 8. */
function entrySize(stream: DirectoryStream, index: number, plus: boolean): number {
  const head = plus ? fuse_direntplus.bytes : fuse_dirent.bytes;
  return (head + stream.nameEnd(index) - stream.nameStart(index) + 7) & ~7;
}

/**
 * Puts an entry into `session.out`.
 * @param found the name's node, if the reply is to have it.
 * @returns that node's slot.
 */
function putEntry(
  session: Session,
  at: number,
  stream: DirectoryStream,
  index: number,
  plus: boolean,
  found: Entry<object> | undefined,
): Slot {
  const { out } = session;
  const { words } = out;
  const direntAt = plus ? at + fuse_direntplus.dirent : at;
  let slot: Slot = NO_SLOT;
  let type = stream.type(index);
  let inoLow = stream.inoLow(index);
  let inoHigh = stream.inoHigh(index);
  if (found !== undefined) {
    type = (found.attributes.mode & FileType.MASK) >>> 12;
    slot = enter(session, at + fuse_direntplus.entry_out, found);
    const inoAt = (at + fuse_direntplus.entry_out + fuse_entry_out.attr + fuse_attr.ino) >> 2;
    inoLow = words[inoAt]!;
    inoHigh = words[inoAt + 1]!;
  } else {
    if (plus) out.zero(at, fuse_entry_out.bytes);
    if (inoLow === 0 && inoHigh === 0) inoLow = UNKNOWN_INO;
  }
  const start = stream.nameStart(index);
  const length = stream.nameEnd(index) - start;
  words[(direntAt + fuse_dirent.ino) >> 2] = inoLow;
  words[(direntAt + fuse_dirent.ino + 4) >> 2] = inoHigh;
  words[(direntAt + fuse_dirent.off) >> 2] = index + 1;
  words[(direntAt + fuse_dirent.off + 4) >> 2] = 0;
  words[(direntAt + fuse_dirent.namelen) >> 2] = length;
  words[(direntAt + fuse_dirent.type) >> 2] = type;
  const nameAt = direntAt + fuse_dirent.bytes;
  const padded = (length + 7) & ~7;
  for (let i = 0; i < padded; i++) out.bytes[nameAt + i] = i < length ? stream.bytes[start + i]! : 0;
  return slot;
}
