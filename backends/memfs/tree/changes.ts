import type { Inode } from './inode.js';
import type { Tree } from './tree.js';

/** One difference between a fork and what it began as. */
export interface Change {
  /**
   * A file or directory under a new name, one that is gone, or one with other content or
   * attributes.
   */
  readonly kind: 'added' | 'removed' | 'changed';
  /** From the root, which is `/`. */
  readonly path: string;
  /** As `Attributes.mode`; of a removed file as it was. */
  readonly mode: number;
}

/**
 * What differs in a tree from the snapshot that it was forked from, by path. What was never used is
 * not looked at. A renamed file shows as removed and added.
 */
export function* changes(tree: Tree): Generator<Change> {
  const origin = tree.history.originState(tree.root);
  if (origin === undefined) yield* added('', tree.root);
  else yield* below('', tree.root, origin, tree);
}

function* below(path: string, now: Inode, then: Inode, tree: Tree): Generator<Change> {
  if (isChanged(now, then)) yield { kind: 'changed', path: path || '/', mode: now.mode };
  if (now.entries === undefined) return;
  for (const [name, inode] of now.entries) {
    const before = then.entries?.get(name);
    const state = before === undefined ? undefined : tree.history.originState(before);
    if (state === undefined) yield* added(`${path}/${name}`, inode);
    else if (state.ino === inode.ino) {
      // What belongs to another tree still was never used here.
      if (inode.owner === tree) yield* below(`${path}/${name}`, inode, state, tree);
    } else {
      yield* removed(`${path}/${name}`, state, tree);
      yield* added(`${path}/${name}`, inode);
    }
  }
  for (const [name, inode] of then.entries ?? []) {
    if (!now.entries.has(name))
      yield* removed(`${path}/${name}`, tree.history.originState(inode) ?? inode, tree);
  }
}

/** Every change sets the change time; that of a directory's names shows by the names themselves. */
function isChanged(now: Inode, then: Inode): boolean {
  if (now.entries !== undefined) {
    return now.mode !== then.mode || now.uid !== then.uid || now.gid !== then.gid;
  }
  return now.ctime !== then.ctime || now.ctimeNsec !== then.ctimeNsec;
}

function* added(path: string, inode: Inode): Generator<Change> {
  yield { kind: 'added', path: path || '/', mode: inode.mode };
  for (const [name, child] of inode.entries ?? []) yield* added(`${path}/${name}`, child);
}

function* removed(path: string, inode: Inode, tree: Tree): Generator<Change> {
  yield { kind: 'removed', path, mode: inode.mode };
  for (const [name, child] of inode.entries ?? []) {
    yield* removed(`${path}/${name}`, tree.history.originState(child) ?? child, tree);
  }
}
