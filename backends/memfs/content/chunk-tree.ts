import { FsError } from '../../../core/backend/index.js';
import type { Arena } from './arena.js';
import { type Chunk, CHUNK_HEAP_BYTES, pageCount } from './chunk.js';
import type { Space } from '../tree/space.js';

const ENOSPC = FsError.of('ENOSPC');

/** Children of a node. */
const CHILDREN = 64;

/** Bytes of heap for a node: the object and its array. */
const NODE_HEAP_BYTES = 640;

/**
 * A node of the tree. Its children are nodes of the next level, or chunks on the last level. A node
 * with `references` above 1 is shared by several trees and is read-only, with all that is below it.
 */
class Node {
  readonly children: (Node | Chunk | undefined)[];
  references = 1;
  /** Children that are there. Only while a change is made are there none. */
  used = 0;
  /** Allocated pages in all chunks below. */
  pages = 0;
  /** Bytes of heap of everything below. */
  heapBytes = 0;

  constructor(children?: (Node | Chunk | undefined)[]) {
    this.children = children ?? Array.from({ length: CHILDREN }, () => undefined);
  }

  /** A private copy, which shares the children; this node loses a reference. */
  copy(arena: Arena): Node {
    const copy = new Node(this.children.slice());
    for (const child of this.children) if (child !== undefined) child.references += 1;
    copy.used = this.used;
    copy.pages = this.pages;
    copy.heapBytes = this.heapBytes;
    this.references -= 1;
    arena.addHeap(NODE_HEAP_BYTES);
    return copy;
  }
}

/**
 * The chunks of a file by index, in order: a tree whose nodes have 64 children each. A sparse file
 * costs what its data does, and the next chunk after a hole of any length is found at once. A copy
 * shares all nodes, until one of the two is changed.
 */
export class ChunkTree {
  #root: Node | undefined;
  /** Levels of nodes; 1 if the children of the root are chunks. */
  #levels = 0;
  /** The node of the last level that was used last, if there is one, and its number. */
  #leaf: Node | undefined;
  #leafNumber = -1;
  /** Whether that node and those above it are private to this tree. */
  #leafIsOwn = false;

  /** Bytes of heap of the chunks and nodes, as if none were shared. */
  get heapBytes(): number {
    return this.#root === undefined ? 0 : this.#root.heapBytes + NODE_HEAP_BYTES;
  }

