import type { NodeKey } from '../backend/index.js';
import type { NodeGeneration, NodeIdHigh, NodeIdLow } from './ids.js';

/** More of key and texts is not remembered, so that the limit of nodes is one of memory too. */
const MAX_BYTES = 1024;

/** A node that no guest knows any more. */
export interface RememberedNode {
  readonly low: NodeIdLow;
  readonly high: NodeIdHigh;
  readonly generation: NodeGeneration;
  readonly key: NodeKey;
  /** What the backend needs to know beside the key (`Accelerator.trace`). */
  readonly trace?: string | undefined;
  /** What the backend knows of it beside (`Elsewhere.seen`). */
  readonly seen?: string | undefined;
  /** Where it is, of one that a guest knew on another host (`Elsewhere`). Its key is of there. */
  readonly place?: string | undefined;
}

/**
 * Nodes that guests have forgotten, by their ids. A file handle of a guest's kernel
 * (name_to_handle_at(2)) has the node id and the generation in it, and nothing else, and the guest
 * may come back with it at any time. Ids are hashes of keys, so the key must be kept to find the
 * node again. Those that were forgotten longest ago go first.
 */
export class RememberedNodes {
  readonly #limit: number;
  /** In the order in which they were forgotten. */
  readonly #nodes = new Map<string, RememberedNode>();
  readonly #traces = new Map<NodeKey, string>();

  /** @param limit how many there may be, each of which takes up to 1.5 KiB of memory. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** In the order in which they were forgotten. */
  get all(): Iterable<RememberedNode> {
    return this.#nodes.values();
  }

  /** The traces by key, of those that have one. It goes on changing. */
  get traces(): ReadonlyMap<NodeKey, string> {
    return this.#traces;
  }

  add(node: RememberedNode): void {
    const { key, trace = '', seen = '', place = '' } = node;
    const size = (typeof key === 'number' ? 8 : key.length) + trace.length + place.length;
    if (this.#limit === 0 || size > MAX_BYTES) return;
    const id = idOf(node.low, node.high);
    this.#forget(id);
    // Another host may do without what it was seen as; here it is found by key and trace.
    this.#nodes.set(id, size + seen.length > MAX_BYTES ? { ...node, seen: undefined } : node);
    if (trace !== '') this.#traces.set(key, trace);
    if (this.#nodes.size <= this.#limit) return;
    for (const oldest of this.#nodes.keys()) {
      this.#forget(oldest);
      return;
    }
  }

  /** Keys of bytes are equal only to themselves, so that each node's own one is needed here. */
  #forget(id: string): void {
    const node = this.#nodes.get(id);
    if (node === undefined) return;
    this.#nodes.delete(id);
    this.#traces.delete(node.key);
  }

  find(low: NodeIdLow, high: NodeIdHigh): RememberedNode | undefined {
    return this.#nodes.get(idOf(low, high));
  }
}

function idOf(low: number, high: number): string {
  return `${high} ${low}`;
}
