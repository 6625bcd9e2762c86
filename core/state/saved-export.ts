import { acceleratorOf } from '../backend/accelerator.js';
import { FsError, LockHold, type Backend, type NodeKey } from '../backend/index.js';
import { Export, type ExportOptions } from './export.js';
import type { NodeGeneration, NodeIdHigh, NodeIdLow, Slot } from './ids.js';
import type { Left } from './journal/index.js';
import type { RememberedNode } from './remembered-nodes.js';
import { holdOf, restoreLocks, saveLocks, type SavedLock } from './locks/index.js';
import { NO_SLOT, ROOT_SLOT } from './node-table.js';
import {
  decodeSaved,
  encodeSaved,
  type SavedExport,
  type SavedNode,
  type SavedSession,
} from './saved-form.js';

/**
 * Open descriptors that go along with a saved form to a successor on the same host. Each has a
 * number in the saved form.
 */
export interface HeldDescriptors {
  /** The descriptor with a number, or -1 if it did not come. It stays where it is. */
  at(index: number): number;
  /** As {@link at}, but the descriptor is the caller's from here on. */
  take(index: number): number;
}

/** No descriptors: for a successor on another host. */
export const NONE_HELD: HeldDescriptors = { at: () => -1, take: () => -1 };

/** Saves one session. @param node maps a node's slot to its index in the saved form. */
export type SaveSession = (node: (slot: Slot) => number) => SavedSession;

/**
 * Saves an export: its nodes, its sessions with their lookups, handles and directory streams, all
 * locks, and the backend's own state. The export itself does not change.
 * @param hold has a descriptor go along to a successor on this host, and returns its number.
 * @throws Error if the backend has no durable identities (`key` and `resolve`).
 */
export async function saveExport(
  shared: Export,
  sessions: readonly SaveSession[],
  hold?: (fd: number) => number,
): Promise<Uint8Array> {
  const { backend, accelerator, nodes } = shared;
  const { saved, slots, node } = savedNodes(shared);
  const savedSessions = sessions.map((save) => save(node));
  const { locks, waiters } = saveLocks(shared.locks, node);
  const plain = {
    sessions: savedSessions,
    locks: { locks: [...locks], waiters: [...waiters] },
    ...saveRemembered(shared),
  };
  if (hold !== undefined) holdNodes(shared, saved, slots, hold);
  if (accelerator.leave === undefined) {
    const state = (await backend.save?.()) ?? new Uint8Array(0);
    return encodeSaved({ ...plain, nodes: saved }, state);
  }
  const traced = saved.map((one, index) => {
    const trace = accelerator.trace?.(nodes.node(slots[index]!)) ?? '';
    return trace === '' ? one : { ...one, trace };
  });
  return encodeSaved({ ...plain, nodes: traced, traced: true }, new Uint8Array(0));
}

/** Has descriptors go along of those nodes of which the keeper holds one. */
function holdNodes(
  { nodes, accelerator, journal }: Export,
  saved: readonly SavedNode[],
  slots: readonly Slot[],
  hold: (fd: number) => number,
): void {
  for (const [index, node] of saved.entries()) {
    const slot = slots[index]!;
    if (journal?.holds(slot) !== true) continue;
    const fd = accelerator.descriptor?.(nodes.node(slot)) ?? -1;
    if (fd >= 0) node.held = hold(fd);
  }
}

/** The nodes that guests have forgotten and that are found by their file handles. */
function saveRemembered({ nodes }: Export): { remembered?: SavedNode[] } {
  const remembered = Array.from(nodes.remembered.all, saveForgotten);
  return remembered.length === 0 ? {} : { remembered };
}

/** A node that guests have forgotten. */
export function saveForgotten({ low, high, generation, key, trace, place }: RememberedNode): SavedNode {
  return {
    key: saveKey(key),
    low: low >>> 0,
    high: high >>> 0,
    generation: generation >>> 0,
    ...(trace === undefined ? {} : { trace }),
    ...(place === undefined ? {} : { place }),
  };
}

