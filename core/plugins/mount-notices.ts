import type { NodeChange } from '../backend/index.js';
import { invalidEntry, invalidInode, prune, PRUNE_MINOR_VERSION, type Session } from '../fuse/index.js';
import { type Export, NO_SLOT, ROOT_SLOT, type Slot } from '../state/index.js';

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

/** Most nodes of one message: 32 KiB. */
const MAX_PRUNED = 4096;

/**
 * Has the kernel of this host forget nodes that no program uses, one after the other, when the
 * export can know few more. It keeps them otherwise as long as there is memory, and a walk through
 * a larger tree would end with ENFILE.
 * @param sessions of the mount.
 */
export function pruneWhenCrowded(
  { nodes }: Export,
  sessions: readonly Session[],
  notify: (message: Uint8Array) => void,
): void {
  const most = Math.min(MAX_PRUNED, Math.max(1, nodes.limit >>> 4));
  // Twice as many are to go as come, since some are in use.
  const interval = Math.ceil(most / 2);
  let added = 0;
  let hand: Slot = ROOT_SLOT;
  nodes.onCrowded = () => {
    if (added++ % interval !== 0) return;
    if (!sessions.some(({ negotiated }) => (negotiated?.minor ?? 0) >= PRUNE_MINOR_VERSION)) return;
    const ids: number[] = [];
    for (let left = nodes.slotEnd; left > 0 && ids.length < 2 * most; left--) {
      hand = ((hand + 1) % nodes.slotEnd) as Slot;
      if (hand !== ROOT_SLOT && nodes.isUsed(hand)) ids.push(nodes.idLow(hand), nodes.idHigh(hand));
    }
    notify(prune(ids));
  };
}
