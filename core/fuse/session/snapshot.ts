import { OpenFlags, type Opened } from '../../backend/index.js';
import {
  DirectoryStream,
  HandleKind,
  NO_SLOT,
  type HandleGeneration,
  type HandleIndex,
  type Slot,
  type Restored,
  type SavedHandle,
  type SavedSession,
} from '../../state/index.js';
import { discardFile } from '../operations/handles.js';
import { RequestContext } from './request.js';
import { Session, type SessionOptions } from './session.js';

/**
 * A session as plain data: what INIT negotiated, the guest's lookups and its handles. Only waiting
 * lock requests may be in flight (see {@link Session.drain}).
 * @param node maps a node's slot to its index in the saved form.
 */
export function saveSession(session: Session, node: (slot: Slot) => number): SavedSession {
  const { negotiated, counts, handles, locks } = session;
  session.fileTable?.clear();
  const lookups: [number, number][] = [];
  counts.each((slot, count) => lookups.push([node(slot), count]));
  const saved: SavedHandle[] = [];
  handles.each((index) => {
    const handle = {
      index,
      generation: handles.generation(index) >>> 0,
      node: node(handles.slot(index)),
      flags: handles.flags(index) >>> 0,
    };
    if (!handles.isDirectory(index)) saved.push(handle);
    else {
      const { entries, complete } = (handles.object(index) as DirectoryStream).save();
      saved.push({ ...handle, stream: { entries: Buffer.from(entries).toString('base64'), complete } });
    }
  });
  return {
    id: locks.id,
    ...(negotiated === undefined ? {} : { negotiated }),
    lookups,
    handles: saved,
    handleGeneration: handles.lastGeneration >>> 0,
  };
}

/**
 * Restores a session: the guest continues with its node ids, handles, directory streams and locks.
 * Files are opened again. If one cannot be, that is logged, and its handle gives EBADF.
 */
export async function restoreSession(
  restored: Restored,
  saved: SavedSession,
  options: SessionOptions = {},
): Promise<Session> {
  const session = new Session(restored.export, options, saved.id);
  session.negotiated = saved.negotiated;
  for (const [index, count] of saved.lookups) {
    const slot = restored.slot(index);
    if (slot !== NO_SLOT) session.counts.add(slot, count);
  }
  for (const handle of saved.handles) {
    const slot = restored.slot(handle.node);
    if (slot === NO_SLOT) continue;
    try {
      await restoreHandle(session, handle, slot);
    } catch (error) {
      session.export.log.warn(
        { err: error, handle: handle.index },
        'a file that a guest had open could not be opened again',
      );
    }
  }
  session.handles.seal((saved.handleGeneration | 0) as HandleGeneration);
  return session;
}

async function restoreHandle(session: Session, saved: SavedHandle, slot: Slot): Promise<void> {
  const { handles, nodes, backend, export: shared } = session;
  const { flags, stream } = saved;
  const index = saved.index as HandleIndex;
  const generation = (saved.generation | 0) as HandleGeneration;
  if (stream !== undefined) {
    const entries = new Uint8Array(Buffer.from(stream.entries, 'base64'));
    const listing = DirectoryStream.restore({ entries, complete: stream.complete }, shared.listings);
    handles.restore(index, generation, HandleKind.DIRECTORY, slot, listing, flags);
  } else {
    const again = flags & ~(OpenFlags.CREAT | OpenFlags.EXCL | OpenFlags.TRUNC);
    const opened: Opened<unknown> | undefined = await backend.open?.(
      nodes.node(slot),
      again,
      new RequestContext(),
    );
    try {
      handles.restore(index, generation, HandleKind.FILE, slot, opened?.file, flags);
    } catch (error) {
      discardFile(session, nodes.node(slot), opened?.file);
      throw error;
    }
  }
  nodes.reference(slot);
}
