import { makeDevice, type newAttributes } from '../../../core/backend/index.js';
import { type Fd, ownMounts, type CallList } from '../../../core/system/index.js';
import { AT, fstat, STAT, STATX, STATX_FIELD, STATX_NAME, statx } from '../../../core/system/calls/files.js';
import { at, bytes, getLong, getSignedLong, offset, signedWords, words } from './call-memory.js';

/** Offsets of the fields of `struct statx` in call memory. */
const MASK = offset.statx + STATX_FIELD.MASK;
const BLKSIZE = offset.statx + STATX_FIELD.BLKSIZE;
const NLINK = offset.statx + STATX_FIELD.NLINK;
const UID = offset.statx + STATX_FIELD.UID;
const GID = offset.statx + STATX_FIELD.GID;
const MODE = offset.statx + STATX_FIELD.MODE;
const INO = offset.statx + STATX_FIELD.INO;
const SIZE = offset.statx + STATX_FIELD.SIZE;
const BLOCKS = offset.statx + STATX_FIELD.BLOCKS;
const ATIME = offset.statx + STATX_FIELD.ATIME;
const BTIME = offset.statx + STATX_FIELD.BTIME;
const CTIME = offset.statx + STATX_FIELD.CTIME;
const MTIME = offset.statx + STATX_FIELD.MTIME;
const RDEV_MAJOR = offset.statx + STATX_FIELD.RDEV_MAJOR;
const RDEV_MINOR = offset.statx + STATX_FIELD.RDEV_MINOR;
const DEV_MAJOR = offset.statx + STATX_FIELD.DEV_MAJOR;
const DEV_MINOR = offset.statx + STATX_FIELD.DEV_MINOR;
const MOUNT_ID = offset.statx + STATX_FIELD.MOUNT_ID;
/** Words of `struct statx` up to the mount id, the last field that is used. */
const STATX_WORDS = (STATX_FIELD.MOUNT_ID + 8) / 4;

const HIGH = 2 ** 32;

/**
 * Bytes of the largest file that is shown as it is. An append can make one larger, up to 2^63 on
 * tmpfs: it is shown with this size, so that a guest can still remove it.
 */
const MOST_BYTES = Number.MAX_SAFE_INTEGER;

const { FLAGS: NAME_FLAGS, MASK: NAME_MASK } = STATX_NAME;
const DESCRIPTOR_FLAGS = AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW;

/**
 * Adds the call of {@link statName} to a list of calls.
 * @param target address for the result; {@link takeStat} brings it into call memory.
 */
export function addStatName(list: CallList, parentFd: Fd, name: number, target: number): void {
  list.statx(parentFd, name, NAME_FLAGS, NAME_MASK, target);
}

/**
 * Copies the result of a statx call that was in a list into call memory. @param start index of its
 * first word.
 */
export function takeStat(from: Uint32Array, start: number): void {
  for (let i = 0; i < STATX_WORDS; i++) words[(offset.statx >>> 2) + i] = from[start + i]!;
}

/**
 * Stats a name in a directory, without following it. Where a mount is there that this process
 * serves, the directory beneath it: see {@link coveredBy}.
 * @returns 0 or minus the errno; the functions below read the result.
 */
export function statName(parentFd: Fd, name: number): number {
  if (ownMounts.any) {
    const covered = coveredBy(parentFd, name);
    if (covered >= 0) return statDescriptor(covered);
  }
  return statx(parentFd, name, NAME_FLAGS, NAME_MASK, at.statx);
}

/**
 * The directory beneath a mount that this process serves. The kernel tells the id of a mount
 * without asking its file system (AT_STATX_DONT_SYNC), for which this thread would wait.
 * @returns a descriptor that is not the caller's, or -1 where the name is no such mount.
 */
export function coveredBy(parentFd: Fd, name: number): Fd {
  if (!ownMounts.any) return -1 as Fd;
  const code = statx(parentFd, name, NAME_FLAGS | AT.STATX_DONT_SYNC, NAME_MASK, at.statx);
  return code < 0 || (words[MASK >>> 2]! & STATX.MNT_ID) === 0
    ? (-1 as Fd)
    : ownMounts.beneath(getLong(MOUNT_ID));
}

