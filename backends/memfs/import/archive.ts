import { createReadStream, createWriteStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { setImmediate } from 'node:timers/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { deviceMajor, deviceMinor, FileType, makeDevice, nameLength } from '../../../core/backend/index.js';
import { Bytes } from '../content/bytes.js';
import { CHUNK_BYTES } from '../content/chunk.js';
import type { Content } from '../content/content.js';
import { entriesOf, type Inode } from '../tree/inode.js';
import { type NewFile, TreeBuilder } from './tree-builder.js';
import {
  encodeEntry,
  END,
  padding,
  type TarEntry,
  TarError,
  TarReader,
  TarType,
} from '../../../core/archive/tar.js';
import type { Tree } from '../tree/tree.js';

const TYPES: Readonly<Record<string, number>> = {
  [TarType.FILE]: FileType.REGULAR,
  [TarType.CONTIGUOUS]: FileType.REGULAR,
  [TarType.SYMLINK]: FileType.SYMLINK,
  [TarType.CHARACTER]: FileType.CHARACTER,
  [TarType.BLOCK]: FileType.BLOCK,
  [TarType.DIRECTORY]: FileType.DIRECTORY,
  [TarType.FIFO]: FileType.FIFO,
};

const FLAGS = new Map(Object.entries(TYPES).map(([flag, type]) => [type, flag]));
FLAGS.set(FileType.REGULAR, TarType.FILE);

/** Most pieces of a sparse file. */
const MAX_EXTENTS = 1 << 20;

/** Bytes read at once. */
const PIECE_BYTES = 1 << 20;

/**
 * Adds the content of a tar archive, gzipped or not, to a tree.
 * @param tick called after each piece with the bytes of the file that were read.
 * @throws TarError, FsError, what node:fs and node:zlib throw
 */
export async function loadArchive(
  path: string,
  builder: TreeBuilder,
  tick: (read: number) => void,
): Promise<void> {
  const stream = createReadStream(path, { highWaterMark: PIECE_BYTES });
  const isGzip = await startsWith(path, [0x1f, 0x8b]);
  const input = isGzip ? stream.pipe(createGunzip({ chunkSize: PIECE_BYTES })) : stream;
  if (isGzip) stream.once('error', (error) => input.destroy(error));
  try {
    const reader = new TarReader(input);
    for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
      await addEntry(entry, reader, builder, () => tick(stream.bytesRead));
    }
  } finally {
    stream.destroy();
  }
}

/** Longer paths are none of an image (Linux `PATH_MAX`). */
const MAX_PATH_BYTES = 4096;

/** After so many members of a layer others have their turn on this thread. */
const MEMBERS_IN_A_TURN = 256;

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

/** Adds a layer of a container image to a tree: see `MemfsVolume.addLayer`. */
export async function addLayer(input: AsyncIterable<Uint8Array>, tree: Tree): Promise<void> {
  const builder = new TreeBuilder(tree, true);
  const reader = new TarReader(input);
  let count = 0;
  for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
    if (++count % MEMBERS_IN_A_TURN === 0) await setImmediate();
    const path = withoutSlashes(entry.path);
    if (Math.max(nameLength(path), nameLength(entry.linkPath)) >= MAX_PATH_BYTES)
      throw new TarError(`${path.slice(0, 100)}…: longer than ${MAX_PATH_BYTES} bytes, or leads to what is`);
    const at = path.lastIndexOf('/') + 1;
    const name = path.slice(at);
    if (name === OPAQUE) builder.removeBefore(path.slice(0, at));
    else if (!name.startsWith(WHITEOUT)) await addEntry(entry, reader, builder, () => {});
    // Other names with two marks are of a former file system, aufs.
    else if (!name.startsWith(WHITEOUT, WHITEOUT.length))
      builder.removeBefore(path.slice(0, at) + name.slice(WHITEOUT.length));
  }
  builder.finish();
}

function withoutSlashes(path: string): string {
  let end = path.length;
  while (end > 0 && path[end - 1] === '/') end -= 1;
  return path.slice(0, end);
}

async function startsWith(path: string, bytes: readonly number[]): Promise<boolean> {
  const handle = await open(path);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes.length), 0, bytes.length, 0);
    return bytesRead === bytes.length && bytes.every((byte, i) => buffer[i] === byte);
  } finally {
    await handle.close();
  }
}

async function addEntry(
  entry: TarEntry,
  reader: TarReader,
  builder: TreeBuilder,
  tick: () => void,
): Promise<void> {
  try {
    if (entry.type === TarType.LINK) {
      builder.link(entry.path, entry.linkPath);
      return;
    }
    const type = TYPES[entry.type];
    if (type === undefined) throw new TarError(`members of type ${entry.type} are not supported`);
    const { uid, gid, mtime, atime, xattrs } = entry;
    const file: NewFile = {
      mode: type | entry.mode,
      uid,
      gid,
      rdev: makeDevice(entry.major, entry.minor),
      target: entry.linkPath,
      mtime,
      atime,
      xattrs,
    };
    const inode = builder.add(entry.path, file);
    if (type === FileType.REGULAR) await addContent(inode, entry, reader, builder, tick);
  } catch (error) {
    throw new TarError(`${entry.path}: ${(error as Error).message}`, { cause: error });
  }
  tick();
}

