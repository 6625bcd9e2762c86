import { engineSlot } from '../../../core/backend/accelerator.js';
import { type Attributes, type Awaitable, FileType, type Opened } from '../../../core/backend/index.js';
import type { Layer } from '../layers/layer.js';

/** A node of a lower layer, held by the overlay node that it is part of. */
export interface LowerNode {
  readonly layer: Layer;
  readonly node: object;
  /** Of a directory, once asked: see `Marks.isImpure`. */
  impure?: boolean;
}

/** Where the content of a file is. */
export interface Content extends LowerNode {
  /**
   * Blocks that it takes, where it is not in the layer that shows the attributes
   * (`Attributes.blocks`).
   */
  readonly blocks?: number | undefined;
}

/** A copy of a lower node, durable in the work area. */
export interface Draft {
  /** Its name there. */
  readonly temporary: string;
  /** The copy, held. */
  readonly node: object;
  /** The original's. */
  readonly attributes: Attributes;
  /** Where the content is: in the copy, or below. */
  readonly content: Content;
}

/**
 * A file or directory of the union: a node of the upper, nodes of lowers below it, or both. There
 * is one object for each, whatever names lead to it and whether or not it was copied up.
 */
export class OverlayNode {
  [engineSlot] = -1;
  /** Type bits of the mode. */
  readonly type: number;
  /** Durable: from the lower that it came from, else from the upper. See `Layer.identity`. */
  readonly identity: string;
  /** Inode number, from the same layer as the identity; absent where that layer gives none. */
  readonly ino: number | undefined;
  upper: object | undefined;
  /**
   * A directory's merge stack, top first; of anything else the one node that was found, or none.
   */
  readonly lowers: readonly LowerNode[];
  /**
   * A known place in the tree, for copying ancestors up; absent for the root and for what was
   * unlinked.
   */
  parent: OverlayNode | undefined;
  name = '';
  /**
   * `overlay.redirect` of the upper directory, or file without content: where its lowers are, if
   * not at its own name.
   */
  redirect: string | undefined;
  /**
   * Where the content of a regular file is: mostly in the topmost layer that has the file, but
   * below where that has only the metadata (`overlay.metacopy`). Nothing where that is not known
   * yet; see `contentOf`.
   */
  content: Content | undefined;
  /** What `content` was found by following, held. */
  followed: LowerNode | undefined;
  /** The content is being copied up after the metadata. */
  filling: Promise<void> | undefined;
  /** The upper directory has entries whose inode number is a lower's (`overlay.impure`). */
  impure = false;
  /**
   * Links of the union less links of the upper (hard-linked files that came from a lower;
   * `overlay.nlink`).
   */
  linkDelta = 0;
  /** The upper file has a link in the index, by which other names of the lower file find it. */
  indexed = false;
  /** The copy that is being made or waits for its place, for whoever else needs it. */
  draft: Awaitable<Draft> | undefined;
  /** Known children, pins, and 1 where the engine knows the node. At 0 it is let go. */
  references = 0;
  known = false;
  /** Keeps the content of a file alive that was unlinked while it was in the upper. */
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

  /** It was copied up without its content. */
  get isMetacopy(): boolean {
    return this.upper !== undefined && this.type === FileType.REGULAR && this.content?.node !== this.upper;
  }
}

/** An open file of the union: which layer's file it is just now. */
export interface OverlayFile {
  layer: Layer;
  node: object;
  file: unknown;
  /** It is being opened again on the upper. */
  moving: Promise<OverlayFile> | undefined;
  /** Flags it was opened with, to open it again on the upper after a copy-up. */
  readonly flags: number;
}
