import { FallocateMode, FsError } from '../../../core/backend/index.js';
import type { Arena } from './arena.js';
import { Bytes } from './bytes.js';
import { CHUNK_BYTES, PAGE_BYTES } from './chunk.js';
import type { Content, Source } from './content.js';
import type { Space } from '../tree/space.js';

const EINVAL = FsError.of('EINVAL');
const EOPNOTSUPP = FsError.of('EOPNOTSUPP');

/**
 * Most bytes really copied by one `copy_file_range`, besides those shared, so that other guests
 * wait for some tens of microseconds. Callers continue after a short count.
 */
const COPY_MAX_BYTES = 256 << 10;

/** Most chunks that one `copy_file_range` shares: 64 MiB, for the same reason. */
const SHARED_MAX_CHUNKS = 512;

/** Most chunks that COLLAPSE_RANGE and INSERT_RANGE copy: 64 MiB of data. */
const MOVED_MAX_CHUNKS = 512;

/**
 * Changes the allocation of a file, in steps of some microseconds each. Modes beyond those of tmpfs
 * work as on ext4.
 * @throws ENOSPC, with nothing changed unless others changed the file between steps; EINVAL,
 * EOPNOTSUPP for an invalid mode or range (`vfs_fallocate`). EOPNOTSUPP also where so much data
 * would move that other guests had to wait.
 */
export function* allocating(
  content: Content,
  mode: number,
  offset: number,
  length: number,
  arena: Arena,
  space: Space,
): Generator<void> {
  const { KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE, INSERT_RANGE, UNSHARE_RANGE } = FallocateMode;
  if (length <= 0) throw EINVAL;
  const end = offset + length;
  switch (mode) {
    case PUNCH_HOLE | KEEP_SIZE:
      yield* content.punching(offset, end, arena, space);
      return;
    case COLLAPSE_RANGE:
      if (offset % PAGE_BYTES !== 0 || length % PAGE_BYTES !== 0 || end >= content.size) throw EINVAL;
      checkMoved(content, end);
      yield* content.punching(offset, end, arena, space);
      checkMoved(content, end);
      shift(content, end, -length, arena, space);
      content.truncate(content.size - length, arena, space);
      return;
    case INSERT_RANGE:
      if (offset % PAGE_BYTES !== 0 || length % PAGE_BYTES !== 0 || offset >= content.size) throw EINVAL;
      checkMoved(content, offset);
      shift(content, offset, length, arena, space);
      return;
    case ZERO_RANGE:
    case ZERO_RANGE | KEEP_SIZE:
      yield* content.allocating(offset, end, arena, space);
      for (let at = offset; at < end;) {
        const to = Math.min(end, at - (at % CHUNK_BYTES) + CHUNK_BYTES);
        content.punch(at, to, arena, space);
        content.allocate(at, to, arena, space);
        yield;
        at = to;
      }
      break;
    case 0:
    case KEEP_SIZE:
    case UNSHARE_RANGE:
    case UNSHARE_RANGE | KEEP_SIZE:
      yield* content.allocating(offset, end, arena, space);
      break;
    default:
      throw EOPNOTSUPP;
  }
  if ((mode & KEEP_SIZE) === 0 && end > content.size) content.size = end;
}

/** @throws EOPNOTSUPP if too much data lies at or after `from` to be moved. */
function checkMoved(content: Content, from: number): void {
  let left = MOVED_MAX_CHUNKS;
  for (const _ of dataPieces(content, from)) if (--left < 0) throw EOPNOTSUPP;
}

/**
 * Moves all data from offset `from` on by `by` bytes (whole pages). The target range has no data.
 */
function shift(content: Content, from: number, by: number, arena: Arena, space: Space): void {
  const pieces = [...dataPieces(content, from)];
  if (by > 0) {
    pieces.reverse();
    content.size += by;
  }
  const buffer = new Uint8Array(CHUNK_BYTES);
  for (const [start, end] of pieces) {
    const bytes = new Bytes(buffer.subarray(0, end - start));
    content.read(bytes, start);
    content.punch(start, start + Math.ceil((end - start) / PAGE_BYTES) * PAGE_BYTES, arena, space);
    content.write(bytes, start + by, arena, space);
  }
}

/** The ranges of data at or after `from`, of at most a chunk each. */
function* dataPieces(content: Content, from: number): Generator<readonly [number, number]> {
  for (const [start, end] of content.extents(from)) {
    for (let at = start; at < end;) {
      const to = Math.min(end, at - (at % CHUNK_BYTES) + CHUNK_BYTES);
      yield [at, to];
      at = to;
    }
  }
}

/** A range of a file as the source of a write. */
class Range implements Source {
  readonly length: number;
  readonly #content: Content;
  readonly #offset: number;

  constructor(content: Content, offset: number, length: number) {
    this.#content = content;
    this.#offset = offset;
    this.length = length;
  }

  get(at: number, target: Uint8Array, start = 0, end = target.length): void {
    this.#content.read(new Bytes(target.subarray(start, end)), this.#offset + at);
  }
}

/**
 * Copies between files. Whole chunks that are data throughout are shared until one of the files
 * changes them.
 * @returns the bytes copied. They are fewer than `length` at the end of the source, after
 * {@link COPY_MAX_BYTES} of real copying, and after {@link SHARED_MAX_CHUNKS}.
 * @throws EINVAL if the ranges overlap in one file (`generic_copy_file_checks`): what is prepared
 * for the copy has no bytes yet, and would be read as its source; ENOSPC.
 */
export function copyRange(
  source: Content,
  offset: number,
  target: Content,
  targetOffset: number,
  length: number,
  arena: Arena,
  space: Space,
): number {
  const total = Math.min(length, source.size - offset);
  if (source === target && Math.abs(offset - targetOffset) < total) throw EINVAL;
  let done = 0;
  let copied = 0;
  let shared = 0;
  while (done < total && copied < COPY_MAX_BYTES && shared < SHARED_MAX_CHUNKS) {
    const from = offset + done;
    const to = targetOffset + done;
    const chunk = from % CHUNK_BYTES === 0 ? source.chunk(from / CHUNK_BYTES) : undefined;
    if (chunk?.data === -1 && to % CHUNK_BYTES === 0 && total - done >= CHUNK_BYTES) {
      target.share(to / CHUNK_BYTES, chunk, arena, space);
      done += CHUNK_BYTES;
      shared += 1;
      if (to + CHUNK_BYTES > target.size) target.size = to + CHUNK_BYTES;
      continue;
    }
    const piece = Math.min(total - done, CHUNK_BYTES - (from % CHUNK_BYTES));
    const written = target.write(new Range(source, from, piece), to, arena, space);
    done += written;
    copied += written;
    if (written < piece) break;
  }
  return Math.max(0, done);
}
