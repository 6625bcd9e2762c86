import { FallocateMode, FsError, OpenFlags, type Awaitable, type IoctlResult } from '../../backend/index.js';
import { HandleKind } from '../../state/index.js';
import {
  FSYNC_FDATASYNC,
  InitFlag,
  IOCTL_DIR,
  IOCTL_UNRESTRICTED,
  SEEK_DATA,
  SEEK_HOLE,
} from '../wire/abi.js';
import { appending, movingRange, resizing } from './at-most-once.js';
import { inPieces, isInPieces } from './in-pieces.js';
import { checkCount, finishEmpty, GATHERED, isGone, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import { putWritten } from '../wire/reply-writers.js';
import { LARGE } from '../session/gathering.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import {
  fuse_copy_file_range_in,
  fuse_copy_file_range_out,
  fuse_fallocate_in,
  fuse_fsync_in,
  fuse_in_header,
  fuse_ioctl_in,
  fuse_ioctl_out,
  fuse_lseek_in,
  fuse_lseek_out,
  fuse_read_in,
  fuse_syncfs_in,
  fuse_write_in,
  fuse_write_out,
  WRITE_DATA,
} from '../wire/structures.js';
import {
  isInRange,
  isWholeWrite,
  readData,
  readOffset,
  readSize,
  writeData,
  writeFlags,
  writeOffset,
  writeSize,
} from '../wire/transfer.js';

/**
 * The most bytes that one COPY_FILE_RANGE copies: its reply has 32 bits. Linux asks for whole pages
 * too.
 */
const COPY_MAX = 0xfffff000;

/** The backend reads right into the guest's pages, which follow the reply's header. */
export const read: Operation<number> = {
  name: 'READ',
  arguments: fuse_read_in.bytes,
  reply: 0,
  startsDuringBatch: true,
  start(session, request) {
    const { backend, accelerator, handles, in: input } = session;
    const handle = session.handle(fuse_read_in.fh, HandleKind.FILE);
    const { message } = request;
    const size = readSize(input, message);
    const offset = readOffset(input);
    request.handle = handle;
    request.size = size;
    if (backend.read === undefined) throw FsError.of('EINVAL');
    if (!isInRange(offset, size)) return 0;
    const buffer = readData(message, size);
    const slot = handles.slot(handle);
    const node = session.nodes.node(slot);
    const file = handles.object(handle);
    const writes = session.writes.before(slot, offset, offset + size);
    if (writes !== undefined) {
      const start = (): Awaitable<number> => backend.read!(node, file, buffer, offset, request.context);
      return readAfter(session, request, writes, start);
    }
    if (session.mayGather(size) && accelerator.gatherRead?.(node, file, buffer, offset, request.context)) {
      return GATHERED;
    }
    if (isInPieces(request, size, handles.flags(handle))) {
      const move = (start: number, end: number): Awaitable<number> => {
        const piece = message.writable.window(BODY + start, BODY + end);
        return backend.read!(node, file, piece, offset + start, request.context);
      };
      return inPieces({ session, request, slot, isWrite: false, offset, size, move });
    }
    return backend.read(node, file, buffer, offset, request.context);
  },
  finish(session, request, count) {
    checkCount(count, request.size);
    request.data = count;
    session.counters.bytesRead += count;
    session.moved(count);
    if (request.message.passedOn === true) session.publishFile(request.handle);
    return 0;
  },
};

/** Reads when writes have ended that began before it. */
async function readAfter(
  session: Session,
  request: Request,
  writes: Promise<unknown>,
  start: () => Awaitable<number>,
): Promise<number> {
  await writes;
  if (isGone(session, request)) return 0;
  if (request.context.aborted) throw FsError.of('EINTR');
  return start();
}

