import * as z from 'zod';
import {
  DAEMON,
  type Attributes,
  type Entry,
  FileType,
  FsError,
  OpenFlags,
  type Steps,
  wait,
} from '../../core/backend/index.js';
import { heapLimit, MOST_FOREIGN_JSON } from '../../core/backend/limits.js';
import { nextData } from './changes/copy-data.js';
import { giveModeAndTimes, giveOwner, giveXattr, makeLike, writeAll } from './changes/like-another.js';
import { headerBytes, readHeader } from './headed-bytes.js';
import { listAll } from './layers/entries.js';
import type { Layer } from './layers/layer.js';
import { Turns } from './layers/turns.js';
import { timesOf } from './tree/times.js';
import type { Union, Upper } from './tree/union.js';

/*
 * All that an upper has, with its marks and its index, on its way to another host. For each file, a
 * directory before what is in it: a header, and the bytes of its extents.
 */

const PIECE_BYTES = 1 << 20;

/** Bytes of heap for a file that is remembered: its node, and its places. */
const REMEMBERED_BYTES = 512;
const MOST_REMEMBERED = Math.floor(heapLimit / 8);

/** In the place of a directory's number: what the file is in is no file of the state. */
const Place = { ROOT: -1, INDEX: -2 } as const;

const count = z.int().nonnegative();
const fileSchema = z.object({
  /** Number of the directory in the state, or one of {@link Place}. */
  in: z.int().min(Place.INDEX),
  name: z.string(),
  /** Another name of the file with this number. There is nothing more then. */
  link: count.optional(),
  mode: z.int().min(0).max(0xffff).default(0),
  uid: z.int().min(0).max(0xfffffffe).default(0),
  gid: z.int().min(0).max(0xfffffffe).default(0),
  rdev: z.int().min(0).max(0xffffffff).default(0),
  size: count.default(0),
  /** Seconds and nanoseconds of access and modification. */
  times: z.tuple([z.int(), count.max(999_999_999), z.int(), count.max(999_999_999)]).default([0, 0, 0, 0]),
  nlink: count.default(1),
  target: z.string().optional(),
  /** Base64. */
  xattrs: z.array(z.tuple([z.string().min(1), z.base64()])).default([]),
  /** Pieces of the content: offset and length. */
  extents: z.array(z.tuple([count, z.int().positive()])).default([]),
  /** What guests know it by, and its inode number there. */
  identity: z.string().default(''),
  ino: count.optional(),
});

type File = z.output<typeof fileSchema>;

/**
 * Reads everything that the upper of a union has.
 * @param most bytes that it may take.
 * @throws Error if it takes more.
 */
export function* packUpper(union: Union, most: number): Steps<Uint8Array> {
  return yield* new Packer(union, most).pack();
}

/** Reads what the upper's root is, without what is in it: an upper that is empty. */
export function* packRoot(union: Union): Steps<Uint8Array> {
  return yield* new Packer(union, Infinity).packRoot();
}

class Packer {
  readonly #union: Union;
  readonly #upper: Upper;
  readonly #parts: Uint8Array[] = [];
  /** Numbers of files with several names, by what they are known by. */
  readonly #links = new Map<string, number>();
  /** Directories that are to be read, held. */
  readonly #directories: { readonly number: number; readonly node: object }[] = [];
  readonly #turns = new Turns();
  #count = 0;
  #room: number;

  constructor(union: Union, most: number) {
    this.#union = union;
    this.#upper = union.writable();
    this.#room = most;
  }

