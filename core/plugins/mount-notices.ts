import type { NodeChange } from '../backend/index.js';
import { invalidEntry, invalidInode } from '../fuse/index.js';
import { type Export, NO_SLOT } from '../state/index.js';

/** Has the kernel of this host drop what it has cached of a changed node: whole messages. */
export function noticesOf({ nodes }: Export, node: object, { kind, name }: NodeChange): Uint8Array[] {
  const slot = nodes.slotOf(node);
  if (slot === NO_SLOT) return [];
  const low = nodes.idLow(slot);
  const high = nodes.idHigh(slot);
  const isOfNames = kind === 'made' || kind === 'removed';
  const ofNode = name === undefined || isOfNames ? [invalidInode(low, high, kind === 'content')] : [];
  return name !== undefined && isOfNames ? [...ofNode, invalidEntry(low, high, name)] : ofNode;
}
