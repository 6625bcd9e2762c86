import type { NodeKey } from '../../backend/index.js';
import type { Slot } from '../ids.js';

/**
 * What a request is about to do that must not be done twice, noted before the backend is asked. It
 * tells a later process how to find out whether it was done.
 */
export interface Intent {
  readonly kind: IntentKind;
  /** The directory, or the node itself. */
  readonly slot: Slot;
  /** Another directory. */
  readonly other: Slot;
  readonly name: string;
  readonly newName: string;
  /** The key of the node that is linked, removed or renamed. */
  readonly key: NodeKey | undefined;
  /** Bytes of the file before. */
  readonly size: number;
  /** Bytes to be appended. */
  readonly length: number;
}

/** The node that a name is, or gets, which is linked, removed or renamed. */
export interface NamedNode {
  /** Of a node that guests know: it stays the node's until the request has ended. */
  readonly slot: Slot;
  /** Of another node. */
  readonly key: NodeKey | undefined;
}

export const IntentKind = {
  /** Makes a name that is not there. */
  CREATION: 1,
  /** Makes a name that is not there for a node that is. */
  LINK: 2,
  /** Removes a name, which is of this node. */
  REMOVAL: 3,
  /** Moves a name, which is of this node. */
  RENAME: 4,
  /** Sets an extended attribute that is not there. */
  XATTR_SET: 5,
  /** Removes an extended attribute that is there. */
  XATTR_REMOVED: 6,
  /** Writes at the end. */
  APPEND: 7,
  /** Moves what follows a range of a file, and so changes its size. */
  MOVE: 8,
} as const;
export type IntentKind = (typeof IntentKind)[keyof typeof IntentKind];

/** What a request that comes again has done already. `Node` stands for a node. */
export type Verdict<Node = Slot> =
  /** It was carried out, and not answered. `bytes` of an append were written. */
  | { readonly kind: 'happened'; readonly bytes: number }
  /**
   * It was answered, but the guest may not have seen that. `words` is the reply after its header.
   */
  | {
      readonly kind: 'answered';
      readonly place: number;
      readonly length: number;
      readonly words: Int32Array;
    }
  /** It gave the guest nodes, which the guest may not have seen. It is carried out again. */
  | {
      readonly kind: 'gave';
      readonly place: number;
      readonly lookups: readonly (readonly [node: Node, count: number])[];
    };

/** The place of an answer that was published at once. Others have that of `Message.place`. */
export const NO_PLACE = -1;
