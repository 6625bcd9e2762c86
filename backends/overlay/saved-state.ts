import {
  DAEMON,
  type Awaitable,
  type Backend,
  FileType,
  FsError,
  type NodeKey,
  run,
  type Steps,
  wait,
} from '../../core/backend/index.js';
import { headerBytes, readHeader } from './headed-bytes.js';
import { setContent } from './layers/content.js';
import type { LowerNode, OverlayNode } from './tree/node.js';
import { dropAll } from './layers/stack.js';
import { topOf } from './operations/attributes.js';
import type { Union } from './tree/union.js';

/*
 * What a restart needs beyond the nodes' keys: the state of each layer, and the place of each node
 * that a guest knows (its path, or for a node without a name its layers' keys), in a header; then
 * the layers' states.
 */

interface Header {
  readonly version: 1;
  /** Bytes of each layer's state, the upper first; null for a layer that has none. */
  readonly layers: readonly (number | null)[];
  readonly nodes: readonly SavedNode[];
}

/** A node of one layer: the layer's number and the node's key in it. */
interface InLayer {
  readonly layer: number;
  readonly key: NodeKey;
}

/**
 * Where a node is: its path from the root as names; or, if it has no name, its node in the topmost
 * layer, and in another layer if that one has the content.
 */
type Place = readonly string[] | (InLayer & { readonly content: InLayer | undefined });
export type SavedNode = readonly [identity: string, place: readonly string[] | Nameless];

/** A key in JSON; bytes are base64. */
interface SavedKey {
  readonly layer: number;
  readonly key: string | number | { readonly base64: string };
}

export interface Nameless extends SavedKey {
  readonly content?: SavedKey;
}

/** Finds a node of a layer, which has `resolve`. */
export type FindInLayer = (layer: Backend, key: NodeKey) => Awaitable<object>;

const resolve: FindInLayer = (layer, key) => layer.resolve!(key);

export type Places = ReadonlyMap<string, Place>;

export function* encodeState(union: Union, layers: readonly Backend[]): Steps<Uint8Array> {
  const states: (Uint8Array | undefined)[] = [];
  for (const layer of layers) states.push(yield* wait(layer.save?.()));
  const nodes = savedNodes(union);
  const sizes = states.map((state) => state?.length ?? null);
  const header: Header = { version: 1, layers: sizes, nodes };
  return Buffer.concat([headerBytes(header), ...states.flatMap((state) => state ?? [])]);
}

/** Where each node is that the engine knows. */
export function savedNodes(union: Union): SavedNode[] {
  return [...union.knownToEngine()].flatMap((node) => savedNode(union, node));
}

function savedNode(union: Union, node: OverlayNode): SavedNode[] {
  const names = pathOf(union, node);
  if (names !== undefined) return [[node.identity, names]];
  const keys = savedKeys(union, node);
  return keys === undefined ? [] : [[node.identity, keys]];
}

/** Where a node is in the layers. @returns undefined if they have no keys. */
export function savedKeys(union: Union, node: OverlayNode): Nameless | undefined {
  const top = topOf(union, node);
  const saved = savedKey(top);
  if (saved === undefined) return undefined;
  if (node.type !== FileType.REGULAR || node.content?.node === top.node) return saved;
  const content = node.content && savedKey(node.content);
  return content === undefined ? undefined : { ...saved, content };
}

function savedKey({ layer, node }: LowerNode): SavedKey | undefined {
  const key = layer.backend.key?.(node);
  if (key === undefined) return undefined;
  const saved = key instanceof Uint8Array ? { base64: Buffer.from(key).toString('base64') } : key;
  return { layer: layer.number, key: saved };
}

/** Whether look-ups could have these names, which may come from somebody who wishes harm. */
function arePlain(names: unknown): names is string[] {
  return (
    Array.isArray(names) &&
    names.every((name) => typeof name === 'string' && !/^\.{0,2}$|[/\0]/.test(name) && name.length <= 255)
  );
}

/** The names from the root to a node; undefined if it or a directory above it was removed. */
export function pathOf(union: Union, node: OverlayNode): string[] | undefined {
  const names: string[] = [];
  let at = node;
  while (at !== union.root) {
    if (at.parent === undefined) return undefined;
    names.unshift(at.name);
    at = at.parent;
  }
  return names;
}

/**
 * Restores the state of each layer. @returns the saved nodes.
 * @throws EINVAL if `encodeState` did not write this for as many layers.
 */
