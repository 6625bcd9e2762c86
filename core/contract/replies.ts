import { type DirectoryEntry, decodeName, encodeName, nameLength } from '../backend/index.js';
import * as abi from '../fuse/wire/abi.js';
import * as wire from '../fuse/wire/structures.js';

/** Attributes of a file, from `struct fuse_attr`. Times are in nanoseconds. */
export interface Stat {
  readonly ino: bigint;
  readonly size: number;
  readonly blocks: number;
  readonly atime: bigint;
  readonly mtime: bigint;
  readonly ctime: bigint;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
}

/** A node in the reply of a lookup or creation. */
export interface Found {
  readonly id: bigint;
  readonly stat: Stat;
}

/** An open file. */
export interface OpenFile {
  readonly id: bigint;
  readonly fh: bigint;
  /** Whether the guest must bypass its page cache; `size` in attributes may then be anything. */
  readonly directIo: boolean;
}

/** One entry of a listing, with the cookie after it. */
export interface Listed extends DirectoryEntry {
  readonly cookie: bigint;
  readonly ino: bigint;
}

const SECOND = 1_000_000_000n;

/** Builds a request's structure, field by field. */
export class Fields {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
  }

  u32(at: number, value: number): this {
    this.#view.setUint32(at, value, true);
    return this;
  }

  u64(at: number, value: bigint | number): this {
    this.#view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true);
    return this;
  }
}

export function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Reads `struct fuse_open_out`. */
export function opened(id: bigint, reply: Uint8Array, from: number): OpenFile {
  const at = wire.fuse_open_out;
  const flags = view(reply).getUint32(from + at.open_flags, true);
  return {
    id,
    fh: view(reply).getBigUint64(from + at.fh, true),
    directIo: (flags & abi.FOPEN_DIRECT_IO) !== 0,
  };
}

/** Reads `struct fuse_attr`. */
export function stat(reply: Uint8Array, from: number): Stat {
  const at = wire.fuse_attr;
  const data = view(reply);
  const word = (offset: number): number => data.getUint32(from + offset, true);
  const wide = (offset: number): bigint => data.getBigUint64(from + offset, true);
  const time = (seconds: number, nanoseconds: number): bigint =>
    data.getBigInt64(from + seconds, true) * SECOND + BigInt(word(nanoseconds));
  return {
    ino: wide(at.ino),
    size: Number(wide(at.size)),
    blocks: Number(wide(at.blocks)),
    atime: time(at.atime, at.atimensec),
    mtime: time(at.mtime, at.mtimensec),
    ctime: time(at.ctime, at.ctimensec),
    mode: word(at.mode),
    nlink: word(at.nlink),
    uid: word(at.uid),
    gid: word(at.gid),
    rdev: word(at.rdev),
  };
}

/** A name as requests have it, NUL-terminated. */
export function text(name: string): Uint8Array {
  const bytes = new Uint8Array(nameLength(name) + 1);
  encodeName(name, bytes);
  return bytes;
}

/** Reads the `struct fuse_dirent`s of a READDIR reply. */
export function listed(reply: Uint8Array): Listed[] {
  const data = view(reply);
  const entries: Listed[] = [];
  const { fuse_dirent: at } = wire;
  for (let from = 0; from < reply.length;) {
    const start = from + at.bytes;
    const length = data.getUint32(from + at.namelen, true);
    entries.push({
      name: decodeName(reply, start, start + length),
      type: (data.getUint32(from + at.type, true) << 12) >>> 0,
      ino: data.getBigUint64(from + at.ino, true),
      cookie: data.getBigUint64(from + at.off, true),
    });
    from = start + Math.ceil(length / 8) * 8;
  }
  return entries;
}
