import { type Attributes, FileType, type Steps, wait } from '../../../core/backend/index.js';
import type { Layer } from './layer.js';
import type { Found } from './whiteouts.js';
import type { LowerNode, OverlayNode } from '../tree/node.js';

/*
 * Look-up in the lowers, from the top down. Rules: Linux `Documentation/filesystems/overlayfs.rst`,
 * "whiteouts and opaque directories", "redirect_dir", "Metadata only copy up".
 */

/**
 * What the lowers have at a path: their nodes, held, top first, and the attributes of the first
 * one.
 */
export interface Stack {
  stack: LowerNode[];
  attributes: Attributes | undefined;
}

/**
 * Looks a name up in the lowers of a directory, or an absolute path of a redirect in all lowers. A
 * directory is merged with those below it, until an opaque directory, a whiteout or another kind of
 * file ends the stack.
 */
export function* mergeLowers(
  lowers: readonly Layer[],
  parent: OverlayNode,
  nameOrPath: string,
): Steps<Stack> {
  const stack: LowerNode[] = [];
  let attributes: Attributes | undefined;
  let place = placeOf(nameOrPath);
  for (const layer of lowers) {
    const start = startOf(place, parent, layer);
    if (start === undefined) continue;
    const { found, hides } = yield* walk(layer, start, place.path);
    if (found === undefined && !hides) continue;
    if (found === undefined || found === 'whiteout') break;
    const isDirectory = typeOf(found.attributes) === FileType.DIRECTORY;
    if (stack.length > 0 && !isDirectory) {
      layer.drop(found.node);
      break;
    }
    stack.push({ layer, node: found.node });
    attributes ??= { ...found.attributes };
    if (!isDirectory || hides || layer === lowers.at(-1)) break;
    if (yield* wait(layer.marks.isOpaque(layer, found.node))) break;
    place = redirected(place, yield* redirectOf(layer, found.node));
  }
  return { stack, attributes };
}

/**
 * Follows files that have only metadata down to the one that has the content.
 * @param parent directory of the first of them in the union
 * @param name its name there
 * @returns the node, held, and its attributes; undefined if there is none.
 */
export function* followMetacopy(
  lowers: readonly Layer[],
  parent: OverlayNode | undefined,
  name: string,
  first: LowerNode,
): Steps<(LowerNode & { readonly attributes: Attributes }) | undefined> {
  let place = redirected(placeOf(name), yield* redirectOf(first.layer, first.node));
  for (const layer of lowers) {
    // Lowers count from the bottom; the upper is 0.
    if (first.layer.number !== 0 && layer.number >= first.layer.number) continue;
    const start = startOf(place, parent, layer);
    if (start === undefined) continue;
    const { found, hides } = yield* walk(layer, start, place.path);
    if (found === undefined && !hides) continue;
    if (found === undefined || found === 'whiteout') return undefined;
    const attributes = { ...found.attributes };
    let isFound = false;
    try {
      if (typeOf(attributes) !== FileType.REGULAR) return undefined;
      if (!(yield* wait(layer.marks.isMetacopy(layer, found.node)))) {
        isFound = true;
        return { layer, node: found.node, attributes };
      }
      const redirect = yield* redirectOf(layer, found.node);
      if (hides && redirect?.startsWith('/') !== true) return undefined;
      place = redirected(place, redirect);
    } finally {
      if (!isFound) layer.drop(found.node);
    }
  }
  return undefined;
}

/** A path in the lowers: relative to a directory's nodes there, or to each layer's root. */
interface Place {
  readonly path: readonly string[];
  readonly isAbsolute: boolean;
}

function placeOf(nameOrPath: string): Place {
  return { path: splitPath(nameOrPath), isAbsolute: nameOrPath.startsWith('/') };
}

function redirected(place: Place, redirect: string | undefined): Place {
  if (redirect === undefined) return place;
  if (redirect.startsWith('/')) return placeOf(redirect);
  return { path: [...place.path.slice(0, -1), redirect], isAbsolute: place.isAbsolute };
}

function startOf(place: Place, parent: OverlayNode | undefined, layer: Layer): object | undefined {
  return place.isAbsolute ? layer.root : parent?.lowers.find((lower) => lower.layer === layer)?.node;
}

/**
 * Reads where the node's lowers are: a name in the same directory, or a path from the root.
 * Undefined if they are at its own name.
 */
export function* redirectOf(layer: Layer, node: object): Steps<string | undefined> {
  const text = yield* wait(layer.marks.get(layer, node, 'redirect'));
  return text !== undefined && isRedirect(text) ? text : undefined;
}

/**
 * Checks a redirect, since the maker of a layer may write anything: no name in it may lead
 * elsewhere.
 */
function isRedirect(text: string): boolean {
  const names = text.startsWith('/') ? text.slice(1).split('/') : [text];
  return names.every((name) => name !== '' && name !== '.' && name !== '..' && !name.includes('/'));
}

/**
 * Walks a path in one layer. A whiteout, an opaque directory, or something that is no directory on
 * the way hides the layers below.
 */
function* walk(
  layer: Layer,
  start: object,
  path: readonly string[],
): Steps<{ found: Found; hides: boolean }> {
  const { marks } = layer;
  let hides = false;
  let node = start;
  layer.hold(node);
  try {
    for (const [at, name] of path.entries()) {
      const found: Found = marks.reserves(name) ? undefined : yield* wait(marks.find(layer, node, name));
      if (at === path.length - 1) return { found, hides };
      if (found === undefined || found === 'whiteout') return { found, hides };
      layer.drop(node);
      node = found.node;
      if (typeOf(found.attributes) !== FileType.DIRECTORY) break;
      hides ||= yield* wait(marks.isOpaque(layer, node));
    }
    return { found: undefined, hides: true };
  } finally {
    layer.drop(node);
  }
}

export function dropAll(stack: readonly LowerNode[]): void {
  for (const { layer, node } of stack) layer.drop(node);
}

function typeOf({ mode }: Attributes): number {
  return mode & FileType.MASK;
}

function splitPath(path: string): string[] {
  return path.split('/').filter((part) => part !== '');
}
