import { type Attributes, type Entry, FileType, type NodeKey } from '../../backend/index.js';
import { NodesInUse } from '../nodes-in-use.js';
import type { Mount, Point } from './points.js';

/** A node of the whole tree. */
export interface RoutedNode {
  /** Nothing for a directory that only leads to mounts. */
  readonly mount: Mount | undefined;
  /** The backend's own node. */
  readonly inner: object;
  /** The same file may be there twice: where it may be changed, and where it may not. */
  readonly isReadOnly: boolean;
  /** Of a directory in which mounts and rules begin. */
  readonly point: Point | undefined;
}

/** The nodes of one backend's node: as it may be changed, and as it may not. */
type Pair = { writable?: RoutedNode; readOnly?: RoutedNode };

/** Which nodes of the whole tree there are. */
export class RoutedTree {
  readonly #pairs: readonly NodesInUse<object, Pair>[];
  /** Nodes that stay: roots of mounts, and directories that only lead there. */
  readonly #lasting = new Map<Point, RoutedNode>();

  constructor(mounts: readonly Mount[]) {
    this.#pairs = mounts.map(({ backend }) => new NodesInUse((node) => backend.forget?.(node)));
  }

  /** What is known of a backend's nodes. */
  pairsOf(mount: Mount): NodesInUse<object, Pair> {
    return this.#pairs[mount.index]!;
  }

  /** Keeps a node for a point. */
  keep(point: Point, node: RoutedNode): RoutedNode {
    this.#lasting.set(point, node);
    return node;
  }

  lasting(point: Point): RoutedNode | undefined {
    return this.#lasting.get(point);
  }

  /** The node of the whole tree for one that a backend has given. */
  take(mount: Mount, inner: object, isReadOnly: boolean, point: Point | undefined): RoutedNode {
    const pairs = this.pairsOf(mount);
    const which = isReadOnly ? 'readOnly' : 'writable';
    const known = pairs.get(inner)?.[which];
    if (known !== undefined) return known;
    const pair = pairs.hold(inner, () => ({}));
    return (pair[which] = { mount, inner, isReadOnly, point });
  }

  forget(node: RoutedNode): void {
    const { mount, inner, isReadOnly, point } = node;
    if (mount === undefined || (point !== undefined && this.#lasting.get(point) === node)) return;
    const pairs = this.pairsOf(mount);
    const pair = pairs.get(inner);
    const which = isReadOnly ? 'readOnly' : 'writable';
    if (pair?.[which] !== node) return;
    delete pair[which];
    pairs.letGo(inner);
  }
}

/** Inode numbers of several backends may be the same: the engine makes others, of the keys. */
export function unnumbered(attributes: Attributes): Attributes {
  return { ...attributes, ino: undefined };
}

/** A directory that only leads to mounts. */
export function leadingEntry(node: RoutedNode): Entry<RoutedNode> {
  return { node, attributes: LEADING };
}

export const LEADING: Attributes = { mode: FileType.DIRECTORY | 0o555, nlink: 2 };

/** A backend's key, and whose it is. Paths of mounts and rules are keys by themselves. */
export function keyOf({ mount, inner, isReadOnly, point }: RoutedNode): NodeKey {
  if (mount === undefined || point !== undefined) return `=${point?.path ?? '/'}`;
  const key = mount.backend.key!(inner);
  const whose = `${mount.index}${isReadOnly ? 'r' : 'w'}`;
  if (typeof key === 'string') return `${whose}s${key}`;
  if (typeof key === 'number') return `${whose}n${key}`;
  return Buffer.concat([Buffer.from(`${whose}b`), key]);
}

/** What {@link keyOf} has made. */
export type ReadKey =
  { readonly path: string } | { readonly mount: number; readonly isReadOnly: boolean; readonly key: NodeKey };

/** @returns undefined for another key. */
export function readKey(key: NodeKey): ReadKey | undefined {
  const text = typeof key === 'object' ? Buffer.from(key).toString('latin1') : String(key);
  if (text.startsWith('=')) return { path: text.slice(1) };
  const match = /^(\d+)([rw])([snb])/.exec(text);
  if (match === null) return undefined;
  const [{ length }, mount, access, kind] = match;
  const rest = text.slice(length);
  const byKind: Readonly<Record<string, NodeKey>> = {
    s: rest,
    n: Number(rest),
    b: typeof key === 'object' ? key.subarray(length) : rest,
  };
  return { mount: Number(mount), isReadOnly: access === 'r', key: byKind[kind!]! };
}
