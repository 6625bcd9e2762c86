import { acceleratorOf } from '../../../core/backend/accelerator.js';
import {
  DAEMON,
  type Awaitable,
  type Backend,
  type Entry,
  type NodeKey,
  run,
  type Steps,
  andThen,
  wait,
  FsError,
} from '../../../core/backend/index.js';
import type { Marks } from './marks.js';

/** Inode numbers keep 47 bits of the layer's own below 6 bits of layer: every number fits 2^53. */
const INO_BITS = 2 ** 47;

/** Most layers of one overlay, the upper included. */
export const LAYERS_MAX = 63;

/**
 * One backend in the stack. The overlay looks the same layer node up again and again and must tell
 * the backend when it has no more use for it, so that a layer counts who holds each.
 */
export class Layer {
  /**
   * 0 for the upper; lowers count from the bottom, 1 first, so that identities stay when a layer is
   * put on top.
   */
  readonly number: number;
  readonly backend: Backend;
  readonly root: object;
  /** Layers with the same one copy from each other's open files. */
  readonly copyDomain: symbol | undefined;
  /** How it records whiteouts and the like; settled once the layer is mounted. */
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

  /** Keeps a node until {@link drop}. */
  hold(node: object): void {
    this.#held.set(node, (this.#held.get(node) ?? 0) + 1);
  }

  /** Undoes one {@link hold}; the last one lets the backend forget the node. */
  drop(node: object): void {
    const count = this.#held.get(node) ?? 0;
    if (count > 1) this.#held.set(node, count - 1);
    else {
      this.#held.delete(node);
      this.backend.forget?.(node);
    }
  }

  /** Nodes held, for tests. */
  get heldNodes(): number {
    return this.#held.size;
  }

  /** Looks a name up and holds what it finds, in the turn in which it is found. */
  lookup(parent: object, name: string): Awaitable<Entry<object> | undefined> {
    return andThen(this.backend.lookup(parent, name, DAEMON), (entry) => {
      if (entry !== undefined) this.hold(entry.node);
      return entry;
    });
  }

  /** Holds the node of an entry that a creation returned. */
  keep<E extends Entry<object>>(entry: E): E {
    this.hold(entry.node);
    return entry;
  }

  /** Walks down a path of this layer alone and holds its end. */
  walk(path: readonly string[]): Awaitable<object> {
    return run(this.#walk(path));
  }

  *#walk(path: readonly string[]): Steps<object> {
    let node = this.root;
    this.hold(node);
    for (const name of path) {
      const entry = yield* wait(this.lookup(node, name));
      this.drop(node);
      if (entry === undefined) throw FsError.of('ENOENT');
      node = entry.node;
    }
    return node;
  }

  /** The overlay's inode number for one of this layer's. */
  inode(ino: number | bigint | undefined): number | undefined {
    if (ino === undefined) return undefined;
    const own = typeof ino === 'bigint' || ino >= INO_BITS ? fold(BigInt(ino)) : ino;
    return this.number * INO_BITS + own;
  }

  /**
   * The node's identity among all layers: by its durable key; in a lower without keys, which does
   * not change, by inode number or else by path; in an upper without keys for as long as it is
   * known.
   * @param path in a lower; nothing for the upper.
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
 * 47 bits of a larger number (of an overlay as a layer, of a file system that uses all 64), mixed
 * so that numbers which differ in few bits stay apart (the finalizer of MurmurHash3).
 */
function fold(ino: bigint): number {
  let mixed = ino ^ (ino >> 33n);
  mixed = BigInt.asUintN(64, mixed * 0xff51afd7ed558ccdn);
  mixed ^= mixed >> 33n;
  mixed = BigInt.asUintN(64, mixed * 0xc4ceb9fe1a85ec53n);
  return Number(mixed >> 17n);
}

/** Node's encoder, which works on any `Uint8Array`: without a `Buffer` for every new node. */
const { hexSlice } = Buffer.prototype as unknown as {
  hexSlice(this: Uint8Array, start: number, end: number): string;
};

function keyText(key: NodeKey): string {
  if (typeof key === 'string') return `s${key}`;
  if (typeof key === 'number') return `n${key}`;
  return `b${hexSlice.call(key, 0, key.length)}`;
}
