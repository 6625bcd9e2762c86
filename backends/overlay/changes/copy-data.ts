import { DAEMON, FsError, type HostBuffer, type Steps, wait } from '../../../core/backend/index.js';
import type { Layer } from '../layers/layer.js';
import type { LowerNode } from '../tree/node.js';
import type { Union } from '../tree/union.js';

const PIECE = 1024 * 1024;
/** Bytes asked for at a time where the host copies by itself, mostly by sharing blocks. */
const DIRECT_PIECE = 1024 * PIECE;
/** Bytes copied before other requests get a turn, where both layers are synchronous. */
const TURN = 8 * PIECE;

/** The two ends of a copy. */
interface Ends {
  readonly union: Union;
  readonly from: Layer;
  readonly original: object;
  readonly copy: object;
  readonly copyFile: unknown;
}

/**
 * Copies the first bytes of a file into an open one of the upper that is empty or has only such
 * bytes; holes stay holes where the lower can tell them. Other requests get their turns.
 * @throws ESTALE where the lower changed meanwhile, which would leave a mixture.
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

function* copyData(ends: Ends, size: number): Steps<void> {
  const { union, from, original } = ends;
  const source = from.backend;
  const { layer } = union.writable();
  const target = layer.backend;
  if (source.read === undefined || target.write === undefined) throw FsError.of('EIO');
  const opened = source.open === undefined ? undefined : yield* wait(source.open(original, 0, DAEMON));
  const file = opened?.file;
  const buffer = union.host.createBuffer(Math.min(PIECE, size));
  try {
    let direct = from.copyDomain !== undefined && from.copyDomain === layer.copyDomain;
    let turn = 0;
    for (let at = 0; at < size;) {
      const [start, end] = yield* nextData(from, original, file, at, size);
      for (at = start; at < end;) {
        let count = direct ? yield* copyDirectly(ends, file, at, end) : undefined;
        direct = count !== undefined;
        count ??= yield* copyPiece(ends, file, buffer, at, end);
        // Shorter than it was: whoever compares the attributes will tell.
        if (count === 0) return;
        at += count;
        turn += count;
        if (turn < TURN) continue;
        turn = 0;
        yield* wait(new Promise<void>((resolve) => setImmediate(resolve)));
      }
    }
  } finally {
    buffer.close();
    if (opened !== undefined && source.release !== undefined) yield* wait(source.release(original, file));
  }
}

/** Where data begins and ends at or after an offset. */
function* nextData(
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

/** A copy within the host, or nothing where it refuses: other file systems, no support. */
function* copyDirectly(ends: Ends, file: unknown, at: number, end: number): Steps<number | undefined> {
  const { backend } = ends.union.writable().layer;
  const length = Math.min(DIRECT_PIECE, end - at);
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

function* copyPiece(ends: Ends, file: unknown, buffer: HostBuffer, at: number, end: number): Steps<number> {
  const { union, from, original, copy, copyFile } = ends;
  const { backend } = union.writable().layer;
  const window = buffer.slice(0, Math.min(buffer.length, end - at));
  const count = yield* wait(from.backend.read!(original, file, window, at, DAEMON));
  for (let done = 0; done < count;) {
    const piece = buffer.slice(done, count);
    const written = yield* wait(backend.write!(copy, copyFile, piece, at + done, 0, DAEMON));
    if (written === 0) throw FsError.of('EIO');
    done += written;
  }
  return count;
}
