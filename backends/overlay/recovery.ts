import {
  acceleratorOf,
  type Accelerator,
  type LastingContents,
  type LastingMemory,
} from '../../core/backend/accelerator.js';
import { type Backend, FsError, type NodeKey, run, type Steps, wait } from '../../core/backend/index.js';
import { topOf } from './operations/attributes.js';
import { type Nameless, pathOf, resolveByKeys, savedKeys, walk } from './saved-state.js';
import type { OverlayNode } from './tree/node.js';
import type { Union } from './tree/union.js';

/*
 * How a node is found after the process was killed: by its name in a directory that was known, so
 * that what the layers have now counts; and if it is not there, by the keys that it has in the
 * layers.
 */

/**
 * A name in a directory, which is given by its identity; or, where the engine does not know that
 * one, the names from one above that it knows, or from the root.
 */
type Named = readonly [above: string, ...names: string[]];

/** A node's trace, in JSON. */
interface Trace {
  /** Where it is; and where it is about to be moved. None for one that was removed. */
  readonly places: readonly Named[];
  readonly keys: Nameless | undefined;
}

/** Traces by identity, which is a node's key. */
type Traces = ReadonlyMap<NodeKey, string>;

/** Whether a layer's nodes can be found by their keys alone after the process was killed. */
function isRecoverable(layer: Backend): boolean {
  const accelerator = acceleratorOf(layer);
  if (layer.key === undefined || layer.resolve === undefined) return false;
  if (accelerator?.trace !== undefined && accelerator.tracesHelp !== true) return false;
  return layer.save === undefined || accelerator?.recover !== undefined;
}

/** Whether a layer's nodes move, so that they are found by its own traces, which nobody keeps. */
function isWrittenBucket(layer: Backend): boolean {
  const { trace, tracesHelp } = acceleratorOf(layer) ?? {};
  return trace !== undefined && tracesHelp === false;
}

/** @returns the parts of an accelerator by which guests survive; none if a layer does not. */
export function recovery(
  union: () => Union,
  layers: readonly Backend[],
): Pick<
  Accelerator<OverlayNode>,
  | 'recover'
  | 'recovered'
  | 'descriptor'
  | 'trace'
  | 'watchTraces'
  | 'retrace'
  | 'contents'
  | 'leave'
  | 'unkept'
  | 'elsewhere'
> {
  if (layers.some(isWrittenBucket))
    return { unkept: 'a bucket in an overlay must be a lower that is readOnly' };
  if (!layers.every(isRecoverable)) return {};
  let traces: Traces = new Map();
  const contents = contentsOf(layers);
  return {
    // What is in memory goes along by `save`.
    ...(contents === undefined ? { leave: () => undefined } : {}),
    recover: (key: NodeKey) => run(recover(union(), traces, String(key))),
    trace: (node) => JSON.stringify(traceOf(union(), node)),
    watchTraces(changed) {
      union().changed = changed;
    },
    retrace(given) {
      traces = given;
      // Layers need none, and are told that nodes of a process before are looked for.
      for (const layer of layers) acceleratorOf(layer)?.retrace?.(new Map());
    },
    recovered() {
      for (const layer of layers) acceleratorOf(layer)?.recovered?.();
    },
    descriptor(node) {
      const { layer, node: inLayer } = topOf(union(), node);
      const accelerator = acceleratorOf(layer.backend);
      if (accelerator?.contents !== undefined) return undefined;
      return accelerator?.descriptor?.(inLayer) ?? -1;
    },
    contents,
    elsewhere: {
      place: (key) => run(placeOf(union(), traces, String(key))),
      find: (place) => run(findAt(union(), place)),
    },
  };
}

/** The names from the root in JSON, of a node that has a name. */
function* placeOf(union: Union, traces: Traces, identity: string): Steps<string | undefined> {
  const node = yield* find(union, traces, identity, new Set());
  try {
    const names = pathOf(union, node);
    return names && JSON.stringify(names);
  } finally {
    union.unpin(node);
  }
}

/** Finds the node of {@link placeOf}, and references it. @throws ESTALE if it is gone. */
function* findAt(union: Union, place: string): Steps<OverlayNode> {
  let names: unknown;
  try {
    names = JSON.parse(place);
  } catch {
    throw FsError.of('ESTALE');
  }
  const node = yield* walk(union, names);
  union.reference(node);
  union.unpin(node);
  return node;
}

/** What the layers have in memory, in one piece of it after the other. */
function contentsOf(layers: readonly Backend[]): LastingContents | undefined {
  const all = layers.flatMap((layer) => acceleratorOf(layer)?.contents ?? []);
  if (all.length === 0) return undefined;
  const parts = (memory: LastingMemory): (readonly [LastingContents, LastingMemory])[] => {
    let offset = 0;
    return all.map((one) => {
      const from = offset;
      offset += one.bytes;
      return [one, partOf(memory, from, one.bytes)];
    });
  };
  return {
    bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    begin: (memory) => parts(memory).every(([one, part]) => one.begin(part)),
    recover(memory) {
      for (const [one, part] of parts(memory)) one.recover(part);
    },
    recovered() {
      for (const one of all) one.recovered();
    },
  };
}

function partOf(memory: LastingMemory, from: number, bytes: number): LastingMemory {
  return {
    bytes,
    map: (offset, length) => memory.map(from + offset, length),
    discard: (start, end) => memory.discard(from + start, from + end),
  };
}

function traceOf(union: Union, node: OverlayNode): Trace {
  const places: Named[] = [];
  if (node.parent !== undefined) places.push(named(node.parent, node.name));
  if (node.nextPlace !== undefined) places.push(named(...node.nextPlace));
  return { places, keys: savedKeys(union, node) };
}

function named(parent: OverlayNode, name: string): Named {
  const names = [name];
  let above = parent;
  for (; !above.known && above.parent !== undefined; above = above.parent) names.unshift(above.name);
  return [above.identity, ...names];
}

/** Finds a node, and references it. @throws ESTALE if it is gone. */
function* recover(union: Union, traces: Traces, identity: string): Steps<OverlayNode> {
  const node = yield* find(union, traces, identity, new Set());
  union.reference(node);
  union.unpin(node);
  return node;
}

/**
 * @param above identities of those below which this one is looked for.
 * @returns the node, pinned.
 */
function* find(
  union: Union,
  traces: Traces,
  identity: string,
  above: ReadonlySet<string>,
): Steps<OverlayNode> {
  const known = identity === union.root.identity ? union.root : union.known(identity);
  if (known !== undefined) {
    union.pin(known);
    return known;
  }
  const told = traces.get(identity);
  if (told === undefined || above.has(identity)) throw FsError.of('ESTALE');
  const trace = JSON.parse(told) as Trace;
  let isHidden = false;
  for (const [start, ...names] of trace.places) {
    let parent: OverlayNode;
    try {
      parent = yield* find(union, traces, start, new Set([...above, identity]));
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      // It may still have its name, so that changes of a copy without one would be lost.
      isHidden = true;
      continue;
    }
    try {
      const node = yield* walk(union, names, parent);
      if (node.identity === identity) return node;
      union.unpin(node);
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
  }
  if (trace.keys === undefined || isHidden) throw FsError.of('ESTALE');
  return yield* wait(resolveByKeys(union, identity, trace.keys, recoverIn));
}

/** Finds a node of a layer as {@link Accelerator.recover} does. */
function recoverIn(layer: Backend, key: NodeKey) {
  const accelerator = acceleratorOf(layer);
  return accelerator?.recover === undefined ? layer.resolve!(key) : accelerator.recover(key);
}
