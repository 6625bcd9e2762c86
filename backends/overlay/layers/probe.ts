import {
  FsError,
  type Logger,
  RenameFlags,
  type Steps,
  UsageError,
  wait,
} from '../../../core/backend/index.js';
import type { OverlaySettings } from '../settings.js';
import type { Layer } from './layer.js';
import { type Marks, NameMarks, OverlayfsMarks } from './whiteouts.js';
import type { WorkArea } from './work-area.js';

/**
 * Tries in the work area what overlayfs's marks need: devices, xattrs, and renames that exchange or
 * leave a whiteout. If the backend has the methods but its file system refuses, the layer uses
 * reserved names instead.
 * @throws UsageError if the operator must decide: privileges are missing, or `marks` asks for what
 * is impossible.
 */
export function* probeMarks(
  layer: Layer,
  work: WorkArea,
  { marks, xattrs }: Pick<OverlaySettings, 'marks' | 'xattrs'>,
  log: Logger,
): Steps<Marks> {
  if (!(layer.marks instanceof OverlayfsMarks)) return layer.marks;
  const error = yield* tryMarks(layer, work);
  if (error === undefined) return layer.marks;
  if (error.code === 'EPERM' && xattrs === 'trusted') {
    throw new UsageError(
      `overlay: the upper refuses ${xattrs}.overlay.* attributes or devices (EPERM): ` +
        'run with CAP_SYS_ADMIN and CAP_MKNOD, or set xattrs to user',
    );
  }
  if (marks === 'overlayfs') {
    throw new UsageError(
      `overlay: the upper cannot hold overlayfs's marks (${error.code}): set marks to names`,
    );
  }
  log.info({ errno: error.code }, "the upper cannot hold overlayfs's marks: whiteouts are names (.wh.NAME)");
  return new NameMarks();
}

function* tryMarks(layer: Layer, work: WorkArea): Steps<FsError | undefined> {
  const { backend, marks } = layer;
  const { directory } = work;
  const names = [work.temporary(), work.temporary(), work.temporary()] as const;
  const [made, whiteout, moved] = names;
  try {
    if (backend.mkdir === undefined || backend.rename === undefined) return FsError.of('EOPNOTSUPP');
    yield* work.make(made, 0o700, function* (node) {
      yield* wait(marks.setOpaque(layer, node));
    });
    yield* wait(marks.addWhiteout(layer, directory, whiteout));
    yield* wait(work.exchange(directory, made, directory, whiteout));
    yield* wait(work.rename(directory, made, directory, moved, RenameFlags.WHITEOUT));
    return undefined;
  } catch (error) {
    if (error instanceof FsError) return error;
    throw error;
  } finally {
    for (const name of names) yield* work.remove(name);
  }
}
