import { type DirectoryEntry, FileType, isPromise, type Steps, wait } from '../../../core/backend/index.js';
import type { Layer } from '../layers/layer.js';
import type { OverlayNode } from './node.js';
import type { Union } from './union.js';
import { listAll } from '../layers/work-area.js';

/**
 * The merged listing of a directory: each name once, from the topmost layer that has it, without
 * what whiteouts hide. Inode numbers equal those of `stat`: entries of the upper that may have been
 * copied up are looked up, as overlayfs does in impure directories.
 */
export function* list(union: Union, directory: OverlayNode): Steps<DirectoryEntry[]> {
  const merged = new Map<string, DirectoryEntry>();
  const hidden = new Set<string>();
  if (union.upper !== undefined && directory.upper !== undefined) {
    yield* addLayer(union, directory, union.upper.layer, directory.upper, merged, hidden);
  }
  for (const { layer, node } of directory.lowers) {
    yield* addLayer(union, directory, layer, node, merged, hidden);
  }
  return [...merged.values()];
}

function* addLayer(
  union: Union,
  directory: OverlayNode,
  layer: Layer,
  node: object,
  merged: Map<string, DirectoryEntry>,
  hidden: Set<string>,
): Steps<void> {
  const { marks } = layer;
  const isUpper = layer.number === 0;
  const below = new Set<string>();
  const whiteoutOf = yield* wait(marks.whiteouts(layer, node));
  for (const { name, type, ino } of yield* listAll(layer, node)) {
    let whiteout = whiteoutOf(name, type);
    if (isPromise(whiteout)) whiteout = yield* wait(whiteout);
    if (whiteout !== undefined) {
      below.add(whiteout);
      continue;
    }
    if (union.isReserved(directory, name) || marks.reserves(name)) continue;
    if (merged.has(name) || hidden.has(name)) continue;
    if (isUpper && mayComeFromBelow(directory, type)) {
      const seen = yield* union.find(directory, name);
      if (seen === undefined) continue;
      merged.set(name, { name, type: seen.node.type, ino: seen.node.ino });
      union.unpin(seen.node);
    } else merged.set(name, { name, type, ino: layer.inode(ino) });
  }
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
  const entries = yield* list(union, directory);
  const { upper } = union;
  const inUpper =
    upper === undefined || directory.upper === undefined ? [] : yield* listAll(upper.layer, directory.upper);
  return { empty: entries.length === 0, upperIsEmpty: inUpper.length === 0 };
}
