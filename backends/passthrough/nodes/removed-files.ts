import { close as closeFile, fchmod, fchown, fstat, ftruncate, read, write } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { decodeName, Errno, FileType, FsError, ModeBits } from '../../../core/backend/index.js';
import { AT, lseek, mkdirat, O, openat, unlinkat, utimensat } from '../../../core/system/calls/files.js';
import { getxattr, listxattr, setxattr } from '../../../core/system/calls/xattrs.js';
import type { Fd } from '../../../core/system/index.js';
import { randomBytes } from '../../../core/system/calls/random.js';
import {
  at,
  bytes,
  offset,
  putDescriptorPath,
  putLong,
  putName,
  putText,
  XATTR_MAX_BYTES,
} from '../calls/call-memory.js';
import type { Share } from '../share.js';
import type { Node } from './nodes.js';

/*
 * A file without a name, on its way to another host. Little-endian:
 *
 *   u32 mode, uid, gid, number of extended attributes
 *   i64 atime and mtime in nanoseconds since 1970; u64 size in bytes
 *   for each attribute: u32 length of the name, u32 length of the value; the name, the value
 *   to the end, for each piece of its data: u64 offset, u32 length; the data
 */

const HEADER_BYTES = 40;
const ATTRIBUTE_BYTES = 8;
const PIECE_HEADER_BYTES = 12;

/** Bytes of data in a piece. */
const PIECE_BYTES = 1 << 20;

/** Extents that are counted in one turn of the event loop. */
const EXTENTS_PER_TURN = 1000;

const SEEK_DATA = 3;
const SEEK_HOLE = 4;

const NANOSECONDS = 1_000_000_000n;

const [statLater, readLater, writeLater, truncateLater, ownLater, modeLater, closeFileLater] = [
  promisify(fstat),
  promisify(read),
  promisify(write),
  promisify(ftruncate),
  promisify(fchown),
  promisify(fchmod),
  promisify(closeFile),
];

/**
 * Reads a regular file that somebody has open, or a directory.
 * @param fd a descriptor of it, which may be closed by the next call.
 * @param most bytes that may be taken.
 * @returns undefined if it has more.
 * @throws FsError, or Node's errors, if it cannot be read.
 */
export async function packRemoved(share: Share, fd: Fd, most: number): Promise<Uint8Array | undefined> {
  const own = openat(AT.FDCWD, putDescriptorPath(fd), O.RDONLY | O.NONBLOCK, 0);
  if (own < 0) throw FsError.of(-own);
  try {
    const { mode, uid, gid, atimeNs, mtimeNs, size } = await statLater(own, { bigint: true });
    const isRegular = (Number(mode) & FileType.MASK) === FileType.REGULAR;
    const attributes = share.options.xattr ? readAttributes(share, own) : [];
    const header = Buffer.alloc(HEADER_BYTES);
    for (const [index, word] of [Number(mode), Number(uid), Number(gid), attributes.length].entries())
      header.writeUInt32LE(word, index * 4);
    header.writeBigInt64LE(atimeNs, 16);
    header.writeBigInt64LE(mtimeNs, 24);
    header.writeBigUInt64LE(isRegular ? size : 0n, 32);
    const parts: Uint8Array[] = [header];
    for (const { name, value } of attributes) parts.push(lengths(name.length, value.length), name, value);
    let taken = parts.reduce((sum, { length }) => sum + length, 0);
    if (taken > most) return undefined;
    if (isRegular && (await hasMore(own, Number(size), most - taken))) return undefined;
    for await (const { from, data } of isRegular ? pieces(own, Number(size)) : []) {
      taken += PIECE_HEADER_BYTES + data.length;
      if (taken > most) return undefined;
      const piece = Buffer.alloc(PIECE_HEADER_BYTES);
      piece.writeBigUInt64LE(BigInt(from), 0);
      piece.writeUInt32LE(data.length, 8);
      parts.push(piece, data);
    }
    return Buffer.concat(parts);
  } finally {
    await closeFileLater(own);
  }
}