/** Takes what {@link saveForgotten} gave of nodes, as far as this export remembers any. */
export function restoreRemembered({ nodes }: Export, remembered: readonly SavedNode[] = []): void {
  for (const { low, high, generation, key, trace, place } of remembered) {
    const id = { low: (low | 0) as NodeIdLow, high: (high | 0) as NodeIdHigh };
    const rest = { generation: (generation | 0) as NodeGeneration, key: restoreKey(key), place };
    // Traces are of the host where the key is.
    nodes.remembered.add({ ...id, ...rest, trace: place === undefined ? trace : undefined });
  }
}

/** The nodes of a saved form, the root first. Those that `node` is asked for are added. */
export interface SavedNodes {
  readonly saved: SavedNode[];
  /** Where they are in the export, in the same order. */
  readonly slots: Slot[];
  node(slot: Slot): number;
}

/** @throws Error if the backend has no durable identities (`key` and `resolve`). */
export function savedNodes(shared: Export): SavedNodes {
  const { backend, nodes } = shared;
  if (backend.key === undefined || backend.resolve === undefined) {
    throw new Error('this backend can’t be saved: it has no durable node keys');
  }
  const saved: SavedNode[] = [];
  const slots: Slot[] = [];
  const indexes = new Map<Slot, number>();
  const node = (slot: Slot): number => {
    let index = indexes.get(slot);
    if (index === undefined) {
      index = saved.length;
      indexes.set(slot, index);
      slots.push(slot);
      const [low, high, generation] = [nodes.idLow(slot), nodes.idHigh(slot), nodes.generation(slot)];
      const key = saveKey(backend.key!(nodes.node(slot)));
      saved.push({ key, low: low >>> 0, high: high >>> 0, generation: generation >>> 0 });
    }
    return index;
  };
  node(ROOT_SLOT);
  return { saved, slots, node };
}