export function* decodeState(state: Uint8Array, layers: readonly Backend[]): Steps<readonly SavedNode[]> {
  const { header, end } = parseHeader(state, layers.length);
  let at = end;
  for (const [index, size] of header.layers.entries()) {
    if (size === null) continue;
    yield* wait(layers[index]!.restore?.(state.subarray(at, at + size)));
    at += size;
  }
  return header.nodes;
}

function parseHeader(state: Uint8Array, layers: number): { header: Header; end: number } {
  try {
    const { header, end } = readHeader(state, 0, Infinity) as { header: Header; end: number };
    if (header.version === 1 && header.layers.length === layers) return { header, end };
  } catch {
    // Not a header, or cut short.
  }
  throw FsError.of('EINVAL');
}

export function placesOf(nodes: readonly SavedNode[]): Places {
  const places = new Map<string, Place>();
  for (const [identity, place] of nodes) {
    if (!('key' in place)) places.set(identity, place);
    else {
      const content = place.content && inLayer(place.content);
      places.set(identity, { ...inLayer(place), content });
    }
  }
  return places;
}

function inLayer({ layer, key }: SavedKey): InLayer {
  return { layer, key: typeof key === 'object' ? new Uint8Array(Buffer.from(key.base64, 'base64')) : key };
}

/**
 * Finds the node that the engine knows by an identity, and references it.
 * @param find finds nodes of layers that have no name.
 * @throws ESTALE if it is gone.
 */
export function* resolveNode(
  union: Union,
  places: Places,
  identity: string,
  find: FindInLayer = resolve,
): Steps<OverlayNode> {
  const known = identity === union.root.identity ? union.root : union.known(identity);
  if (known !== undefined) {
    union.reference(known);
    return known;
  }
  const place = places.get(identity);
  if (place === undefined) throw FsError.of('ESTALE');
  const node = 'key' in place ? yield* nameless(union, identity, place, find) : yield* walk(union, place);
  try {
    if (node.identity !== identity) throw FsError.of('ESTALE');
    union.reference(node);
    return node;
  } finally {
    union.unpin(node);
  }
}

/**
 * Walks a path down from a directory, which was pinned and is not any more, or from the root.
 * @returns the node at its end, pinned.
 * @throws ESTALE if there is none.
 */
export function* walk(union: Union, names: unknown, from?: OverlayNode): Steps<OverlayNode> {
  let node = from ?? union.root;
  if (from === undefined) union.pin(node);
  try {
    if (!arePlain(names)) throw FsError.of('ESTALE');
    for (const name of names) {
      const seen = yield* union.find(node, name);
      if (seen === undefined) throw FsError.of('ESTALE');
      union.unpin(node);
      ({ node } = seen);
    }
    return node;
  } catch (error) {
    union.unpin(node);
    throw error;
  }
}

/** Finds a node by where it is in the layers. @returns the node, pinned. */
export function resolveByKeys(
  union: Union,
  identity: string,
  saved: Nameless,
  find: FindInLayer,
): Awaitable<OverlayNode> {
  const content = saved.content && inLayer(saved.content);
  return run(nameless(union, identity, { ...inLayer(saved), content }, find));
}

function* nameless(
  union: Union,
  identity: string,
  { content, ...place }: InLayer & { readonly content: InLayer | undefined },
  find: FindInLayer,
): Steps<OverlayNode> {
  const held: LowerNode[] = [];
  try {
    for (const at of [place, content]) if (at !== undefined) held.push(yield* resolveIn(union, at, find));
    const [top, followed] = held as [LowerNode, LowerNode | undefined];
    const attributes = yield* wait(top.layer.backend.getattr(top.node, undefined, DAEMON));
    const node = union.enterNameless(top.layer, top.node, identity, attributes);
    setContent(node, { content: followed ?? top, followed });
    union.pin(node);
    return node;
  } catch (error) {
    dropAll(held);
    throw error;
  }
}

/** Finds a node of a layer by its key, and holds it. */
function* resolveIn(union: Union, { layer: number, key }: InLayer, find: FindInLayer): Steps<LowerNode> {
  const layer = [union.upper?.layer, ...union.lowers].find((candidate) => candidate?.number === number);
  if (layer?.backend.resolve === undefined) throw FsError.of('ESTALE');
  const node = yield* wait(find(layer.backend, key));
  layer.hold(node);
  return { layer, node };
}
