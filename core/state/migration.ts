import { setImmediate as nextTurn } from 'node:timers/promises';
import { MOST_FOREIGN_JSON } from '../backend/limits.js';
import { FsError, type NodeKey } from '../backend/index.js';
import type { Export } from './export.js';
import type { Slot } from './ids.js';
import { saveLocks } from './locks/index.js';
import { NO_SLOT, ROOT_SLOT } from './node-table.js';
import {
  enterNode,
  restoreKey,
  restoreRemembered,
  saveForgotten,
  savedNodes,
  type SaveSession,
} from './saved-export.js';
import type { RememberedNode } from './remembered-nodes.js';
import {
  decodeSaved,
  encodeSaved,
  type SavedExport,
  type SavedNode,
  type SavedSession,
} from './saved-form.js';

/** Nodes that are found before other guests get a turn. */
const NODES_PER_TURN = 64;
/** Forgotten nodes that go along. To find one takes about 0.1 ms while the guest stands still. */
const MOST_REMEMBERED = 4096;
/** Forgotten nodes that are found before other guests get a turn. */
const REMEMBERED_PER_TURN = 16;
/** Bytes that they may take of what the other host reads. */
const MOST_REMEMBERED_JSON = MOST_FOREIGN_JSON / 4;

/** What one guest has, on its way to another host: {@link saveExport} of a single session. */
export async function saveMigrating(shared: Export, session: number, save: SaveSession): Promise<Uint8Array> {
  const { saved, slots, node } = savedNodes(shared);
  const one = save(node);
  const { locks, waiters } = saveLocks(shared.locks, node, session);
  const { backend, accelerator, nodes } = shared;
  const migration = accelerator.migration;
  const state =
    migration === undefined
      ? await (accelerator.transfer ?? backend).save?.()
      : await migration.depart(slots.map((slot) => nodes.node(slot)));
  const plain = { nodes: saved, sessions: [one], locks: { locks: [...locks], waiters: [...waiters] } };
  const remembered = await saveNewest(shared);
  return encodeSaved({ ...plain, remembered }, state ?? new Uint8Array(0));
}

/** A guest's nodes, found in an export that is served already. */
export interface Arrived {
  readonly session: SavedSession;
  readonly locks: SavedExport['locks']['locks'];
  /** Nodes that were not found, and were there when the guest left, or that it has open. */
  readonly lost: number;
  /** The slot of a saved node, or {@link NO_SLOT} if it was not found: the guest gets ESTALE. */
  slot(index: number): Slot;
  /** To be called where the guest stays: its file handles lead to nodes that it has forgotten. */
  remember(): void;
  /** To be called once the session is restored, or will not be. */
  finish(): void;
}

/**
 * Finds what {@link saveMigrating} has saved.
 * @param isAlone whether no other guest uses the export: a backend that is saved as a whole can
 * only be replaced as a whole.
 * @throws Error that says why it cannot be. Everything is as before then, but what the backend had
 * may be gone.
 */
export async function findMigrated(shared: Export, bytes: Uint8Array, isAlone: boolean): Promise<Arrived> {
  const { saved, backendState } = decodeSaved(bytes, MOST_FOREIGN_JSON);
  const [session, second] = saved.sessions;
  if (session === undefined || second !== undefined)
    throw new RangeError(`${saved.sessions.length} guests in the state, not one`);
  if ([...saved.locks.locks, ...saved.locks.waiters].some((lock) => lock.session !== session.id))
    throw new RangeError("a lock in the state is not the guest's");
  const find = await finder(shared, backendState, isAlone);
  const { nodes } = shared;
  const used = new Set(session.handles.map(({ node }) => node));
  const slots: Slot[] = [];
  let lost = 0;
  const finish = (): void => {
    for (const slot of slots.splice(0)) if (slot !== NO_SLOT) nodes.release(slot);
  };
  try {
    for (const [index, node] of saved.nodes.entries()) {
      if (index % NODES_PER_TURN === NODES_PER_TURN - 1) await nextTurn();
      let slot: Slot = ROOT_SLOT;
      if (index > 0) {
        try {
          slot = enterNode(shared, await find(restoreKey(node.key)), node);
          if (slot === NO_SLOT) lost += 1;
        } catch (error) {
          if (!(error instanceof FsError)) throw error;
          // A name that was removed before concerns nobody who has the file not open.
          if (error.code !== 'ENOENT' || used.has(index)) lost += 1;
          slot = NO_SLOT;
        }
      }
      if (slot !== NO_SLOT) nodes.reference(slot);
      slots.push(slot);
    }
  } catch (error) {
    finish();
    await shared.accelerator.transfer?.undo();
    throw error;
  }
  return {
    session,
    locks: saved.locks.locks,
    lost,
    slot: (index) => slots[index] ?? NO_SLOT,
    remember: () =>
      restoreRemembered(
        shared,
        saved.remembered?.filter((node) => isFound(shared, node)),
      ),
    finish,
  };
}

/** How nodes are found by their keys. */
async function finder(
  shared: Export,
  state: Uint8Array,
  isAlone: boolean,
): Promise<(key: NodeKey) => object | Promise<object>> {
  const { backend, accelerator } = shared;
  if (backend.key === undefined || backend.resolve === undefined)
    throw new Error('the backend has no durable node keys');
  const { migration } = accelerator;
  if (migration !== undefined) return migration.arrive(state);
  const taker = accelerator.transfer ?? backend;
  if (state.length > 0 && taker.restore === undefined)
    throw new RangeError('the state is that of another backend');
  if (taker.restore !== undefined) {
    if (!isAlone) throw new Error('another guest uses what would be replaced');
    await taker.restore(state);
  }
  return (key) => backend.resolve!(key);
}

/** The nodes that were forgotten last, in their order, as many as may go along. */
async function saveNewest(shared: Export): Promise<SavedNode[]> {
  const { nodes, accelerator } = shared;
  const found: SavedNode[] = [];
  let room = MOST_REMEMBERED_JSON;
  accelerator.retrace?.(nodes.remembered.traces);
  for (const [index, node] of [...nodes.remembered.all].slice(-MOST_REMEMBERED).toReversed().entries()) {
    if (index % REMEMBERED_PER_TURN === REMEMBERED_PER_TURN - 1) await nextTurn();
    const place = node.place ?? (await placeOf(shared, node));
    const saved = saveForgotten({ ...node, place, trace: place === undefined ? node.trace : undefined });
    if (!isFound(shared, saved)) continue;
    room -= JSON.stringify(saved).length;
    if (room < 0) break;
    found.push(saved);
  }
  return found.toReversed();
}

async function placeOf({ accelerator }: Export, { key, seen }: RememberedNode): Promise<string | undefined> {
  try {
    return await accelerator.elsewhere?.place(key, seen);
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}

/**
 * Whether a forgotten node can be found on another host than where it was known: by its place, or
 * by its key if all goes along. Else `recover` would believe any key of a file system.
 */
function isFound(shared: Export, { place }: SavedNode): boolean {
  const { elsewhere, recover, contents, trace } = shared.accelerator;
  if (elsewhere !== undefined) return place !== undefined;
  const isOfAll = (recover === undefined || contents !== undefined) && trace === undefined;
  return place === undefined && isOfAll && movesAsWhole(shared);
}

/** Whether a guest takes what the backend has along, so that no other guest may use it. */
export function movesAsWhole({ backend, accelerator }: Export): boolean {
  return backend.save !== undefined && accelerator.migration === undefined;
}
