import { encodeName, FsError } from '../../../core/backend/index.js';
import { type Fd, NativeMemory } from '../../../core/system/index.js';

/**
 * Native memory for the arguments and results of one system call ("call memory"). All synchronous
 * calls of the process share it: what is in it is valid until the next call, and never beyond the
 * current turn of the event loop.
 */
const NAME_AREA_BYTES = 4352;
export const XATTR_MAX_BYTES = 65536;
/** Some hundred names: more would hold other guests for long. */
export const DIRENT_AREA_BYTES = 4096;

const layout = {
  empty: 0,
  here: 8,
  statx: 64,
  statfs: 320,
  handle: 512,
  mountId: 768,
  times: 784,
  offsets: 832,
  how: 864,
  link: 896,
  stat: 960,
  name: 4096,
  otherName: 4096 + NAME_AREA_BYTES,
  target: 4096 + 2 * NAME_AREA_BYTES,
  dirents: 24576,
  xattr: 24576 + DIRENT_AREA_BYTES,
  end: 24576 + DIRENT_AREA_BYTES + XATTR_MAX_BYTES + 4096,
} as const;

const SLASH = 0x2f;
const DOT = 0x2e;

const memory = NativeMemory.allocate(layout.end);
export const bytes = memory.u8;
export const words = memory.u32;
export const signedWords = memory.i32;

/** Addresses of the areas, for system calls. */
export const at = {
  /** An empty path, for AT_EMPTY_PATH. */
  empty: memory.address + layout.empty,
  /** The path `.`. */
  here: memory.address + layout.here,
  statx: memory.address + layout.statx,
  statfs: memory.address + layout.statfs,
  stat: memory.address + layout.stat,
  /** `struct file_handle` with 128 bytes of room. */
  handle: memory.address + layout.handle,
  mountId: memory.address + layout.mountId,
  /** Two `struct timespec`. */
  times: memory.address + layout.times,
  /** Two 64-bit offsets. */
  offsets: memory.address + layout.offsets,
  how: memory.address + layout.how,
  dirents: memory.address + layout.dirents,
  xattr: memory.address + layout.xattr,
  target: memory.address + layout.target,
} as const;

/** Byte offsets of the areas in {@link bytes}. */
export const offset = layout;

/**
 * Writes a name as the first path argument. @returns its address. The engine has checked names
 * already. The second check here guarantees that no name leads out of its directory.
 * @throws FsError EINVAL unless it is a single component other than `.` and `..`.
 */
export function putName(name: string): number {
  putComponent(name, bytes, layout.name);
  return memory.address + layout.name;
}

/** Writes the name for the second path argument, as {@link putName} does. */
export function putOtherName(name: string): number {
  putComponent(name, bytes, layout.otherName);
  return memory.address + layout.otherName;
}

/** Writes a name into other memory, with the checks of {@link putName}. */
export function putComponent(name: string, into: Uint8Array, start: number): void {
  const end = encodeName(name, into, start);
  into[end] = 0;
  for (let i = start; i < end; i++) if (into[i] === SLASH) throw FsError.of('EINVAL');
  const isDots = into[start] === DOT && (end === start + 1 || (end === start + 2 && into[start + 1] === DOT));
  if (isDots || end === start) throw FsError.of('EINVAL');
}

/** Writes the name of an extended attribute. @returns its address. */
export function putText(text: string): number {
  bytes[encodeName(text, bytes, layout.otherName)] = 0;
  return memory.address + layout.otherName;
}

/** Writes the target of a symbolic link, at most 4,095 bytes. @returns its address. */
export function putTarget(target: string): number {
  bytes[encodeName(target, bytes, layout.target)] = 0;
  return memory.address + layout.target;
}

bytes[layout.here] = DOT;

const PREFIX = '/proc/self/fd/';
encodeName(PREFIX, bytes, layout.link);
const DIGITS = layout.link + PREFIX.length;

/**
 * Writes `/proc/self/fd/<fd>`, the path by which the file of an O_PATH descriptor can be opened or
 * changed.
 * @returns its address.
 */
export function putDescriptorPath(fd: Fd): number {
  let end = DIGITS + 1;
  for (let rest = Math.floor(fd / 10); rest > 0; rest = Math.floor(rest / 10)) end += 1;
  bytes[end] = 0;
  for (let i = end - 1, rest: number = fd; i >= DIGITS; i--, rest = Math.floor(rest / 10))
    bytes[i] = 48 + (rest % 10);
  return memory.address + layout.link;
}

/** Writes a 64-bit integer, signed or unsigned. */
export function putLong(byteOffset: number, value: number): void {
  words[byteOffset >>> 2] = value >>> 0;
  words[(byteOffset >>> 2) + 1] = Math.floor(value / 2 ** 32) >>> 0;
}

/** Reads an unsigned 64-bit integer, exact below 2^53. */
export function getLong(byteOffset: number): number {
  return words[byteOffset >>> 2]! + words[(byteOffset >>> 2) + 1]! * 2 ** 32;
}

/** Reads a signed 64-bit integer, exact between ±2^53. */
export function getSignedLong(byteOffset: number): number {
  return words[byteOffset >>> 2]! + signedWords[(byteOffset >>> 2) + 1]! * 2 ** 32;
}