  /** The chunk at an index, to be read. */
  get(index: number): Chunk | undefined {
    const number = Math.floor(index / CHILDREN);
    if (number !== this.#leafNumber) {
      this.#leaf = this.#find(number);
      this.#leafNumber = number;
      this.#leafIsOwn = false;
    }
    return this.#leaf === undefined
      ? undefined
      : (this.#leaf.children[index % CHILDREN] as Chunk | undefined);
  }

  /** The chunk at an index, to be changed if it has one reference. */
  own(index: number, arena: Arena): Chunk | undefined {
    const number = Math.floor(index / CHILDREN);
    if (number !== this.#leafNumber || !this.#leafIsOwn) {
      this.#leaf = this.#ownLeaf(number, arena);
      this.#leafNumber = number;
      this.#leafIsOwn = true;
    }
    return this.#leaf === undefined
      ? undefined
      : (this.#leaf.children[index % CHILDREN] as Chunk | undefined);
  }

  /**
   * Checks that there is heap for a chunk at an index which has none, and for the nodes above it.
   * @throws ENOSPC
   */
  check(index: number, arena: Arena, space: Space): void {
    const levels = levelsFor(index);
    let nodes = levels;
    if (this.#root !== undefined) {
      // New roots above, and a path of its own below the highest.
      if (levels > this.#levels) nodes += levels - this.#levels;
      else nodes = this.#missingNodes(index);
    }
    if (!arena.hasHeap(nodes * NODE_HEAP_BYTES + CHUNK_HEAP_BYTES, space.contentHeapBytes)) throw ENOSPC;
  }

  /** Puts a chunk at an index. Where there was none, {@link check} was called before. */
  put(index: number, chunk: Chunk, arena: Arena, space: Space): void {
    const before = this.heapBytes;
    const levels = levelsFor(index);
    if (this.#root === undefined) {
      this.#root = newNode(arena);
      this.#levels = levels;
    }
    this.#root = ownNode(this.#root, arena);
    for (; this.#levels < levels; this.#levels++) {
      const above = newNode(arena);
      above.children[0] = this.#root;
      above.used = 1;
      above.pages = this.#root.pages;
      above.heapBytes = this.#root.heapBytes + NODE_HEAP_BYTES;
      this.#root = above;
    }
    putBelow(this.#root, this.#levels, index, chunk, arena);
    space.contentHeapBytes += this.heapBytes - before;
    this.#forgetLeaf();
  }

  /** Removes the chunk at an index, which {@link own} has given. */
  remove(index: number, arena: Arena, space: Space): void {
    const before = this.heapBytes;
    removeBelow(this.#root!, this.#levels, index, arena);
    if (this.#root!.used === 0) this.#dropRoot(arena);
    space.contentHeapBytes -= before - this.heapBytes;
    this.#forgetLeaf();
  }

  /** Counts pages that a chunk has got or lost. {@link own} has given it. */
  addPages(index: number, count: number): void {
    let node = this.#root!;
    let rest = index;
    for (let level = this.#levels; ; level--) {
      node.pages += count;
      if (level === 1) return;
      const width = CHILDREN ** (level - 1);
      node = node.children[Math.floor(rest / width)] as Node;
      rest %= width;
    }
  }

  /** The first index from `index` on that has a chunk; Infinity when there is none. */
  next(index: number): number {
    if (this.#root === undefined || index >= CHILDREN ** this.#levels) return Infinity;
    return nextBelow(this.#root, this.#levels, index, false);
  }

  /** As {@link next}, for chunks with data. */
  nextData(index: number): number {
    if (this.#root === undefined || index >= CHILDREN ** this.#levels) return Infinity;
    return nextBelow(this.#root, this.#levels, index, true);
  }

  /** Removes the chunks from `index` on. Their memory is freed later. @returns their pages. */
  cut(index: number, arena: Arena, space: Space): number {
    if (this.#root === undefined || index >= CHILDREN ** this.#levels) return 0;
    this.#forgetLeaf();
    const before = this.heapBytes;
    const pagesBefore = this.#root.pages;
    let pagesAfter = 0;
    if (index === 0) this.clear(arena);
    else {
      this.#root = ownNode(this.#root, arena);
      const removed: [Node, number][] = [];
      cutBelow(this.#root, this.#levels, index, arena, removed);
      arena.free(freeingAll(removed, arena));
      pagesAfter = this.#root.pages;
      if (this.#root.used === 0) this.#dropRoot(arena);
    }
    space.contentHeapBytes -= before - this.heapBytes;
    return pagesBefore - pagesAfter;
  }

  /** A tree that shares all nodes with this one. */
  clone(): ChunkTree {
    const copy = new ChunkTree();
    copy.#root = this.#root;
    copy.#levels = this.#levels;
    if (this.#root !== undefined) this.#root.references += 1;
    this.#leafIsOwn = false;
    return copy;
  }

  /** Removes everything. The memory is freed later. The caller gives heap back to the space. */
  clear(arena: Arena): void {
    if (this.#root !== undefined) arena.free(freeing(this.#root, this.#levels, arena));
    this.#root = undefined;
    this.#levels = 0;
    this.#forgetLeaf();
  }

  /** Nodes that are missing above an index for which there are enough levels. */
  #missingNodes(index: number): number {
    let node = this.#root!;
    let rest = index;
    for (let level = this.#levels; level > 1; level--) {
      const width = CHILDREN ** (level - 1);
      const child = node.children[Math.floor(rest / width)] as Node | undefined;
      if (child === undefined) return level - 1;
      node = child;
      rest %= width;
    }
    return 0;
  }

  #dropRoot(arena: Arena): void {
    this.#root = undefined;
    this.#levels = 0;
    arena.addHeap(-NODE_HEAP_BYTES);
  }

  #forgetLeaf(): void {
    this.#leaf = undefined;
    this.#leafNumber = -1;
    this.#leafIsOwn = false;
  }

  #find(number: number): Node | undefined {
    let node = this.#root;
    let width = CHILDREN ** (this.#levels - 1);
    if (number >= width) return undefined;
    let rest = number;
    while (width > 1 && node !== undefined) {
      width /= CHILDREN;
      node = node.children[Math.floor(rest / width)] as Node | undefined;
      rest %= width;
    }
    return node;
  }

  /** Like {@link #find}; the node and those above it become private. */
  #ownLeaf(number: number, arena: Arena): Node | undefined {
    let width = CHILDREN ** (this.#levels - 1);
    if (this.#root === undefined || number >= width) return undefined;
    let node = (this.#root = ownNode(this.#root, arena));
    let rest = number;
    while (width > 1) {
      width /= CHILDREN;
      const slot = Math.floor(rest / width);
      const child = node.children[slot] as Node | undefined;
      if (child === undefined) return undefined;
      node = node.children[slot] = ownNode(child, arena);
      rest %= width;
    }
    return node;
  }
}

/** Levels of a tree that has room for an index. */
function levelsFor(index: number): number {
  let levels = 1;
  for (let room = CHILDREN; index >= room; room *= CHILDREN) levels += 1;
  return levels;
}

function newNode(arena: Arena): Node {
  arena.addHeap(NODE_HEAP_BYTES);
  return new Node();
}

function ownNode(node: Node, arena: Arena): Node {
  return node.references === 1 ? node : node.copy(arena);
}

/** Puts a chunk below a private node. @returns the bytes of heap that were added below it. */
function putBelow(node: Node, level: number, index: number, chunk: Chunk, arena: Arena): number {
  let added = 0;
  if (level === 1) {
    if (node.children[index] === undefined) {
      node.used += 1;
      added = CHUNK_HEAP_BYTES;
    }
    node.children[index] = chunk;
  } else {
    const width = CHILDREN ** (level - 1);
    const slot = Math.floor(index / width);
    let child = node.children[slot] as Node | undefined;
    if (child === undefined) {
      child = newNode(arena);
      node.used += 1;
      added = NODE_HEAP_BYTES;
    } else child = ownNode(child, arena);
    node.children[slot] = child;
    added += putBelow(child, level - 1, index % width, chunk, arena);
  }
  node.heapBytes += added;
  return added;
}

/** Removes a chunk below a private node, and nodes that have no other. @returns bytes of heap. */
function removeBelow(node: Node, level: number, index: number, arena: Arena): number {
  let removed = CHUNK_HEAP_BYTES;
  const width = CHILDREN ** (level - 1);
  const slot = Math.floor(index / width);
  let isEmpty = level === 1;
  if (level > 1) {
    const child = node.children[slot] as Node;
    removed = removeBelow(child, level - 1, index % width, arena);
    isEmpty = child.used === 0;
    if (isEmpty) {
      removed += NODE_HEAP_BYTES;
      arena.addHeap(-NODE_HEAP_BYTES);
    }
  }
  if (isEmpty) {
    node.children[slot] = undefined;
    node.used -= 1;
  }
  node.heapBytes -= removed;
  return removed;
}

function nextBelow(node: Node, level: number, index: number, hasData: boolean): number {
  const width = CHILDREN ** (level - 1);
  let from = index % width;
  for (let slot = Math.floor(index / width); slot < CHILDREN; slot++, from = 0) {
    const child = node.children[slot];
    if (child === undefined) continue;
    if (level === 1) {
      if (hasData && (child as Chunk).data === 0) continue;
      return slot;
    }
    const found = nextBelow(child as Node, level - 1, from, hasData);
    if (found !== Infinity) return slot * width + found;
  }
  return Infinity;
}

/**
 * Removes what is below a private node from an index on, which is not the node's first. Nodes that
 * are to be freed are added to `removed`, with their levels.
 */
function cutBelow(node: Node, level: number, index: number, arena: Arena, removed: [Node, number][]): void {
  const width = CHILDREN ** (level - 1);
  const rest = index % width;
  let slot = Math.floor(index / width);
  if (rest > 0) {
    const child = node.children[slot] as Node | undefined;
    if (child !== undefined) {
      const own = (node.children[slot] = ownNode(child, arena));
      const { pages, heapBytes } = own;
      cutBelow(own, level - 1, rest, arena, removed);
      node.pages -= pages - own.pages;
      node.heapBytes -= heapBytes - own.heapBytes;
      if (own.used === 0) {
        node.children[slot] = undefined;
        node.used -= 1;
        node.heapBytes -= NODE_HEAP_BYTES;
        arena.addHeap(-NODE_HEAP_BYTES);
      }
    }
    slot += 1;
  }
  for (; slot < CHILDREN; slot++) {
    const child = node.children[slot];
    if (child === undefined) continue;
    node.children[slot] = undefined;
    node.used -= 1;
    if (child instanceof Node) {
      node.pages -= child.pages;
      node.heapBytes -= child.heapBytes + NODE_HEAP_BYTES;
      removed.push([child, level - 1]);
    } else {
      node.pages -= pageCount(child.pages);
      node.heapBytes -= CHUNK_HEAP_BYTES;
      child.drop(arena);
    }
  }
}

function* freeingAll(nodes: readonly [Node, number][], arena: Arena): Generator<void> {
  for (const [node, level] of nodes) yield* freeing(node, level, arena);
}

/** Drops a reference to a node, and what is below it with the last one, in steps. */
function* freeing(node: Node, level: number, arena: Arena): Generator<void> {
  node.references -= 1;
  if (node.references > 0) return;
  for (const child of node.children) {
    if (child === undefined) continue;
    if (level === 1) (child as Chunk).drop(arena);
    else yield* freeing(child as Node, level - 1, arena);
  }
  arena.addHeap(-NODE_HEAP_BYTES);
  yield;
}
