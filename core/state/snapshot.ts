import { FsError, type Backend, type NodeKey } from '../backend/index.js';
import { Export, type ExportOptions } from './export.js';
import type { NodeGeneration, NodeIdHigh, NodeIdLow, Slot } from './ids.js';
import { restoreLocks, saveLocks } from './locks/index.js';
import { NO_SLOT, ROOT_SLOT } from './node-table.js';
import { decodeSaved, encodeSaved, type SavedNode, type SavedSession } from './saved.js';

/** Saves one session. @param node maps a node's slot to its index in the saved form. */
export type SaveSession = (node: (slot: Slot) => number) => SavedSession;

/**
 * Saves an export: its nodes, its sessions with their lookups, handles and directory streams, all
 * locks, and the backend's own state. The export itself does not change.
 * @throws Error if the backend has no durable identities (`key` and `resolve`).
 */
export async function saveExport(shared: Export, sessions: readonly SaveSession[]): Promise<Uint8Array> {
  const { backend, nodes } = shared;
  if (backend.key === undefined || backend.resolve === undefined) {
    throw new Error('this backend can’t be saved: it has no durable node keys');
  }
  const saved: SavedNode[] = [];
  const indexes = new Map<Slot, number>();
  const node = (slot: Slot): number => {
    let index = indexes.get(slot);
    if (index === undefined) {
      index = saved.length;
      indexes.set(slot, index);
      const [low, high, generation] = [nodes.idLow(slot), nodes.idHigh(slot), nodes.generation(slot)];
      const key = saveKey(backend.key!(nodes.node(slot)));
      saved.push({ key, low: low >>> 0, high: high >>> 0, generation: generation >>> 0 });
    }
    return index;
  };
  node(ROOT_SLOT);
  const savedSessions = sessions.map((save) => save(node));
  const { locks, waiters } = saveLocks(shared.locks, node);
  const state = (await backend.save?.()) ?? new Uint8Array(0);
  return encodeSaved(
    { nodes: saved, sessions: savedSessions, locks: { locks: [...locks], waiters: [...waiters] } },
    state,
  );
}

/** A restored export, whose sessions are still to be restored. */
export interface Restored {
  readonly export: Export;
  readonly sessions: readonly SavedSession[];
  /**
   * The slot of a saved node, or {@link NO_SLOT} if the file is gone. The guest then gets ESTALE.
   */
  slot(index: number): Slot;
  /**
   * To be called once all sessions are restored: nodes that none of them uses are forgotten.
   */
  finish(): void;
}

/**
 * Mounts a backend and restores what {@link saveExport} has saved: nodes with their old ids, and
 * locks. Parked lock requests are not restored: the guest or its transport must send them again.
 * @throws RangeError for bytes that are no saved export; also what the backend throws.
 */
export async function restoreExport(
  backend: Backend,
  bytes: Uint8Array,
  options: ExportOptions,
): Promise<Restored> {
  const { saved, backendState } = decodeSaved(bytes);
  const shared = await Export.open(backend, options, backendState);
  const { nodes } = shared;
  const slots: Slot[] = [];
  for (const [index, node] of saved.nodes.entries()) {
    const slot = index === 0 ? ROOT_SLOT : await restoreNode(shared, node);
    if (slot !== NO_SLOT) nodes.reference(slot);
    slots.push(slot);
  }
  const slotOf = (index: number): Slot => slots[index] ?? NO_SLOT;
  for (const { id } of saved.sessions) shared.reserveSession(id);
  const find = (index: number): Slot | undefined => (slotOf(index) === NO_SLOT ? undefined : slotOf(index));
  restoreLocks(shared.locks, saved.locks, find, () => undefined);
  return {
    export: shared,
    sessions: saved.sessions,
    slot: slotOf,
    finish() {
      for (const slot of slots.splice(0)) if (slot !== NO_SLOT) nodes.release(slot);
    },
  };
}

async function restoreNode(shared: Export, saved: SavedNode): Promise<Slot> {
  const { backend, nodes, log } = shared;
  try {
    const node = await backend.resolve!(restoreKey(saved.key));
    const low = (saved.low | 0) as NodeIdLow;
    const high = (saved.high | 0) as NodeIdHigh;
    return nodes.restore(node, low, high, (saved.generation | 0) as NodeGeneration);
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    log.warn({ key: saved.key, error: error.code }, 'a node that a guest knew is gone');
    return NO_SLOT;
  }
}

function saveKey(key: NodeKey): SavedNode['key'] {
  if (typeof key === 'string') return { s: key };
  return typeof key === 'number' ? { n: key } : { b: Buffer.from(key).toString('base64') };
}

function restoreKey(key: SavedNode['key']): NodeKey {
  if ('s' in key) return key.s;
  return 'n' in key ? key.n : new Uint8Array(Buffer.from(key.b, 'base64'));
}
