import { type Backend, DAEMON, OpenFlags, type Opened } from '../../backend/index.js';
import {
  DirectoryStream,
  HandleKind,
  NO_SLOT,
  NONE_HELD,
  type HandleGeneration,
  type HandleIndex,
  type HeldDescriptors,
  type Slot,
  type Restored,
  type SavedHandle,
  type SavedSession,
} from '../../state/index.js';
import { discardFile } from '../operations/handles.js';
import { PASSED_FLAGS } from '../operations/open.js';
import { Session, type SessionOptions } from './session.js';

/**
 * A session as plain data: what INIT negotiated, the guest's lookups and its handles. Only waiting
 * lock requests may be in flight (see {@link Session.drain}).
 * @param node maps a node's slot to its index in the saved form.
 * @param hold has a descriptor go along to a successor on this host, and returns its number.
 * Without it, files are to be opened again.
 */
export function saveSession(
  session: Session,
  node: (slot: Slot) => number,
  hold?: (fd: number) => number,
): SavedSession {
  const { negotiated, counts, handles, locks, accelerator } = session;
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
    if (!handles.isDirectory(index)) {
      const fd = hold === undefined ? undefined : accelerator.held?.(handles.object(index));
      const file = handles.isLost(index) ? { ...handle, lost: true } : handle;
      saved.push(fd === undefined ? file : { ...file, held: hold!(fd) });
    } else {
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
 * Files are taken over by their descriptors, or opened again. If one cannot be, that is logged, and
 * its handle gives EBADF.
 * @throws RangeError for a saved session that contradicts itself or the limits. The session is
 * closed then.
 */
export async function restoreSession(
  restored: Restored,
  saved: SavedSession,
  options: SessionOptions = {},
): Promise<Session> {
  const session = new Session(restored.export, options, saved.id);
  try {
    await restoreInto(session, restored, saved, restored.held);
    const lost = restored.lostLocks.filter((lock) => lock.session === saved.id);
    for (const { handle } of lost) session.loseLock(handle as HandleIndex);
    if (lost.length > 0)
      session.log.warn(
        { guest: saved.id, locks: lost.length },
        'locks of a guest cannot be had again: the files give EIO until they are closed',
      );
    return session;
  } catch (error) {
    await session.close();
    throw error;
  }
}

/**
 * Restores what a session has but its locks.
 * @param held descriptors of open files, by which they are opened.
 * @returns how many open files are lost.
 * @throws RangeError as {@link restoreSession}.
 */
export async function restoreInto(
  session: Session,
  restored: Pick<Restored, 'slot'>,
  saved: SavedSession,
  held: HeldDescriptors = NONE_HELD,
): Promise<number> {
  let lost = 0;
  session.negotiated = saved.negotiated;
  for (const [index, count] of saved.lookups) {
    const slot = restored.slot(index);
    if (slot !== NO_SLOT) session.counts.add(slot, count);
  }
  for (const handle of saved.handles) {
    const slot = restored.slot(handle.node);
    if (slot === NO_SLOT) {
      lost += 1;
      continue;
    }
    try {
      await restoreHandle(session, handle, slot, held);
    } catch (error) {
      if (error instanceof RangeError) throw error;
      lost += 1;
      session.export.log.warn(
        { err: error, handle: handle.index },
        'a file that a guest had open could not be opened again',
      );
    }
  }
  session.handles.seal((saved.handleGeneration | 0) as HandleGeneration);
  return lost;
}

async function restoreHandle(
  session: Session,
  saved: SavedHandle,
  slot: Slot,
  held: HeldDescriptors,
): Promise<void> {
  const { handles, nodes, backend, accelerator, export: shared } = session;
  const { flags, stream } = saved;
  const index = saved.index as HandleIndex;
  const generation = (saved.generation | 0) as HandleGeneration;
  if (stream !== undefined) {
    const entries = new Uint8Array(Buffer.from(stream.entries, 'base64'));
    const listing = DirectoryStream.restore({ entries, complete: stream.complete }, shared.listings);
    handles.restore(index, generation, HandleKind.DIRECTORY, slot, listing, flags);
  } else {
    const node = nodes.node(slot);
    const again = flags & PASSED_FLAGS & ~OpenFlags.TRUNC;
    const fd = saved.held === undefined || accelerator.adoptFile === undefined ? -1 : held.take(saved.held);
    const file = fd >= 0 ? accelerator.adoptFile!(node, fd, again) : await openAgain(backend, node, again);
    try {
      handles.restore(index, generation, HandleKind.FILE, slot, file, flags);
      if (saved.lost === true) handles.lose(index);
    } catch (error) {
      discardFile(session, node, file);
      throw error;
    }
  }
  nodes.reference(slot);
}

async function openAgain(backend: Backend, node: object, flags: number): Promise<unknown> {
  const opened: Opened<unknown> | undefined = await backend.open?.(node, flags, DAEMON);
  return opened?.file;
}
