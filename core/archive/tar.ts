import { decodeName, nameBytes } from '../backend/index.js';

/*
 * Reads and writes tar archives: the pax interchange format (POSIX.1-2017, pax) with additions of
 * GNU tar and libarchive: extended attributes (`SCHILY.xattr.`), sparse files (GNU format 1.0) and
 * GNU tar's long names. Names and values of pax records are kept as bytes, since they need not be
 * UTF-8.
 */

const BLOCK = 512;

/** Most bytes of the extended headers of one member. */
const MAX_EXTENDED_BYTES = 1 << 24;

/** Most records of them. Linux lists 64 KiB of names of extended attributes at most. */
const MAX_RECORDS = 20_000;

/** Most bytes of global headers, which are looked at for each member that follows. */
const MAX_GLOBAL_BYTES = 1 << 16;

/** The highest id is none (POSIX `(uid_t)-1`). */
const MAX_ID = 2 ** 32 - 2;

/** Type flags of a header. */
export const TarType = {
  FILE: '0',
  LINK: '1',
  SYMLINK: '2',
  CHARACTER: '3',
  BLOCK: '4',
  DIRECTORY: '5',
  FIFO: '6',
  CONTIGUOUS: '7',
  EXTENDED: 'x',
  GLOBAL: 'g',
  GNU_NAME: 'L',
  GNU_LINK: 'K',
} as const;

/** A time with nanoseconds. */
export interface TarTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** A member of an archive, with names in the contract's string form. */
export interface TarEntry {
  readonly type: string;
  readonly path: string;
  readonly linkPath: string;
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of data that follow. */
  readonly size: number;
  readonly mtime: TarTime;
  readonly atime?: TarTime | undefined;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
  /**
   * The length of a sparse file; undefined for others. Its data begins with a map that says where
   * the rest belongs.
   */
  readonly realSize?: number | undefined;
}

/** The archive is damaged, or of an unknown kind. */
export class TarError extends Error {
  override readonly name = 'TarError';
}

const XATTR = 'SCHILY.xattr.';
const XATTR_BASE64 = 'LIBARCHIVE.xattr.';

/** The zeros that pad data of so many bytes to whole blocks. */
export function padding(size: number): Uint8Array {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}

/** The two empty blocks that end an archive. */
export const END = new Uint8Array(2 * BLOCK);

/** The header blocks of a member. */
export function encodeEntry(entry: TarEntry): Uint8Array {
  const records: Uint8Array[] = [];
  const add = (key: string, value: string | Uint8Array): void => void records.push(record(key, value));
  const path = nameBytes(entry.path);
  const linkPath = nameBytes(entry.linkPath);
  if (path.length > 100 || !isAscii(path)) add('path', path);
  if (linkPath.length > 100 || !isAscii(linkPath)) add('linkpath', linkPath);
  add('mtime', decimal(entry.mtime));
  if (entry.atime !== undefined) add('atime', decimal(entry.atime));
  if (entry.size >= 0o100000000000) add('size', String(entry.size));
  if (entry.uid > 0o7777777) add('uid', String(entry.uid));
  if (entry.gid > 0o7777777) add('gid', String(entry.gid));
  for (const [name, value] of entry.xattrs) add(XATTR + name, value);
  if (entry.realSize !== undefined) {
    add('GNU.sparse.major', '1');
    add('GNU.sparse.minor', '0');
    add('GNU.sparse.name', path);
    add('GNU.sparse.realsize', String(entry.realSize));
  }
  const extended = Buffer.concat(records);
  const pax = { ...entry, type: TarType.EXTENDED, size: extended.length, major: 0, minor: 0 };
  return Buffer.concat([
    header(pax, new Uint8Array(nameBytes('PaxHeader')), new Uint8Array(0)),
    extended,
    padding(extended.length),
    header(entry, path, linkPath),
  ]);
}

function header(entry: TarEntry, path: Uint8Array, linkPath: Uint8Array): Uint8Array {
  const block = Buffer.alloc(BLOCK);
  block.set(path.subarray(0, 100), 0);
  octal(block, 100, 8, entry.mode);
  octal(block, 108, 8, Math.min(entry.uid, 0o7777777));
  octal(block, 116, 8, Math.min(entry.gid, 0o7777777));
  octal(block, 124, 12, Math.min(entry.size, 0o77777777777));
  octal(block, 136, 12, Math.min(Math.max(0, entry.mtime.seconds), 0o77777777777));
  block.write(entry.type, 156, 'latin1');
  block.set(linkPath.subarray(0, 100), 157);
  block.write('ustar\x0000', 257, 'latin1');
  octal(block, 329, 8, entry.major);
  octal(block, 337, 8, entry.minor);
  block.fill(0x20, 148, 156);
  octal(block, 148, 7, checksum(block));
  return block;
}

function octal(block: Buffer, at: number, length: number, value: number): void {
  block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');
}

function checksum(block: Uint8Array): number {
  return block.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
}

