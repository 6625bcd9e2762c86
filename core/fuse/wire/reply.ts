import {
  FileType,
  deviceMajor,
  deviceMinor,
  type Attributes,
  type FsStatistics,
} from '../../backend/index.js';
import { ATTR_SUBMOUNT, STATX_BASIC_STATS, STATX_BTIME } from './abi.js';
import { fuse_attr, fuse_kstatfs, fuse_out_header, fuse_statx, fuse_sx_time } from './structures.js';

/**
 * Bytes for the largest reply that is composed here, a list of extended attributes: 64 KiB and
 * some.
 */
const CAPACITY = 80 * 1024;

/** Offset of the structure that follows the header. */
export const BODY = fuse_out_header.bytes;

/** The most bytes that follow the header in a reply that is composed here. */
export const REPLY_CAPACITY = CAPACITY - BODY;

/** How long the guest may cache something, as replies give it. */
export interface Validity {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/**
 * Splits a time in seconds. Times of 2^32-1 seconds and more become 2^32-1, which Linux takes for
 * ever (`timespec64_to_jiffies`).
 */
export function validity(seconds: number): Validity {
  if (!(seconds < 0xffffffff)) return { seconds: 0xffffffff, nanoseconds: 0 };
  const whole = Math.max(0, Math.floor(seconds));
  return { seconds: whole, nanoseconds: seconds <= 0 ? 0 : Math.floor((seconds - whole) * 1e9) };
}

/**
 * The reply of the current request. It is composed here and then copied into the guest's buffers.
 * Offsets count from the reply's begin.
 */
export class Reply {
  readonly #buffer = new ArrayBuffer(CAPACITY);
  readonly words = new Uint32Array(this.#buffer);
  readonly bytes = new Uint8Array(this.#buffer);
  readonly #halves = new Uint16Array(this.#buffer);

  u16(at: number, value: number): void {
    this.#halves[at >> 1] = value;
  }

  u32(at: number, value: number): void {
    this.words[at >> 2] = value;
  }

  /** A 64-bit number in two's complement, exact up to 2^53. */
  u64(at: number, value: number): void {
    this.words[at >> 2] = value;
    this.words[(at >> 2) + 1] = value >>> 0 === value ? 0 : Math.floor(value / 0x100000000);
  }

  bigint(at: number, value: bigint): void {
    this.words[at >> 2] = Number(value & 0xffffffffn);
    this.words[(at >> 2) + 1] = Number((value >> 32n) & 0xffffffffn);
  }

  zero(at: number, length: number): void {
    this.words.fill(0, at >> 2, (at + length) >> 2);
  }

  /**
   * `struct fuse_attr`.
   * @param idLow the node id with `idHigh`, used as inode number if the backend gives none.
   * @throws TypeError for attributes that no kernel would take, a mistake of the backend.
   */
  attributes(at: number, attributes: Attributes, idLow: number, idHigh: number): void {
    const { mode, ino, size = 0, mtime = 0, mtimeNsec } = attributes;
    check(mode, size);
    this.inode(at + fuse_attr.ino, ino, idLow, idHigh);
    this.u64(at + fuse_attr.size, size);
    this.u64(at + fuse_attr.blocks, attributes.blocks ?? Math.ceil(size / 512));
    this.#time(at + fuse_attr.atime, at + fuse_attr.atimensec, attributes.atime ?? 0, attributes.atimeNsec);
    this.#time(at + fuse_attr.mtime, at + fuse_attr.mtimensec, mtime, mtimeNsec);
    const ctime = attributes.ctime;
    if (ctime === undefined) this.#time(at + fuse_attr.ctime, at + fuse_attr.ctimensec, mtime, mtimeNsec);
    else this.#time(at + fuse_attr.ctime, at + fuse_attr.ctimensec, ctime, attributes.ctimeNsec);
    const words = this.words;
    words[(at + fuse_attr.mode) >> 2] = mode;
    words[(at + fuse_attr.nlink) >> 2] = attributes.nlink ?? 1;
    words[(at + fuse_attr.uid) >> 2] = attributes.uid ?? 0;
    words[(at + fuse_attr.gid) >> 2] = attributes.gid ?? 0;
    words[(at + fuse_attr.rdev) >> 2] = attributes.rdev ?? 0;
    words[(at + fuse_attr.blksize) >> 2] = attributes.blksize ?? 4096;
    words[(at + fuse_attr.flags) >> 2] = attributes.submount === true ? ATTR_SUBMOUNT : 0;
  }

  /** `struct fuse_statx`, with the layout of statx(2). @throws TypeError as {@link attributes}. */
  statx(at: number, attributes: Attributes, idLow: number, idHigh: number): void {
    const { mode, ino, size = 0, mtime = 0, mtimeNsec, rdev = 0, btime } = attributes;
    check(mode, size);
    this.zero(at, fuse_statx.bytes);
    this.u32(at + fuse_statx.mask, STATX_BASIC_STATS | (btime === undefined ? 0 : STATX_BTIME));
    this.u32(at + fuse_statx.blksize, attributes.blksize ?? 4096);
    this.u32(at + fuse_statx.nlink, attributes.nlink ?? 1);
    this.u32(at + fuse_statx.uid, attributes.uid ?? 0);
    this.u32(at + fuse_statx.gid, attributes.gid ?? 0);
    this.u16(at + fuse_statx.mode, mode);
    this.inode(at + fuse_statx.ino, ino, idLow, idHigh);
    this.u64(at + fuse_statx.size, size);
    this.u64(at + fuse_statx.blocks, attributes.blocks ?? Math.ceil(size / 512));
    this.#sxTime(at + fuse_statx.atime, attributes.atime ?? 0, attributes.atimeNsec);
    this.#sxTime(at + fuse_statx.mtime, mtime, mtimeNsec);
    const ctime = attributes.ctime;
    this.#sxTime(
      at + fuse_statx.ctime,
      ctime ?? mtime,
      ctime === undefined ? mtimeNsec : attributes.ctimeNsec,
    );
    if (btime !== undefined) this.#sxTime(at + fuse_statx.btime, btime, attributes.btimeNsec);
    this.u32(at + fuse_statx.rdev_major, deviceMajor(rdev));
    this.u32(at + fuse_statx.rdev_minor, deviceMinor(rdev));
  }

  /** `struct fuse_kstatfs`. */
  statistics(at: number, statistics: FsStatistics): void {
    const { blockSize = 4096, blocksFree = 0 } = statistics;
    this.zero(at, fuse_kstatfs.bytes);
    this.u64(at + fuse_kstatfs.blocks, statistics.blocks ?? 0);
    this.u64(at + fuse_kstatfs.bfree, blocksFree);
    this.u64(at + fuse_kstatfs.bavail, statistics.blocksAvailable ?? blocksFree);
    this.u64(at + fuse_kstatfs.files, statistics.files ?? 0);
    this.u64(at + fuse_kstatfs.ffree, statistics.filesFree ?? 0);
    this.u32(at + fuse_kstatfs.bsize, blockSize);
    this.u32(at + fuse_kstatfs.namelen, statistics.nameMax ?? 255);
    this.u32(at + fuse_kstatfs.frsize, blockSize);
  }

  /** The backend's inode number, or the node id if it gives none. */
  inode(at: number, ino: number | bigint | undefined, idLow: number, idHigh: number): void {
    if (typeof ino === 'number') this.u64(at, ino);
    else if (ino === undefined) {
      this.words[at >> 2] = idLow;
      this.words[(at >> 2) + 1] = idHigh;
    } else this.bigint(at, ino);
  }

  #time(secondsAt: number, nanosecondsAt: number, time: number, nanoseconds: number | undefined): void {
    const whole = Math.floor(time);
    this.u64(secondsAt, whole);
    this.words[nanosecondsAt >> 2] = nanoseconds ?? (whole === time ? 0 : Math.floor((time - whole) * 1e9));
  }

  #sxTime(at: number, time: number, nanoseconds: number | undefined): void {
    this.#time(at + fuse_sx_time.tv_sec, at + fuse_sx_time.tv_nsec, time, nanoseconds);
  }
}

function check(mode: number, size: number): void {
  if ((mode & FileType.MASK) === 0)
    throw new TypeError(`attributes with mode ${mode}: the type bits are missing`);
  if (!(size >= 0 && size <= Number.MAX_SAFE_INTEGER)) throw new TypeError(`attributes with size ${size}`);
}