/** Where a file has data: between its holes, before `size`. */
function* extents(fd: Fd, size: number): Generator<{ start: number; end: number }> {
  for (let from = 0; from < size;) {
    const found = lseek(fd, from, SEEK_DATA);
    if (found === -Errno.ENXIO) return;
    const start = Math.max(from, found);
    const end = found < 0 ? size : lseek(fd, start, SEEK_HOLE);
    if (end < 0) throw FsError.of(-end);
    if (start >= size) return;
    // The file may have grown.
    yield { start, end: Math.min(end, size) };
    from = end;
  }
}

/** Whether a file has more data than so many bytes. */
async function hasMore(fd: Fd, size: number, most: number): Promise<boolean> {
  let taken = 0;
  let count = 0;
  for (const { start, end } of extents(fd, size)) {
    taken += end - start;
    if (taken > most) return true;
    if (++count % EXTENTS_PER_TURN === 0) await nextTurn();
  }
  return false;
}

/** What a file has between its holes. */
async function* pieces(fd: Fd, size: number): AsyncGenerator<{ from: number; data: Uint8Array }> {
  for (const { start, end } of extents(fd, size)) {
    for (let from = start; from < end;) {
      const length = Math.min(end - from, PIECE_BYTES);
      const { bytesRead, buffer } = await readLater(fd, Buffer.allocUnsafe(length), 0, length, from);
      if (bytesRead === 0) return;
      yield { from, data: buffer.subarray(0, bytesRead) };
      from += bytesRead;
    }
  }
}

