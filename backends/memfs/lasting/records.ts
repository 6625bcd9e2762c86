import type { LogForm } from '../../../core/lasting-memory/index.js';

/**
 * The records of a volume's log. Each sets something, whatever was before, so that a record may be
 * repeated. Numbers are 32-bit words; wide ones are two, the low half first. What one change
 * writes counts as a whole, so that the order within it is of no account.
 */
export const RecordType = {
  /** generation of the keys, last inode number (2) */
  VOLUME: 1,
  /**
   * inode number (2), mode, uid, gid, nlink, rdev, size of a file (2), and seconds (2) and
   * nanoseconds of atime, mtime, ctime and btime
   */
  INODE: 2,
  /** inode number (2), target */
  TARGET: 3,
  /** inode number (2), bytes (-1: removed), name, value */
  XATTR: 4,
  /** inode number of the directory (2), of the file (2; 0: removed), name */
  ENTRY: 5,
  /** inode number (2), index (2), pages (0: it is a hole), data, where its block is, and which */
  CHUNK: 6,
  /** inode number (2), index (2) from which on there are no chunks */
  CUT: 7,
  /** inode number (2) */
  GONE: 8,
} as const;

/** Words of a record of fixed length, the first one included, or the least words of another. */
export const WORDS: Readonly<Record<number, number>> = {
  [RecordType.VOLUME]: 4,
  [RecordType.INODE]: 22,
  [RecordType.TARGET]: 4,
  [RecordType.XATTR]: 5,
  [RecordType.ENTRY]: 6,
  [RecordType.CHUNK]: 9,
  [RecordType.CUT]: 5,
  [RecordType.GONE]: 3,
};

export const VOLUME_LOG: LogForm = { name: 'memfs log', magic: 0x534d464d, version: 1 };

/** Bytes of the log, at the beginning of the memory. The blocks of files follow. */
export const LOG_BYTES = 2 ** 30;

/** Blocks begin at multiples of so many bytes. */
export const BLOCK_UNIT = 256;
