import { Clock } from '../../../core/backend/clock.js';
import { FileType, ModeBits } from '../../../core/backend/index.js';
import type { Attributes, Time } from '../../../core/backend/index.js';

/**
 * Most bytes of an object's user metadata, names and values together (Amazon S3 User Guide,
 * "Working with object metadata").
 */
export const METADATA_MAX_BYTES = 2048;

/** What a listing tells of an object: all but its metadata. */
export interface RemoteObject {
  readonly key: string;
  /** ETag without quotes. */
  readonly etag: string;
  readonly size: number;
  /** Modification time in whole seconds since the epoch; HEAD gives no more either. */
  readonly modified: number;
  readonly storageClass: string | undefined;
}

/**
 * Headers that belong to an object and survive a rewrite of it, names in lower case, each character
 * of a value a byte.
 */
export type ContentHeaders = Readonly<Record<string, string>>;

/** A file's attributes as user metadata carries them. Immutable: a change makes a new one. */
export interface Posix {
  /** Type and permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly atime: Time;
  readonly mtime: Time;
  readonly ctime: Time;
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
  /**
   * Target of a symbolic link if metadata has it (geesefs). Otherwise the content is the target.
   */
  readonly target: string | undefined;
  /** Metadata of other tools, kept as it is. */
  readonly foreign: Readonly<Record<string, string>>;
  readonly headers: ContentHeaders;
  /** Mark of our write that made the object; see {@link WRITE_MARK}. */
  readonly mark: string | undefined;
}

/** Attributes of an object without metadata. */
export interface Defaults {
  readonly uid: number;
  readonly gid: number;
  /** Permission bits. */
  readonly fileMode: number;
  readonly directoryMode: number;
}

/**
 * User metadata that identifies our own write, when the answer to a conditional request was lost.
 */
export const WRITE_MARK = 'virtiofs-kit-write';

/**
 * Metadata that {@link parse} understands: s3fs's scheme, `rdev` and `--symlink-target` of geesefs,
 * and our mark.
 */
const known = new Set([
  'mode',
  'uid',
  'gid',
  'mtime',
  'atime',
  'ctime',
  'xattr',
  'rdev',
  '--symlink-target',
  WRITE_MARK,
]);

const CAPABILITIES = 'security.capability';

/**
 * Attributes of a file whose content changes: file capabilities go, and with `clearsSetIds`
 * set-user-id and the set-group-id of a group-executable file.
 * @returns the same where none of that is set.
 */
export function withoutPrivileges(posix: Posix, clearsSetIds: boolean): Posix {
  const { SETUID, SETGID } = ModeBits;
  const cleared = (posix.mode & 0o010) === 0 ? SETUID : SETUID | SETGID;
  const mode = clearsSetIds ? posix.mode & ~cleared : posix.mode;
  if (mode === posix.mode && !posix.xattrs.has(CAPABILITIES)) return posix;
  const xattrs = new Map(posix.xattrs);
  xattrs.delete(CAPABILITIES);
  return { ...posix, mode, xattrs };
}

/** Attributes of a new node, or of an object without metadata. */
export function fresh(mode: number, uid: number, gid: number, time: Time): Posix {
  return {
    mode,
    uid,
    gid,
    rdev: 0,
    atime: time,
    mtime: time,
    ctime: time,
    xattrs: new Map(),
    target: undefined,
    foreign: {},
    headers: {},
    mark: undefined,
  };
}

/**
 * Reads user metadata. Values that are invalid count as absent: anybody may have written them.
 * @param modified modification time of the object in seconds: the default for times.
 */
export function parse(
  metadata: Readonly<Record<string, string>>,
  headers: ContentHeaders,
  directory: boolean,
  modified: number,
  defaults: Defaults,
): Posix {
  const fallback: Time = { seconds: modified, nanoseconds: 0 };
  const target = metadata['--symlink-target'];
  const mtime = parseTime(metadata['mtime']) ?? fallback;
  return {
    mode: parseMode(metadata['mode'], directory, target !== undefined, defaults),
    uid: parseNumber(metadata['uid'], 0xffff_fffe) ?? defaults.uid,
    gid: parseNumber(metadata['gid'], 0xffff_fffe) ?? defaults.gid,
    rdev: parseNumber(metadata['rdev'], 0xffff_ffff) ?? 0,
    mtime,
    atime: parseTime(metadata['atime']) ?? mtime,
    ctime: parseTime(metadata['ctime']) ?? fallback,
    xattrs: parseXattrs(metadata['xattr']),
    target: target === undefined ? undefined : percentDecoded(target),
    foreign: Object.fromEntries(Object.entries(metadata).filter(([name]) => !known.has(name))),
    headers,
    mark: metadata[WRITE_MARK],
  };
}

