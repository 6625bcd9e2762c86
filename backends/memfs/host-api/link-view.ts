import { Link, type Node } from '@jsonjoy.com/fs-core';
import { FsError } from '../../../core/backend/index.js';
import type { Inode } from '../tree/inode.js';
import type { NodeView } from './node-view.js';
import type { TreeSuperblock } from './superblock.js';

/** A name as memfs's host API sees it. Like {@link NodeView} it has no state of its own. */
export class LinkView extends Link {
  readonly superblock: TreeSuperblock;
  readonly inode: Inode;
  readonly #view: NodeView;

  constructor(superblock: TreeSuperblock, parent: LinkView | undefined, name: string, inode: Inode) {
    super(superblock, parent, name);
    this.superblock = superblock;
    this.inode = inode;
    this.#view = superblock.nodeOf(inode);
    this.setNode(this.#view);
    this.children = new ChildrenView(this, parent ?? this);
  }

  override getNode(): NodeView {
    return this.#view;
  }

  override getChild(name: string): LinkView | undefined {
    return this.superblock.childOf(this, name);
  }

  override createChild(name: string, node?: Node): LinkView {
    return this.superblock.createLink(this, name, node?.isDirectory(), node?.mode);
  }

  /** @throws EPERM: names are made by the file system's own operations. */
  override setChild(): never {
    throw FsError.of('EPERM');
  }

  /** @throws EPERM */
  override deleteChild(): never {
    throw FsError.of('EPERM');
  }
}

/**
 * The names in a directory as the map that memfs expects, `.` and `..` first. Its links are made on
 * demand.
 */
class ChildrenView extends Map<string, Link | undefined> {
  readonly #link: LinkView;
  readonly #parent: LinkView;

  constructor(link: LinkView, parent: LinkView) {
    super();
    this.#link = link;
    this.#parent = parent;
  }

  get #names(): Iterable<string> {
    return this.#link.inode.entries?.keys() ?? [];
  }

  override get size(): number {
    const { entries } = this.#link.inode;
    return entries === undefined ? 0 : entries.size + 2;
  }

  override has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  override get(name: string): LinkView | undefined {
    if (this.size === 0) return undefined;
    if (name === '.') return this.#link;
    return name === '..' ? this.#parent : this.#link.getChild(name);
  }

  override *keys(): MapIterator<string> {
    if (this.size === 0) return;
    yield '.';
    yield '..';
    yield* this.#names;
  }

  override *values(): MapIterator<LinkView | undefined> {
    for (const name of this.keys()) yield this.get(name);
  }

  override *entries(): MapIterator<[string, LinkView | undefined]> {
    for (const name of this.keys()) yield [name, this.get(name)];
  }

  override [Symbol.iterator](): MapIterator<[string, LinkView | undefined]> {
    return this.entries();
  }

  override forEach(
    visit: (link: Link | undefined, name: string, map: Map<string, Link | undefined>) => void,
  ): void {
    for (const [name, link] of this) visit(link, name, this);
  }

  /** @throws EPERM: names are made by the file system's own operations. */
  override set(): never {
    throw FsError.of('EPERM');
  }

  /** @throws EPERM */
  override delete(): never {
    throw FsError.of('EPERM');
  }

  /** @throws EPERM */
  override clear(): never {
    throw FsError.of('EPERM');
  }
}
