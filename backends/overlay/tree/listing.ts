import {
  type DirectoryEntry,
  FileType,
  FsError,
  isPromise,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { heapLimit } from '../../../core/backend/limits.js';
import { eachEntry, hasNoEntry } from '../layers/entries.js';
import type { Layer } from '../layers/layer.js';
import type { OverlayNode } from './node.js';
import type { Union } from './union.js';

/** Bytes of heap for a merged entry, besides its name. */
const ENTRY_HEAP_BYTES = 256;

/** Bytes of heap that all merged listings may take. */
const MAX_HEAP_BYTES = heapLimit / 8;

/** Bytes of heap of all merged listings, and of those of each union. */
let heapBytes = 0;
const heapBytesOf = new WeakMap<Union, number>();

/**
 * The merged listing of a directory: each name once, from the topmost layer that has it, without
 * what whiteouts hide. It is on the heap as a whole until it has been read, or is closed.
 */
export class MergedListing implements IterableIterator<DirectoryEntry> {
  readonly #union: Union;
  #merged = new Map<string, DirectoryEntry>();
  #entries: Iterator<DirectoryEntry> | undefined;
  #bytes = 0;

  constructor(union: Union) {
    this.#union = union;
  }

  get size(): number {
    return this.#merged.size;
  }

  has(name: string): boolean {
    return this.#merged.has(name);
  }

  /** @throws ENOMEM if all listings together would take more of the heap than they may. */
  add(entry: DirectoryEntry): void {
    const bytes = ENTRY_HEAP_BYTES + 2 * entry.name.length;
    const own = heapBytesOf.get(this.#union) ?? 0;
    // What one union has is no more than it leaves to others.
    if (own + bytes > MAX_HEAP_BYTES - heapBytes) throw FsError.of('ENOMEM');
    this.#count(bytes);
    this.#merged.set(entry.name, entry);
  }

  next(): IteratorResult<DirectoryEntry, undefined> {
    this.#entries ??= this.#merged.values();
    const step = this.#entries.next();
    return step.done === true ? this.return() : step;
  }

  return(): IteratorResult<DirectoryEntry, undefined> {
    this.#count(-this.#bytes);
    this.#merged = new Map();
    this.#entries = undefined;
    return { done: true, value: undefined };
  }

  [Symbol.iterator](): this {
    return this;
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    heapBytes += bytes;
    heapBytesOf.set(this.#union, (heapBytesOf.get(this.#union) ?? 0) + bytes);
  }
}

/**
 * Merges the listing of a directory. Inode numbers equal those of `stat`: entries of the upper that
 * may have been copied up are looked up, as overlayfs does in impure directories. It takes heap
 * until it has been read, or `return` is called.
 * @param most the number of entries after which it is enough.
 * @param first is listed before the merged entries.
 * @throws ENOMEM
 */
export function* list(
  union: Union,
  directory: OverlayNode,
  most = Infinity,
  first: readonly DirectoryEntry[] = [],
): Steps<MergedListing> {
  const merged = new MergedListing(union);
  const hidden = new Set<string>();
  try {
    for (const entry of first) merged.add(entry);
    if (union.upper !== undefined && directory.upper !== undefined) {
      yield* addLayer(union, directory, union.upper.layer, directory.upper, merged, hidden, most);
    }
    for (const { layer, node } of directory.lowers) {
      if (merged.size >= most) break;
      yield* addLayer(union, directory, layer, node, merged, hidden, most);
    }
  } catch (error) {
    merged.return();
    throw error;
  }
  return merged;
}

function* addLayer(
  union: Union,
  directory: OverlayNode,
  layer: Layer,
  node: object,
  merged: MergedListing,
  hidden: Set<string>,
  most: number,
): Steps<void> {
  const { marks } = layer;
  const isUpper = layer.number === 0;
  const below = new Set<string>();
  const whiteoutOf = yield* wait(marks.whiteouts(layer, node));
  yield* eachEntry(layer, node, function* ({ name, type, ino }) {
    let whiteout = whiteoutOf(name, type);
    if (isPromise(whiteout)) whiteout = yield* wait(whiteout);
    if (whiteout !== undefined) {
      below.add(whiteout);
      return true;
    }
    if (union.isReserved(directory, name) || marks.reserves(name)) return true;
    if (merged.has(name) || hidden.has(name)) return true;
    if (isUpper && mayComeFromBelow(directory, type)) {
      const seen = yield* union.find(directory, name);
      if (seen === undefined) return true;
      const { node: found } = seen;
      union.unpin(found);
      merged.add({ name, type: found.type, ino: found.ino });
    } else merged.add({ name, type, ino: layer.inode(ino) });
    return merged.size < most;
  });
  for (const name of below) hidden.add(name);
}

function mayComeFromBelow(directory: OverlayNode, type: number): boolean {
  return directory.impure || (directory.lowers.length > 0 && (type === FileType.DIRECTORY || type === 0));
}

/** The entries `.` and `..`, for their inode numbers. The root is its own parent. */
export function dots({ ino, type, parent }: OverlayNode): DirectoryEntry[] {
  return [
    { name: '.', type, ino },
    { name: '..', type, ino: parent === undefined ? ino : parent.ino },
  ];
}

/**
 * `empty`: the union shows no entry in a directory. `upperIsEmpty`: the upper's directory has no
 * entry, not even a whiteout.
 */
export function* isEmpty(
  union: Union,
  directory: OverlayNode,
): Steps<{ empty: boolean; upperIsEmpty: boolean }> {
  const listing = yield* list(union, directory, 1);
  const empty = listing.size === 0;
  listing.return();
  const { upper } = union;
  const upperIsEmpty =
    upper === undefined || directory.upper === undefined
      ? true
      : yield* hasNoEntry(upper.layer, directory.upper);
  return { empty, upperIsEmpty };
}
