import { layout } from '../fuse/wire/layout.js';

/**
 * The form of a capture: {@link MAGIC}, {@link VERSION} as a 32-bit number, four bytes of zero, and
 * records. All numbers are little-endian. A record begins with {@link record_header} and is a
 * multiple of 8 bytes long.
 */
export const MAGIC = 'vkit-trc';
export const VERSION = 1;
export const FILE_HEADER_BYTES = 16;

/** No record is longer, in bytes: a request and its data are 1 MiB and some. */
export const RECORD_MAX_BYTES = 3 * 2 ** 20;

/** What a record is. */
export const Kind = {
  /** {@link request_record}, the request as it came, and the begin of its reply, each padded. */
  REQUEST: 1,
  /** {@link export_record} and the tag. Comes before the first request of the export. */
  EXPORT: 2,
  /** {@link lost_record}: so many requests are missing here. */
  LOST: 3,
} as const;

export const record_header = layout({
  /** Of the whole record. */
  bytes: 'u32',
  kind: 'u16',
  /** The number of the export, from 0. */
  export: 'u16',
});

/** Numbers of 64 bits are in floating point. */
export const request_record = layout({
  header: record_header,
  /** When it began, in microseconds since the epoch. */
  time: 'u64',
  /** From begin to reply, in microseconds. */
  duration: 'u64',
  /** Bytes of the reply's structure, or minus an errno. */
  result: 'i32',
  /** The number of the guest's session. */
  guest: 'u32',
  /** Bytes of data in the reply, behind the structure. */
  data: 'u32',
  /** Bytes of room that the guest gave for the reply. */
  room: 'u32',
  /** What INIT negotiated: both words of flags. */
  flags: 'u32',
  flags2: 'u32',
  /** How long the whole request was, and how much of it is here. */
  length: 'u32',
  request: 'u32',
  /** How much of the reply is here, without its header. */
  reply: 'u32',
  padding: 'u32',
});

export const export_record = layout({ header: record_header, tag: 'u32', padding: 'u32' });

export const lost_record = layout({ header: record_header, count: 'u32', padding: 'u32' });

/** Rounds a length up to what records are padded to. */
export function padded(bytes: number): number {
  return (bytes + 7) & ~7;
}
