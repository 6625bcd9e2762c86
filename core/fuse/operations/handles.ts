import { FsError } from '../../backend/index.js';
import { NO_HANDLE, type DirectoryStream, type HandleKind } from '../../state/index.js';
import type { Session } from '../session/session.js';

const FAILED = 'releasing a file failed';

/** Opens a handle on a node. @returns its index. @throws ENFILE beyond the limit. */
export function openHandle(
  session: Session,
  kind: HandleKind,
  slot: number,
  object: unknown,
  flags: number,
): number {
  const index = session.handles.open(kind, slot, object, flags);
  if (index === NO_HANDLE) throw FsError.of('ENFILE');
  session.nodes.reference(slot);
  return index;
}

/**
 * Ends a handle for the guest, and for the backend once no request uses it any more.
 * @returns a promise, which does not reject, where there is something to wait for.
 */
export function closeHandle(session: Session, index: number): Promise<void> | undefined {
  if (session.export.hasLocks) session.locks.releaseHandle(session.handles.slot(index), index);
  session.fileTable?.withdrawFile(index);
  return session.handles.invalidate(index) ? endHandle(session, index) : undefined;
}

/** Ends a handle, which no request uses, for the backend. @returns as {@link closeHandle}. */
export function endHandle(session: Session, index: number): Promise<void> | undefined {
  const { handles, nodes, backend } = session;
  const object = handles.object(index);
  const slot = handles.slot(index);
  try {
    const closed = handles.isDirectory(index)
      ? (object as DirectoryStream).close()
      : backend.release?.(nodes.node(slot), object);
    if (closed instanceof Promise) return endLater(session, index, closed);
  } catch (error) {
    session.report(error, FAILED);
  }
  handles.free(index);
  nodes.release(slot);
  return undefined;
}

async function endLater(session: Session, index: number, closed: Promise<void>): Promise<void> {
  const { handles, nodes } = session;
  const slot = handles.slot(index);
  try {
    await closed;
  } catch (error) {
    session.report(error, FAILED);
  }
  handles.free(index);
  nodes.release(slot);
}

/** Puts away an open file that no guest will get. */
export function discardFile(session: Session, node: object, file: unknown): void {
  const fail = (error: unknown): void => session.report(error, FAILED);
  try {
    const released = session.backend.release?.(node, file);
    if (released instanceof Promise) released.catch(fail);
  } catch (error) {
    fail(error);
  }
}