function parseMode(text: string | undefined, directory: boolean, link: boolean, defaults: Defaults): number {
  const number = parseModeNumber(text, directory);
  const permissions = directory ? defaults.directoryMode : defaults.fileMode;
  if (directory) return FileType.DIRECTORY | (number === undefined ? permissions : number & 0o7777);
  if (link) return FileType.SYMLINK | 0o777;
  if (number === undefined) return FileType.REGULAR | permissions;
  return isTyped(number, false) ? number : FileType.REGULAR | (number & 0o7777);
}

/** Types that an object may stand for. */
const OBJECT_TYPES = new Set<number>([
  FileType.REGULAR,
  FileType.SYMLINK,
  FileType.FIFO,
  FileType.SOCKET,
  FileType.CHARACTER,
  FileType.BLOCK,
]);

/** Whether a mode has the type bits of a directory, or of what is no directory. */
function isTyped(mode: number, directory: boolean): boolean {
  const type = mode & FileType.MASK;
  return directory ? type === FileType.DIRECTORY : OBJECT_TYPES.has(type);
}

/**
 * A mode as programs write it: decimal (s3fs: `33188`), octal with a leading 0 (`0100644`) or
 * without (rclone: `100644`), hexadecimal with 0x, with type bits or without (`644`). The same
 * digits may be read as decimal and as octal: what makes a mode decides, type bits above all.
 */
function parseModeNumber(text: string | undefined, directory: boolean): number | undefined {
  const written = parseNumber(text, 0o177777);
  if (text === undefined || !/^[1-7][0-7]*$/.test(text)) return written;
  const octal = Number.parseInt(text, 8);
  if (written !== undefined && isTyped(written, directory)) return written;
  if (octal <= 0o177777 && (isTyped(octal, directory) || arePermissions(octal))) return octal;
  return written;
}

/** Whether a mode has no type bits, and gives nobody what it does not give the owner. */
function arePermissions(mode: number): boolean {
  const owner = (mode >> 6) & 7;
  return mode <= 0o7777 && (((mode >> 3) | mode) & 7 & ~owner) === 0;
}

/** Decimal as s3fs writes it; octal with a leading 0 and hexadecimal with 0x as others do. */
function parseNumber(text: string | undefined, max: number): number | undefined {
  if (text === undefined || text === '') return undefined;
  let value = Number.NaN;
  if (/^0[0-7]+$/.test(text)) value = Number.parseInt(text, 8);
  else if (/^(\d+|0x[0-9a-f]+)$/i.test(text)) value = Number(text);
  return value <= max ? value : undefined;
}

/**
 * Seconds and, after a point, a fraction: `1700000000.123456789` (s3fs, rclone) or `1700000000`
 * (geesefs).
 */
function parseTime(text: string | undefined): Time | undefined {
  const match = /^(-?\d{1,12})(?:\.(\d{1,9})\d*)?$/.exec(text ?? '');
  if (match === null) return undefined;
  return { seconds: Number(match[1]), nanoseconds: Number((match[2] ?? '').padEnd(9, '0')) };
}

/** s3fs: a percent-encoded JSON object of base64 values. */
function parseXattrs(text: string | undefined): ReadonlyMap<string, Uint8Array> {
  const xattrs = new Map<string, Uint8Array>();
  if (text === undefined) return xattrs;
  let parsed: unknown;
  try {
    parsed = JSON.parse(percentDecoded(text));
  } catch {
    return xattrs;
  }
  if (typeof parsed !== 'object' || parsed === null) return xattrs;
  for (const [name, value] of Object.entries(parsed)) {
    if (typeof value === 'string') xattrs.set(name, Buffer.from(value, 'base64'));
  }
  return xattrs;
}

function percentDecoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Writes user metadata in s3fs's scheme. */
export function format(posix: Posix, mark: string | undefined): Record<string, string> {
  const metadata: Record<string, string> = {
    ...posix.foreign,
    mode: String(posix.mode),
    uid: String(posix.uid),
    gid: String(posix.gid),
    mtime: formatTime(posix.mtime),
    atime: formatTime(posix.atime),
    ctime: formatTime(posix.ctime),
  };
  if (posix.rdev !== 0) metadata['rdev'] = String(posix.rdev);
  if (posix.target !== undefined) metadata['--symlink-target'] = encodeURIComponent(posix.target);
  if (posix.xattrs.size > 0) {
    const values: Record<string, string> = {};
    for (const [name, value] of posix.xattrs) values[name] = Buffer.from(value).toString('base64');
    metadata['xattr'] = encodeURIComponent(JSON.stringify(values));
  }
  if (mark !== undefined) metadata[WRITE_MARK] = mark;
  return metadata;
}

function formatTime(time: Time): string {
  return `${time.seconds}.${String(time.nanoseconds).padStart(9, '0')}`;
}

/** Our fields in metadata, in the order in which they get what room is left beside others'. */
const RANK = [
  '--symlink-target',
  'rdev',
  'mode',
  'uid',
  'gid',
  'xattr',
  'mtime',
  WRITE_MARK,
  'ctime',
  'atime',
];
/** How many of them must not be lost when somebody sets attributes. */
const ESSENTIAL = RANK.indexOf('mtime') + 1;

/**
 * Writes user metadata within {@link METADATA_MAX_BYTES}, beyond which S3 would refuse the data
 * too. What others have put there stays whole, ours gives way.
 */
export function formatFitting(posix: Posix, mark: string | undefined): Record<string, string> {
  const all = format(posix, mark);
  const metadata: Record<string, string> = { ...posix.foreign };
  let left = METADATA_MAX_BYTES;
  for (const [name, value] of Object.entries(metadata)) left -= name.length + value.length;
  for (const name of RANK) {
    const value = all[name];
    if (value === undefined || name.length + value.length > left) continue;
    metadata[name] = value;
    left -= name.length + value.length;
  }
  return metadata;
}

/** Whether {@link formatFitting} keeps type, mode, owner, extended attributes and mtime. */
export function attributesFit(posix: Posix): boolean {
  // What is left has an eighth of the bytes at most.
  if (posix.xattrs.size === 0 && posix.target === undefined && Object.keys(posix.foreign).length === 0)
    return true;
  const all = format(posix, undefined);
  const fitting = formatFitting(posix, undefined);
  return RANK.slice(0, ESSENTIAL).every((name) => all[name] === fitting[name]);
}

/** Bytes that the attributes take of {@link METADATA_MAX_BYTES}, with room for a mark. */
export function metadataSize(posix: Posix): number {
  let size = 64;
  for (const [name, value] of Object.entries(format(posix, undefined))) size += name.length + value.length;
  return size;
}

const ROOT_INODE = 1;

/**
 * An inode number of 53 bits for a node's durable key: the same in a listing, after a restart and
 * in another mount. Two keys of a million have the same by a chance of one in 20,000; no program
 * takes them for one file, since none has two links.
 */
export function inodeNumber(key: string): number {
  if (key === '') return ROOT_INODE;
  let low = 0x9747b28c;
  let high = 0x3c6ef372;
  for (let at = 0; at < key.length; at++) {
    const unit = key.charCodeAt(at);
    low = Math.imul(low ^ unit, 0x85ebca6b);
    low ^= low >>> 15;
    high = Math.imul(high ^ unit, 0xc2b2ae35);
    high ^= high >>> 13;
  }
  const number = (high & 0x1f_ffff) * 2 ** 32 + (low >>> 0);
  // 0 is none.
  return number > ROOT_INODE ? number : ROOT_INODE + 1;
}

/** The attributes that guests see of the node with a durable key. */
export function attributesOf(key: string, posix: Posix, size: number, removed: boolean): Attributes {
  return {
    ino: inodeNumber(key),
    mode: posix.mode,
    size,
    nlink: removed ? 0 : (posix.mode & FileType.MASK) === FileType.DIRECTORY ? 2 : 1,
    uid: posix.uid,
    gid: posix.gid,
    rdev: posix.rdev,
    atime: posix.atime.seconds,
    atimeNsec: posix.atime.nanoseconds,
    mtime: posix.mtime.seconds,
    mtimeNsec: posix.mtime.nanoseconds,
    ctime: posix.ctime.seconds,
    ctimeNsec: posix.ctime.nanoseconds,
  };
}

const clock = new Clock();

/** The current time. */
export function now(): Time {
  clock.tick();
  return { seconds: clock.seconds, nanoseconds: clock.nanoseconds };
}
