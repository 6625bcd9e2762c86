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

/** For tests of one table, which make up the numbers that other parts of the engine would give. */
export function withPlainNumbers<T extends object>(table: T): PlainNumbers<T> {
  return table as PlainNumbers<T>;
}
