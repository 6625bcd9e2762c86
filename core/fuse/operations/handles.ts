import { FsError } from '../../backend/index.js';
import {
  NO_HANDLE,
  type DirectoryStream,
  type HandleIndex,
  type HandleKind,
  type Slot,
} from '../../state/index.js';
import type { Session } from '../session/session.js';

/** Opens a handle on a node. @returns its index. @throws ENFILE beyond the limit. */
export function openHandle(
  session: Session,
  kind: HandleKind,
  slot: Slot,
  object: unknown,
  flags: number,
): HandleIndex {
  const index = session.handles.open(kind, slot, object, flags);
  if (index === NO_HANDLE) throw FsError.of('ENFILE');
  session.nodes.reference(slot);
  return index;
}

/**
 * Closes a handle. The guest cannot use it from here on; the backend's `release` is called once no
 * request uses the handle.
 * @returns a promise if the backend returns one, or if there are many locks. It does not reject.
 */
export function closeHandle(session: Session, index: HandleIndex): Promise<void> | undefined {
  const unlocked = session.export.hasLocks
    ? session.locks.releaseHandle(session.handles.slot(index), index)
    : undefined;
  session.fileTable?.withdrawFile(index);
  if (!session.handles.invalidate(index)) return unlocked;
  return unlocked === undefined ? endHandle(session, index) : unlocked.then(() => endHandle(session, index));
}

/** Has the backend release a handle that no request uses. @returns as {@link closeHandle}. */
export function endHandle(session: Session, index: HandleIndex): Promise<void> | undefined {
  const { handles, nodes, backend } = session;
  const object = handles.object(index);
  const slot = handles.slot(index);
  if (session.kernelFiles !== undefined && !handles.isDirectory(index)) session.kernelFiles.end(slot);
  try {
    const closed = handles.isDirectory(index)
      ? (object as DirectoryStream).close()
      : backend.release?.(nodes.node(slot), object);
    if (closed instanceof Promise) return endLater(session, index, closed);
  } catch (error) {
    session.reportRelease(error, index);
  }
  handles.free(index);
  nodes.release(slot);
  return undefined;
}

async function endLater(session: Session, index: HandleIndex, closed: Promise<void>): Promise<void> {
  const { handles, nodes } = session;
  const slot = handles.slot(index);
  try {
    await closed;
  } catch (error) {
    session.reportRelease(error, index);
  }
  handles.free(index);
  nodes.release(slot);
}

/** Releases an open file that no guest will get. */
export function discardFile(session: Session, node: object, file: unknown): void {
  const fail = (error: unknown): void => session.reportRelease(error, undefined);
  try {
    const released = session.backend.release?.(node, file);
    if (released instanceof Promise) released.catch(fail);
  } catch (error) {
    fail(error);
  }
}