/** A pax record: `LENGTH KEY=VALUE\n`. The length includes its own digits. */
function record(key: string, value: string | Uint8Array): Uint8Array {
  const body = Buffer.concat([
    Buffer.from(' '),
    nameBytes(key),
    Buffer.from('='),
    bytesOf(value),
    Buffer.from('\n'),
  ]);
  let length = body.length + String(body.length).length;
  if (String(length).length + body.length !== length) length += 1;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

function bytesOf(value: string | Uint8Array): Uint8Array {
  return typeof value === 'string' ? Buffer.from(value) : value;
}

/** A time as a decimal number of seconds, negative before 1970. */
function decimal({ seconds, nanoseconds }: TarTime): string {
  if (seconds >= 0) return `${seconds}.${String(nanoseconds).padStart(9, '0')}`;
  const whole = nanoseconds === 0 ? -seconds : -seconds - 1;
  const rest = nanoseconds === 0 ? 0 : 1_000_000_000 - nanoseconds;
  return `-${whole}.${String(rest).padStart(9, '0')}`;
}

function isAscii(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte < 0x80);
}

/** Reads an archive from a stream of bytes. */
export class TarReader {
  readonly #input: AsyncIterator<Uint8Array>;
  #piece: Uint8Array = new Uint8Array(0);
  #at = 0;
  #left = 0;
  /** How many bytes of the archive were read so far. */
  position = 0;
  #global = new Map<string, Uint8Array>();
  #globalBytes = 0;

  constructor(input: AsyncIterable<Uint8Array>) {
    this.#input = input[Symbol.asyncIterator]();
  }