export const write: Operation<number> = {
  name: 'WRITE',
  arguments: fuse_write_in.bytes,
  reply: fuse_write_out.bytes,
  startsDuringBatch: true,
  start(session, request) {
    const { backend, accelerator, handles, in: input } = session;
    const handle = session.handle(fuse_write_in.fh, HandleKind.FILE);
    const { message } = request;
    const size = writeSize(input);
    const offset = writeOffset(input);
    const flags = writeFlags(input);
    if (!isWholeWrite(message, size)) throw FsError.of('EINVAL');
    if (!isInRange(offset, size)) throw FsError.of('EFBIG');
    if (backend.write === undefined) throw FsError.of('EBADF');
    request.handle = handle;
    request.size = size;
    const buffer = writeData(message, size);
    const slot = handles.slot(handle);
    const node = session.nodes.node(slot);
    const file = handles.object(handle);
    const { journal } = session;
    const appends = (handles.flags(handle) & OpenFlags.APPEND) !== 0;
    if (journal !== undefined && appends) {
      // Several are noted as one after the other, which they are not on a thread.
      const gather = (): boolean =>
        size < LARGE &&
        session.mayGather(size) &&
        accelerator.gatherWrite?.(node, file, buffer, offset, flags, request.context) === true;
      const appended = appending(session, request, journal, file, size, gather, (from) => {
        const rest = from === 0 ? buffer : buffer.slice(from);
        return backend.write!(node, file, rest, offset + from, flags, request.context);
      });
      if (appended instanceof Promise) session.writes.add(slot, 0, Infinity, appended);
      return appended;
    }
    resizing(session, slot);
    if (
      session.mayGather(size) &&
      accelerator.gatherWrite?.(node, file, buffer, offset, flags, request.context)
    ) {
      return GATHERED;
    }
    if (isInPieces(request, size, handles.flags(handle))) {
      const move = (start: number, end: number): Awaitable<number> => {
        const piece = message.readable.window(WRITE_DATA + start, WRITE_DATA + end);
        return backend.write!(node, file, piece, offset + start, flags, request.context);
      };
      return inPieces({ session, request, slot, isWrite: true, offset, size, move });
    }
    const written = backend.write(node, file, buffer, offset, flags, request.context);
    if (written instanceof Promise) {
      const [start, end] = appends ? [0, Infinity] : [offset, offset + size];
      session.writes.add(slot, start, end, written);
    }
    return written;
  },
  finish(session, request, count) {
    checkCount(count, request.size);
    session.counters.bytesWritten += count;
    session.moved(count);
    if (request.message.passedOn === true) session.publishFile(request.handle);
    putWritten(session.out.words, count);
    return fuse_write_out.bytes;
  },
};

