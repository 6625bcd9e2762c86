import { Inode, pagesOf } from './inode.js';
import { Snapshot } from './snapshot.js';
import type { Tree } from './tree.js';

/** The snapshots of a tree, its origin, and its end. */
export class History {
  readonly #tree: Tree;
  /** The snapshot that the tree was forked from. */
  readonly #origin: Snapshot | undefined;
  /** Number of snapshots taken. An inode with an older epoch has not changed since the last one. */
  #epoch = 0;
  #newest: Snapshot | undefined;
  /** Inodes with several names that were taken over from the origin, by number. */
  readonly #adopted = new Map<number, Inode>();
  #discarded = false;

  constructor(tree: Tree, origin: Snapshot | undefined) {
    this.#tree = tree;
    this.#origin = origin;
    if (origin !== undefined) origin.forks += 1;
  }

  /** Whether the tree shares nothing with others: it has no origin and no snapshots. */
  get isAlone(): boolean {
    return this.#origin === undefined && this.#newest === undefined;
  }

  /** Whether the tree was forked from another. */
  get isFork(): boolean {
    return this.#origin !== undefined;
  }

  get epoch(): number {
    return this.#epoch;
  }

  /** Must be called before any change to an inode: the newest snapshot then keeps its state. */
  touch(inode: Inode): void {
    if (inode.epoch !== this.#epoch) this.#keep(inode);
  }

  /** Takes a snapshot, in constant time. */
  snapshot(): Snapshot {
    const { space, orphans } = this.#tree;
    const usage = space.copy();
    for (const orphan of orphans) {
      usage.givePages(pagesOf(orphan));
      usage.contentHeapBytes -= orphan.content?.heapBytes ?? 0;
      usage.giveInode();
    }
    this.#newest = new Snapshot(this.#tree, usage, this.#newest);
    this.#epoch += 1;
    return this.#newest;
  }

  /** Discards a snapshot. If it has forks, it is kept until the last of them is discarded. */
  discardSnapshot(snapshot: Snapshot): void {
    snapshot.discarded = true;
    if (snapshot.forks > 0) return;
    if (this.#newest === snapshot) this.#newest = snapshot.older;
    snapshot.unlink();
    if (this.#discarded && this.#newest === undefined) this.#clear();
  }

  /** Ends the tree. Its memory is freed when no snapshot of it is left. */
  discard(): void {
    if (this.#discarded) return;
    this.#discarded = true;
    if (this.#newest === undefined) this.#clear();
  }

  /** Replaces an inode of the origin in a directory by the tree's own copy of it. */
  adopt(parent: Inode, name: string, foreign: Inode): Inode {
    const inode = this.#adopted.get(foreign.ino) ?? this.#takeOver(foreign, this.originState(foreign)!);
    if (inode.entries !== undefined) inode.parent = parent;
    else if (inode.nlink > 1) this.#adopted.set(inode.ino, inode);
    parent.entries!.set(name, inode);
    return inode;
  }

  /** The root of a fork. */
  adoptRoot(origin: Snapshot): Inode {
    return this.#takeOver(origin.tree.root, origin.stateOf(origin.tree.root));
  }

  /**
   * The state that an inode had in the snapshot from which this tree was forked. The inode is one
   * of the origin's, or this tree's root. Undefined if the tree was not forked.
   */
  originState(inode: Inode): Inode | undefined {
    let origin = this.#origin;
    if (inode === this.#tree.root) return origin?.stateOf(origin.tree.root);
    while (origin !== undefined) {
      // A file with several names may have been taken over by a tree in between, whichever name led
      // to it.
      const { history } = origin.tree;
      const taken = origin.tree === inode.owner ? inode : history.#adopted.get(inode.ino);
      if (taken !== undefined) return origin.stateOf(taken);
      origin = history.#origin;
    }
    return undefined;
  }

  /**
   * Makes the tree's own inode with a state of the origin. It counts as older than any snapshot of
   * the tree.
   */
  #takeOver(foreign: Inode, state: Inode): Inode {
    const inode = new Inode(this.#tree, 0, foreign.ino, foreign.mode, this.#tree.clock);
    inode.assume(state);
    return inode;
  }

  #keep(inode: Inode): void {
    inode.epoch = this.#epoch;
    if (this.#newest === undefined || this.#newest.has(inode)) return;
    const state = new Inode(this.#tree, this.#epoch, inode.ino, inode.mode, this.#tree.clock);
    state.assume(inode);
    this.#newest.keep(inode, state);
  }

  #clear(): void {
    const { orphans, arena, root, space } = this.#tree;
    space.end();
    for (const orphan of orphans) orphan.content?.clear(arena);
    // A file with several names may have been taken over and removed by one name, while the others
    // were never used.
    for (const inode of this.#adopted.values()) inode.content?.clear(arena);
    this.#adopted.clear();
    this.#clearBelow(root);
    const origin = this.#origin;
    if (origin === undefined) return;
    origin.forks -= 1;
    if (origin.discarded) origin.tree.history.discardSnapshot(origin);
  }

  #clearBelow(top: Inode): void {
    const directories = [top];
    for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
      for (const inode of directory.entries!.values()) {
        if (inode.owner !== this.#tree) continue;
        inode.content?.clear(this.#tree.arena);
        if (inode.entries !== undefined) directories.push(inode);
      }
      directory.entries!.clear();
    }
  }
}