/**
 * Stats a name again. @returns whether it still stands for the file that was stat'ed last: mode,
 * inode number and birth time are equal.
 */
export function isStillNamed(parentFd: Fd, name: number): boolean {
  const mode = statMode();
  const inoLow = statInoLow();
  const inoHigh = statInoHigh();
  const seconds = statBirthSeconds();
  const mark = statBirthNanoseconds();
  return (
    statName(parentFd, name) === 0 &&
    statMode() === mode &&
    statInoLow() === inoLow &&
    statInoHigh() === inoHigh &&
    statBirthSeconds() === seconds &&
    statBirthNanoseconds() === mark
  );
}

/** Stats an open descriptor into call memory. @returns 0 or minus the errno. */
export function statDescriptor(fd: Fd): number {
  return statx(fd, at.empty, DESCRIPTOR_FLAGS, NAME_MASK, at.statx);
}

export function statMode(): number {
  return bytes[MODE]! | (bytes[MODE + 1]! << 8);
}

export function statLinks(): number {
  return words[NLINK >>> 2]!;
}

export function statInoLow(): number {
  return words[INO >>> 2]!;
}

export function statInoHigh(): number {
  return words[(INO >>> 2) + 1]!;
}

/** Blocks of 512 bytes that a file takes from which to free them may take milliseconds: 64 MiB. */
const LARGE_BLOCKS = 131_072;

/** Whether the file takes so much room that to cut it is not for the engine's thread. */
export function statIsLarge(): boolean {
  return getLong(BLOCKS) >= LARGE_BLOCKS;
}

/**
 * As `LARGE_BLOCKS`, for what nobody waits for: a descriptor that is closed on the thread pool
 * takes as much of the thread as freeing 2 MiB. 4 MiB.
 */
const CLOSED_LATER_BLOCKS = 8192;

/** Whether the file takes so much room that it is not freed by the engine's thread. */
export function statIsFreedLater(): boolean {
  return getLong(BLOCKS) >= CLOSED_LATER_BLOCKS;
}

/** Bytes in the file. */
export function statSize(): number {
  return getLong(SIZE);
}

/** The whole inode number. */
export function statIno(): number | bigint {
  return inode(statInoLow(), statInoHigh());
}

/** Number of the device that holds the file. */
export function statDevice(): number {
  return words[DEV_MAJOR >>> 2]! * 2 ** 32 + words[DEV_MINOR >>> 2]!;
}

/** Tells mounts apart: the mount id, or before Linux 5.8 the device number. */
export function statMount(): number {
  return (words[MASK >>> 2]! & STATX.MNT_ID) !== 0 ? getLong(MOUNT_ID) : statDevice();
}

