import { type Attributes, type Entry, FileType, type NodeKey } from '../../backend/index.js';
import { NodesInUse } from '../nodes-in-use.js';
import type { Mount, Point, Redirect } from './points.js';

/** Where in the whole tree a backend's node is seen. The same one may be seen several times. */
export interface Place {
  /** It may be there where it may be changed, and where it may not. */
  readonly isReadOnly: boolean;
  /** The redirect below which it is seen. */
  readonly via: Redirect | undefined;
  /** Of a directory in which mounts and rules begin. */
  readonly point: Point | undefined;
}

/** A node of the whole tree. */
export interface RoutedNode extends Place {
  /** Nothing for a directory that only leads to mounts. */
  readonly mount: Mount | undefined;
  /** The backend's own node. */
  readonly inner: object;
}

/** Which nodes of the whole tree there are. */
export class RoutedTree {
  /** The nodes of each backend's node, one for each place. */
  readonly #seen: readonly NodesInUse<object, RoutedNode[]>[];
  /** Nodes that stay: roots of mounts, and directories that only lead there. */
  readonly #lasting = new Map<Point, RoutedNode>();

  constructor(mounts: readonly Mount[]) {
    this.#seen = mounts.map(({ backend }) => new NodesInUse((node) => backend.forget?.(node)));
  }

  /** What is known of a backend's nodes. */
  seenOf(mount: Mount): NodesInUse<object, RoutedNode[]> {
    return this.#seen[mount.index]!;
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
  take(mount: Mount, inner: object, { isReadOnly, via, point }: Place): RoutedNode {
    const seen = this.seenOf(mount);
    const known = seen
      .get(inner)
      ?.find((node) => node.isReadOnly === isReadOnly && node.via === via && node.point === point);
    if (known !== undefined) return known;
    const node: RoutedNode = { mount, inner, isReadOnly, via, point };
    seen.hold(inner, () => []).push(node);
    return node;
  }

  forget(node: RoutedNode): void {
    const { mount, inner, point } = node;
    if (mount === undefined || (point !== undefined && this.#lasting.get(point) === node)) return;
    const seen = this.seenOf(mount);
    const nodes = seen.get(inner) ?? [];
    const at = nodes.indexOf(node);
    if (at < 0) return;
    nodes.splice(at, 1);
    seen.letGo(inner);
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
export function keyOf({ mount, inner, isReadOnly, via, point }: RoutedNode): NodeKey {
  if (mount === undefined || point !== undefined) return `=${pathOf(via, point)}`;
  const key = mount.backend.key!(inner);
  const whose = `${mount.index}${isReadOnly ? 'r' : 'w'}${via?.index ?? ''}`;
  if (typeof key === 'string') return `${whose}s${key}`;
  if (typeof key === 'number') return `${whose}n${key}`;
  return Buffer.concat([Buffer.from(`${whose}b`), key]);
}

/** The path at which a point is seen. */
export function pathOf(via: Redirect | undefined, point: Point | undefined): string {
  const { path } = point ?? { path: '/' };
  return via === undefined ? path : via.from.path + path.slice(via.to.path.length);
}

/** What {@link keyOf} has made. */
export type ReadKey =
  | { readonly path: string }
  | {
      readonly mount: number;
      readonly isReadOnly: boolean;
      /** The redirect's index. */
      readonly via: number | undefined;
      readonly key: NodeKey;
    };

/** @returns undefined for another key. */
export function readKey(key: NodeKey): ReadKey | undefined {
  const text = typeof key === 'object' ? Buffer.from(key).toString('latin1') : String(key);
  if (text.startsWith('=')) return { path: text.slice(1) };
  const match = /^(\d+)([rw])(\d*)([snb])/.exec(text);
  if (match === null) return undefined;
  const [{ length }, mount, access, via, kind] = match;
  const rest = text.slice(length);
  const byKind: Readonly<Record<string, NodeKey>> = {
    s: rest,
    n: Number(rest),
    b: typeof key === 'object' ? key.subarray(length) : rest,
  };
  return {
    mount: Number(mount),
    isReadOnly: access === 'r',
    via: via === '' ? undefined : Number(via),
    key: byKind[kind!]!,
  };
}