export const fsync: Operation<void> = {
  name: 'FSYNC',
  arguments: fuse_fsync_in.bytes,
  reply: 0,
  start(session, request) {
    const { backend, handles, in: input } = session;
    const handle = session.handle(fuse_fsync_in.fh, HandleKind.FILE);
    const dataOnly = (input.u32(fuse_fsync_in.fsync_flags) & FSYNC_FDATASYNC) !== 0;
    request.handle = handle;
    if (backend.fsync === undefined) throw FsError.of('ENOSYS');
    return backend.fsync(
      session.nodes.node(handles.slot(handle)),
      handles.object(handle),
      dataOnly,
      request.context,
    );
  },
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

export const fallocate: Operation<void> = {
  name: 'FALLOCATE',
  arguments: fuse_fallocate_in.bytes,
  reply: 0,
  start(session, request) {
    const { backend, handles, in: input } = session;
    const handle = session.handle(fuse_fallocate_in.fh, HandleKind.FILE);
    const offset = input.u64(fuse_fallocate_in.offset);
    const length = input.u64(fuse_fallocate_in.length);
    const mode = input.u32(fuse_fallocate_in.mode);
    request.handle = handle;
    if (backend.fallocate === undefined) throw FsError.of('ENOSYS');
    if (length === 0) throw FsError.of('EINVAL');
    if (offset + length > Number.MAX_SAFE_INTEGER) throw FsError.of('EFBIG');
    resizing(session, handles.slot(handle));
    const node = session.nodes.node(handles.slot(handle));
    const file = handles.object(handle);
    const allocate = (): Awaitable<void> =>
      backend.fallocate!(node, file, mode, offset, length, request.context);
    const moves = (mode & (FallocateMode.COLLAPSE_RANGE | FallocateMode.INSERT_RANGE)) !== 0;
    return moves ? movingRange(session, request, file, allocate) : allocate();
  },
  finish: finishEmpty,
};

export const lseek: Operation<number> = {
  name: 'LSEEK',
  arguments: fuse_lseek_in.bytes,
  reply: fuse_lseek_out.bytes,
  start(session, request) {
    const { backend, handles, in: input } = session;
    const handle = session.handle(fuse_lseek_in.fh, HandleKind.FILE);
    const offset = input.u64(fuse_lseek_in.offset);
    const whence = input.u32(fuse_lseek_in.whence);
    request.handle = handle;
    // With write-back caching a guest asks before it has sent its cached writes (Linux
    // `fs/fuse/file.c`), so the answer would be wrong. After ENOSYS it answers itself.
    if (backend.lseek === undefined || session.has(InitFlag.WRITEBACK_CACHE)) throw FsError.of('ENOSYS');
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw FsError.of('EINVAL');
    if (offset > Number.MAX_SAFE_INTEGER) throw FsError.of('ENXIO');
    const node = session.nodes.node(handles.slot(handle));
    const kind = whence === SEEK_DATA ? 'data' : 'hole';
    return backend.lseek(node, handles.object(handle), offset, kind, request.context);
  },
  finish(session, _request, offset) {
    checkCount(offset, Number.MAX_SAFE_INTEGER);
    session.out.u64(BODY + fuse_lseek_out.offset, offset);
    return fuse_lseek_out.bytes;
  },
};

export const copyFileRange: Operation<number> = {
  name: 'COPY_FILE_RANGE',
  arguments: fuse_copy_file_range_in.bytes,
  reply: fuse_write_out.bytes,
  start(session, request) {
    return copy(session, request, COPY_MAX);
  },
  finish: finishCopy,
};

/** As COPY_FILE_RANGE, but with a 64-bit count in its reply. Since 7.45. */
export const copyFileRange64: Operation<number> = {
  name: 'COPY_FILE_RANGE_64',
  arguments: fuse_copy_file_range_in.bytes,
  reply: fuse_copy_file_range_out.bytes,
  start(session, request) {
    return copy(session, request, Number.MAX_SAFE_INTEGER);
  },
  finish: finishCopy,
};

function copy(session: Session, request: Request, most: number): Awaitable<number> {
  const { backend, handles, nodes, in: input } = session;
  const from = session.handle(fuse_copy_file_range_in.fh_in, HandleKind.FILE);
  const toNodeAt = fuse_in_header.bytes + fuse_copy_file_range_in.nodeid_out;
  const to = session.handle(fuse_copy_file_range_in.fh_out, HandleKind.FILE, toNodeAt);
  const offset = input.u64(fuse_copy_file_range_in.off_in);
  const toOffset = input.u64(fuse_copy_file_range_in.off_out);
  const length = Math.min(input.u64(fuse_copy_file_range_in.len), most);
  if (input.u64(fuse_copy_file_range_in.flags) !== 0) throw FsError.of('EINVAL');
  if (offset > Number.MAX_SAFE_INTEGER || toOffset > Number.MAX_SAFE_INTEGER) throw FsError.of('EFBIG');
  if (backend.copyFileRange === undefined) throw FsError.of('ENOSYS');
  request.handle = from;
  request.otherHandle = to;
  request.size = Math.min(length, Number.MAX_SAFE_INTEGER - Math.max(offset, toOffset));
  resizing(session, handles.slot(to));
  return backend.copyFileRange(
    nodes.node(handles.slot(from)),
    handles.object(from),
    offset,
    nodes.node(handles.slot(to)),
    handles.object(to),
    toOffset,
    request.size,
    request.context,
  );
}

/**
 * Serves both replies: `fuse_write_out` has the count as `size` and a zero `padding`, which are the
 * same 64 bits as `bytes_copied`.
 */
function finishCopy(session: Session, request: Request, count: number): number {
  checkCount(count, request.size);
  session.moved(count);
  session.out.u64(BODY + fuse_copy_file_range_out.bytes_copied, count);
  return fuse_copy_file_range_out.bytes;
}

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
