import type { Inode } from './inode.js';
import type { Space } from './space.js';
import type { Tree } from './tree.js';

/**
 * A tree as it was at one moment. Taking a snapshot copies nothing. An inode is copied before its
 * first change afterwards, with its chunks shared. Inodes that did not change are read from the
 * tree itself.
 */
export class Snapshot {
  readonly tree: Tree;
  /** What the tree used of its limits. */
  readonly usage: Space;
  /** The last inode number that the tree had assigned. */
  readonly lastIno: number;
  /** The tree's next snapshot. It may have the state of an inode that this one did not keep. */
  newer: Snapshot | undefined = undefined;
  older: Snapshot | undefined;
  /** Number of forks that were not discarded. */
  forks = 0;
  discarded = false;
  readonly #kept = new Map<Inode, Inode>();

  /** For `History.snapshot`. */
  constructor(tree: Tree, usage: Space, older: Snapshot | undefined) {
    this.tree = tree;
    this.usage = usage;
    this.lastIno = tree.lastIno;
    this.older = older;
    if (older !== undefined) older.newer = this;
  }

  /** The state that an inode of the tree had. */
  stateOf(inode: Inode): Inode {
    return this.#kept.get(inode) ?? this.newer?.stateOf(inode) ?? inode;
  }

  /** Whether the inode's state is kept here. */
  has(inode: Inode): boolean {
    return this.#kept.has(inode);
  }

  /** Keeps the state of an inode that is about to change for the first time. */
  keep(inode: Inode, state: Inode): void {
    this.#kept.set(inode, state);
  }

  /** Removes the snapshot from the tree's list. States that an older snapshot needs move there. */
  unlink(): void {
    for (const [inode, state] of this.#kept) {
      if (this.older !== undefined && !this.older.#kept.has(inode)) this.older.#kept.set(inode, state);
      else state.content?.clear(this.tree.arena);
    }
    this.#kept.clear();
    if (this.older !== undefined) this.older.newer = this.newer;
    if (this.newer !== undefined) this.newer.older = this.older;
  }
}
