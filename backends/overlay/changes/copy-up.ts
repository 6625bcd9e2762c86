import {
  DAEMON,
  type Attributes,
  type Awaitable,
  FileType,
  FsError,
  isPromise,
  ModeBits,
  OpenFlags,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { blocksOf, contentOf } from '../layers/content.js';
import { copyContent } from './copy-data.js';
import { fill } from './complete-copy-up.js';
import type { Layer } from '../layers/layer.js';
import type { Content, Draft, OverlayNode } from '../tree/node.js';
import { originText } from '../layers/origin.js';
import { timesOf } from '../tree/times.js';
import type { Union } from '../tree/union.js';

/**
 * Brings a node into the upper, its ancestors first: built as a temporary in the work area, made
 * durable, then renamed into place, so that a crash leaves the lower visible and at most a
 * temporary. Linux `fs/overlayfs/copy_up.c` has the same order. Several callers share one copy;
 * other changes go on while its content is copied.
 * @param length bytes of content that the caller needs: 0 where it truncates to nothing at once,
 * all of it with `Infinity`. Without it the metadata is enough, and the content may stay below.
 */
export function copyUp(union: Union, node: OverlayNode, length?: number): Awaitable<void> {
  if (node.upper === undefined) return run(copyUpSteps(union, node, length));
  if (length !== undefined && node.isMetacopy) return fill(union, node, length);
  // What filling restores when it is done must not be older than what the caller changes.
  return node.filling?.catch(() => {});
}

function* copyUpSteps(union: Union, node: OverlayNode, length: number | undefined): Steps<void> {
  union.pin(node);
  try {
    yield* wait(draft(union, node, length));
    yield* wait(union.turnstile.pass(() => run(bringUp(union, node))));
    // The copy may have been begun for somebody who did not need the content.
    if (length !== undefined && node.isMetacopy) yield* wait(fill(union, node, length));
  } finally {
    union.unpin(node);
  }
}

/** {@link copyUp} within a change. */
export function* bringUp(union: Union, node: OverlayNode): Steps<void> {
  if (node.upper !== undefined) return;
  const copy = yield* wait(draft(union, node, undefined));
  try {
    yield* place(union, node, copy);
  } catch (error) {
    yield* union.writable().work.remove(copy.temporary);
    throw error;
  } finally {
    node.draft = undefined;
    union.writable().layer.drop(copy.node);
  }
}

/** The copy of a node, made once for all who want it. */
function draft(union: Union, node: OverlayNode, length: number | undefined): Awaitable<Draft> {
  if (node.draft !== undefined) return node.draft;
  const made = run(build(union, node, length));
  if (node.upper === undefined) node.draft = isPromise(made) ? made.catch(forgetDraft) : made;
  return node.draft ?? made;

  function forgetDraft(error: unknown): never {
    node.draft = undefined;
    throw error;
  }
}

function* place(union: Union, node: OverlayNode, copy: Draft): Steps<void> {
  const { work, layer } = union.writable();
  const links = node.isDirectory ? 1 : (copy.attributes.nlink ?? 1);
  const indexed = links > 1 && layer.backend.link !== undefined;
  const { parent, name } = node;
  if (parent !== undefined) yield* bringUp(union, parent);
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
    // Two names in the upper: its place and the index.
    yield* setLinks(union, copy.node, 'U', links - 2);
    node.indexed = true;
    node.linkDelta = links - 2;
  }
  union.adopt(node, copy.node, copy.content);
}

/**
 * Records how the link count of a file from a lower is told from the upper's (`U`) or the lower's
 * (`L`).
 */
export function* setLinks(union: Union, upperNode: object, from: 'U' | 'L', delta: number): Steps<void> {
  const { layer, marks } = union.writable();
  if (!marks.holds(FileType.REGULAR)) return;
  yield* wait(marks.set(layer, upperNode, 'nlink', `${from}${delta < 0 ? delta : `+${delta}`}`));
}

/** Nobody has removed the name since the copy was begun. */
function* isStillThere(union: Union, parent: OverlayNode, name: string): Steps<boolean> {
  const { layer, marks } = union.writable();
  const found = yield* wait(marks.find(layer, parent.upper!, name));
  if (found === undefined) return true;
  if (found === 'whiteout') return false;
  layer.drop(found.node);
  // The upper was changed behind our back.
  throw FsError.of('ESTALE');
}

/**
 * Renames the copy over the place of the original; the parent's times stay, as nothing in the union
 * changed.
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

/** A file without a name gets a copy without a name: it lives by being open. */
function* keepOrphan(union: Union, node: OverlayNode, copy: Draft): Steps<void> {
  const { work, layer } = union.writable();
  const { backend } = layer;
  if (backend.open !== undefined && node.type === FileType.REGULAR) {
    node.orphan = { ...(yield* wait(backend.open(copy.node, OpenFlags.READ_WRITE, DAEMON))) };
  }
  yield* work.remove(copy.temporary);
}

