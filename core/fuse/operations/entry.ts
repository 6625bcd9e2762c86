import { FileType, FsError, type Entry } from '../../backend/index.js';
import { NO_SLOT, type Slot } from '../../state/index.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import { putEntry } from '../wire/reply-writers.js';
import { fuse_entry_out } from '../wire/structures.js';

/**
 * Gives the guest a node: puts `struct fuse_entry_out` into the reply and counts the lookup.
 * @returns the node's slot.
 * @throws ENFILE beyond the limit of nodes, TypeError for impossible attributes. The node is then
 * forgotten.
 */
export function enter(session: Session, at: number, entry: Entry<object>): Slot {
  const { nodes, out, entryValidity, attributeValidity } = session;
  const { node, attributes } = entry;
  const slot = nodes.intern(node);
  if (slot === NO_SLOT) {
    nodes.discard(node);
    throw FsError.of('ENFILE');
  }
  const low = nodes.idLow(slot);
  const high = nodes.idHigh(slot);
  try {
    out.attributes(at + fuse_entry_out.attr, attributes, low, high);
  } catch (error) {
    nodes.reap(slot);
    throw error;
  }
  putEntry(out.words, at, low, high, nodes.generation(slot), entryValidity, attributeValidity);
  session.counts.add(slot);
  session.keepCache?.tell(slot, attributes, low);
  return slot;
}

/** Notes what the name stands for that a request has looked up or made. */
export function noteChild(
  session: Session,
  request: Request,
  slot: Slot,
  { attributes }: Entry<object>,
): void {
  const { child } = request;
  if (child === undefined) return;
  const isDirectory = (attributes.mode & FileType.MASK) === FileType.DIRECTORY;
  session.journal?.names.found(request.slot, child, slot, isDirectory, request.childVersion);
}
