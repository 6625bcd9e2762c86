import {
  type Attributes,
  type Awaitable,
  DAEMON,
  FileType,
  FsError,
  type GuestBuffer,
  ModeBits,
  OpenFlags,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import type { Layer } from '../layers/layer.js';
import { timesOf } from '../tree/times.js';

/*
 * A file of the upper that is to be as another one is, in a lower or on another host: it is made,
 * written, and gets its owner, its extended attributes, and its permissions and times, in this
 * order.
 */

/**
 * Makes a file of the same type, for nobody else to use yet, and holds it.
 * @param type of {@link FileType}
 * @param target where a symbolic link leads
 * @returns it, open if it is a regular file.
 */
export function* makeLike(
  layer: Layer,
  directory: object,
  name: string,
  type: number,
  { mode, rdev = 0 }: Attributes,
  target: () => Awaitable<string>,
): Steps<{ node: object; opened?: { file: unknown } }> {
  const { backend } = layer;
  if (type === FileType.DIRECTORY) {
    if (backend.mkdir === undefined) throw FsError.of('EROFS');
    return { node: layer.keep(yield* wait(backend.mkdir(directory, name, 0o700, DAEMON))).node };
  }
  if (type === FileType.SYMLINK) {
    if (backend.symlink === undefined) throw FsError.of('EOPNOTSUPP');
    const made = yield* wait(backend.symlink(directory, name, yield* wait(target()), DAEMON));
    return { node: layer.keep(made).node };
  }
  if (type === FileType.REGULAR) {
    if (backend.create === undefined) throw FsError.of('EROFS');
    const flags = OpenFlags.READ_WRITE | OpenFlags.CREAT | OpenFlags.EXCL;
    const made = yield* wait(backend.create(directory, name, 0o600, flags, DAEMON));
    const { node, file } = layer.keep(made);
    return { node, opened: { file } };
  }
  if (backend.mknod === undefined) throw FsError.of('EOPNOTSUPP');
  return { node: layer.keep(yield* wait(backend.mknod(directory, name, mode, rdev, DAEMON))).node };
}

/** Writes all of a buffer. @throws EIO if the layer takes none of it. */
export function* writeAll(
  { backend }: Layer,
  node: object,
  file: unknown,
  buffer: GuestBuffer,
  offset: number,
): Steps<void> {
  for (let done = 0; done < buffer.length;) {
    const piece = buffer.slice(done, buffer.length);
    const written = yield* wait(backend.write!(node, file, piece, offset + done, 0, DAEMON));
    if (written === 0) throw FsError.of('EIO');
    done += written;
  }
}

/**
 * Sets the owner. A daemon without privilege cannot give files away; they stay its own.
 * @returns whether the owner is as wanted.
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

/**
 * Sets an extended attribute. One that the layer refuses may be left out, as overlayfs does, unless
 * permissions depend on it.
 */
export function* giveXattr({ backend }: Layer, node: object, name: string, value: Uint8Array): Steps<void> {
  try {
    yield* wait(backend.setxattr?.(node, name, value, 0, false, DAEMON));
  } catch (error) {
    const isRefused = error instanceof FsError && (error.code === 'EOPNOTSUPP' || error.code === 'EPERM');
    if (!isRefused || name.startsWith('system.posix_acl_') || name.startsWith('security.')) throw error;
  }
}

/**
 * Sets permissions and times.
 * @param isOwned what {@link giveOwner} said: set-id bits are for the right owner only.
 */
export function* giveModeAndTimes(
  { backend }: Layer,
  node: object,
  type: number,
  attributes: Attributes,
  isOwned: boolean,
): Steps<void> {
  const times = timesOf(attributes);
  const mode = attributes.mode & (isOwned ? ModeBits.PERMISSIONS : 0o1777);
  yield* wait(
    backend.setattr?.(node, type === FileType.SYMLINK ? times : { mode, ...times }, undefined, DAEMON),
  );
}
