import {
  DAEMON,
  type Attributes,
  type AttributeChanges,
  type Context,
  type Created,
  type Entry,
  FileType,
  FsError,
  ModeBits,
  RenameFlags,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { copyUpInChange, copyUp, setLinks } from './copy-up.js';
import { completeCopyUp } from './complete-copy-up.js';
import { isEmpty } from '../tree/listing.js';
import type { OverlayNode } from '../tree/node.js';
import type { PinnedEntry, Union } from '../tree/union.js';

const DEFAULT_ACL = 'system.posix_acl_default';

/** Smaller files are copied within a change, since that takes no noticeable time. */
const LARGE_BYTES = 1 << 20;

/** Creates something in a directory of the upper, with the caller's credentials. */
export type Make<E extends Entry<object>> = (directory: object, name: string) => E | Promise<E>;

/**
 * Creates a name that the union does not show. If a whiteout is there, the new node is made in the
 * work area first.
 */
export function* create<E extends Entry<object>>(
  union: Union,
  parent: OverlayNode,
  name: string,
  make: Make<E>,
): Steps<{ made: E; node: OverlayNode; attributes: Attributes }> {
  const { layer, marks, work } = union.writable();
  if (union.isReserved(parent, name)) throw FsError.of('EINVAL');
  const there = yield* union.find(parent, name);
  if (there !== undefined) {
    union.unpin(there.node);
    throw FsError.of('EEXIST');
  }
  yield* copyUpInChange(union, parent);
  const directory = parent.upper!;
  const found = yield* wait(marks.find(layer, directory, name));
  if (found !== undefined && found !== 'whiteout') {
    layer.drop(found.node);
    throw FsError.of('EEXIST');
  }
  let made: E;
  if (found === 'whiteout' && marks.inPlace) made = yield* createOverWhiteout(union, parent, name, make);
  else {
    made = layer.keep(ownCopy(yield* wait(make(directory, name))));
    if (isDirectory(made) && parent.lowers.length > 0) yield* wait(marks.setOpaque(layer, made.node));
    work.reached('create-made');
    if (found === 'whiteout') yield* wait(marks.removeWhiteout(layer, directory, name));
  }
  const node = union.created(parent, name, made.node, made.attributes);
  layer.drop(made.node);
  return { made, node, attributes: made.attributes };
}

/** Copies what a creation returned, because the layer may refill its answer. */
function ownCopy<E extends Entry<object>>(entry: E): E {
  return { ...entry, attributes: { ...entry.attributes } };
}

function isDirectory(entry: Entry<object>): boolean {
  return (entry.attributes.mode & FileType.MASK) === FileType.DIRECTORY;
}

/**
 * Creates a node over a whiteout. The node is made in a temporary directory, which passes on the
 * same group and ACL as the real parent. One rename puts it in the whiteout's place; a directory is
 * exchanged with it, since it cannot replace a device.
 */
function* createOverWhiteout<E extends Entry<object>>(
  union: Union,
  parent: OverlayNode,
  name: string,
  make: Make<E>,
): Steps<E> {
  const { layer, marks, work } = union.writable();
  const temporary = work.temporary();
  try {
    return yield* work.make(temporary, 0o777, function* (directory) {
      yield* inheritLike(union, parent.upper!, directory);
      const made = layer.keep(ownCopy(yield* wait(make(directory, 'new'))));
      if (isDirectory(made)) yield* wait(marks.setOpaque(layer, made.node));
      work.reached('create-made');
      if (isDirectory(made)) yield* wait(work.exchange(directory, 'new', parent.upper!, name));
      else yield* wait(work.rename(directory, 'new', parent.upper!, name, 0));
      work.reached('create-renamed');
      return made;
    });
  } finally {
    yield* work.remove(temporary);
  }
}

/**
 * Gives a temporary directory what new children inherit from the real one: set-group-id bit, group
 * and default ACL.
 */
function* inheritLike(union: Union, from: object, to: object): Steps<void> {
  const { layer } = union.writable();
  const { backend } = layer;
  const { mode, gid = 0 } = yield* wait(backend.getattr(from, undefined, DAEMON));
  if ((mode & ModeBits.SETGID) !== 0) {
    yield* wait(backend.setattr?.(to, { gid }, undefined, DAEMON));
    yield* wait(backend.setattr?.(to, { mode: ModeBits.SETGID | 0o777 }, undefined, DAEMON));
  }
  if (backend.getxattr === undefined || backend.setxattr === undefined) return;
  let acl: Uint8Array | undefined;
  try {
    acl = yield* wait(backend.getxattr(from, DEFAULT_ACL, DAEMON));
  } catch (error) {
    if (error instanceof FsError && error.code === 'EOPNOTSUPP') return;
    throw error;
  }
  if (acl !== undefined) yield* wait(backend.setxattr(to, DEFAULT_ACL, acl, 0, false, DAEMON));
}

/**
 * Copies a file up ahead of a change of names that would copy it up, if it is large.
 * @param isKept whether the file keeps a name after the change.
 */
export function* copyUpBeforeChange(
  union: Union,
  parent: OverlayNode,
  name: string,
  isKept: boolean,
): Steps<void> {
  const seen = yield* union.find(parent, name);
  if (seen === undefined) return;
  const { node, attributes } = seen;
  const { size = 0, nlink = 1 } = attributes;
  try {
    if (node.type !== FileType.REGULAR || size < LARGE_BYTES) return;
    if (isKept || (nlink > 1 && union.writable().layer.backend.link !== undefined)) {
      yield* wait(copyUp(union, node));
    }
  } finally {
    union.unpin(node);
  }
}

/** The entry at a name that a change removes. @throws ENOENT */
function* existing(union: Union, parent: OverlayNode, name: string): Steps<PinnedEntry> {
  const seen = yield* union.find(parent, name);
  if (seen === undefined) throw FsError.of('ENOENT');
  return seen;
}

export function* unlink(union: Union, parent: OverlayNode, name: string): Steps<void> {
  const { layer, work } = union.writable();
  const { node, attributes } = yield* existing(union, parent, name);
  try {
    if (node.isDirectory) throw FsError.of('EISDIR');
    yield* prepareLinks(union, node, attributes);
    yield* copyUpInChange(union, parent);
    const wasInUpper = yield* hasUpper(union, parent, name);
    if (yield* union.existsBelow(parent, name)) yield* placeWhiteout(union, parent, name, wasInUpper);
    else yield* wait(layer.backend.unlink!(parent.upper!, name, DAEMON));
    work.reached('unlink-done');
    yield* afterUnlink(union, node, parent, name, wasInUpper);
  } finally {
    union.unpin(node);
  }
}

/**
 * Copies a lower file with other names up and adds it to the index, so that their link count can
 * change.
 */
function* prepareLinks(union: Union, node: OverlayNode, attributes: Attributes): Steps<void> {
  const { layer } = union.writable();
  if (node.upper === undefined && (attributes.nlink ?? 1) > 1 && layer.backend.link !== undefined) {
    yield* copyUpInChange(union, node);
  }
}

/**
 * Copies a node up under a particular name. If it was copied up under another name, it is linked.
 * @param node the node that the name stands for.
 */
export function* copyUpName(union: Union, node: OverlayNode, parent: OverlayNode, name: string): Steps<void> {
  const { layer } = union.writable();
  yield* copyUpInChange(union, node);
  if (!node.indexed) return;
  yield* copyUpInChange(union, parent);
  if (yield* hasUpper(union, parent, name)) return;
  const linked = layer.keep(yield* wait(layer.backend.link!(node.upper!, parent.upper!, name, DAEMON)));
  layer.drop(linked.node);
  node.linkDelta -= 1;
  yield* setLinks(union, node.upper!, 'U', node.linkDelta);
}

function* hasUpper(union: Union, parent: OverlayNode, name: string): Steps<boolean> {
  const { layer, marks } = union.writable();
  const found = yield* wait(marks.find(layer, parent.upper!, name));
  if (found === undefined || found === 'whiteout') return false;
  layer.drop(found.node);
  return true;
}

/** Puts a whiteout at a name. If something is there, one rename replaces it. */
function* placeWhiteout(union: Union, parent: OverlayNode, name: string, occupied: boolean): Steps<void> {
  const { layer, marks, work } = union.writable();
  const directory = parent.upper!;
  if (!marks.inPlace) {
    yield* wait(marks.addWhiteout(layer, directory, name));
    work.reached('whiteout-added');
    if (occupied) yield* wait(layer.backend.unlink!(directory, name, DAEMON));
  } else if (occupied) {
    const temporary = work.temporary();
    yield* wait(marks.addWhiteout(layer, work.directory, temporary));
    work.reached('whiteout-made');
    yield* wait(work.rename(work.directory, temporary, directory, name, 0));
  } else yield* wait(marks.addWhiteout(layer, directory, name));
}

/**
 * Updates what depends on a removed name: the link count, the index entry and the node's known
 * place.
 */
function* afterUnlink(
  union: Union,
  node: OverlayNode,
  parent: OverlayNode,
  name: string,
  wasInUpper: boolean,
): Steps<void> {
  const { layer, work } = union.writable();
  if (node.indexed && node.upper !== undefined) {
    if (!wasInUpper) node.linkDelta -= 1;
    const { nlink = 1 } = yield* wait(layer.backend.getattr(node.upper, undefined, DAEMON));
    if (nlink + node.linkDelta <= 0) {
      yield* work.removeIndexed(node.identity);
      node.indexed = false;
      node.linkDelta = 0;
    } else yield* setLinks(union, node.upper, 'U', node.linkDelta);
  }
  if (node.parent === parent && node.name === name) union.move(node, undefined, name);
}

export function* rmdir(union: Union, parent: OverlayNode, name: string): Steps<void> {
  const { node } = yield* existing(union, parent, name);
  try {
    if (!node.isDirectory) throw FsError.of('ENOTDIR');
    const { empty } = yield* isEmpty(union, node);
    if (!empty) throw FsError.of('ENOTEMPTY');
    yield* copyUpInChange(union, parent);
    yield* removeDirectory(union, node, parent, name);
    union.move(node, undefined, name);
  } finally {
    union.unpin(node);
  }
}

function* removeDirectory(union: Union, node: OverlayNode, parent: OverlayNode, name: string): Steps<void> {
  const { layer, marks, work } = union.writable();
  const directory = parent.upper!;
  const below = yield* union.existsBelow(parent, name);
  if (node.upper === undefined) yield* wait(marks.addWhiteout(layer, directory, name));
  else if (!below) yield* work.discard(directory, name);
  else if (marks.inPlace) {
    const temporary = work.temporary();
    yield* wait(marks.addWhiteout(layer, work.directory, temporary));
    work.reached('whiteout-made');
    yield* wait(work.exchange(work.directory, temporary, directory, name));
    work.reached('rmdir-exchanged');
    yield* work.remove(temporary);
  } else {
    yield* wait(marks.addWhiteout(layer, directory, name));
    yield* work.discard(directory, name);
  }
  work.reached('rmdir-done');
}

/** Adds a name to a node, which is copied up. */
export function* link(
  union: Union,
  node: OverlayNode,
  parent: OverlayNode,
  name: string,
  context: Context,
): Steps<PinnedEntry> {
  const { layer } = union.writable();
  const { link: makeLink } = layer.backend;
  if (makeLink === undefined) throw FsError.of('EPERM');
  yield* copyUpInChange(union, node);
  if (node.isMetacopy && node.redirect?.startsWith('/') !== true) {
    // The lowers do not have the content at the new name.
    if (node.parent === undefined) yield* wait(completeCopyUp(union, node, Infinity));
    else yield* redirect(union, node, union.lowerPath(node));
  }
  const target = node.upper!;
  // `create` pins the node that it made, which is this one.
  yield* create(union, parent, name, (directory, newName) =>
    makeLink.call(layer.backend, target, directory, newName, context),
  );
  if (node.indexed) yield* setLinks(union, target, 'U', node.linkDelta);
  return { node, attributes: { ...(yield* wait(layer.backend.getattr(target, undefined, DAEMON))) } };
}

/** Creates a file without a name (O_TMPFILE). */
export function* tmpfile(
  union: Union,
  parent: OverlayNode,
  mode: number,
  flags: number,
  context: Context,
): Steps<{ made: Created<object, unknown>; node: OverlayNode; attributes: Attributes }> {
  const { layer } = union.writable();
  if (layer.backend.tmpfile === undefined) throw FsError.of('EOPNOTSUPP');
  yield* copyUpInChange(union, parent);
  const made = layer.keep(ownCopy(yield* wait(layer.backend.tmpfile(parent.upper!, mode, flags, context))));
  const node = union.created(parent, '', made.node, made.attributes);
  union.move(node, undefined, '');
  layer.drop(made.node);
  return { made, node, attributes: made.attributes };
}

export function* rename(
  union: Union,
  parent: OverlayNode,
  name: string,
  newParent: OverlayNode,
  newName: string,
  flags: number,
): Steps<void> {
  if (union.isReserved(newParent, newName)) throw FsError.of('EINVAL');
  if ((flags & RenameFlags.WHITEOUT) !== 0) throw FsError.of('EINVAL');
  const source = yield* existing(union, parent, name);
  const change: Rename = { source: source.node, parent, name, newParent, newName };
  let target: PinnedEntry | undefined;
  try {
    target = yield* union.find(newParent, newName);
    if (target?.node === source.node) return;
    if ((flags & RenameFlags.EXCHANGE) !== 0) {
      if (target === undefined) throw FsError.of('ENOENT');
      yield* exchange(union, change, target.node);
    } else {
      if (target !== undefined && (flags & RenameFlags.NOREPLACE) !== 0) throw FsError.of('EEXIST');
      yield* move(union, change, target);
    }
  } finally {
    union.unpin(source.node);
    if (target !== undefined) union.unpin(target.node);
  }
}

/** What gets another name: a node, its name before and the one to be. */
interface Rename {
  readonly source: OverlayNode;
  readonly parent: OverlayNode;
  readonly name: string;
  readonly newParent: OverlayNode;
  readonly newName: string;
}

function* exchange(union: Union, change: Rename, target: OverlayNode): Steps<void> {
  const { source, parent, name, newParent, newName } = change;
  const { work } = union.writable();
  checkRedirect(union, source);
  checkRedirect(union, target);
  yield* copyUpName(union, source, parent, name);
  yield* copyUpName(union, target, newParent, newName);
  yield* copyUpInChange(union, parent);
  yield* copyUpInChange(union, newParent);
  yield* markMoved(union, source, parent, name, newParent);
  yield* markMoved(union, target, newParent, newName, parent);
  yield* markImpure(union, parent, target);
  yield* markImpure(union, newParent, source);
  union.willMove(target, parent, name);
  union.willMove(source, newParent, newName);
  yield* wait(work.exchange(parent.upper!, name, newParent.upper!, newName));
  work.reached('rename-done');
  union.move(target, parent, name);
  union.move(source, newParent, newName);
}

function* move(union: Union, change: Rename, target: PinnedEntry | undefined): Steps<void> {
  const { source, parent, name, newParent, newName } = change;
  if (target !== undefined) yield* checkReplaceable(union, source, target.node);
  checkRedirect(union, source);
  yield* copyUpName(union, source, parent, name);
  if (target !== undefined) yield* prepareLinks(union, target.node, target.attributes);
  yield* copyUpInChange(union, parent);
  yield* copyUpInChange(union, newParent);
  const needsWhiteout = yield* union.existsBelow(parent, name);
  yield* markMoved(union, source, parent, name, newParent);
  yield* markImpure(union, newParent, source);
  union.willMove(source, newParent, newName);
  yield* replace(union, change, target?.node, needsWhiteout);
  union.writable().work.reached('rename-done');
  union.move(source, newParent, newName);
}

function* checkReplaceable(union: Union, source: OverlayNode, target: OverlayNode): Steps<void> {
  if (target.isDirectory) {
    if (!source.isDirectory) throw FsError.of('EISDIR');
    const { empty } = yield* isEmpty(union, target);
    if (!empty) throw FsError.of('ENOTEMPTY');
  } else if (source.isDirectory) throw FsError.of('ENOTDIR');
}

/**
 * Refuses to move a directory that has lowers when redirects are off; `mv` then copies it. @throws
 * EXDEV
 */
function checkRedirect(union: Union, node: OverlayNode): void {
  if (node.isDirectory && node.lowers.length > 0 && !union.redirectDir) throw FsError.of('EXDEV');
}

/** Records, before a node is moved, where its lowers are, or that it has none. */
function* markMoved(
  union: Union,
  node: OverlayNode,
  parent: OverlayNode,
  name: string,
  newParent: OverlayNode,
): Steps<void> {
  const { layer, marks, work } = union.writable();
  if (node.isDirectory ? node.lowers.length > 0 : node.isMetacopy) {
    const staysRelative = parent === newParent && (node.isDirectory || !(yield* hasOtherNames(union, node)));
    const before = node.redirect ?? name;
    yield* redirect(union, node, staysRelative ? before : union.lowerPathOf(parent, before));
  } else if (node.isDirectory && newParent.lowers.length > 0) {
    yield* wait(marks.setOpaque(layer, node.upper!));
  } else return;
  work.reached('rename-marked');
}

/**
 * Whether the node has other names. A redirect that is a mere name would be wrong for those in
 * other directories.
 */
function* hasOtherNames(union: Union, node: OverlayNode): Steps<boolean> {
  const { backend } = union.writable().layer;
  const { nlink = 1 } = yield* wait(backend.getattr(node.upper!, undefined, DAEMON));
  return node.indexed || nlink > 1;
}

/** Writes the node's redirect: where the lowers have it. */
function* redirect(union: Union, node: OverlayNode, nameOrPath: string): Steps<void> {
  if (nameOrPath === node.redirect) return;
  const { layer, marks } = union.writable();
  yield* wait(marks.set(layer, node.upper!, 'redirect', nameOrPath));
  node.redirect = nameOrPath;
}

function* markImpure(union: Union, parent: OverlayNode, moved: OverlayNode): Steps<void> {
  if (parent.impure || moved.identity.startsWith('0:')) return;
  const { layer, marks } = union.writable();
  yield* wait(marks.set(layer, parent.upper!, 'impure', 'y'));
  parent.impure = true;
}

/** Renames, and leaves a whiteout behind if a lower has something at the old name. */
function* replace(
  union: Union,
  { source, parent, name, newParent, newName }: Rename,
  target: OverlayNode | undefined,
  needsWhiteout: boolean,
): Steps<void> {
  const { layer, marks, work } = union.writable();
  const from = parent.upper!;
  const to = newParent.upper!;
  if (target?.isDirectory === true && target.upper !== undefined) {
    const { upperIsEmpty } = yield* isEmpty(union, target);
    if (!upperIsEmpty && marks.inPlace) yield* replaceByOpaque(union, newParent, newName, target);
    else if (!upperIsEmpty) {
      yield* wait(marks.addWhiteout(layer, to, newName));
      yield* work.discard(to, newName);
    }
  }
  const found = yield* wait(marks.find(layer, to, newName));
  const targetInUpper = found !== undefined && found !== 'whiteout';
  if (targetInUpper) layer.drop(found.node);
  if (!marks.inPlace) {
    if (needsWhiteout) yield* wait(marks.addWhiteout(layer, from, name));
    work.reached('whiteout-added');
    yield* wait(work.rename(from, name, to, newName, 0));
    work.reached('rename-renamed');
    if (found === 'whiteout') yield* wait(marks.removeWhiteout(layer, to, newName));
  } else if (found === 'whiteout' && source.isDirectory) {
    yield* wait(work.exchange(from, name, to, newName));
    work.reached('rename-renamed');
    if (!needsWhiteout) yield* wait(marks.removeWhiteout(layer, from, name));
  } else {
    yield* wait(work.rename(from, name, to, newName, needsWhiteout ? RenameFlags.WHITEOUT : 0));
    work.reached('rename-renamed');
  }
  if (target === undefined) return;
  if (target.isDirectory) union.move(target, undefined, newName);
  else yield* afterUnlink(union, target, newParent, newName, targetInUpper);
}

/**
 * Replaces a directory that contains nothing but whiteouts by an opaque empty one. Both look the
 * same in the union.
 */
function* replaceByOpaque(union: Union, parent: OverlayNode, name: string, target: OverlayNode): Steps<void> {
  const { layer, marks, work } = union.writable();
  const temporary = work.temporary();
  yield* work.make(temporary, 0o700, function* (node) {
    yield* wait(marks.setOpaque(layer, node));
    const { mode, uid = 0, gid = 0 } = yield* wait(layer.backend.getattr(target.upper!, undefined, DAEMON));
    const owner: AttributeChanges = { uid, gid };
    const permissions: AttributeChanges = { mode: mode & ModeBits.PERMISSIONS };
    yield* wait(layer.backend.setattr?.(node, owner, undefined, DAEMON));
    yield* wait(layer.backend.setattr?.(node, permissions, undefined, DAEMON));
    yield* wait(work.exchange(work.directory, temporary, parent.upper!, name));
    work.reached('clear-exchanged');
  });
  yield* work.remove(temporary);
}
