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
import { followMetacopy } from './stack.js';
import type { Union } from '../tree/union.js';

/*
 * Where the content of a file is: a layer may have only the metadata of a file, after a change of
 * mode, owner or attributes (Linux `Documentation/filesystems/overlayfs.rst`, "Metadata only copy
 * up"). Its content is then at the same place in a lower, or where `overlay.redirect` says.
 */

/** What {@link locate} finds. */
export interface Located {
  readonly content: Content;
  /** Held, where the content is not in the layer that was begun with. */
  readonly followed: LowerNode | undefined;
}

/**
 * Finds the content of a file.
 * @param parent and name: where the file is in the union; nothing for one without a name.
 * @param top the file in the topmost layer that has it.
 * @throws EPERM if it is elsewhere and the union was told not to follow, EIO if it isn't there.
 */
export function* locate(
  union: Union,
  parent: OverlayNode | undefined,
  name: string,
  top: LowerNode,
): Steps<Located> {
  if (!(yield* wait(top.layer.marks.isMetacopy(top.layer, top.node)))) {
    return own(top);
  }
  if (!union.metacopy) throw FsError.of('EPERM');
  const found = yield* followMetacopy(union.lowers, parent, name, top);
  if (found === undefined) throw FsError.of('EIO');
  const { layer, node, attributes } = found;
  return { content: { layer, node, blocks: blocksOf(attributes) }, followed: found };
}

/** A file that has its content itself. */
export function own(file: LowerNode): Located {
  return { content: file, followed: undefined };
}

/** {@link locate}, where it does not matter yet if it cannot be found. */
export function* tryLocate(
  union: Union,
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

/** Where a file's content is. @throws as {@link locate}. */
export function contentOf(union: Union, node: OverlayNode): Awaitable<Content> {
  return node.content ?? run(findContent(union, node));
}

function* findContent(union: Union, node: OverlayNode): Steps<Content> {
  const top = node.upper === undefined ? node.lowers[0]! : { layer: union.upper!.layer, node: node.upper };
  const located = yield* locate(union, node.parent, node.name, top);
  if (node.content === undefined) setContent(node, located);
  // Others found it meanwhile.
  else if (located.followed !== undefined) located.followed.layer.drop(located.followed.node);
  return node.content!;
}

export function setContent(node: OverlayNode, { content, followed }: Located): void {
  node.content = content;
  node.followed = followed;
}

/**
 * Whether a file in a lower may have its content elsewhere: it takes fewer blocks than its size (or
 * does not say), or its directory has files that came from below, one of which a crash may have
 * left half filled. Nothing where the directory was not asked yet.
 */
export function mayBorrow(
  { mode, size = 0, blocks = 0 }: Attributes,
  parent: LowerNode,
): boolean | undefined {
  if ((mode & FileType.MASK) !== FileType.REGULAR) return false;
  return blocks * 512 < size || parent.impure;
}

/** {@link mayBorrow}, asking the directory. */
export function* askWhetherBorrowed(attributes: Attributes, parent: LowerNode): Steps<boolean> {
  parent.impure ??= yield* wait(parent.layer.marks.isImpure(parent.layer, parent.node));
  return mayBorrow(attributes, parent) === true;
}

/** Blocks of 512 bytes that a file takes, as `Attributes.blocks` without its default. */
export function blocksOf({ size = 0, blocks = Math.ceil(size / 512) }: Attributes): number {
  return blocks;
}
