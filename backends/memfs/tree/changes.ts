import type { Inode } from './inode.js';
import type { Tree } from './tree.js';

/** One difference between a fork and its origin. */
export interface Change {
  /**
   * `added`: under a name that the origin did not have. `removed`: gone. `changed`: other content
   * or attributes.
   */
  readonly kind: 'added' | 'removed' | 'changed';
  /** Path from the root, which is `/`. */
  readonly path: string;
  /** As `Attributes.mode`; for a removed file its former mode. */
  readonly mode: number;
}

/**
 * The differences between a tree and the snapshot that it was forked from, by path. Parts of the
 * tree that were never used are skipped. A renamed file appears as removed and added.
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
      // An inode that still belongs to another tree was never used here.
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

/**
 * Whether an inode has changed. Every change sets the change time; but for a directory that
 * includes changes of its names, which are reported on their own.
 */
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