  /** Reads the next member; skips unread data of the former one. @throws TarError */
  async next(): Promise<TarEntry | undefined> {
    await this.#skip(this.#left);
    let records = new Map(this.#global);
    let extended = 0;
    for (;;) {
      const block = await this.#take(BLOCK, true);
      if (block === undefined || block.every((byte) => byte === 0)) return undefined;
      const raw = decodeHeader(block);
      if (raw === undefined)
        throw new TarError(`no header at byte ${this.position - BLOCK}: damaged, or no tar archive`);
      const { type, size } = raw;
      if (isHeader(type)) {
        extended += size;
        if (type === TarType.GLOBAL) this.#globalBytes += size;
        if (extended > MAX_EXTENDED_BYTES || this.#globalBytes > MAX_GLOBAL_BYTES)
          throw new TarError(`extended headers of ${extended} bytes: too long`);
      }
      if (type === TarType.EXTENDED || type === TarType.GLOBAL) {
        const found = decodeRecords(await this.#body(size));
        if (type === TarType.GLOBAL) for (const [key, value] of found) this.#global.set(key, value);
        for (const [key, value] of found) records.set(key, value);
        if (records.size > MAX_RECORDS) throw new TarError(`${records.size} extended records: too many`);
      } else if (type === TarType.GNU_NAME || type === TarType.GNU_LINK) {
        const name = await this.#body(size);
        const end = name.indexOf(0);
        records.set(type === TarType.GNU_NAME ? 'path' : 'linkpath', end < 0 ? name : name.subarray(0, end));
      } else {
        const entry = withRecords(raw, records);
        this.#left = entry.size + padding(entry.size).length;
        this.#unread = entry.size;
        records = new Map();
        return entry;
      }
    }
  }

  /** How many bytes of the current member's data are unread. */
  #unread = 0;

  get unread(): number {
    return this.#unread;
  }

  /** Reads 1 to `most` bytes of the current member's data; undefined at its end. */
  async read(most: number): Promise<Uint8Array | undefined> {
    const count = Math.min(most, this.#unread);
    if (count === 0) return undefined;
    const bytes = await this.#some(count);
    this.#unread -= bytes.length;
    this.#left -= bytes.length;
    return bytes;
  }

  /** Reads the data of an extended header, which is kept in memory. */
  async #body(size: number): Promise<Uint8Array> {
    const body = (await this.#take(size, false))!;
    await this.#skip(padding(size).length);
    return body;
  }

  async #skip(count: number): Promise<void> {
    for (let left = count; left > 0;) left -= (await this.#some(left)).length;
    this.#left = 0;
  }

  async #take(count: number, mayEnd: boolean): Promise<Uint8Array | undefined> {
    const bytes = new Uint8Array(count);
    for (let at = 0; at < count;) {
      if (at === 0 && mayEnd && !(await this.#fill())) return undefined;
      const part = await this.#some(count - at);
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  async #some(most: number): Promise<Uint8Array> {
    if (!(await this.#fill())) throw new TarError('ends in the middle of a file: cut off');
    const bytes = this.#piece.subarray(this.#at, this.#at + most);
    this.#at += bytes.length;
    this.position += bytes.length;
    return bytes;
  }

  async #fill(): Promise<boolean> {
    while (this.#at >= this.#piece.length) {
      const next = await this.#input.next();
      if (next.done === true) return false;
      this.#piece = next.value;
      this.#at = 0;
    }
    return true;
  }
}

function isHeader(type: string): boolean {
  return (
    type === TarType.EXTENDED ||
    type === TarType.GLOBAL ||
    type === TarType.GNU_NAME ||
    type === TarType.GNU_LINK
  );
}

function decodeHeader(block: Uint8Array): TarEntry | undefined {
  const size = number(block, 124, 12);
  if (number(block, 148, 8) !== checksum(block) || !(size >= 0)) return undefined;
  const text = (at: number, length: number): string => {
    const end = block.indexOf(0, at);
    return decodeName(block, at, end < 0 || end > at + length ? at + length : end);
  };
  const prefix = text(257, 5) === 'ustar' && block[262] === 0 ? text(345, 155) : '';
  const flag = String.fromCharCode(block[156]!);
  return {
    type: flag === '\0' ? TarType.FILE : flag,
    path: prefix === '' ? text(0, 100) : `${prefix}/${text(0, 100)}`,
    linkPath: text(157, 100),
    mode: number(block, 100, 8) & 0o7777,
    uid: number(block, 108, 8),
    gid: number(block, 116, 8),
    size,
    mtime: { seconds: safe(number(block, 136, 12)), nanoseconds: 0 },
    major: safe(number(block, 329, 8)),
    minor: safe(number(block, 337, 8)),
    xattrs: new Map(),
  };
}

/** Zero in the place of what does no harm and is no number. */
function safe(value: number): number {
  return Number.isSafeInteger(value) ? value : 0;
}

/** Reads a number: octal digits, or a big-endian number if the top bit is set (GNU). */
function number(block: Uint8Array, at: number, length: number): number {
  if ((block[at]! & 0x80) !== 0) {
    let value = block[at]! & 0x40 ? -1 : block[at]! & 0x3f;
    for (let i = 1; i < length; i++) value = value * 256 + block[at + i]!;
    return value;
  }
  const text = Buffer.from(block.subarray(at, at + length))
    .toString('latin1')
    .split('\0')[0]!
    .trim();
  return text === '' ? 0 : Number.parseInt(text, 8);
}

function decodeRecords(body: Uint8Array): Map<string, Uint8Array> {
  const records = new Map<string, Uint8Array>();
  for (let at = 0; at < body.length;) {
    const space = body.indexOf(0x20, at);
    const length = Number(decodeName(body, at, Math.max(at, space)));
    const equals = body.indexOf(0x3d, space);
    const end = at + length;
    if (space < 0 || !Number.isInteger(length) || equals < 0 || equals >= end || end > body.length) {
      throw new TarError('extended header is damaged');
    }
    records.set(decodeName(body, space + 1, equals), body.subarray(equals + 1, end - 1));
    at = end;
  }
  return records;
}

/** @throws TarError for what is no number from 0 to `most`. */
function inRange(key: string, value: number, most: number): number {
  if (value >= 0 && value <= most) return value;
  throw new TarError(`${key} ${value}: must be from 0 to ${most}`);
}

function withRecords(raw: TarEntry, records: ReadonlyMap<string, Uint8Array>): TarEntry {
  const text = (key: string): string | undefined => {
    const value = records.get(key);
    return value === undefined ? undefined : decodeName(value);
  };
  const integer = (key: string): number | undefined => {
    const value = text(key);
    if (value !== undefined && !/^-?\d{1,15}$/.test(value)) throw new TarError(`${key} ${value}: no number`);
    return value === undefined ? undefined : Number(value);
  };
  const time = (key: string): TarTime | undefined => {
    const value = text(key);
    return value === undefined ? undefined : parseTime(key, value);
  };
  const xattrs = new Map<string, Uint8Array>();
  for (const [key, value] of records) {
    if (key.startsWith(XATTR)) xattrs.set(key.slice(XATTR.length), value);
    else if (key.startsWith(XATTR_BASE64)) {
      const name = decodeURIComponent(key.slice(XATTR_BASE64.length));
      if (!xattrs.has(name)) xattrs.set(name, Buffer.from(decodeName(value), 'base64'));
    }
  }
  const size = inRange('size', integer('size') ?? raw.size, Number.MAX_SAFE_INTEGER);
  const isSparse = text('GNU.sparse.major') === '1';
  const realSize = isSparse ? integer('GNU.sparse.realsize') : undefined;
  return {
    ...raw,
    path: text('GNU.sparse.name') ?? text('path') ?? raw.path,
    linkPath: text('linkpath') ?? raw.linkPath,
    uid: inRange('uid', integer('uid') ?? raw.uid, MAX_ID),
    gid: inRange('gid', integer('gid') ?? raw.gid, MAX_ID),
    size: raw.type === TarType.LINK ? 0 : size,
    mtime: time('mtime') ?? raw.mtime,
    atime: time('atime'),
    xattrs,
    realSize: realSize === undefined ? undefined : inRange('realsize', realSize, Number.MAX_SAFE_INTEGER),
  };
}

function parseTime(key: string, value: string): TarTime {
  const match = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(value);
  if (match === null) throw new TarError(`${key} ${value}: no time`);
  const whole = Number(match[2]);
  const fraction = Number((match[3] ?? '').padEnd(9, '0').slice(0, 9));
  if (match[1] === '') return { seconds: whole, nanoseconds: fraction };
  return fraction === 0
    ? { seconds: -whole, nanoseconds: 0 }
    : { seconds: -whole - 1, nanoseconds: 1_000_000_000 - fraction };
}
