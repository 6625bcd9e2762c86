import {
  type AttributeChanges,
  type Attributes,
  type Awaitable,
  type Created,
  type Entry,
  FileType,
  FsError,
  type HostBuffer,
  isPromise,
  ModeBits,
  OpenFlags,
  run,
  type Steps,
  wait,
} from '../../core/backend/index.js';
import { DAEMON, type Layer } from './layer.js';
import type { OverlayNode } from './node.js';
import { originText, type Union } from './union.js';

const PIECE = 1024 * 1024;
/** Bytes copied before other requests get a turn, where both layers are synchronous. */
const TURN = 8 * PIECE;

/**
 * Brings a node into the upper, its ancestors first: built as a temporary in the work area, made durable, then renamed
 * into place, so that a crash leaves the lower visible and at most a temporary. Linux `fs/overlayfs/copy_up.c`
 * has the same order. Several callers share one copy.
 * @param withData false where the caller truncates to nothing at once.
 */
export function copyUp(union: Union, node: OverlayNode, withData = true): Awaitable<void> {
  if (node.upper !== undefined) return undefined;
  if (node.copying !== undefined) return node.copying;
  const copying = run(copySteps(union, node, withData));
  if (isPromise(copying)) {
    node.copying = copying.finally(() => {
      node.copying = undefined;
    });
    return node.copying;
  }
  return undefined;
}

function* copySteps(union: Union, node: OverlayNode, withData: boolean): Steps<void> {
  const { work, layer, marks } = union.writable();
  const { parent, name } = node;
  const lower = node.lowers[0]!;
  if (parent !== undefined) yield* wait(copyUp(union, parent));
  if (node.upper !== undefined) return;
  const attributes = { ...(yield* wait(lower.layer.backend.getattr(lower.node, undefined, DAEMON))) };
  const temporary = work.temporary();
  let entry: Entry<object>;
  try {
    entry = yield* build(union, node, lower.layer, lower.node, temporary, attributes, withData);
  } catch (error) {
    yield* work.remove(temporary);
    throw error;
  }
  try {
    const links = node.isDirectory ? 1 : (attributes.nlink ?? 1);
    const indexed = links > 1 && layer.backend.link !== undefined;
    yield* wait(marks.set(layer, entry.node, 'kit.origin', originText(node, links)));
    work.reached('copy-up-built');
    if (indexed) {
      yield* wait(marks.set(layer, entry.node, 'nlink', 'L+0'));
      yield* work.addIndexed(node.identity, entry.node);
      work.reached('copy-up-indexed');
    }
    if (parent === undefined) yield* keepOrphan(union, node, temporary, entry.node);
    else yield* moveIntoPlace(union, parent, name, temporary);
    work.reached('copy-up-renamed');
    if (indexed) {
      // Two names in the upper: its place and the index.
      yield* wait(marks.set(layer, entry.node, 'nlink', `U${signed(links - 2)}`));
      node.indexed = true;
      node.linkDelta = links - 2;
    }
    union.adopt(node, entry.node);
  } catch (error) {
    yield* work.remove(temporary);
    throw error;
  } finally {
    layer.drop(entry.node);
  }
}

/** Renames the copy over the place of the original; the parent's times stay, as nothing in the union changed. */
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
function* keepOrphan(union: Union, node: OverlayNode, temporary: string, copy: object): Steps<void> {
  const { work, layer } = union.writable();
  const { backend } = layer;
  if (backend.open !== undefined && node.type === FileType.REGULAR) {
    node.orphan = yield* wait(backend.open(copy, OpenFlags.READ_WRITE, DAEMON));
  }
  yield* work.remove(temporary);
}

function* build(
  union: Union,
  node: OverlayNode,
  from: Layer,
  original: object,
  temporary: string,
  attributes: Attributes,
  withData: boolean,
): Steps<Entry<object>> {
  const { work, layer } = union.writable();
  const { backend } = layer;
  const { directory } = work;
  const permissions = attributes.mode & ModeBits.PERMISSIONS;
  let entry: Entry<object>;
  let opened: Created<object, unknown> | undefined;
  if (node.type === FileType.DIRECTORY) {
    if (backend.mkdir === undefined) throw FsError.of('EROFS');
    entry = layer.keep(yield* wait(backend.mkdir(directory, temporary, 0o700, DAEMON)));
  } else if (node.type === FileType.SYMLINK) {
    if (backend.symlink === undefined || from.backend.readlink === undefined) throw FsError.of('EOPNOTSUPP');
    const target = yield* wait(from.backend.readlink(original, DAEMON));
    entry = layer.keep(yield* wait(backend.symlink(directory, temporary, target, DAEMON)));
  } else if (node.type === FileType.REGULAR) {
    if (backend.create === undefined) throw FsError.of('EROFS');
    const flags = OpenFlags.READ_WRITE | OpenFlags.CREAT | OpenFlags.EXCL;
    opened = layer.keep({ ...(yield* wait(backend.create(directory, temporary, 0o600, flags, DAEMON))) });
    entry = opened;
  } else {
    if (backend.mknod === undefined) throw FsError.of('EOPNOTSUPP');
    entry = layer.keep(
      yield* wait(backend.mknod(directory, temporary, attributes.mode, attributes.rdev ?? 0, DAEMON)),
    );
  }
  const made: Entry<object> = { node: entry.node, attributes: entry.attributes };
  work.reached('copy-up-created');
  try {
    if (opened !== undefined && withData) {
      yield* copyData(union, from, original, layer, opened.node, opened.file, attributes.size ?? 0);
      work.reached('copy-up-data');
    }
    yield* copyAttributes(union, from, original, layer, made.node);
    const owner: AttributeChanges = { uid: attributes.uid ?? 0, gid: attributes.gid ?? 0 };
    yield* wait(backend.setattr?.(made.node, owner, undefined, DAEMON));
    const rest: AttributeChanges =
      node.type === FileType.SYMLINK ? timesOf(attributes) : { mode: permissions, ...timesOf(attributes) };
    yield* wait(backend.setattr?.(made.node, rest, undefined, DAEMON));
    if (opened !== undefined && backend.fsync !== undefined) {
      yield* wait(backend.fsync(opened.node, opened.file, false, DAEMON));
    }
  } catch (error) {
    layer.drop(made.node);
    throw error;
  } finally {
    if (opened !== undefined && backend.release !== undefined) {
      yield* wait(backend.release(opened.node, opened.file));
    }
  }
  return made;
}