/** The device that holds the file, in the kernel's encoding of 32 bits, as stat(2) gives it. */
export function statDeviceNumber(): number {
  const major = words[DEV_MAJOR >>> 2]!;
  const minor = words[DEV_MINOR >>> 2]!;
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

/** Attributes that are refilled by every call. */
export type OwnAttributes = ReturnType<typeof newAttributes>;

/** Fills attributes from the stat result in call memory. Owner ids are the host's. */
export function fillAttributes(a: OwnAttributes): void {
  a.mode = statMode();
  a.ino = statIno();
  a.size = Math.min(getLong(SIZE), MOST_BYTES);
  a.blocks = getLong(BLOCKS);
  a.nlink = statLinks();
  a.uid = words[UID >>> 2]!;
  a.gid = words[GID >>> 2]!;
  const major = words[RDEV_MAJOR >>> 2]!;
  const minor = words[RDEV_MINOR >>> 2]!;
  a.rdev = major === 0 && minor === 0 ? 0 : makeDevice(major, minor);
  a.blksize = words[BLKSIZE >>> 2]!;
  a.atime = getSignedLong(ATIME);
  a.atimeNsec = words[(ATIME + 8) >>> 2]!;
  a.mtime = getSignedLong(MTIME);
  a.mtimeNsec = words[(MTIME + 8) >>> 2]!;
  a.ctime = getSignedLong(CTIME);
  a.ctimeNsec = words[(CTIME + 8) >>> 2]!;
  if ((words[MASK >>> 2]! & STATX.BTIME) !== 0) {
    a.btime = getSignedLong(BTIME);
    a.btimeNsec = words[(BTIME + 8) >>> 2]!;
  } else {
    a.btime = undefined;
    a.btimeNsec = undefined;
  }
  a.submount = false;
}

/** Value of {@link statBirthNanoseconds} where the file system reports no birth time. */
export const NO_BIRTH = 0;

/** Seconds of the birth time, modulo 2^32. */
export function statBirthSeconds(): number {
  return words[BTIME >>> 2]!;
}

/** Nanoseconds of the birth time, with bit 31 set so that they differ from {@link NO_BIRTH}. */
export function statBirthNanoseconds(): number {
  return (words[MASK >>> 2]! & STATX.BTIME) === 0 ? NO_BIRTH : (words[(BTIME + 8) >>> 2]! | 0x80000000) >>> 0;
}

/**
 * Fills attributes from an open descriptor, without the birth time. `fstat` is faster than the
 * `statx` of {@link statDescriptor}. The result is not in call memory, so the other functions here
 * do not see it.
 * @returns 0 or minus the errno.
 */
export function fillFromDescriptor(fd: Fd, a: OwnAttributes): number {
  const code = fstat(fd, at.stat);
  if (code === 0) fillFromStat(words, signedWords, offset.stat >>> 2, a);
  return code;
}

/** Fills attributes from a `struct stat`. @param s index of its first word. */
export function fillFromStat(from: Uint32Array, signed: Int32Array, s: number, a: OwnAttributes): void {
  a.mode = from[s + (STAT.MODE >>> 2)]!;
  a.ino = inode(from[s + (STAT.INO >>> 2)]!, from[s + (STAT.INO >>> 2) + 1]!);
  const size = from[s + (STAT.SIZE >>> 2)]! + from[s + (STAT.SIZE >>> 2) + 1]! * HIGH;
  a.size = Math.min(size, MOST_BYTES);
  a.blocks = from[s + (STAT.BLOCKS >>> 2)]! + from[s + (STAT.BLOCKS >>> 2) + 1]! * HIGH;
  a.nlink = from[s + (STAT.NLINK >>> 2)]!;
  a.uid = from[s + (STAT.UID >>> 2)]!;
  a.gid = from[s + (STAT.GID >>> 2)]!;
  // The kernel's own encoding of device numbers, which FUSE uses too. It fits the low word.
  a.rdev = from[s + (STAT.RDEV >>> 2)]!;
  a.blksize = from[s + (STAT.BLKSIZE >>> 2)]!;
  a.atime = from[s + (STAT.ATIME >>> 2)]! + signed[s + (STAT.ATIME >>> 2) + 1]! * HIGH;
  a.atimeNsec = from[s + (STAT.ATIME >>> 2) + 2]!;
  a.mtime = from[s + (STAT.MTIME >>> 2)]! + signed[s + (STAT.MTIME >>> 2) + 1]! * HIGH;
  a.mtimeNsec = from[s + (STAT.MTIME >>> 2) + 2]!;
  a.ctime = from[s + (STAT.CTIME >>> 2)]! + signed[s + (STAT.CTIME >>> 2) + 1]! * HIGH;
  a.ctimeNsec = from[s + (STAT.CTIME >>> 2) + 2]!;
  a.btime = undefined;
  a.btimeNsec = undefined;
  a.submount = false;
}

function inode(low: number, high: number): number | bigint {
  return high < 0x200000 ? high * HIGH + low : (BigInt(high) << 32n) | BigInt(low);
}

/** The birth time as four words, for durable keys; zeros where it is not known. */
export function statBirth(): readonly number[] {
  if ((words[MASK >>> 2]! & STATX.BTIME) === 0) return [0, 0, 0, 0];
  return [0, 4, 8, 12].map((part) => words[(BTIME + part) >>> 2]!);
}
