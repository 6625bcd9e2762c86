import {
  DAEMON,
  type Attributes,
  type Awaitable,
  FileType,
  FsError,
  isPromise,
  OpenFlags,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { blocksOf, contentOf } from '../layers/content.js';
import { copyContent } from './copy-data.js';
import { completeCopyUp } from './complete-copy-up.js';
import { giveModeAndTimes, giveOwner, giveXattr, makeLike } from './like-another.js';
import type { Layer } from '../layers/layer.js';
import type { Content, PendingCopy, OverlayNode } from '../tree/node.js';
import { originText } from '../layers/origin.js';
import { timesOf } from '../tree/times.js';
import type { Union } from '../tree/union.js';

/**
 * Copies a node up, its ancestors first. The copy is made in the work area, made durable, and
 * renamed into place. After a crash the lower is still visible, and at most a temporary is left.
 * Linux `fs/overlayfs/copy_up.c` has the same order. Several callers share one copy, and other
 * changes go on while its content is copied.
 * @param length bytes of content that the caller needs: 0 if it truncates the file, `Infinity` for
 * all of it. Without `length` the metadata is enough, and the content may stay below.
 */
export function copyUp(union: Union, node: OverlayNode, length?: number): Awaitable<void> {
  if (node.upper === undefined) return run(copyUpSteps(union, node, length));
  if (length !== undefined && node.isMetacopy) return completeCopyUp(union, node, length);
  // When the completion ends, it restores times and mode. The caller must change them after that.
  return node.completing?.catch(() => {});
}

function* copyUpSteps(union: Union, node: OverlayNode, length: number | undefined): Steps<void> {
  union.pin(node);
  try {
    yield* wait(pendingCopy(union, node, length));
    yield* wait(union.changeQueue.run(() => run(copyUpInChange(union, node))));
    // The copy may have been started by a caller that did not need the content.
    if (length !== undefined && node.isMetacopy) yield* wait(completeCopyUp(union, node, length));
  } finally {
    union.unpin(node);
  }
}

/** {@link copyUp} as a part of a change that is running. */
export function* copyUpInChange(union: Union, node: OverlayNode): Steps<void> {
  if (node.upper !== undefined) return;
  const copy = yield* wait(pendingCopy(union, node, undefined));
  try {
    yield* place(union, node, copy);
    union.copyUps += 1;
  } catch (error) {
    yield* union.writable().work.remove(copy.temporary);
    throw error;
  } finally {
    node.pendingCopy = undefined;
    union.writable().layer.drop(copy.node);
  }
}

/** The copy of a node, made once for all callers. */
function pendingCopy(union: Union, node: OverlayNode, length: number | undefined): Awaitable<PendingCopy> {
  if (node.pendingCopy !== undefined) return node.pendingCopy;
  const made = run(build(union, node, length));
  if (node.upper === undefined) node.pendingCopy = isPromise(made) ? made.catch(forgetPendingCopy) : made;
  return node.pendingCopy ?? made;

  function forgetPendingCopy(error: unknown): never {
    node.pendingCopy = undefined;
    throw error;
  }
}

function* place(union: Union, node: OverlayNode, copy: PendingCopy): Steps<void> {
  const { work, layer } = union.writable();
  const links = node.isDirectory ? 1 : (copy.attributes.nlink ?? 1);
  const indexed = links > 1 && layer.backend.link !== undefined;
  const { parent, name } = node;
  if (parent !== undefined) yield* copyUpInChange(union, parent);
  if (indexed) {
    yield* setLinks(union, copy.node, 'L', 0);
    yield* work.addIndexed(node.identity, copy.node);
    work.reached('copy-up-indexed');
  }
  if (parent !== undefined && (yield* isStillThere(union, parent, name))) {
    yield* moveIntoPlace(union, parent, name, copy.temporary);
  } else yield* keepOrphan(union, node, copy);
  work.reached('copy-up-renamed');
  if (indexed) {
    // The file has two names in the upper: its place and the index.
    yield* setLinks(union, copy.node, 'U', links - 2);
    node.indexed = true;
    node.linkDelta = links - 2;
  }
  union.setUpper(node, copy.node, copy.content);
}

/**
 * Writes `overlay.nlink`: the file's link count relative to the upper's (`U`) or the lower's (`L`)
 * link count.
 */
export function* setLinks(union: Union, upperNode: object, from: 'U' | 'L', delta: number): Steps<void> {
  const { layer, marks } = union.writable();
  if (!marks.holds(FileType.REGULAR)) return;
  yield* wait(marks.set(layer, upperNode, 'nlink', `${from}${delta < 0 ? delta : `+${delta}`}`));
}

/** Whether the name still exists: it may have been removed since the copy was started. */
function* isStillThere(union: Union, parent: OverlayNode, name: string): Steps<boolean> {
  const { layer, marks } = union.writable();
  const found = yield* wait(marks.find(layer, parent.upper!, name));
  if (found === undefined) return true;
  if (found === 'whiteout') return false;
  layer.drop(found.node);
  // The upper was changed behind the overlay.
  throw FsError.of('ESTALE');
}

/**
 * Renames the copy to the place of the original. The parent keeps its times, since nothing changed
 * in the union.
 */
function* moveIntoPlace(union: Union, parent: OverlayNode, name: string, temporary: string): Steps<void> {
  const { work, layer, marks } = union.writable();
  const directory = parent.upper!;
  if (!parent.impure) {
    yield* wait(marks.set(layer, directory, 'impure', 'y'));
    parent.impure = true;
  }
  const before = { ...(yield* wait(layer.backend.getattr(directory, undefined, DAEMON))) };
  yield* wait(work.rename(work.directory, temporary, directory, name, 0));
  yield* wait(layer.backend.setattr?.(directory, timesOf(before), undefined, DAEMON));
  if (layer.backend.fsyncdir !== undefined) yield* wait(layer.backend.fsyncdir(directory, false, DAEMON));
}

/** Keeps a copy without a name, for a file that has none. An open file keeps its content alive. */
function* keepOrphan(union: Union, node: OverlayNode, copy: PendingCopy): Steps<void> {
  const { work, layer } = union.writable();
  const { backend } = layer;
  if (backend.open !== undefined && node.type === FileType.REGULAR) {
    node.orphan = { ...(yield* wait(backend.open(copy.node, OpenFlags.READ_WRITE, DAEMON))) };
  }
  yield* work.remove(copy.temporary);
}

function* build(union: Union, node: OverlayNode, length: number | undefined): Steps<PendingCopy> {
  const { work, layer } = union.writable();
  const { layer: from, node: original } = node.lowers[0]!;
  const attributes = { ...(yield* wait(from.backend.getattr(original, undefined, DAEMON))) };
  const size = attributes.size ?? 0;
  const isMetacopy =
    length === undefined && union.writesMetacopy && size > 0 && node.type === FileType.REGULAR;
  const temporary = work.temporary();
  let copy: object | undefined;
  try {
    const target = (): Awaitable<string> => targetOf(from, original);
    const made = yield* makeLike(layer, work.directory, temporary, node.type, attributes, target);
    copy = made.node;
    work.reached('copy-up-created');
    let content: Content | undefined;
    try {
      if (made.opened !== undefined) {
        if (isMetacopy) content = yield* makeMetacopy(union, node, copy, attributes);
        else yield* copyAll(union, node, copy, made.opened.file, Math.min(size, length ?? Infinity));
      }
      yield* finish(union, node, from, original, copy, attributes);
      if (made.opened !== undefined && layer.backend.fsync !== undefined) {
        yield* wait(layer.backend.fsync(copy, made.opened.file, false, DAEMON));
      }
    } finally {
      if (made.opened !== undefined) yield* wait(layer.backend.release?.(copy, made.opened.file));
    }
    work.reached('copy-up-built');
    return {
      temporary,
      node: copy,
      attributes,
      content: content ?? { layer, node: copy },
    };
  } catch (error) {
    if (copy !== undefined) layer.drop(copy);
    yield* work.remove(temporary);
    throw error;
  }
}

/**
 * Marks the copy as a metacopy: it gets the size of the original, and the content stays where it
 * is.
 */
function* makeMetacopy(
  union: Union,
  node: OverlayNode,
  copy: object,
  attributes: Attributes,
): Steps<Content> {
  const { size = 0 } = attributes;
  const { layer, marks, work } = union.writable();
  const content = yield* wait(contentOf(union, node));
  yield* wait(marks.set(layer, copy, 'metacopy', ''));
  yield* wait(layer.backend.setattr!(copy, { size }, undefined, DAEMON));
  work.reached('copy-up-metadata');
  return { ...content, blocks: content.blocks ?? blocksOf(attributes) };
}

/** Copies the content, or the beginning of it, into the copy. */
function* copyAll(
  union: Union,
  node: OverlayNode,
  copy: object,
  copyFile: unknown,
  size: number,
): Steps<void> {
  if (size === 0) return;
  const { layer, work } = union.writable();
  yield* copyContent(union, yield* wait(contentOf(union, node)), copy, copyFile, size);
  yield* wait(layer.backend.setattr?.(copy, { size }, copyFile, DAEMON));
  work.reached('copy-up-data');
}

/** Where a symbolic link of a layer leads. */
function targetOf({ backend }: Layer, link: object): Awaitable<string> {
  if (backend.readlink === undefined) throw FsError.of('EOPNOTSUPP');
  return backend.readlink(link, DAEMON);
}

/**
 * Sets everything but the content. The owner comes first, since a change of owner removes set-id
 * bits and capabilities.
 */
function* finish(
  union: Union,
  node: OverlayNode,
  from: Layer,
  original: object,
  copy: object,
  attributes: Attributes,
): Steps<void> {
  const { layer, marks } = union.writable();
  const { nlink = 1 } = attributes;
  const isOwned = yield* giveOwner(layer, copy, attributes);
  yield* copyAttributes(from, original, layer, copy);
  if (!node.isDirectory && marks.holds(node.type)) {
    yield* wait(marks.set(layer, copy, 'kit.origin', originText(node, nlink)));
  }
  yield* giveModeAndTimes(layer, copy, node.type, attributes, isOwned);
}

function* copyAttributes(from: Layer, original: object, to: Layer, copy: object): Steps<void> {
  if (from.backend.listxattr === undefined || from.backend.getxattr === undefined) return;
  if (to.backend.setxattr === undefined) return;
  for (const stored of yield* wait(from.backend.listxattr(original, DAEMON))) {
    const name = from.marks.unescape(stored);
    if (name === undefined) continue;
    const value = yield* wait(from.backend.getxattr(original, stored, DAEMON));
    if (value === undefined) continue;
    yield* giveXattr(to, copy, to.marks.escape(name), value);
  }
}
