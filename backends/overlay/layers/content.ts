import {
  type Attributes,
  type Awaitable,
  FileType,
  FsError,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import type { Content, LowerNode, OverlayNode } from '../tree/node.js';
import type { Layer } from './layer.js';
import { followMetacopy } from './stack.js';

/*
 * Finds the layer that has a file's content. After a change of mode, owner or attributes a layer
 * may have only the metadata of a file (Linux `Documentation/filesystems/overlayfs.rst`, "Metadata
 * only copy up"). The content is then at the same path in a lower, or where `overlay.redirect`
 * says.
 */

/** The layers of a union, and whether it follows files to content in another layer. */
export interface UnionLayers {
  readonly upper: { readonly layer: Layer } | undefined;
  /** Top first. */
  readonly lowers: readonly Layer[];
  readonly metacopy: boolean;
}

/** The result of {@link locate}. */
export interface Located {
  readonly content: Content;
  /** The node with the content, held, if it is not the topmost one. */
  readonly followed: LowerNode | undefined;
}

/**
 * Finds the content of a file.
 * @param parent its directory in the union; undefined for a file without a name
 * @param name its name there
 * @param top the file in the topmost layer that has it
 * @throws EPERM if the content is in another layer and `metacopy` is off; EIO if it is in none.
 */
export function* locate(
  union: UnionLayers,
  parent: OverlayNode | undefined,
  name: string,
  top: LowerNode,
): Steps<Located> {
  if (!(yield* wait(top.layer.marks.isMetacopy(top.layer, top.node)))) {
    return ownContent(top);
  }
  if (!union.metacopy) throw FsError.of('EPERM');
  const found = yield* followMetacopy(union.lowers, parent, name, top);
  if (found === undefined) throw FsError.of('EIO');
  const { layer, node, attributes } = found;
  return { content: { layer, node, blocks: blocksOf(attributes) }, followed: found };
}

/** The location of a file that has its own content. */
export function ownContent(file: LowerNode): Located {
  return { content: file, followed: undefined };
}

/** {@link locate}, but undefined instead of an error. The error comes when the content is used. */
export function* tryLocate(
  union: UnionLayers,
  parent: OverlayNode | undefined,
  name: string,
  top: LowerNode,
): Steps<Located | undefined> {
  try {
    return yield* locate(union, parent, name, top);
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}

/** The layer node with a file's content, found at the first use. @throws as {@link locate}. */
export function contentOf(union: UnionLayers, node: OverlayNode): Awaitable<Content> {
  return node.content ?? run(findContent(union, node));
}

function* findContent(union: UnionLayers, node: OverlayNode): Steps<Content> {
  const top = node.upper === undefined ? node.lowers[0]! : { layer: union.upper!.layer, node: node.upper };
  const located = yield* locate(union, node.parent, node.name, top);
  if (node.content === undefined) setContent(node, located);
  // Another request has found it at the same time.
  else if (located.followed !== undefined) located.followed.layer.drop(located.followed.node);
  return node.content!;
}

export function setContent(node: OverlayNode, { content, followed }: Located): void {
  node.content = content;
  node.followed = followed;
}

/**
 * Whether a file in a lower may have its content in another layer: it has fewer blocks than its
 * size needs (or does not say), or its directory is impure. A crash may have left a file with
 * partly copied content in an impure directory.
 * @returns undefined if it is not known yet whether the directory is impure.
 */
export function mayBeMetacopy(
  { mode, size = 0, blocks = 0 }: Attributes,
  parent: LowerNode,
): boolean | undefined {
  if ((mode & FileType.MASK) !== FileType.REGULAR) return false;
  return blocks * 512 < size || parent.impure;
}

/** {@link mayBeMetacopy}, which asks the directory if need be. */
export function* isPossibleMetacopy(attributes: Attributes, parent: LowerNode): Steps<boolean> {
  parent.impure ??= yield* wait(parent.layer.marks.isImpure(parent.layer, parent.node));
  return mayBeMetacopy(attributes, parent) === true;
}

/** Blocks of 512 bytes that a file takes; computed from its size if the layer does not say. */
export function blocksOf({ size = 0, blocks = Math.ceil(size / 512) }: Attributes): number {
  return blocks;
}