  *packRoot(): Steps<Uint8Array> {
    try {
      yield* this.#root();
      return Buffer.concat(this.#parts);
    } finally {
      this.#drop();
    }
  }

  *pack(): Steps<Uint8Array> {
    const { layer, work } = this.#upper;
    try {
      yield* this.#root();
      while (this.#directories.length > 0) {
        const { number, node } = this.#directories.pop()!;
        try {
          yield* this.#entries(number, node, number === 0);
        } finally {
          layer.drop(node);
        }
      }
      yield* this.#entries(Place.INDEX, work.index, false);
      return Buffer.concat(this.#parts);
    } finally {
      this.#drop();
    }
  }

  *#root(): Steps<void> {
    const { layer, work } = this.#upper;
    const attributes = { ...(yield* wait(layer.backend.getattr(work.root, undefined, DAEMON))) };
    layer.hold(work.root);
    yield* this.#file(Place.ROOT, '', { node: work.root, attributes });
  }

  #drop(): void {
    for (const { node } of this.#directories) this.#upper.layer.drop(node);
  }

  *#entries(number: number, directory: object, isRoot: boolean): Steps<void> {
    const { layer, work } = this.#upper;
    for (const { name } of yield* listAll(layer, directory)) {
      if (isRoot && work.isHidden(name)) continue;
      if (this.#turns.isOver) yield* wait(this.#turns.next());
      const entry = yield* wait(layer.lookup(directory, name));
      if (entry === undefined) continue;
      const { node } = entry;
      yield* this.#file(number, name, { node, attributes: { ...entry.attributes } });
    }
  }

  /** Takes over the hold of the entry's node. */
  *#file(directory: number, name: string, { node, attributes }: Entry<object>): Steps<void> {
    const { layer } = this.#upper;
    const { mode, uid = 0, gid = 0, rdev = 0, size = 0, nlink = 1, ino } = attributes;
    const type = mode & FileType.MASK;
    const own = layer.identity(node, ino);
    const { identity, ino: shown } = this.#union.inUpper(node) ??
      this.#union.arrived.get(own) ?? { identity: own, ino: layer.inode(ino) };
    let isKept = false;
    try {
      const link = type === FileType.DIRECTORY ? undefined : this.#links.get(identity);
      if (link !== undefined) {
        this.#put({ in: directory, name, link }, []);
        return;
      }
      const number = this.#count;
      if (type === FileType.DIRECTORY) {
        this.#directories.push({ number, node });
        isKept = true;
      } else if (nlink > 1) this.#links.set(identity, number);
      const { atime, mtime } = timesOf(attributes);
      const pieces: Uint8Array[] = [];
      const extents: [number, number][] = [];
      if (type === FileType.REGULAR) yield* this.#content(node, size, extents, pieces);
      const file: Partial<File> = {
        in: directory,
        name,
        mode,
        uid,
        gid,
        rdev,
        nlink,
        identity,
        extents,
        size: type === FileType.REGULAR ? size : 0,
        times: [atime.seconds, atime.nanoseconds, mtime.seconds, mtime.nanoseconds],
        target: type === FileType.SYMLINK ? yield* wait(layer.backend.readlink!(node, DAEMON)) : undefined,
        xattrs: yield* xattrsOf(layer, node),
        ino: shown,
      };
      this.#put(file, pieces);
    } finally {
      if (!isKept) layer.drop(node);
    }
  }

  #put(file: Partial<File>, pieces: readonly Uint8Array[]): void {
    const header = headerBytes(file);
    this.#take(header.length);
    this.#parts.push(header, ...pieces);
    this.#count += 1;
  }

  #take(bytes: number): void {
    this.#room -= bytes;
    if (this.#room < 0) throw new Error('the upper of its overlay has more than may go along');
  }

  *#content(node: object, size: number, extents: [number, number][], pieces: Uint8Array[]): Steps<void> {
    if (size === 0) return;
    const { layer } = this.#upper;
    const { backend } = layer;
    const opened = yield* wait(backend.open?.(node, OpenFlags.READ_ONLY, DAEMON));
    const buffer = this.#union.host.createBuffer(Math.min(PIECE_BYTES, size));
    try {
      for (let at = 0; at < size;) {
        const [start, end] = yield* nextData(layer, node, opened?.file, at, size);
        for (at = start; at < end;) {
          const window = buffer.slice(0, Math.min(buffer.length, end - at));
          const read = yield* wait(backend.read!(node, opened?.file, window, at, DAEMON));
          if (read === 0) return;
          this.#take(read);
          extents.push([at, read]);
          pieces.push(Uint8Array.from(buffer.bytes.subarray(0, read)));
          at += read;
          if (this.#turns.isOver) yield* wait(this.#turns.next());
        }
      }
    } finally {
      buffer.close();
      if (opened !== undefined) yield* wait(backend.release?.(node, opened.file));
    }
  }
}

/**
 * Makes everything anew that {@link packUpper} has read. The upper must be empty.
 * @param most bytes of the heap that what must be remembered may take: directories, files with
 * several names, and what guests know files by that have no mark.
 * @throws FsError, or RangeError for bytes that are no upper. What was made stays then.
 */
