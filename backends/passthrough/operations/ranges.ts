import { type Awaitable, type Context, FallocateMode, FsError } from '../../../core/backend/index.js';
import {
  close,
  copyFileRange,
  copyFileRangeLater,
  fallocate,
  fallocateLater,
  fdatasyncLater,
  fsyncLater,
  lseek,
  syncfsLater,
} from '../../../core/system/calls/files.js';
import { type Fd, NativeMemory } from '../../../core/system/index.js';
import { useFsetid } from '../calls/caller.js';
import { clearSetIds } from '../calls/set-ids.js';
import { settle } from './data.js';
import { openDirectory } from './directory.js';
import type { Node } from '../nodes/nodes.js';
import type { OpenFile } from '../nodes/open-file.js';
import { at, offset as area, putLong } from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { Turns } from '../calls/turns.js';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
/**
 * Copies and allocations of at most this many bytes are made at once; longer ones go to the thread
 * pool.
 */
const INLINE_MAX_BYTES = 262144;
/** Most bytes of a copy on the thread pool: some milliseconds. */
const PIECE_BYTES = 2 ** 24;
/** Long copies and allocations of all shares that run at a time: half of the thread pool. */
const turns = new Turns(2);
/** fallocate modes that only reserve blocks: quick at any length. */
const RESERVING: number = FallocateMode.KEEP_SIZE;

/**
 * Allocation, copies, SEEK_DATA and SEEK_HOLE, and making data durable. Calls that may take long go
 * to the thread pool.
 */
export function rangeOperations(share: Share) {
  /**
   * Syncs the file system of a mount below the share, if the mount is still registered and has a
   * descriptor.
   */
  async function syncMount(index: number): Promise<void> {
    const mount = share.mounts.all[index];
    if (mount === undefined || mount.fd < 0) return;
    share.mounts.use(index);
    try {
      await settle(syncfsLater(mount.fd));
    } finally {
      share.mounts.unuse(index);
    }
  }

  return {
    async fsync(_node: Node, file: OpenFile, dataOnly: boolean, _context: Context): Promise<void> {
      await settle(dataOnly ? fdatasyncLater(file.fd) : fsyncLater(file.fd));
    },

    async fsyncdir(node: Node, dataOnly: boolean, _context: Context): Promise<void> {
      const fd = openDirectory(share, node);
      try {
        await settle(dataOnly ? fdatasyncLater(fd) : fsyncLater(fd));
      } finally {
        close(fd);
      }
    },

    async syncfs(_context: Context): Promise<void> {
      const fd = openDirectory(share, share.root);
      try {
        await settle(syncfsLater(fd));
        for (const { index } of share.mounts.all.slice(1)) await syncMount(index);
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
      if ((mode & ~RESERVING) !== 0 && length > INLINE_MAX_BYTES) {
        return turns.run(() => settle(fallocateLater(file.fd, mode, offset, length))).then(() => undefined);
      }
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
        return turns.run(() => copyLater(file.fd, offset, toFile.fd, toOffset, piece));
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