/** A restored export, whose sessions are still to be restored. */
export interface Restored {
  readonly export: Export;
  readonly held: HeldDescriptors;
  readonly sessions: readonly SavedSession[];
  /** Locks that could not be had again, on nodes that are there. */
  readonly lostLocks: readonly SavedLock<number>[];
  /** Nodes that may have no name, so that only a descriptor keeps them. */
  readonly removed: readonly Slot[];
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
 * locks. Lock requests that wait are not restored: the guest or its transport must send them again.
 * @param held descriptors of open files, where the process that saved ran on this host.
 * @throws RangeError for bytes that are no saved export, or one that contradicts itself or the
 * limits; also what the backend throws. The backend is unmounted then.
 */
export async function restoreExport(
  backend: Backend,
  bytes: Uint8Array,
  options: ExportOptions,
  held: HeldDescriptors = NONE_HELD,
): Promise<Restored> {
  const { saved, backendState } = decodeSaved(bytes);
  const isTraced = saved.traced === true;
  if (isTraced) {
    const traces = new Map<NodeKey, string>();
    for (const { key, trace } of saved.nodes) if (trace !== undefined) traces.set(restoreKey(key), trace);
    acceleratorOf(backend)?.retrace?.(traces);
  }
  const shared = await Export.open(backend, options, backendState);
  try {
    const { accelerator } = shared;
    if (isTraced) {
      const { recover } = accelerator;
      if (recover === undefined)
        throw new RangeError('the state is of a backend that finds its nodes otherwise');
      restoreRemembered(shared, saved.remembered);
      const find: FindNode = async (key) => recover.call(accelerator, key);
      const restored = await restoreInto(shared, saved, held, find, new Set());
      const opened = new Set(saved.sessions.flatMap(({ handles }) => handles.map(({ node }) => node)));
      for (const [node, { held: number }] of saved.nodes.entries())
        if (number !== undefined) opened.add(node);
      // Which of them have lost their names only the backend knows.
      const slots = Array.from(opened, (node) => restored.slot(node)).filter((slot) => slot !== NO_SLOT);
      return whole({ ...restored, removed: slots });
    }
    const removed = new Set<object>();
    const find: FindNode = async (key, fd) => {
      try {
        return await backend.resolve!(key);
      } catch (error) {
        if (fd === undefined || accelerator.adoptNode === undefined) throw error;
        const node = accelerator.adoptNode(key, fd);
        removed.add(node);
        return node;
      }
    };
    restoreRemembered(shared, saved.remembered);
    return await restoreInto(shared, saved, held, find, removed);
  } catch (error) {
    await shared.close();
    throw error;
  }
}

/**
 * As {@link restoreExport}, for what a killed process has left. Requires
 * {@link Export.isRecoverable}.
 */
export async function recoverExport(
  backend: Backend,
  { saved, traces }: Left,
  options: ExportOptions,
): Promise<Restored> {
  acceleratorOf(backend)?.retrace?.(
    new Map([...traces].map(([node, trace]) => [restoreKey(saved.nodes[node]!.key), trace])),
  );
  const shared = await Export.open(backend, options, undefined, true);
  try {
    if (!shared.isRecoverable) throw new RangeError('what the backend has is lost with its process');
    const { accelerator } = shared;
    const find: FindNode = async (key) =>
      accelerator.recover === undefined ? backend.resolve!(key) : accelerator.recover(key);
    return whole(await restoreInto(shared, saved, NONE_HELD, find, new Set()));
  } catch (error) {
    await shared.close();
    throw error;
  }
}

/** Has the backend told once all nodes that it found by `recover` are in use. */
function whole(restored: Restored): Restored {
  const { accelerator } = restored.export;
  return {
    ...restored,
    finish() {
      restored.finish();
      accelerator.recovered?.();
      accelerator.contents?.recovered();
    },
  };
}

/** Nodes that a backend finds at a time, where it may take long. */
const FINDS_AT_ONCE = 16;

/** Finds a node by its key. @param fd a descriptor of its file, if one came along. */
type FindNode = (key: NodeKey, fd: number | undefined) => Promise<object>;

/**
 * @param removed nodes that `find` has found by a descriptor only.
 * @throws RangeError for a saved form that contradicts itself or the limits.
 */
async function restoreInto(
  shared: Export,
  saved: SavedExport,
  held: HeldDescriptors,
  findNode: FindNode,
  removed: ReadonlySet<object>,
): Promise<Restored> {
  const { nodes } = shared;
  const heldOf = heldByNode(saved, held);
  const slots: Slot[] = [];
  const begin = (node: SavedNode, index: number): Promise<object> => {
    const found = findNode(restoreKey(node.key), heldOf.get(index));
    // Whoever waits for it later is told.
    found.catch(() => undefined);
    return found;
  };
  const finding = new Map<number, Promise<object>>();
  // A backend that asks other machines is asked for several nodes at once.
  const width = shared.accelerator.recover === undefined ? 1 : FINDS_AT_ONCE;
  // The root need not be found.
  let next = 1;
  try {
    for (const [index, node] of saved.nodes.entries()) {
      for (; next < Math.min(index + width, saved.nodes.length); next++)
        finding.set(next, begin(saved.nodes[next]!, next));
      const slot = index === 0 ? ROOT_SLOT : await restoreNode(shared, node, finding.get(index)!);
      finding.delete(index);
      if (slot !== NO_SLOT) nodes.reference(slot);
      slots.push(slot);
    }
  } catch (error) {
    // The backend may be unmounted next.
    await Promise.allSettled(finding.values());
    throw error;
  }
  const slotOf = (index: number): Slot => slots[index] ?? NO_SLOT;
  const isGone = (node: number): boolean => slotOf(node) === NO_SLOT;
  const gone = slots.filter((slot) => slot === NO_SLOT).length;
  if (gone > 0) {
    const handles = saved.sessions.flatMap((session) => session.handles.filter(({ node }) => isGone(node)));
    const locks = saved.locks.locks.filter(({ node }) => isGone(node)).length;
    const lost = { nodes: gone, handles: handles.length, locks };
    shared.log.warn(lost, 'files that guests knew are gone, with what was open or locked of them');
  }
  for (const { id } of saved.sessions) shared.reserveSession(id);
  const find = (index: number): Slot | undefined => (slotOf(index) === NO_SLOT ? undefined : slotOf(index));
  // Of a guest that was going they were being released.
  const ids = new Set(saved.sessions.map(({ id }) => id));
  const locks = saved.locks.locks.filter(({ session }) => ids.has(session));
  const lostLocks = await restoreHostLocks(shared, locks, find, (some) =>
    restoreLocks(shared.locks, some, find),
  );
  return {
    export: shared,
    held,
    sessions: saved.sessions,
    lostLocks,
    removed: slots.filter((slot) => slot !== NO_SLOT && removed.has(nodes.node(slot))),
    slot: slotOf,
    finish() {
      for (const slot of slots.splice(0)) if (slot !== NO_SLOT) nodes.release(slot);
    },
  };
}

/**
 * Takes locks again that guests have had before: at the backend first, where it has other hosts
 * keep to them.
 * @param find maps the saved form of a node to the node, or to undefined if it is gone.
 * @param take takes them in the table, and returns those that cannot be had.
 * @returns those that cannot be had.
 */
export async function restoreHostLocks<K>(
  shared: Export,
  locks: readonly SavedLock<K>[],
  find: (key: K) => Slot | undefined,
  take: (locks: readonly SavedLock<K>[]) => SavedLock<K>[],
): Promise<SavedLock<K>[]> {
  const { hostLocks } = shared;
  if (hostLocks === undefined) return take(locks);
  const needs = new Map<Slot, LockHold>();
  for (const { node, type } of locks) {
    const slot = find(node);
    if (slot === undefined) continue;
    const hold = holdOf(type);
    if (hold > (needs.get(slot) ?? LockHold.NONE)) needs.set(slot, hold);
  }
  const refused = await hostLocks.retake(needs);
  const isRefused = ({ node }: SavedLock<K>): boolean => {
    const slot = find(node);
    return slot !== undefined && refused.has(slot);
  };
  const lost = [...locks.filter(isRefused), ...take(locks.filter((lock) => !isRefused(lock)))];
  // Of what the table has not taken nothing is needed.
  for (const slot of needs.keys()) void hostLocks.lower(slot);
  return lost;
}

/** For each node that has a descriptor, or an open file with one: that descriptor. */
function heldByNode(saved: SavedExport, held: HeldDescriptors): Map<number, number> {
  const descriptors = new Map<number, number>();
  for (const [index, node] of saved.nodes.entries()) {
    const fd = node.held === undefined ? -1 : held.at(node.held);
    if (fd >= 0) descriptors.set(index, fd);
  }
  for (const { handles } of saved.sessions) {
    for (const handle of handles) {
      const fd = handle.held === undefined ? -1 : held.at(handle.held);
      if (fd >= 0) descriptors.set(handle.node, fd);
    }
  }
  return descriptors;
}

async function restoreNode(shared: Export, saved: SavedNode, found: Promise<object>): Promise<Slot> {
  const { log } = shared;
  try {
    const slot = enterNode(shared, await found, saved);
    if (slot === NO_SLOT) log.debug({ key: saved.key }, 'a node that a guest knew has another id now');
    return slot;
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    log.debug({ key: saved.key, error: error.code }, 'a node that a guest knew is gone');
    return NO_SLOT;
  }
}

/**
 * Gives a node the id that the guest knows it by.
 * @returns its slot; {@link NO_SLOT} if another node has that id, or there is no room.
 */
export function enterNode({ nodes, backend }: Export, node: object, saved: SavedNode): Slot {
  const low = (saved.low | 0) as NodeIdLow;
  const high = (saved.high | 0) as NodeIdHigh;
  const slot = nodes.restore(node, low, high, (saved.generation | 0) as NodeGeneration);
  if (slot === NO_SLOT) backend.forget?.(node);
  if (slot === NO_SLOT || (nodes.idLow(slot) === low && nodes.idHigh(slot) === high)) return slot;
  // Another node has the id that the guest knows. It must not be taken for this one.
  nodes.reap(slot);
  return NO_SLOT;
}

/** The saved form of a key. */
export function saveKey(key: NodeKey): SavedNode['key'] {
  if (typeof key === 'string') return { s: key };
  return typeof key === 'number' ? { n: key } : { b: Buffer.from(key).toString('base64') };
}

export function restoreKey(key: SavedNode['key']): NodeKey {
  if ('s' in key) return key.s;
  return 'n' in key ? key.n : new Uint8Array(Buffer.from(key.b, 'base64'));
}
