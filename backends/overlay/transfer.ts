import { acceleratorOf, type Transfer } from '../../core/backend/accelerator.js';
import { type Backend, DAEMON, run, type Steps, wait } from '../../core/backend/index.js';
import { MOST_CONTENT_ALONG, MOST_FOREIGN_JSON } from '../../core/backend/limits.js';
import { headerBytes, readHeader } from './headed-bytes.js';
import { type FindInLayer, type SavedNode, savedNodes } from './saved-state.js';
import type { OverlayNode } from './tree/node.js';
import type { Union } from './tree/union.js';
import { packRoot, packUpper, unpackUpper } from './upper-contents.js';

/*
 * A guest's overlay on its way to another host, where only this host has what is in the upper: all
 * of that goes along, with its marks. The lowers are the same there. The format is a header and the
 * parts of which it tells.
 */

interface Header {
  readonly version: 1;
  /** Whether marks lie in extended attributes. */
  readonly inPlace: boolean;
  /** What tells the upper from others. */
  readonly place: string;
  readonly nodes: readonly SavedNode[];
  /** Bytes of the upper, of its open files without names, and of each lower's state, or null. */
  readonly upper: number;
  readonly nameless: number;
  readonly lowers: readonly (number | null)[];
}

/** What came. */
export interface Arrival {
  readonly nodes: readonly SavedNode[];
  /** Finds nodes of layers that have no name any more. */
  readonly find: FindInLayer;
}

/**
 * @param arrived is told what came, and nothing where it does not stay.
 * @returns nothing where the upper goes another way: what it saves has its contents, or others can
 * have it at the same time.
 */
export function transfer(
  union: () => Union,
  upper: Backend | undefined,
  lowers: readonly Backend[],
  arrived: (arrival: Arrival | undefined) => void,
): Transfer | undefined {
  const migration = upper && acceleratorOf(upper)?.migration;
  if (upper?.claim === undefined || migration === undefined) return undefined;

  /** The root of the upper as it was before what is in it came; undefined if nothing came. */
  let before: Uint8Array | undefined;

  /** The directories of a work area are never moved. */
  function* placeOf(): Steps<string> {
    const { layer, work } = union().writable();
    const { ino } = yield* wait(layer.backend.getattr(work.index, undefined, DAEMON));
    return layer.identity(work.index, ino);
  }

  function* save(): Steps<Uint8Array> {
    const { marks } = union().writable();
    const nodes = savedNodes(union());
    const used = [...union().knownToEngine()].filter((node) => isNameless(node) && node.upper !== undefined);
    const nameless = yield* wait(migration!.depart(used.map((node) => node.upper!)));
    const content = yield* packUpper(union(), MOST_CONTENT_ALONG - nameless.length);
    const states: (Uint8Array | undefined)[] = [];
    for (const lower of lowers) {
      const moves = acceleratorOf(lower)?.migration !== undefined;
      states.push(moves ? undefined : yield* wait(lower.save?.()));
    }
    const header: Header = {
      version: 1,
      inPlace: marks.inPlace,
      place: yield* placeOf(),
      nodes,
      upper: content.length,
      nameless: nameless.length,
      lowers: states.map((state) => state?.length ?? null),
    };
    const parts = [content, nameless, ...states.flatMap((state) => state ?? [])];
    return Buffer.concat([headerBytes(header), ...parts]);
  }

  function* restore(state: Uint8Array): Steps<void> {
    const { work, marks } = union().writable();
    const { header, end } = parse(state, lowers.length);
    if (header.inPlace !== marks.inPlace)
      throw new Error('the upper of the overlay records removals otherwise here');
    const isEmpty = yield* work.isEmpty();
    // A guest comes back that was suspended, or goes back to a snapshot of itself.
    const isSame = !isEmpty && header.place === (yield* placeOf());
    if (!isEmpty && !isSame) throw new Error('the upper of the overlay is not empty here');
    before = isSame ? undefined : yield* packRoot(union());
    let at = end;
    const next = (length: number): Uint8Array => state.subarray(at, (at += length));
    try {
      const upperState = next(header.upper);
      if (!isSame) yield* unpackUpper(union(), upperState);
      const finding = migration!.arrive(next(header.nameless));
      for (const [index, size] of header.lowers.entries())
        if (size !== null) yield* wait(lowers[index]!.restore?.(next(size)));
      if (!isSame) yield* union().upperArrived();
      arrived({
        nodes: header.nodes,
        find: (layer, key) => (layer === upper ? (finding(key) as object) : layer.resolve!(key)),
      });
    } catch (error) {
      yield* undo();
      throw error;
    }
  }

  function* undo(): Steps<void> {
    arrived(undefined);
    if (before === undefined) return;
    union().arrived.clear();
    yield* union().writable().work.emptyUpper();
    yield* unpackUpper(union(), before);
    yield* union().readRoot();
  }

  return {
    save: () => run(save()),
    restore: (state) => run(restore(state)),
    undo: () => run(undo()),
  };
}

function isNameless(node: OverlayNode): boolean {
  let at: OverlayNode | undefined = node;
  while (at?.parent !== undefined) at = at.parent;
  return at?.identity !== 'root';
}

function parse(state: Uint8Array, lowers: number): { header: Header; end: number } {
  try {
    const { header, end } = readHeader(state, 0, MOST_FOREIGN_JSON) as { header: Header; end: number };
    const sizes = [header.upper, header.nameless, ...header.lowers.map((size) => size ?? 0)];
    const isWhole = sizes.every((size) => Number.isSafeInteger(size) && size >= 0);
    if (header.version === 1 && header.lowers.length === lowers && isWhole && Array.isArray(header.nodes))
      return { header, end };
  } catch {
    // Not a header, too long, or cut short.
  }
  throw new RangeError("it is no state of this overlay: its layers' number or the version differs");
}