async function addContent(
  inode: Inode,
  { realSize, size }: TarEntry,
  reader: TarReader,
  builder: TreeBuilder,
  tick: () => void,
): Promise<void> {
  const extents = realSize === undefined ? [[0, size] as const] : await readMap(reader);
  for (const [offset, length] of extents) {
    for (let at = 0; at < length;) {
      const piece = await reader.read(Math.min(PIECE_BYTES, length - at));
      if (piece === undefined) throw new TarError('its data ends too early');
      builder.write(inode, offset + at, piece);
      at += piece.length;
      tick();
    }
  }
  builder.resize(inode, realSize ?? size);
}

/**
 * Reads the map of a sparse file, GNU format 1.0: a count, then offsets and lengths, as decimal
 * lines padded to whole blocks.
 */
async function readMap(reader: TarReader): Promise<(readonly [number, number])[]> {
  const before = reader.unread;
  let line = '';
  const readNumber = async (): Promise<number> => {
    for (;;) {
      const byte = (await reader.read(1))?.[0];
      if (byte === 0x0a) break;
      if (byte === undefined || byte < 0x30 || byte > 0x39 || line.length > 15) throw new TarError('bad map');
      line += String.fromCharCode(byte);
    }
    const value = Number(line);
    line = '';
    return value;
  };
  const count = await readNumber();
  if (count > MAX_EXTENTS) throw new TarError(`a sparse file of ${count} pieces: too many`);
  const extents: (readonly [number, number])[] = [];
  for (let i = 0; i < count; i++) extents.push([await readNumber(), await readNumber()]);
  for (let pad = padding(before - reader.unread).length; pad > 0;) {
    pad -= (await reader.read(pad))?.length ?? pad;
  }
  return extents;
}

/**
 * Writes a tree as an archive, gzipped if the name ends in `gz`. The file appears when it is
 * complete. Sockets are left out, as tar does.
 * @throws what node:fs throws
 */
export async function saveArchive(path: string, tree: Tree): Promise<void> {
  const partial = `${path}.partial`;
  const output = createWriteStream(partial, { mode: 0o600 });
  try {
    if (/gz$/i.test(path)) await pipeline(members(tree), createGzip(), output);
    else await pipeline(members(tree), output);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

function* members(tree: Tree): Generator<Uint8Array> {
  /** First name of each file with several. */
  const names = new Map<Inode, string>();
  const waiting: (readonly [string, Inode])[] = [['./', tree.root]];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const [path, inode] = next;
    if (inode.type === FileType.SOCKET) continue;
    const existing = names.get(inode);
    if (existing !== undefined) {
      yield encodeEntry({ ...entryOf(path, inode), type: TarType.LINK, linkPath: existing });
      continue;
    }
    if (inode.nlink > 1 && inode.entries === undefined) names.set(inode, path);
    if (inode.content === undefined) yield encodeEntry(entryOf(path, inode));
    else yield* fileMembers(entryOf(path, inode), inode.content);
    if (inode.entries === undefined) continue;
    for (const name of entriesOf(inode).keys()) {
      const child = tree.lookup(inode, name)!;
      waiting.push([`${path}${name}${child.entries === undefined ? '' : '/'}`, child]);
    }
  }
  yield END;
}

function entryOf(path: string, inode: Inode): TarEntry {
  return {
    type: FLAGS.get(inode.type)!,
    path,
    linkPath: inode.target ?? '',
    mode: inode.mode & 0o7777,
    uid: inode.uid,
    gid: inode.gid,
    size: 0,
    mtime: { seconds: inode.mtime, nanoseconds: inode.mtimeNsec },
    atime: { seconds: inode.atime, nanoseconds: inode.atimeNsec },
    major: deviceMajor(inode.rdev),
    minor: deviceMinor(inode.rdev),
    xattrs: inode.xattrs ?? new Map(),
  };
}

function* fileMembers(entry: TarEntry, content: Content): Generator<Uint8Array> {
  const extents = [...content.extents()];
  const [first] = extents;
  const isWhole =
    content.size === 0 || (extents.length === 1 && first![0] === 0 && first![1] === content.size);
  if (isWhole) yield encodeEntry({ ...entry, size: content.size });
  else {
    const map = Buffer.from(
      `${[extents.length, ...extents.flatMap(([from, to]) => [from, to - from])].join('\n')}\n`,
    );
    const mapPadding = padding(map.length);
    const data = extents.reduce((sum, [from, to]) => sum + to - from, 0);
    const size = map.length + mapPadding.length + data;
    yield encodeEntry({ ...entry, size, realSize: content.size });
    yield map;
    yield mapPadding;
  }
  let written = 0;
  for (const [from, to] of extents) {
    for (let at = from; at < to; at += CHUNK_BYTES) {
      const piece = new Uint8Array(Math.min(CHUNK_BYTES, to - at));
      content.read(new Bytes(piece), at);
      written += piece.length;
      yield piece;
    }
  }
  yield padding(written);
}
