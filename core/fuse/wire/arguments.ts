import {
  Errno,
  FsError,
  NAME_MAX,
  SYMLINK_MAX,
  decodeName,
  type SecurityContext,
} from '../../backend/index.js';
import type { Message } from '../../memory/index.js';
import { EXT_GROUPS, MAX_NR_SECCTX, Opcode, XATTR_NAME_MAX } from './abi.js';
import { NameCache } from './name-cache.js';
import {
  fuse_ext_header,
  fuse_in_header,
  fuse_secctx,
  fuse_secctx_header,
  fuse_supp_groups,
  WRITE_DATA,
} from './structures.js';

/**
 * How many bytes of header and arguments are copied. The longest request is a SETXATTR of 64 KiB;
 * the rest is room for extensions.
 */
const CAPACITY = 160 * 1024;

/** Offset of the arguments in a request. */
const ARGUMENTS = fuse_in_header.bytes;
const HEADER_WORDS = ARGUMENTS / 4;

/** The id that is none. */
const NO_ID = 0xffffffff;
const NO_GROUPS: readonly number[] = Object.freeze([]);

/**
 * The header and arguments of the current request. They are copied out of guest memory once, so
 * that the guest cannot change them between check and use. They are valid only while the operation
 * starts: the next request overwrites them. Offsets that the methods take count from the begin of
 * the opcode's structure.
 */
