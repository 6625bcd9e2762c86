import {
  DAEMON,
  type Attributes,
  type Awaitable,
  FallocateMode,
  FsError,
  isPromise,
  ModeBits,
  OpenFlags,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { contentOf } from '../layers/content.js';
import { copyContent } from './copy-data.js';
import type { OverlayNode } from '../tree/node.js';
import { timesOf } from '../tree/times.js';
import type { Union } from '../tree/union.js';

const CAPABILITY = 'security.capability';

/**
 * Copies the content of a file up, after its metadata was copied up before. The content goes into
 * the file itself, which may have several names. It counts when the metacopy mark is removed; until
 * then, and after a crash, the lower's content counts. Linux `fs/overlayfs/copy_up.c` does the
 * same.
 *
 * A file that is cut becomes shorter before the mark is removed. That is its new state already: its
 * content is the beginning of the lower's, up to its size.
 * @param length most bytes to copy, if the caller truncates the file.
 */
export function completeCopyUp(union: Union, node: OverlayNode, length: number): Awaitable<void> {
  if (node.completing !== undefined) return node.completing;
  union.pin(node);
  const filled = run(completePinned(union, node, length));
  if (!isPromise(filled)) return undefined;
  node.completing = filled.finally(() => {
    node.completing = undefined;
  });
  return node.completing;
}

function* completePinned(union: Union, node: OverlayNode, length: number): Steps<void> {
  try {
    yield* completeSteps(union, node, length);
  } finally {
    union.unpin(node);
  }
}

function* completeSteps(union: Union, node: OverlayNode, length: number): Steps<void> {
  const { layer, marks, work } = union.writable();
  const { backend } = layer;
  const upper = node.upper!;
  const attributes = { ...(yield* wait(backend.getattr(upper, undefined, DAEMON))) };
  const { size = 0 } = attributes;
  const wanted = Math.min(size, length);
  const capability = yield* capabilityOf(union, upper);
  const opened = yield* wait(backend.open?.(upper, OpenFlags.READ_WRITE, DAEMON));
  const file = opened?.file;
  try {
    try {
      if (wanted > 0) {
        const content = yield* wait(contentOf(union, node));
        yield* copyContent(union, content, upper, file, wanted);
      }
      work.reached('complete-copied');
      if (wanted < size) yield* wait(backend.setattr?.(upper, { size: wanted }, file, DAEMON));
    } catch (error) {
      yield* freeCopiedContent(union, upper, file, size);
      throw error;
    } finally {
      yield* restore(union, upper, attributes, capability);
    }
    yield* wait(backend.fsync?.(upper, file, false, DAEMON));
    work.reached('complete-durable');
    yield* wait(marks.unset(layer, upper, 'metacopy'));
    work.reached('complete-done');
  } finally {
    if (opened !== undefined) yield* wait(backend.release?.(upper, file));
  }
  node.content = { layer, node: upper };
}

/** The file's capabilities, which writing to it removes. */
function* capabilityOf(union: Union, upper: object): Steps<Uint8Array | undefined> {
  try {
    const { backend } = union.writable().layer;
    return yield* wait(backend.getxattr?.(upper, CAPABILITY, DAEMON));
  } catch (error) {
    if (error instanceof FsError && error.code === 'EOPNOTSUPP') return undefined;
    throw error;
  }
}

/** Restores what writing the copy changed: for guests, nobody has written the file. */
function* restore(
  union: Union,
  upper: object,
  attributes: Attributes,
  capability: Uint8Array | undefined,
): Steps<void> {
  const { backend } = union.writable().layer;
  const { mode } = attributes;
  // Without CAP_FSETID a write also clears set-id bits.
  const isPrivileged = (mode & (ModeBits.SETUID | ModeBits.SETGID)) !== 0;
  const changes = { ...timesOf(attributes), ...(isPrivileged ? { mode: mode & ModeBits.PERMISSIONS } : {}) };
  yield* wait(backend.setattr?.(upper, changes, undefined, DAEMON));
  if (capability !== undefined)
    yield* wait(backend.setxattr?.(upper, CAPABILITY, capability, 0, false, DAEMON));
}

/** Frees the space of an incomplete copy: the upper may be full. */
function* freeCopiedContent(union: Union, upper: object, file: unknown, size: number): Steps<void> {
  const mode = FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE;
  try {
    yield* wait(union.writable().layer.backend.fallocate?.(upper, file, mode, 0, size, DAEMON));
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
  }
}
