import { DAEMON, andThen, type Attributes, run } from '../../../core/backend/index.js';
import { list } from '../tree/listing.js';
import type { OverlayNode } from '../tree/node.js';
import type { PinnedEntry, Union } from '../tree/union.js';
import { listAll } from '../layers/entries.js';

/** One difference between a union and its lowers. */
export interface Difference {
  readonly kind: 'added' | 'changed' | 'removed';
  /** Names from the root, joined by slashes. */
  readonly path: string;
  /** The entry that is there now, valid until the next difference; undefined if it was removed. */
  readonly seen: PinnedEntry | undefined;
  /** Whether it is a directory that hides what the lowers have at its place. */
  readonly replaces: boolean;
  /** Whether it is a file whose content is that of the lowers at its place. */
  readonly hasSameContent: boolean;
}

const PLAIN = { replaces: false, hasSameContent: false } as const;
const NOT_THERE = { seen: undefined, ...PLAIN } as const;

/** The differences that the upper makes, sorted by name, directories before their content. */
export async function* differences(union: Union): AsyncGenerator<Difference> {
  yield* within(union, union.root, '');
}

/** Differences in a directory that the upper and lowers have in common. */
async function* within(union: Union, directory: OverlayNode, prefix: string): AsyncGenerator<Difference> {
  const { layer, marks } = union.writable();
  if (directory.upper === undefined) return;
  const whiteoutOf = await marks.whiteouts(layer, directory.upper);
  const entries = await run(listAll(layer, directory.upper));
  for (const { name, type } of entries.toSorted(byName)) {
    const hidden = await whiteoutOf(name, type);
    if (hidden !== undefined) {
      if (await isGone(union, directory, hidden)) {
        yield { kind: 'removed', path: prefix + hidden, ...NOT_THERE };
      }
      continue;
    }
    const seen = await run(union.find(directory, name));
    if (seen === undefined) continue;
    try {
      yield* entered(union, directory, name, prefix, seen);
    } finally {
      union.unpin(seen.node);
    }
  }
}

/** Whether the lowers have a name that the union does not show. */
async function isGone(union: Union, directory: OverlayNode, name: string): Promise<boolean> {
  const seen = await run(union.find(directory, name));
  if (seen !== undefined) union.unpin(seen.node);
  return seen === undefined && (await run(union.existsBelow(directory, name)));
}

async function* entered(
  union: Union,
  directory: OverlayNode,
  name: string,
  prefix: string,
  seen: PinnedEntry,
): AsyncGenerator<Difference> {
  const { node } = seen;
  const path = prefix + name;
  const below = await run(union.existsBelow(directory, name));
  const kind = below ? 'changed' : 'added';
  if (!node.isDirectory) {
    const hasSameContent = node.isMetacopy && node.content !== undefined && node.redirect === undefined;
    yield { kind, path, seen, replaces: false, hasSameContent };
  } else if (node.lowers.length > 0 && node.redirect === undefined) {
    if (await hasOtherAttributes(node, seen.attributes)) yield { kind, path, seen, ...PLAIN };
    yield* within(union, node, `${path}/`);
  } else {
    yield { kind, path, seen, ...PLAIN, replaces: below };
    yield* everything(union, node, `${path}/`);
  }
}

async function hasOtherAttributes(node: OverlayNode, now: Attributes): Promise<boolean> {
  const lower = node.lowers[0]!;
  // Read at once: the layer may fill one object for each answer.
  return andThen(lower.layer.backend.getattr(lower.node, undefined, DAEMON), (before) =>
    (['mode', 'uid', 'gid'] as const).some((field) => (now[field] ?? 0) !== (before[field] ?? 0)),
  );
}

/** All of a directory that is new at its place, lowers that moved with it included. */
async function* everything(union: Union, directory: OverlayNode, prefix: string): AsyncGenerator<Difference> {
  const entries = [...(await run(list(union, directory)))];
  for (const { name } of entries.toSorted(byName)) {
    const seen = await run(union.find(directory, name));
    if (seen === undefined) continue;
    try {
      yield { kind: 'added', path: prefix + name, seen, ...PLAIN };
      if (seen.node.isDirectory) yield* everything(union, seen.node, `${prefix}${name}/`);
    } finally {
      union.unpin(seen.node);
    }
  }
}

function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  return a.name < b.name ? -1 : 1;
}