export class Arguments {
  readonly #buffer = new ArrayBuffer(CAPACITY);
  readonly words = new Uint32Array(this.#buffer);
  /** The same words as signed numbers, for ids: V8 does not box those. */
  readonly ints = new Int32Array(this.#buffer);
  readonly bytes = new Uint8Array(this.#buffer);
  /** End of the arguments, in bytes from the request's begin. Extensions follow. */
  end = 0;
  readonly #names = new NameCache();
  /** End of the extensions, in bytes from the request's begin. */
  #extensionEnd = 0;
  /** Offset of the next name, from the request's begin. */
  #cursor = 0;
  groups: readonly number[] = NO_GROUPS;
  securityContext: SecurityContext | undefined = undefined;

  /**
   * Copies a request's header and arguments.
   * @returns 0; a positive errno if the request's lengths do not agree; -1 if it has not even a
   * header.
   */
  load(message: Message): number {
    const readable = message.readable;
    const length = readable.length;
    if (length < ARGUMENTS) return -1;
    readable.copyWordsOut(0, this.words, 0, HEADER_WORDS);
    // A WRITE's data is not copied.
    const isWrite = this.words[fuse_in_header.opcode >> 2] === Opcode.WRITE && length > WRITE_DATA;
    const count = isWrite ? WRITE_DATA : Math.min(length, CAPACITY);
    const words = count >> 2;
    readable.copyWordsOut(ARGUMENTS, this.words, HEADER_WORDS, words - HEADER_WORDS);
    if ((count & 3) !== 0) readable.copyOut(words << 2, this.bytes, words << 2, count & 3);
    if (this.words[fuse_in_header.len >> 2] !== length) return Errno.EIO;
    this.#cursor = ARGUMENTS;
    this.#extensionEnd = count;
    this.end = count;
    if (count < length) {
      return isWrite || this.words[fuse_in_header.opcode >> 2] === Opcode.BATCH_FORGET ? 0 : Errno.EIO;
    }
    const extensions = (this.words[fuse_in_header.total_extlen >> 2]! & 0xffff) * 8;
    if (extensions === 0) return 0;
    this.end = count - extensions;
    return this.end >= ARGUMENTS ? 0 : Errno.EIO;
  }

  /** Bytes of arguments, extensions not included. */
  get length(): number {
    return this.end - ARGUMENTS;
  }

  u32(offset: number): number {
    return this.words[(ARGUMENTS + offset) >> 2]!;
  }

  /** An unsigned 64-bit number. A value above 2^53-1 is rounded, and stays above 2^53-1. */
  u64(offset: number): number {
    const at = (ARGUMENTS + offset) >> 2;
    const high = this.words[at + 1]!;
    return high === 0 ? this.words[at]! : high * 0x100000000 + this.words[at]!;
  }

  /** A signed 64-bit number, rounded beyond 2^53. */
  i64(offset: number): number {
    const at = (ARGUMENTS + offset) >> 2;
    return (this.words[at + 1]! | 0) * 0x100000000 + this.words[at]!;
  }

  bigint(offset: number): bigint {
    const at = (ARGUMENTS + offset) >> 2;
    return (BigInt(this.words[at + 1]!) << 32n) | BigInt(this.words[at]!);
  }

  /** Begins to read names, which follow a structure of so many bytes. */
  seek(bytes: number): void {
    this.#cursor = ARGUMENTS + bytes;
  }

  /**
   * The next name.
   * @throws EINVAL if it is not terminated, has a slash, or is `.` or `..`. ENOENT if it is empty,
   * ENAMETOOLONG if it is longer than 255 bytes; these two as in Linux's path walk.
   */
  name(): string {
    const start = this.#cursor;
    const end = this.#terminator(NAME_MAX, Errno.ENAMETOOLONG);
    if (end === start) throw FsError.of('ENOENT');
    if (!isName(this.bytes, start, end)) throw FsError.of('EINVAL');
    return this.#names.decode(this.bytes, start, end);
  }

  /** 1 if the next name is `.`, 2 for `..`, which {@link name} refuses; 0 for all others. */
  dots(): number {
    const { bytes } = this;
    const start = this.#cursor;
    const count = this.end - start - 1;
    if (count < 1 || count > 2 || bytes[start] !== DOT || bytes[start + count] !== 0) return 0;
    return bytes[start + count - 1] === DOT ? count : 0;
  }

  /**
   * A symbolic link's target.
   * @throws EINVAL if it is not terminated, ENOENT if it is empty, ENAMETOOLONG if it is too long.
   */
  target(): string {
    const start = this.#cursor;
    const end = this.#terminator(SYMLINK_MAX, Errno.ENAMETOOLONG);
    if (end === start) throw FsError.of('ENOENT');
    return decodeName(this.bytes, start, end);
  }

  /**
   * An extended attribute's name.
   * @throws EINVAL if it is not terminated, ERANGE if empty or beyond 255 bytes.
   */
  xattrName(): string {
    const start = this.#cursor;
    const end = this.#terminator(XATTR_NAME_MAX, Errno.ERANGE);
    if (end === start) throw FsError.of('ERANGE');
    return this.#names.decode(this.bytes, start, end);
  }

  /** A copy of the bytes that follow the names. */
  rest(): Uint8Array {
    return this.bytes.slice(this.#cursor, this.end);
  }

  /** Checks that nothing follows the names. @throws EINVAL */
  finish(): void {
    if (this.#cursor !== this.end) throw FsError.of('EINVAL');
  }

  /**
   * Checks that nothing follows the names of a creation but extensions, and reads these.
   * @param security whether FUSE_SECURITY_CTX was negotiated. Guests before 7.38 send a security
   * context without counting it in `total_extlen`.
   * @throws EINVAL if an extension does not fit into its length.
   */
  finishCreation(security: boolean): void {
    this.groups = NO_GROUPS;
    this.securityContext = undefined;
    if (this.#cursor === this.end && this.end === this.#extensionEnd) return;
    if (this.#cursor !== this.end && !security) throw FsError.of('EINVAL');
    let at = this.#cursor;
    while (at < this.#extensionEnd) at = this.#extension(at);
  }

  #extension(at: number): number {
    const size = this.#unaligned(at + fuse_ext_header.size);
    const type = this.#unaligned(at + fuse_ext_header.type);
    const end = at + size;
    if (size < fuse_ext_header.bytes || end > this.#extensionEnd) throw FsError.of('EINVAL');
    if (type <= MAX_NR_SECCTX) this.#securityContexts(at + fuse_secctx_header.bytes, end, type);
    else if (type === EXT_GROUPS) this.#groups(at + fuse_ext_header.bytes, end);
    return at + ((size + 7) & ~7);
  }

  /** Reads security contexts. Linux sends at most one; further ones are ignored. */
  #securityContexts(start: number, end: number, count: number): void {
    let at = start;
    for (let i = 0; i < count; i++) {
      const size = this.#unaligned(at + fuse_secctx.size);
      const nameStart = at + fuse_secctx.bytes;
      const nameEnd = nameStart > end ? -1 : this.bytes.subarray(0, end).indexOf(0, nameStart);
      const valueEnd = nameEnd + 1 + size;
      if (nameEnd < nameStart || nameEnd - nameStart > XATTR_NAME_MAX || valueEnd > end)
        throw FsError.of('EINVAL');
      if (i === 0 && nameEnd > nameStart) {
        const name = decodeName(this.bytes, nameStart, nameEnd);
        this.securityContext = { name, value: this.bytes.slice(nameEnd + 1, valueEnd) };
      }
      at += (valueEnd - at + 7) & ~7;
    }
  }

  #groups(start: number, end: number): void {
    const first = start + fuse_supp_groups.bytes;
    const count = first > end ? -1 : this.#unaligned(start + fuse_supp_groups.nr_groups);
    if (count < 0 || count > (end - first) / 4) throw FsError.of('EINVAL');
    this.groups = Array.from({ length: count }, (_, i) => this.#unaligned(first + i * 4));
    if (this.groups.includes(NO_ID)) throw FsError.of('EINVAL');
  }

  /** Reads a 32-bit number. Extensions follow names, and before 7.38 Linux does not align them. */
  #unaligned(at: number): number {
    if (at + 4 > this.#extensionEnd) throw FsError.of('EINVAL');
    const bytes = this.bytes;
    return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
  }

  /** Moves behind a string of at most `max` bytes. @returns the offset of its terminating zero. */
  #terminator(max: number, tooLong: number): number {
    const bytes = this.bytes;
    const limit = Math.min(this.end, this.#cursor + max + 1);
    let end = this.#cursor;
    while (end < limit && bytes[end] !== 0) end++;
    if (end === limit) throw FsError.of(limit < this.end ? tooLong : Errno.EINVAL);
    this.#cursor = end + 1;
    return end;
  }
}

const SLASH = 0x2f;
const DOT = 0x2e;

/**
 * Whether the bytes from `start` to `end`, of which there must be some, are a valid name: without a
 * slash, and neither `.` nor `..`.
 */
export function isName(bytes: Uint8Array, start: number, end: number): boolean {
  for (let i = start; i < end; i++) if (bytes[i] === SLASH) return false;
  return !(bytes[start] === DOT && (end === start + 1 || (end === start + 2 && bytes[start + 1] === DOT)));
}
