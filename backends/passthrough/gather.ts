import {
  type Awaitable,
  type Context,
  FsError,
  type GuestBuffer,
  WriteFlags,
} from '../../core/backend/index.js';
import { IoBatch, Transfer } from '../../core/system/index.js';
import { useFsetid } from './caller.js';
import type { Node } from './nodes.js';
import type { OpenFile } from './open-file.js';
import type { Share } from './share.js';

/** Bytes up to which a transfer is gathered: beyond, the way into the kernel is a small part of it. */
const MOST_BYTES = 16384;

/** What a read returns that gave less than was asked for, or minus an errno, by the flags it was made with. @throws FsError */
type EndRead = (
  node: Node,
  file: OpenFile,
  buffer: GuestBuffer,
  offset: number,
  count: number,
  nowait: number,
) => Awaitable<number>;

/** What was gathered and may have to be gone on with. */
interface Gathered {
  isRead: boolean;
  node: Node;
  file: OpenFile;
  buffer: GuestBuffer;
  length: number;
  offset: number;
  flags: number;
}

/** Small reads and writes of the page cache, many in one system call. */
export function gatherOperations(share: Share, endRead: EndRead) {
  let batch: IoBatch | undefined;
  let isRefused = false;
  /** Whether the gathered writes clear set-id bits, which all of one batch do or don't; nothing where there are none. */
  let clears: boolean | undefined;
  const gathered: Gathered[] = [];

  /** The batch, if it has room for one more. */
  function open(): IoBatch | undefined {
    if (batch === undefined && !isRefused) {
      batch = IoBatch.open();
      isRefused = batch === undefined;
      share.onClose(() => batch?.close());
    }
    return batch === undefined || batch.isFull ? undefined : batch;
  }

  function gather(isRead: boolean, node: Node, file: OpenFile, buffer: GuestBuffer, offset: number): boolean {
    const { length } = buffer;
    if (length > MOST_BYTES || !file.cached) return false;
    const into = open();
    if (into === undefined) return false;
    const flags = isRead ? file.nowait : 0;
    const one = gathered[into.count];
    if (one === undefined) gathered.push({ isRead, node, file, buffer, length, offset, flags });
    else {
      one.isRead = isRead;
      one.node = node;
      one.file = file;
      one.buffer = buffer;
      one.length = length;
      one.offset = offset;
      one.flags = flags;
    }
    if (buffer.iovCount === 1) {
      const kind = isRead ? Transfer.PREAD : Transfer.PWRITE;
      into.add(kind, file.fd, buffer.address, length, offset, flags);
    } else {
      const kind = isRead ? Transfer.PREADV : Transfer.PWRITEV;
      into.add(kind, file.fd, buffer.iov, buffer.iovCount, offset, flags);
    }
    return true;
  }

  /** What comes of a transfer that is not complete. */
  function end({ isRead, node, file, buffer, offset, flags }: Gathered, count: number): Awaitable<number> {
    if (!isRead || flags === 0) return count;
    try {
      return endRead(node, file, buffer, offset, count, flags);
    } catch (error) {
      if (error instanceof FsError) return -error.errno;
      throw error;
    }
  }

  return {
    gatherRead(node: Node, file: OpenFile, buffer: GuestBuffer, offset: number, _context: Context): boolean {
      return gather(true, node, file, buffer, offset);
    },

    gatherWrite(
      node: Node,
      file: OpenFile,
      buffer: GuestBuffer,
      offset: number,
      flags: number,
      _context: Context,
    ): boolean {
      const isClearing = (flags & WriteFlags.KILL_SUIDGID) !== 0;
      const isPlaced = file.append && (flags & WriteFlags.CACHE) !== 0;
      if (isPlaced || file.synchronous || (clears !== undefined && clears !== isClearing)) return false;
      share.dropCapabilities(file.fd);
      if (!gather(false, node, file, buffer, offset)) return false;
      clears = isClearing;
      return true;
    },

    submit(results: Awaitable<number>[]): void {
      if (clears !== undefined) useFsetid(!clears);
      clears = undefined;
      const { results: counts } = batch!;
      const all = batch!.submit();
      for (let i = 0; i < all; i++) {
        const one = gathered[i]!;
        const count = counts[i]!;
        results[i] = count === one.length ? count : end(one, count);
      }
    },
  };
}