function* copyAttributes(union: Union, from: Layer, original: object, to: Layer, copy: object): Steps<void> {
  if (from.backend.listxattr === undefined || from.backend.getxattr === undefined) return;
  if (to.backend.setxattr === undefined) return;
  const marks = union.lowers.find(({ layer }) => layer === from)!.marks;
  for (const name of yield* wait(from.backend.listxattr(original, DAEMON))) {
    if (marks.reservesAttribute(name) && !/^\w+\.overlay\.overlay\./.test(name)) continue;
    const value = yield* wait(from.backend.getxattr(original, name, DAEMON));
    if (value !== undefined) yield* wait(to.backend.setxattr(copy, name, value, 0, false, DAEMON));
  }
}

/** Copies what is data; holes stay holes where the lower can tell them. */
function* copyData(
  union: Union,
  from: Layer,
  original: object,
  to: Layer,
  copy: object,
  copyFile: unknown,
  size: number,
): Steps<void> {
  if (size === 0) return;
  const source = from.backend;
  if (source.read === undefined || to.backend.write === undefined) throw FsError.of('EIO');
  const opened = source.open === undefined ? undefined : yield* wait(source.open(original, 0, DAEMON));
  const file = opened?.file;
  const buffer = union.host.createBuffer(Math.min(PIECE, Math.max(size, 1)));
  try {
    let turn = 0;
    let at = 0;
    while (at < size) {
      const [start, end] = yield* nextData(from, original, file, at, size);
      for (at = start; at < end;) {
        const count = yield* copyPiece(from, original, file, to, copy, copyFile, buffer, at, end);
        if (count === 0) {
          at = size;
          break;
        }
        at += count;
        turn += count;
        if (turn >= TURN) {
          turn = 0;
          yield* wait(new Promise<void>((resolve) => setImmediate(resolve)));
        }
      }
    }
    yield* wait(to.backend.setattr?.(copy, { size }, copyFile, DAEMON));
  } finally {
    buffer.close();
    if (opened !== undefined && source.release !== undefined) yield* wait(source.release(original, file));
  }
}

function* nextData(
  from: Layer,
  original: object,
  file: unknown,
  at: number,
  size: number,
): Steps<readonly [number, number]> {
  const { backend } = from;
  if (backend.lseek === undefined) return [at, size];
  try {
    const start = yield* wait(backend.lseek(original, file, at, 'data', DAEMON));
    const end = yield* wait(backend.lseek(original, file, start, 'hole', DAEMON));
    return [Math.min(start, size), Math.min(end, size)];
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    return error.code === 'ENXIO' ? [size, size] : [at, size];
  }
}

function* copyPiece(
  from: Layer,
  original: object,
  file: unknown,
  to: Layer,
  copy: object,
  copyFile: unknown,
  buffer: HostBuffer,
  at: number,
  end: number,
): Steps<number> {
  const window = buffer.slice(0, Math.min(buffer.length, end - at));
  const count = yield* wait(from.backend.read!(original, file, window, at, DAEMON));
  for (let done = 0; done < count;) {
    const written = yield* wait(
      to.backend.write!(copy, copyFile, buffer.slice(done, count), at + done, 0, DAEMON),
    );
    if (written === 0) throw FsError.of('EIO');
    done += written;
  }
  return count;
}

function timesOf(attributes: Attributes): AttributeChanges {
  const { atime = 0, mtime = 0 } = attributes;
  return {
    atime: { seconds: Math.floor(atime), nanoseconds: attributes.atimeNsec ?? fraction(atime) },
    mtime: { seconds: Math.floor(mtime), nanoseconds: attributes.mtimeNsec ?? fraction(mtime) },
  };
}

function fraction(seconds: number): number {
  return Math.min(Math.floor((seconds - Math.floor(seconds)) * 1e9), 999_999_999);
}

/** A link count difference as `overlay.nlink` has it. */
export function signed(delta: number): string {
  return delta < 0 ? `${delta}` : `+${delta}`;
}
