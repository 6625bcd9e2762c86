import type { Inode } from './inode.js';
import type { Space } from './space.js';
import type { Tree } from './tree.js';

/**
 * A tree as it was at one moment. Taking one copies nothing: an inode is copied when it is changed
 * for the first time afterwards, its content's chunks by reference. What was not changed is read
 * from the tree itself.
 */
export class Snapshot {
  readonly tree: Tree;
  /** What the tree used. */
  readonly usage: Space;
  /** The last inode number that the tree had given. */
  readonly lastIno: number;
  /** The tree's next snapshot: an inode that this one did not keep may have been kept there. */
  newer: Snapshot | undefined = undefined;
  older: Snapshot | undefined;
  /** Trees that were forked from it and have not been discarded. */
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

  /** Inodes that were changed since, and are held in their old state. */
  get size(): number {
    return this.#kept.size;
  }

  /** An inode of the tree in the state that it had. */
  stateOf(inode: Inode): Inode {
    return this.#kept.get(inode) ?? this.newer?.stateOf(inode) ?? inode;
  }

  /** Whether the inode's state is held here. */
  has(inode: Inode): boolean {
    return this.#kept.has(inode);
  }

  /** Keeps the state of an inode that is about to change for the first time. */
  keep(inode: Inode, state: Inode): void {
    this.#kept.set(inode, state);
  }

  /** Leaves the tree's list; what an older snapshot still needs goes there. */
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
