import { DAEMON, type DirectoryEntry, type Steps, wait } from '../../../core/backend/index.js';
import type { Layer } from './layer.js';
import { Turns } from './turns.js';

/**
 * Gives all entries of a directory in one layer to `take`, but for `.` and `..`, until it returns
 * false.
 */
export function* eachEntry(
  layer: Layer,
  directory: object,
  take: (entry: DirectoryEntry) => boolean | Steps<boolean>,
): Steps<void> {
  if (layer.backend.readdir === undefined) return;
  const source = yield* wait(layer.backend.readdir(directory, DAEMON));
  const iterator = Symbol.iterator in source ? source[Symbol.iterator]() : source[Symbol.asyncIterator]();
  let isEnded = false;
  const turns = new Turns();
  try {
    for (;;) {
      const step = yield* wait(iterator.next());
      isEnded = step.done === true;
      if (step.done === true) return;
      const { name } = step.value;
      if (name !== '.' && name !== '..') {
        const goesOn = take(step.value);
        if (!(typeof goesOn === 'boolean' ? goesOn : yield* goesOn)) return;
      }
      if (turns.isOver) yield* wait(turns.next());
    }
  } finally {
    if (!isEnded) yield* wait(iterator.return?.());
  }
}

/** All entries of a directory in one layer. */
export function* listAll(layer: Layer, directory: object): Steps<DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  yield* eachEntry(layer, directory, (entry) => entries.push(entry) > 0);
  return entries;
}

/** Whether a directory has no entry in one layer. */
export function* hasNoEntry(layer: Layer, directory: object): Steps<boolean> {
  let isEmpty = true;
  yield* eachEntry(layer, directory, () => (isEmpty = false));
  return isEmpty;
}
