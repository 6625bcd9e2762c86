/**
 * The kinds of numbers that stand for nodes and handles. They are plain numbers at run time; the
 * compiler keeps them apart, so that none is taken for another. A value gets its type where it is
 * made: by the tables of this room, or where a word of a request or of saved state is read.
 */
declare const kind: unique symbol;
type Branded<Kind extends string> = number & { readonly [kind]: Kind };

/** A small number that stands for a node inside the engine; an index of `NodeTable`. */
export type Slot = Branded<'slot'>;

/** The low half of a node id, as a signed 32-bit number. */
export type NodeIdLow = Branded<'node id, low'>;

/** The high half of a node id, as a signed 32-bit number. */
export type NodeIdHigh = Branded<'node id, high'>;

/** A node's generation, as a signed 32-bit number. */
export type NodeGeneration = Branded<'node generation'>;

/** An index of `HandleTable`: the low half of an `fh`. */
export type HandleIndex = Branded<'handle'>;

/** The generation of a place in `HandleTable`: the high half of an `fh`, signed. */
export type HandleGeneration = Branded<'handle generation'>;