export function* unpackUpper(union: Union, bytes: Uint8Array, most = MOST_REMEMBERED): Steps<void> {
  yield* new Unpacker(union, bytes, most).unpack();
}

/** A file that was made, held as long as others may be made in it, or get its name. */
interface Made {
  readonly node: object;
  readonly isDirectory: boolean;
  /** Where it is in the state. */
  readonly at: number;
}

class Unpacker {
  readonly #union: Union;
  readonly #upper: Upper;
  readonly #bytes: Uint8Array;
  /** By their numbers. */
  readonly #made = new Map<number, Made>();
  readonly #turns = new Turns();
  #count = 0;
  #at = 0;
  #room: number;

  constructor(union: Union, bytes: Uint8Array, most: number) {
    this.#room = most;
    this.#union = union;
    this.#upper = union.writable();
    this.#bytes = bytes;
  }

  *unpack(): Steps<void> {
    const { layer } = this.#upper;
    try {
      while (this.#at < this.#bytes.length) yield* this.#next();
      // What is made in a directory changes its times.
      for (const { node, isDirectory, at } of [...this.#made.values()].toReversed()) {
        if (this.#turns.isOver) yield* wait(this.#turns.next());
        if (isDirectory) yield* this.#finish(this.#fileAt(at).file, node);
      }
    } finally {
      for (const { node } of this.#made.values()) layer.drop(node);
    }
  }

  *#next(): Steps<void> {
    if (this.#turns.isOver) yield* wait(this.#turns.next());
    const { layer, work } = this.#upper;
    const { backend } = layer;
    const at = this.#at;
    const { file, end } = this.#fileAt(at);
    this.#at = end;
    const number = this.#count;
    this.#count += 1;
    const isDirectory = typeOf(file) === FileType.DIRECTORY;
    if (number === 0) {
      if (file.in !== Place.ROOT || !isDirectory) throw broken('it begins with no root');
      layer.hold(work.root);
      this.#made.set(number, { node: work.root, isDirectory, at });
      return;
    }
    const directory = this.#directory(file);
    if (file.link !== undefined) {
      const other = this.#made.get(file.link);
      if (other === undefined || other.isDirectory) throw broken('a link to no file');
      if (backend.link === undefined) throw FsError.of('EOPNOTSUPP');
      layer.drop(layer.keep(yield* wait(backend.link(other.node, directory, file.name, DAEMON))).node);
      return;
    }
    const node = yield* this.#make(directory, file);
    const isKept = isDirectory || file.nlink > 1;
    if (isKept) this.#made.set(number, { node, isDirectory, at });
    try {
      if (isKept) this.#remember('');
      if (!isDirectory) yield* this.#finish(file, node);
    } finally {
      if (!isKept) layer.drop(node);
    }
  }

  #remember(text: string): void {
    this.#room -= REMEMBERED_BYTES + 2 * text.length;
    if (this.#room < 0) throw broken('more is to be remembered than there is memory for');
  }

  #fileAt(at: number): { file: File; end: number } {
    let read: { readonly header: unknown; readonly end: number };
    try {
      read = readHeader(this.#bytes, at, MOST_FOREIGN_JSON);
    } catch (error) {
      throw broken((error as Error).message, error);
    }
    const parsed = fileSchema.safeParse(read.header);
    if (!parsed.success) throw broken(z.prettifyError(parsed.error), parsed.error);
    return { file: parsed.data, end: read.end };
  }

  /** Where a file belongs. */
  #directory({ in: number, name }: File): object {
    const { work } = this.#upper;
    if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name)) throw broken('no name');
    if (number === 0 && work.isHidden(name)) throw broken('a name of the work area');
    if (number === Place.INDEX) return work.index;
    const made = this.#made.get(number);
    if (made?.isDirectory !== true) throw broken('a file in no directory');
    return made.node;
  }

  /** @returns the node, held. */
  *#make(directory: object, file: File): Steps<object> {
    const { layer } = this.#upper;
    const target = (): string => file.target ?? '';
    const { node, opened } = yield* makeLike(layer, directory, file.name, typeOf(file), file, target);
    if (opened === undefined) return node;
    try {
      yield* this.#write(node, opened.file, file);
    } catch (error) {
      layer.drop(node);
      throw error;
    } finally {
      yield* wait(layer.backend.release?.(node, opened.file));
    }
    return node;
  }

