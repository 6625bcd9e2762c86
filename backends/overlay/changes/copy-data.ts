import { DAEMON, FsError, type HostBuffer, type Steps, wait } from '../../../core/backend/index.js';
import type { Layer } from '../layers/layer.js';
import { writeAll } from './like-another.js';
import type { LowerNode } from '../tree/node.js';
import type { Union } from '../tree/union.js';

const PIECE_BYTES = 1024 * 1024;
/** Bytes copied by one `copyFileRange` of the backend, which mostly shares blocks. */
const DIRECT_PIECE_BYTES = 1024 * PIECE_BYTES;
/** Bytes copied before other requests get their turn, if both layers are synchronous. */
const TURN_BYTES = 8 * PIECE_BYTES;

/** Source and target of a copy. */
interface CopyEnds {
  readonly union: Union;
  readonly from: Layer;
  readonly original: object;
  readonly copy: object;
  readonly copyFile: unknown;
}

/**
 * Copies the first `size` bytes of a file into an open file of the upper, which is empty or has the
 * same bytes already. Holes stay holes if the lower reports them. Other requests are served in
 * between.
 * @throws ESTALE if the lower changed meanwhile: the copy would be a mixture.
 */
export function* copyContent(
  union: Union,
  { layer: from, node: original }: LowerNode,
  copy: object,
  copyFile: unknown,
  size: number,
): Steps<void> {
  if (size === 0) return;
  const before = { ...(yield* wait(from.backend.getattr(original, undefined, DAEMON))) };
  yield* copyData({ union, from, original, copy, copyFile }, size);
  const after = yield* wait(from.backend.getattr(original, undefined, DAEMON));
  const same = (['size', 'mtime', 'mtimeNsec'] as const).every((field) => after[field] === before[field]);
  if (!same) throw FsError.of('ESTALE');
}

function* copyData(ends: CopyEnds, size: number): Steps<void> {
  const { union, from, original } = ends;
  const source = from.backend;
  const { layer } = union.writable();
  const target = layer.backend;
  if (source.read === undefined || target.write === undefined) throw FsError.of('EIO');
  const opened = source.open === undefined ? undefined : yield* wait(source.open(original, 0, DAEMON));
  const file = opened?.file;
  const buffer = union.host.createBuffer(Math.min(PIECE_BYTES, size));
  try {
    let direct = from.copyDomain !== undefined && from.copyDomain === layer.copyDomain;
    let turn = 0;
    for (let at = 0; at < size;) {
      const [start, end] = yield* nextData(from, original, file, at, size);
      for (at = start; at < end;) {
        let count = direct ? yield* copyDirectly(ends, file, at, end) : undefined;
        direct = count !== undefined;
        count ??= yield* copyPiece(ends, file, buffer, at, end);
        // The file is shorter than before; the caller compares the attributes and reports it.
        if (count === 0) return;
        at += count;
        turn += count;
        if (turn < TURN_BYTES) continue;
        turn = 0;
        yield* wait(new Promise<void>((resolve) => setImmediate(resolve)));
      }
    }
  } finally {
    buffer.close();
    if (opened !== undefined && source.release !== undefined) yield* wait(source.release(original, file));
  }
}

/** The next range of data at or after an offset: from its first byte to the one after its last. */
export function* nextData(
  from: Layer,
  original: object,
  file: unknown,
  at: number,
  size: number,
): Steps<readonly [number, number]> {
  const { backend } = from;
  if (backend.lseek === undefined) return [at, size];
  try {
    const start = yield* wait(backend.lseek(original, file, at, 'data', DAEMON));
    const end = yield* wait(backend.lseek(original, file, start, 'hole', DAEMON));
    return [Math.min(start, size), Math.min(end, size)];
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    return error.code === 'ENXIO' ? [size, size] : [at, size];
  }
}

/**
 * Copies within the host. @returns the bytes copied, or undefined if it refuses, for example
 * between file systems.
 */
function* copyDirectly(ends: CopyEnds, file: unknown, at: number, end: number): Steps<number | undefined> {
  const { backend } = ends.union.writable().layer;
  const length = Math.min(DIRECT_PIECE_BYTES, end - at);
  try {
    const copied = backend.copyFileRange?.(
      ends.original,
      file,
      at,
      ends.copy,
      ends.copyFile,
      at,
      length,
      DAEMON,
    );
    return yield* wait(copied);
  } catch (error) {
    if (!(error instanceof FsError) || error.code === 'ENOSPC' || error.code === 'EDQUOT') throw error;
    return undefined;
  }
}

function* copyPiece(
  ends: CopyEnds,
  file: unknown,
  buffer: HostBuffer,
  at: number,
  end: number,
): Steps<number> {
  const { union, from, original, copy, copyFile } = ends;
  const window = buffer.slice(0, Math.min(buffer.length, end - at));
  const count = yield* wait(from.backend.read!(original, file, window, at, DAEMON));
  yield* writeAll(union.writable().layer, copy, copyFile, buffer.slice(0, count), at);
  return count;
}