interface Attribute {
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

/**
 * Whether an attribute goes along. The host's security modules have their own opinion of a file,
 * and capabilities are of no use in one that has no name.
 */
function goesAlong(share: Share, name: string): boolean {
  return !name.startsWith('security.') && !share.xattrs.hides(name);
}

function readAttributes(share: Share, fd: Fd): Attribute[] {
  const path = putDescriptorPath(fd);
  const size = listxattr(path, at.xattr, XATTR_MAX_BYTES);
  const list = Buffer.from(bytes.slice(offset.xattr, offset.xattr + Math.max(size, 0)));
  const attributes: Attribute[] = [];
  for (let from = 0; from < list.length;) {
    const end = list.indexOf(0, from);
    const name = decodeName(list, from, end);
    if (goesAlong(share, name)) {
      const length = getxattr(path, putText(name), at.xattr, XATTR_MAX_BYTES);
      if (length >= 0)
        attributes.push({
          name: list.subarray(from, end),
          value: bytes.slice(offset.xattr, offset.xattr + length),
        });
    }
    from = end + 1;
  }
  return attributes;
}

/**
 * Makes a file without a name of what {@link packRemoved} gave, on the file system of the shared
 * directory. The record may come from somebody who wishes harm.
 * @param enter the node of an O_PATH descriptor, which it takes over.
 * @returns the node, which keeps its file.
 * @throws FsError EINVAL for other bytes; else why it cannot be made.
 */
export async function unpackRemoved(
  share: Share,
  record: Uint8Array,
  enter: (fd: Fd) => Node | undefined,
): Promise<Node> {
  const view = Buffer.from(record.buffer, record.byteOffset, record.byteLength);
  if (view.length < HEADER_BYTES) throw FsError.of('EINVAL');
  const mode = view.readUInt32LE(0);
  const type = mode & FileType.MASK;
  if (type !== FileType.REGULAR && type !== FileType.DIRECTORY) throw FsError.of('EINVAL');
  const fd = type === FileType.DIRECTORY ? makeDirectory(share) : makeFile(share);
  if (fd < 0) throw FsError.of(-fd);
  try {
    await fill(share, fd, view);
    const path = openat(AT.FDCWD, putDescriptorPath(fd), O.PATH, 0);
    if (path < 0) throw FsError.of(-path);
    const node = enter(path);
    if (node === undefined) throw FsError.of('ESTALE');
    if (share.nodes.pin(node)) return node;
    share.nodes.forget(node);
    throw FsError.of('ENFILE');
  } catch (error) {
    if (error instanceof FsError) throw error;
    const number = Errno[(error as NodeJS.ErrnoException).code as keyof typeof Errno] ?? Errno.EIO;
    throw FsError.of(number);
  } finally {
    await closeFileLater(fd);
  }
}

/** Gives a new file what the record says. */
async function fill(share: Share, fd: Fd, view: Buffer): Promise<void> {
  const [mode, uid, gid, count] = [0, 4, 8, 12].map((from) => view.readUInt32LE(from));
  const isRegular = (mode! & FileType.MASK) === FileType.REGULAR;
  const attributes: Attribute[] = [];
  let from = HEADER_BYTES;
  for (let i = 0; i < count!; i++) {
    if (from + ATTRIBUTE_BYTES > view.length) throw FsError.of('EINVAL');
    const middle = from + ATTRIBUTE_BYTES + view.readUInt32LE(from);
    const end = middle + view.readUInt32LE(from + 4);
    if (end > view.length) throw FsError.of('EINVAL');
    attributes.push({
      name: view.subarray(from + ATTRIBUTE_BYTES, middle),
      value: view.subarray(middle, end),
    });
    from = end;
  }
  if (isRegular) {
    const size = view.readBigUInt64LE(32);
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw FsError.of('EFBIG');
    await truncateLater(fd, Number(size));
    while (from < view.length) {
      if (from + PIECE_HEADER_BYTES > view.length) throw FsError.of('EINVAL');
      const position = view.readBigUInt64LE(from);
      const length = view.readUInt32LE(from + 8);
      from += PIECE_HEADER_BYTES;
      if (from + length > view.length || position + BigInt(length) > size) throw FsError.of('EINVAL');
      await writeWhole(fd, view.subarray(from, from + length), Number(position));
      from += length;
    }
  } else if (from !== view.length) throw FsError.of('EINVAL');
  // A daemon without privilege makes files of its own, as it does for guests.
  await ownLater(fd, uid!, gid!).catch(() => undefined);
  // Before the mode, which may forbid it.
  if (share.options.xattr) writeAttributes(share, fd, attributes);
  await modeLater(
    fd,
    mode! & ModeBits.PERMISSIONS & ~(share.refusesPrivileged ? ModeBits.SETUID | ModeBits.SETGID : 0),
  );
  for (const [index, place] of [16, 24].entries()) {
    const nanoseconds = view.readBigInt64LE(place);
    const rest = ((nanoseconds % NANOSECONDS) + NANOSECONDS) % NANOSECONDS;
    putLong(offset.times + index * 16, Number((nanoseconds - rest) / NANOSECONDS));
    putLong(offset.times + index * 16 + 8, Number(rest));
  }
  utimensat(AT.FDCWD, putDescriptorPath(fd), at.times, 0);
}

async function writeWhole(fd: Fd, data: Buffer, position: number): Promise<void> {
  for (let done = 0; done < data.length;)
    done += (await writeLater(fd, data, done, data.length - done, position + done)).bytesWritten;
}

/** What the file system does not take stays behind. */
function writeAttributes(share: Share, fd: Fd, attributes: readonly Attribute[]): void {
  for (const { name, value } of attributes) {
    const text = decodeName(name);
    if (name.includes(0) || name.length > NAME_MAX || value.length > XATTR_MAX_BYTES) continue;
    if (!goesAlong(share, text)) continue;
    bytes.set(value, offset.xattr);
    setxattr(putDescriptorPath(fd), putText(text), at.xattr, value.length, 0);
  }
}

/** Linux's XATTR_NAME_MAX. */
const NAME_MAX = 255;

/** @returns a descriptor or minus the errno. */
function makeFile(share: Share): Fd {
  const root = share.descriptor(share.root);
  const fd = openat(root, at.here, O.TMPFILE | O.RDWR, 0o600);
  if (fd !== -Errno.EOPNOTSUPP && fd !== -Errno.EISDIR) return fd;
  const name = putName(passingName());
  const made = openat(root, name, O.CREAT | O.EXCL | O.NOFOLLOW | O.RDWR, 0o600);
  if (made >= 0) unlinkat(root, name, 0);
  return made;
}

/** @returns a descriptor or minus the errno. */
function makeDirectory(share: Share): Fd {
  const root = share.descriptor(share.root);
  const name = putName(passingName());
  const code = mkdirat(root, name, 0o700);
  if (code < 0) return code as Fd;
  const fd = openat(root, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW, 0);
  unlinkat(root, name, AT.REMOVEDIR);
  return fd;
}

/** The name of a file that is removed in the same turn of the event loop. */
function passingName(): string {
  return `.virtiofs-kit-${randomBytes(16).toString('hex')}`;
}

function lengths(name: number, value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(name, value).buffer);
}