  *#write(node: object, open: unknown, { extents, size }: File): Steps<void> {
    const { layer } = this.#upper;
    if (size > 0) yield* wait(layer.backend.setattr?.(node, { size }, open, DAEMON));
    if (extents.length === 0) return;
    const buffer = this.#union.host.createBuffer(PIECE_BYTES);
    try {
      for (const [offset, length] of extents) {
        if (offset + length > size || this.#at + length > this.#bytes.length) throw broken('its data ends');
        for (let done = 0; done < length;) {
          const part = Math.min(length - done, buffer.length);
          buffer.bytes.set(this.#bytes.subarray(this.#at + done, this.#at + done + part));
          yield* writeAll(layer, node, open, buffer.slice(0, part), offset + done);
          done += part;
          if (this.#turns.isOver) yield* wait(this.#turns.next());
        }
        this.#at += length;
      }
    } finally {
      buffer.close();
    }
  }

  /** Sets everything but the content, as after a copy-up. */
  *#finish(file: File, node: object): Steps<void> {
    const { layer, marks } = this.#upper;
    const type = typeOf(file);
    const isOwned = yield* giveOwner(layer, node, file);
    if (file.in === Place.ROOT) yield* this.#clear(file, node);
    for (const [name, value] of file.xattrs)
      yield* giveXattr(layer, node, name, Buffer.from(value, 'base64'));
    if (file.in !== Place.ROOT) yield* this.#identify(file, node);
    if (type === FileType.DIRECTORY && marks.inPlace && marks.holds(type)) {
      // Inode numbers in its listing are those of the files' origins.
      yield* wait(marks.set(layer, node, 'impure', 'y'));
    }
    const [atime, atimeNsec, mtime, mtimeNsec] = file.times;
    const attributes = { mode: file.mode, atime, atimeNsec, mtime, mtimeNsec };
    yield* giveModeAndTimes(layer, node, type, attributes, isOwned);
  }

  /**
   * Removes the extended attributes that a directory, which was there, is not to have. A label is
   * the host's.
   */
  *#clear({ xattrs }: File, node: object): Steps<void> {
    const { backend } = this.#upper.layer;
    const kept = new Set(xattrs.map(([name]) => name));
    for (const [name] of yield* xattrsOf(this.#upper.layer, node))
      if (!kept.has(name) && !name.startsWith('security.'))
        yield* wait(backend.removexattr?.(node, name, DAEMON));
  }

  /** Has guests know a file by what they knew it by before. */
  *#identify({ mode, identity, ino, nlink }: File, node: object): Steps<void> {
    const { layer, marks } = this.#upper;
    if (!/^\d{1,2}:/.test(identity)) throw broken('an identity of no layer');
    const type = mode & FileType.MASK;
    if (!marks.inPlace || !marks.holds(type)) {
      this.#remember(identity);
      const attributes: Attributes = yield* wait(layer.backend.getattr(node, undefined, DAEMON));
      this.#union.arrived.set(layer.identity(node, attributes.ino), { identity, ino });
    } else if ((yield* wait(marks.get(layer, node, 'kit.origin'))) === undefined)
      yield* wait(marks.set(layer, node, 'kit.origin', `${ino ?? '-'} ${nlink} ${identity}`));
  }
}

/** Names of extended attributes, with values in base64. */
function* xattrsOf({ backend }: Layer, node: object): Steps<[string, string][]> {
  const found: [string, string][] = [];
  if (backend.listxattr === undefined || backend.getxattr === undefined) return found;
  try {
    for (const name of yield* wait(backend.listxattr(node, DAEMON))) {
      const value = yield* wait(backend.getxattr(node, name, DAEMON));
      if (value !== undefined) found.push([name, Buffer.from(value).toString('base64')]);
    }
  } catch (error) {
    if (!(error instanceof FsError) || error.code !== 'EOPNOTSUPP') throw error;
  }
  return found;
}

function typeOf({ mode }: File): number {
  return mode & FileType.MASK;
}

function broken(what: string, cause?: unknown): RangeError {
  return new RangeError(`the state of an overlay's upper: ${what}`, { cause });
}