function* build(union: Union, node: OverlayNode, length: number | undefined): Steps<Draft> {
  const { work, layer } = union.writable();
  const { layer: from, node: original } = node.lowers[0]!;
  const attributes = { ...(yield* wait(from.backend.getattr(original, undefined, DAEMON))) };
  const size = attributes.size ?? 0;
  const isMetacopy =
    length === undefined && union.writesMetacopy && size > 0 && node.type === FileType.REGULAR;
  const temporary = work.temporary();
  let copy: object | undefined;
  try {
    const made = yield* make(union, node.type, from, original, temporary, attributes);
    copy = made.node;
    work.reached('copy-up-created');
    let content: Content | undefined;
    try {
      if (made.opened !== undefined) {
        if (isMetacopy) content = yield* borrow(union, node, copy, attributes);
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

/** Gives the copy the size of the original, and says that the content is there. */
function* borrow(union: Union, node: OverlayNode, copy: object, attributes: Attributes): Steps<Content> {
  const { size = 0 } = attributes;
  const { layer, marks, work } = union.writable();
  const content = yield* wait(contentOf(union, node));
  yield* wait(marks.set(layer, copy, 'metacopy', ''));
  yield* wait(layer.backend.setattr!(copy, { size }, undefined, DAEMON));
  work.reached('copy-up-metadata');
  return { ...content, blocks: content.blocks ?? blocksOf(attributes) };
}

/** Gives the copy the content, or the beginning of it. */
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

/** Makes a temporary of the original's kind, and holds it. */
function* make(
  union: Union,
  type: number,
  from: Layer,
  original: object,
  temporary: string,
  attributes: Attributes,
): Steps<{ node: object; opened?: { file: unknown } }> {
  const { work, layer } = union.writable();
  const { backend } = layer;
  const { directory } = work;
  if (type === FileType.DIRECTORY) {
    if (backend.mkdir === undefined) throw FsError.of('EROFS');
    return { node: layer.keep(yield* wait(backend.mkdir(directory, temporary, 0o700, DAEMON))).node };
  }
  if (type === FileType.SYMLINK) {
    if (backend.symlink === undefined || from.backend.readlink === undefined) throw FsError.of('EOPNOTSUPP');
    const target = yield* wait(from.backend.readlink(original, DAEMON));
    return { node: layer.keep(yield* wait(backend.symlink(directory, temporary, target, DAEMON))).node };
  }
  if (type === FileType.REGULAR) {
    if (backend.create === undefined) throw FsError.of('EROFS');
    const flags = OpenFlags.READ_WRITE | OpenFlags.CREAT | OpenFlags.EXCL;
    const made = yield* wait(backend.create(directory, temporary, 0o600, flags, DAEMON));
    const { node, file } = layer.keep(made);
    return { node, opened: { file } };
  }
  if (backend.mknod === undefined) throw FsError.of('EOPNOTSUPP');
  const { mode, rdev = 0 } = attributes;
  return { node: layer.keep(yield* wait(backend.mknod(directory, temporary, mode, rdev, DAEMON))).node };
}

/**
 * Gives the copy all but the content: the owner first, since a change of owner takes privileges
 * away.
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
  const { mode, nlink = 1 } = attributes;
  const isOwned = yield* giveOwner(layer, copy, attributes);
  yield* copyAttributes(from, original, layer, copy);
  if (!node.isDirectory && marks.holds(node.type)) {
    yield* wait(marks.set(layer, copy, 'kit.origin', originText(node, nlink)));
  }
  const times = timesOf(attributes);
  // Set-id bits are for the owner that the file had.
  const bits = isOwned ? ModeBits.PERMISSIONS : 0o1777;
  const rest = node.type === FileType.SYMLINK ? times : { mode: mode & bits, ...times };
  yield* wait(layer.backend.setattr?.(copy, rest, undefined, DAEMON));
}

/**
 * A daemon without privilege cannot give files away: they are its own then.
 * @returns whether the owner is the same.
 */
export function* giveOwner(
  { backend }: Layer,
  node: object,
  { uid = 0, gid = 0 }: Attributes,
): Steps<boolean> {
  try {
    yield* wait(backend.setattr?.(node, { uid, gid }, undefined, DAEMON));
    return true;
  } catch (error) {
    if (error instanceof FsError && error.code === 'EPERM') return false;
    throw error;
  }
}

function* copyAttributes(from: Layer, original: object, to: Layer, copy: object): Steps<void> {
  if (from.backend.listxattr === undefined || from.backend.getxattr === undefined) return;
  if (to.backend.setxattr === undefined) return;
  for (const stored of yield* wait(from.backend.listxattr(original, DAEMON))) {
    const name = from.marks.unescape(stored);
    if (name === undefined) continue;
    const value = yield* wait(from.backend.getxattr(original, stored, DAEMON));
    if (value === undefined) continue;
    try {
      yield* wait(to.backend.setxattr(copy, to.marks.escape(name), value, 0, false, DAEMON));
    } catch (error) {
      if (!isDispensable(name, error)) throw error;
    }
  }
}

/** What the upper cannot hold may be lost, as in overlayfs, unless permissions hang on it. */
function isDispensable(name: string, error: unknown): boolean {
  const refused = error instanceof FsError && (error.code === 'EOPNOTSUPP' || error.code === 'EPERM');
  return refused && !name.startsWith('system.posix_acl_') && !name.startsWith('security.');
}
