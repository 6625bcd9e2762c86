import { acceleratorOf } from '../../../core/backend/accelerator.js';
import {
  DAEMON,
  type Awaitable,
  type Backend,
  type Entry,
  type NodeKey,
  andThen,
} from '../../../core/backend/index.js';
import type { Marks } from './whiteouts.js';

/**
 * Inode numbers of the union have 6 bits of layer number above 47 bits of the layer's own number,
 * so that they fit 2^53.
 */
const LAYER_INODES = 2 ** 47;

/** Most layers of one overlay, the upper included. */
export const LAYERS_MAX = 63;

/**
 * One backend in the stack. The overlay uses a layer's node in several places and must tell the
 * backend when the last of them is done. So a layer counts the holders of each node.
 */
export class Layer {
  /**
   * 0 is the upper. Lowers count from the bottom, from 1, so that identities stay the same when a
   * layer is put on top.
   */
  readonly number: number;
  readonly backend: Backend;
  readonly root: object;
  /** Identifies the open files that can be copied among: layers with the same one share them. */
  readonly copyDomain: symbol | undefined;
  /**
   * How the layer records whiteouts, opaque directories and redirects. Set for good when the
   * overlay is mounted.
   */
  marks: Marks;
  readonly #held = new Map<object, number>();
  #unkeyed = 0;

  constructor(number: number, backend: Backend, root: object, marks: Marks) {
    this.number = number;
    this.backend = backend;
    this.root = root;
    this.copyDomain = acceleratorOf(backend)?.copyDomain;
    this.marks = marks;
    this.hold(root);
  }

  /** Adds a holder of a node: the backend keeps it until {@link drop}. */
  hold(node: object): void {
    this.#held.set(node, (this.#held.get(node) ?? 0) + 1);
  }

  /** Removes a holder. Without holders the backend forgets the node. */
  drop(node: object): void {
    const count = this.#held.get(node) ?? 0;
    if (count > 1) this.#held.set(node, count - 1);
    else {
      this.#held.delete(node);
      this.backend.forget?.(node);
    }
  }

  /** Looks a name up and holds the node, before anything else can make the backend forget it. */
  lookup(parent: object, name: string): Awaitable<Entry<object> | undefined> {
    return andThen(this.backend.lookup(parent, name, DAEMON), (entry) => {
      if (entry !== undefined) this.hold(entry.node);
      return entry;
    });
  }

  /** Holds the node of an entry that a creation returned. @returns the entry. */
  keep<E extends Entry<object>>(entry: E): E {
    this.hold(entry.node);
    return entry;
  }

  /** The union's inode number for one of this layer. */
  inode(ino: number | bigint | undefined): number | undefined {
    if (ino === undefined) return undefined;
    const own = typeof ino === 'bigint' || ino >= LAYER_INODES ? fold(BigInt(ino)) : ino;
    return this.number * LAYER_INODES + own;
  }

  /**
   * The node's identity in the union. It is made of the backend's durable key. Without keys it is,
   * in a lower (which does not change), the inode number or else the path; in an upper, a number
   * that is valid as long as the node is known.
   * @param path gives the path in a lower; absent for the upper.
   */
  identity(node: object, ino: number | bigint | undefined, path?: () => string): string {
    const key = this.backend.key?.(node);
    if (key !== undefined) return `${this.number}:${keyText(key)}`;
    if (path !== undefined) return `${this.number}:${ino === undefined ? `p${path()}` : `i${ino}`}`;
    this.#unkeyed += 1;
    return `0:u${this.#unkeyed}`;
  }
}

/**
 * Reduces an inode number of more than 47 bits (of an overlay used as a layer, or a file system
 * that uses all 64) to 47. The finalizer of MurmurHash3 mixes it, so that numbers which differ in
 * few bits stay apart.
 */
function fold(ino: bigint): number {
  let mixed = ino ^ (ino >> 33n);
  mixed = BigInt.asUintN(64, mixed * 0xff51afd7ed558ccdn);
  mixed ^= mixed >> 33n;
  mixed = BigInt.asUintN(64, mixed * 0xc4ceb9fe1a85ec53n);
  return Number(mixed >> 17n);
}

/**
 * Node's hexadecimal encoder, called on any `Uint8Array`. That saves a `Buffer` for every new node.
 */
const { hexSlice } = Buffer.prototype as unknown as {
  hexSlice(this: Uint8Array, start: number, end: number): string;
};

function keyText(key: NodeKey): string {
  if (typeof key === 'string') return `s${key}`;
  if (typeof key === 'number') return `n${key}`;
  return `b${hexSlice.call(key, 0, key.length)}`;
}
