import { engineSlot } from '../../../core/backend/accelerator.js';
import { type Attributes, type Awaitable, FileType, type Opened } from '../../../core/backend/index.js';
import type { Layer } from '../layers/layer.js';

/** A node of a lower layer, held by the overlay node that it is part of. */
export interface LowerNode {
  readonly layer: Layer;
  readonly node: object;
  /** Whether a directory is impure, once asked: see `Marks.isImpure`. */
  impure?: boolean;
}

/** The layer node that has a file's content. */
export interface Content extends LowerNode {
  /** `Attributes.blocks` of the content, if another layer shows the file's attributes. */
  readonly blocks?: number | undefined;
}

/** A finished copy of a lower node in the work area, not yet in its place. It is durable. */
export interface PendingCopy {
  /** Its name in the work area. */
  readonly temporary: string;
  /** The copy, held. */
  readonly node: object;
  /** Attributes of the original. */
  readonly attributes: Attributes;
  /** Where the content is: in the copy, or still in a lower. */
  readonly content: Content;
}

/**
 * A file or directory of the union: a node of the upper, nodes of lowers, or both. One object
 * stands for a file whatever names lead to it, before and after copy-up.
 */
export class OverlayNode {
  [engineSlot] = -1;
  /** Type bits of the mode. */
  readonly type: number;
  /**
   * The durable identity: that of the lower the node came from, otherwise the upper's. See
   * `Layer.identity`.
   */
  readonly identity: string;
  /** Inode number from the same layer as the identity; undefined if that layer gives none. */
  readonly ino: number | undefined;
  upper: object | undefined;
  /**
   * The nodes of a merged directory in the lowers, top first. Of other types the one node that was
   * found, or none.
   */
  readonly lowers: readonly LowerNode[];
  /**
   * A known parent and name, for copying ancestors up. Undefined for the root and for unlinked
   * nodes.
   */
  parent: OverlayNode | undefined;
  name = '';
  /** Where it is about to be moved, so that a process that is killed meanwhile can be followed. */
  nextPlace: readonly [parent: OverlayNode, name: string] | undefined;
  /**
   * `overlay.redirect` of an upper directory, or of an upper file without its content: where its
   * lowers are if not at its own name.
   */
  redirect: string | undefined;
  /**
   * The layer node with a regular file's content. Mostly it is in the topmost layer that has the
   * file; in a layer below if that one has only the metadata (`overlay.metacopy`). Undefined until
   * it is looked for: see `contentOf`.
   */
  content: Content | undefined;
  /** The node that was found by following a metacopy, held. */
  followed: LowerNode | undefined;
  /** Set while the content is copied up after the metadata. */
  completing: Promise<void> | undefined;
  /**
   * The upper directory has entries that were copied up or moved from a lower (`overlay.impure`).
   */
  impure = false;
  /**
   * The union's link count minus the upper's, for hard-linked files that came from a lower
   * (`overlay.nlink`).
   */
  linkDelta = 0;
  /** The upper file is in the index, by which other names of the lower file find it. */
  indexed = false;
  /** The copy that is being made, or that waits for its place. All who need it share it. */
  pendingCopy: Awaitable<PendingCopy> | undefined;
  /**
   * Number of known children and pins, plus 1 if the engine knows the node. At 0 the node is
   * removed.
   */
  references = 0;
  known = false;
  /** Open file that keeps the content of an unlinked upper file alive. */
  orphan: Opened<unknown> | undefined;

  constructor(
    type: number,
    identity: string,
    ino: number | undefined,
    upper: object | undefined,
    lowers: readonly LowerNode[],
  ) {
    this.type = type;
    this.identity = identity;
    this.ino = ino;
    this.upper = upper;
    this.lowers = lowers;
  }

  get isDirectory(): boolean {
    return this.type === FileType.DIRECTORY;
  }

  /** Whether the upper has the metadata only. */
  get isMetacopy(): boolean {
    return this.upper !== undefined && this.type === FileType.REGULAR && this.content?.node !== this.upper;
  }
}

/** An open file of the union. `layer`, `node` and `file` say which layer's file it is now. */
export interface OverlayFile {
  layer: Layer;
  node: object;
  file: unknown;
  /** Set while it is being opened again in another layer. */
  moving: Promise<OverlayFile> | undefined;
  /** Flags it was opened with, for opening it again after a copy-up. */
  readonly flags: number;
}
