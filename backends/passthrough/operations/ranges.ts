import {
  type Awaitable,
  type Context,
  FallocateMode,
  FileType,
  FsError,
} from '../../../core/backend/index.js';
import {
  close,
  copyFileRange,
  copyFileRangeLater,
  fallocate,
  fallocateLater,
  fdatasync,
  fdatasyncLater,
  fstatfs,
  fsync,
  fsyncLater,
  lseek,
  syncfsLater,
} from '../../../core/system/calls/files.js';
import { type Fd, NativeMemory } from '../../../core/system/index.js';
import { useFsetid } from '../calls/impersonation.js';
import { clearSetIds } from '../calls/set-ids.js';
import { settle } from './data.js';
import { openDirectory } from './directory.js';
import type { Node } from '../nodes/nodes.js';
import type { OpenFile } from '../nodes/open-file.js';
import { at, getLong, offset as area, putLong } from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { turns } from '../../../core/backend/pool-turns.js';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
/**
 * Copies and allocations of at most this many bytes are made at once; longer ones go to the thread
 * pool.
 */
const INLINE_MAX_BYTES = 262144;
/** Most bytes of a copy on the thread pool: some milliseconds of a guest's turn. */
const PIECE_BYTES = 2 ** 24;
/** Most bytes that one call on the thread pool allocates, zeroes or makes a hole. */
const ALLOCATION_PIECE_BYTES = 2 ** 28;
/** fallocate modes that move what follows: only the whole range at once. */
const MOVING: number = FallocateMode.COLLAPSE_RANGE | FallocateMode.INSERT_RANGE;

/**
 * Allocation, copies, SEEK_DATA and SEEK_HOLE, and making data durable. Calls that may take long go
 * to the thread pool.
 */
export function rangeOperations(share: Share) {
  const { nodes } = share;

  /**
   * Syncs the file system of a mount below the share, if the mount is still registered and has a
   * descriptor.
   */
  async function syncMount(index: number, context: Context): Promise<void> {
    const mount = share.mounts.all[index];
    if (mount === undefined || mount.fd < 0) return;
    share.mounts.use(index);
    try {
      await turns.run(context, 'long', () => settle(syncfsLater(mount.fd)));
    } finally {
      share.mounts.unuse(index);
    }
  }

  return {
    fsync(node: Node, file: OpenFile, dataOnly: boolean, context: Context): Awaitable<void> {
      // A device node that lies in memory stands for a disk.
      if (share.mountOf(node).inMemory && nodes.fileType(node) === FileType.REGULAR)
        syncAtOnce(file.fd, dataOnly);
      else return syncLater(file.fd, dataOnly, context);
    },

    fsyncdir(node: Node, dataOnly: boolean, context: Context): Awaitable<void> {
      const fd = openDirectory(share, node);
      if (!share.mountOf(node).inMemory) return syncLater(fd, dataOnly, context).finally(() => close(fd));
      try {
        syncAtOnce(fd, dataOnly);
      } finally {
        close(fd);
      }
    },

    async syncfs(context: Context): Promise<void> {
      const fd = openDirectory(share, share.root);
      try {
        await turns.run(context, 'long', () => settle(syncfsLater(fd)));
        for (const { index } of share.mounts.all.slice(1)) await syncMount(index, context);
      } finally {
        close(fd);
      }
    },

    fallocate(
      _node: Node,
      file: OpenFile,
      mode: number,
      offset: number,
      length: number,
      context: Context,
    ): Awaitable<void> {
      clearFor(context, file.fd);
      if (length > INLINE_MAX_BYTES) return allocateLater(file.fd, mode, offset, length, context);
      const code = fallocate(file.fd, mode, offset, length);
      if (code < 0) throw FsError.of(-code);
    },

    lseek(_node: Node, file: OpenFile, offset: number, whence: 'data' | 'hole', _context: Context): number {
      const found = lseek(file.fd, offset, whence === 'data' ? SEEK_DATA : SEEK_HOLE);
      if (found < 0) throw FsError.of(-found);
      return found;
    },

    copyFileRange(
      _node: Node,
      file: OpenFile,
      offset: number,
      _toNode: Node,
      toFile: OpenFile,
      toOffset: number,
      length: number,
      context: Context,
    ): Awaitable<number> {
      clearFor(context, toFile.fd);
      if (length > INLINE_MAX_BYTES) {
        // A copy may be shorter than asked for, copy_file_range(2): the guest goes on from there.
        const piece = Math.min(length, PIECE_BYTES);
        return turns.run(context, 'long', () => copyLater(file.fd, offset, toFile.fd, toOffset, piece));
      }
      putLong(area.offsets, offset);
      putLong(area.offsets + 8, toOffset);
      const count = copyFileRange(file.fd, at.offsets, toFile.fd, at.offsets + 8, length);
      if (count < 0) throw FsError.of(-count);
      return count;
    },
  };
}

/**
 * Before a change of content that has no flag for set-id bits: with FUSE_HANDLE_KILLPRIV_V2 the
 * guest's kernel leaves them to us. Who is not root there has no CAP_FSETID.
 */
function clearFor({ uid }: Context, fd: Fd): void {
  const code = uid === 0 ? 0 : clearSetIds(fd);
  if (code < 0) throw FsError.of(-code);
  useFsetid(true);
}

/** fsync or fdatasync on the thread pool. @throws FsError */
async function syncLater(fd: Fd, dataOnly: boolean, context: Context): Promise<void> {
  await turns.run(context, 'short', () => settle(dataOnly ? fdatasyncLater(fd) : fsyncLater(fd)));
}

/** fsync or fdatasync of what lies in memory alone. @throws FsError */
function syncAtOnce(fd: Fd, dataOnly: boolean): void {
  const code = dataOnly ? fdatasync(fd) : fsync(fd);
  if (code < 0) throw FsError.of(-code);
}

/**
 * A long fallocate on the thread pool, a turn for each piece. The file gets its new size with the
 * last piece, so that one that fails has the size that it had. @throws FsError
 */
async function allocateLater(
  fd: Fd,
  mode: number,
  offset: number,
  length: number,
  context: Context,
): Promise<void> {
  const end = offset + length;
  // A range that has no room is the file system's to refuse, before it takes what there is.
  const isWhole = (mode & MOVING) !== 0 || length > roomOf(fd);
  const pieceBytes = isWhole ? length : ALLOCATION_PIECE_BYTES;
  for (let start = offset; start < end; start += pieceBytes) {
    const isLast = end - start <= pieceBytes;
    const pieceMode = isLast ? mode : mode | FallocateMode.KEEP_SIZE;
    const count = isLast ? end - start : pieceBytes;
    await turns.run(context, 'long', () => settle(fallocateLater(fd, pieceMode, start, count)));
  }
}

/** Bytes that are free where a file lies. */
function roomOf(fd: Fd): number {
  const s = area.statfs;
  return fstatfs(fd, at.statfs) < 0 ? 0 : getLong(s + 32) * getLong(s + 72);
}

/**
 * A long copy on the thread pool. It has offsets in memory of its own, since the call changes them
 * while others run.
 */
async function copyLater(
  fd: Fd,
  offset: number,
  toFd: Fd,
  toOffset: number,
  length: number,
): Promise<number> {
  const memory = NativeMemory.allocate(16);
  try {
    memory.u32.set([
      offset >>> 0,
      Math.floor(offset / 2 ** 32),
      toOffset >>> 0,
      Math.floor(toOffset / 2 ** 32),
    ]);
    return await settle(copyFileRangeLater(fd, memory.address, toFd, memory.address + 8, length, 0));
  } finally {
    memory.free();
  }
}
