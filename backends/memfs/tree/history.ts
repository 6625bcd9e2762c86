import { Inode, pagesOf } from './inode.js';
import { Snapshot } from './snapshot.js';
import type { Tree } from './tree.js';

/** A tree in time: its snapshots, what it was forked from, and its end. */
export class History {
  readonly #tree: Tree;
  /** The snapshot that the tree was forked from. */
  readonly #origin: Snapshot | undefined;
  /** Counts snapshots: an inode of an older epoch has not changed since the last one. */
  #epoch = 0;
  #newest: Snapshot | undefined;
  /** Inodes taken over from the origin that have several names, by number. */
  readonly #adopted = new Map<number, Inode>();
  #discarded = false;

  constructor(tree: Tree, origin: Snapshot | undefined) {
    this.#tree = tree;
    this.#origin = origin;
    if (origin !== undefined) origin.forks += 1;
  }

  get epoch(): number {
    return this.#epoch;
  }

  /**
   * Before any change to an inode: the newest snapshot keeps its state if it has not got it yet.
   */
  touch(inode: Inode): void {
    if (inode.epoch !== this.#epoch) this.#keep(inode);
  }

  /** The tree as it is now. Takes no time that depends on its size. */
  snapshot(): Snapshot {
    const { space, orphans } = this.#tree;
    const usage = space.copy();
    for (const orphan of orphans) {
      usage.givePages(pagesOf(orphan));
      usage.giveInode();
    }
    this.#newest = new Snapshot(this.#tree, usage, this.#newest);
    this.#epoch += 1;
    return this.#newest;
  }

  /** Ends a snapshot; with forks left it goes when the last of them does. */
  discardSnapshot(snapshot: Snapshot): void {
    snapshot.discarded = true;
    if (snapshot.forks > 0) return;
    if (this.#newest === snapshot) this.#newest = snapshot.older;
    snapshot.unlink();
    if (this.#discarded && this.#newest === undefined) this.#clear();
  }

  /** Ends the tree and frees its memory, once no snapshot of it is left. */
  discard(): void {
    if (this.#discarded) return;
    this.#discarded = true;
    if (this.#newest === undefined) this.#clear();
  }

  /** Puts the tree's own inode in the place of one of the origin's that a directory still has. */
  adopt(parent: Inode, name: string, foreign: Inode): Inode {
    const inode = this.#adopted.get(foreign.ino) ?? this.#takeOver(foreign, this.originState(foreign)!);
    if (inode.entries !== undefined) inode.parent = parent;
    else if (inode.nlink > 1) this.#adopted.set(inode.ino, inode);
    parent.entries!.set(name, inode);
    return inode;
  }

  /** The root that a fork begins with. */
  adoptRoot(origin: Snapshot): Inode {
    return this.#takeOver(origin.tree.root, origin.stateOf(origin.tree.root));
  }

  /**
   * The state in which the tree began with an inode of one that it was forked from, or with its own
   * root. Nothing where it was not forked.
   */
  originState(inode: Inode): Inode | undefined {
    let origin = this.#origin;
    if (inode === this.#tree.root) return origin?.stateOf(origin.tree.root);
    while (origin !== undefined) {
      // A file of several names that a tree between has taken over is that tree's, by whichever
      // name it is found.
      const { history } = origin.tree;
      const taken = origin.tree === inode.owner ? inode : history.#adopted.get(inode.ino);
      if (taken !== undefined) return origin.stateOf(taken);
      origin = history.#origin;
    }
    return undefined;
  }

  /**
   * The tree's own inode with a state that the origin's had. It counts as older than any snapshot
   * of the tree.
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
    const { orphans, arena, root } = this.#tree;
    for (const orphan of orphans) orphan.content?.clear(arena);
    // One of several names may have been taken over and removed, the others never looked at.
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
