import {
  type Attributes,
  type Awaitable,
  type Entry,
  isPromise,
  newAttributes,
} from '../../../core/backend/index.js';
import type { OverlayNode } from './node.js';
import type { PinnedEntry, Union } from './union.js';

/**
 * The answers that guests get about a node: the attributes of its topmost layer, with the union's
 * inode number and link count. A synchronous answer is one object, refilled each time; an answer by
 * promise is an object of its own.
 */
export class ShownAttributes {
  readonly #union: () => Union;
  readonly #attributes: Attributes = newAttributes();
  readonly #entry: { node: OverlayNode | undefined; readonly attributes: Attributes } = {
    node: undefined,
    attributes: this.#attributes,
  };

  constructor(union: () => Union) {
    this.#union = union;
  }

  attributes(node: OverlayNode, found: Awaitable<Attributes>): Awaitable<Attributes> {
    if (isPromise(found)) return found.then((attributes) => this.#fresh(node, attributes));
    return this.#refill(node, found);
  }

  /**
   * The answer to a look-up: the engine knows the node from now on, and the entry's pin is undone.
   */
  entry(seen: Awaitable<PinnedEntry | undefined>): Awaitable<Entry<OverlayNode> | undefined> {
    if (isPromise(seen)) return seen.then((found) => found && this.freshEntry(found));
    if (seen === undefined) return undefined;
    const { node, attributes } = seen;
    this.#refill(node, attributes);
    this.#reference(node);
    this.#entry.node = node;
    return this.#entry as Entry<OverlayNode>;
  }

  /** Like {@link entry}, but an object of its own. */
  freshEntry({ node, attributes }: PinnedEntry): Entry<OverlayNode> {
    const entry = { node, attributes: this.#fresh(node, attributes) };
    this.#reference(node);
    return entry;
  }

  #reference(node: OverlayNode): void {
    const union = this.#union();
    union.reference(node);
    union.unpin(node);
  }

  #fresh(node: OverlayNode, found: Attributes): Attributes {
    return { ...this.#refill(node, found) };
  }

  /**
   * Copies field by field: a spread costs several times as much, and every answer takes this way.
   */
  #refill(node: OverlayNode, found: Attributes): Attributes {
    const shown = this.#attributes;
    shown.mode = found.mode;
    shown.ino = node.ino;
    shown.size = found.size;
    shown.blocks = found.blocks;
    shown.nlink = found.nlink;
    shown.uid = found.uid;
    shown.gid = found.gid;
    shown.rdev = found.rdev;
    shown.blksize = found.blksize;
    shown.atime = found.atime;
    shown.atimeNsec = found.atimeNsec;
    shown.mtime = found.mtime;
    shown.mtimeNsec = found.mtimeNsec;
    shown.ctime = found.ctime;
    shown.ctimeNsec = found.ctimeNsec;
    shown.btime = found.btime;
    shown.btimeNsec = found.btimeNsec;
    shown.submount = found.submount;
    const blocks = node.content?.blocks;
    if (blocks !== undefined) shown.blocks = blocks;
    // The links of a merged directory cannot be counted without listing it. 1 tells programs so, as
    // on overlayfs.
    if (node.isDirectory && node.lowers.length > 0) shown.nlink = 1;
    else if (node.linkDelta !== 0) shown.nlink = (found.nlink ?? 1) + node.linkDelta;
    return shown;
  }
}
