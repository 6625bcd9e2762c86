import {
  type Attributes,
  type Awaitable,
  type Entry,
  isPromise,
  newAttributes,
} from '../../../core/backend/index.js';
import type { OverlayNode } from './node.js';
import type { Seen, Union } from './union.js';

/**
 * What guests are shown of a node: the attributes of its topmost layer, with the inode number and
 * the link count of the union. Answers that are there at once are one object, refilled each time;
 * what a promise brings is its own.
 */
export class Shown {
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

  /** Tells the engine of a pinned node, which it will forget; the pin is undone. */
  entry(seen: Awaitable<Seen | undefined>): Awaitable<Entry<OverlayNode> | undefined> {
    if (isPromise(seen)) return seen.then((found) => found && this.freshEntry(found));
    if (seen === undefined) return undefined;
    const { node, attributes } = seen;
    this.#refill(node, attributes);
    this.#tell(node);
    this.#entry.node = node;
    return this.#entry as Entry<OverlayNode>;
  }

  /** {@link entry} that stays as it is. */
  freshEntry({ node, attributes }: Seen): Entry<OverlayNode> {
    const entry = { node, attributes: this.#fresh(node, attributes) };
    this.#tell(node);
    return entry;
  }

  #tell(node: OverlayNode): void {
    const union = this.#union();
    union.reference(node);
    union.unpin(node);
  }

  #fresh(node: OverlayNode, found: Attributes): Attributes {
    return { ...this.#refill(node, found) };
  }

  /** Field by field: a spread costs several times as much, and this is done for every answer. */
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
    // A merged directory's links cannot be counted without listing it; 1 tells programs so, as on
    // overlayfs.
    if (node.isDirectory && node.lowers.length > 0) shown.nlink = 1;
    else if (node.linkDelta !== 0) shown.nlink = (found.nlink ?? 1) + node.linkDelta;
    return shown;
  }
}
