import type { EntryName, EntryNode } from '../../core/fuse/index.js';

type Plain<T> = T extends number
  ? number
  : T extends EntryName | EntryNode
    ? { readonly [K in keyof T]: number }
    : T;

/** An object whose methods take plain numbers for slots, handles and halves of ids. */
export type PlainNumbers<T> = {
  [K in keyof T]: T[K] extends (...taken: infer Taken) => infer Given
    ? (...taken: { [I in keyof Taken]: Plain<Taken[I]> }) => Given
    : T[K];
};

/**
 * Lets a test of one table make up numbers, which come from other parts of the engine otherwise.
 */
export function withPlainNumbers<T extends object>(table: T): PlainNumbers<T> {
  return table as PlainNumbers<T>;
}
