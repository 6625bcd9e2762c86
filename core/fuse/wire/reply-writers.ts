import { Errno, FileType, ModeBits } from '../../backend/index.js';
import type { SegmentList } from '../../memory/index.js';
import type { NodeGeneration, NodeIdHigh, NodeIdLow } from '../../state/index.js';
import { BODY, type Validity } from './reply.js';
import { fuse_attr, fuse_attr_out, fuse_entry_out, fuse_out_header, fuse_write_out } from './structures.js';

/*
 * Writers of the replies that both the engine's thread and queue threads compose. Offsets are bytes
 * from the reply's beginning. The halves of ids may be given as signed or unsigned numbers: the
 * same 32 bits are written.
 */

/**
 * `struct fuse_out_header`.
 *
 * EMFILE becomes ENFILE here: it says that the program has too many open files (open(2)), but it is
 * this process that has them.
 * @param length bytes of the whole reply.
 * @param code 0, or minus an errno.
 */
export function putHeader(
  words: Uint32Array,
  length: number,
  code: number,
  uniqueLow: number,
  uniqueHigh: number,
): void {
  words[fuse_out_header.len >> 2] = length;
  words[fuse_out_header.error >> 2] = code === -Errno.EMFILE ? -Errno.ENFILE : code;
  words[fuse_out_header.unique >> 2] = uniqueLow;
  words[(fuse_out_header.unique >> 2) + 1] = uniqueHigh;
}

const SET_ID = ModeBits.SETUID | ModeBits.SETGID;
const NOT: Validity = { seconds: 0, nanoseconds: 0 };

/**
 * How long attributes may be kept: not at all where a regular file has a set-id bit. Whoever may
 * not keep that takes it away by a write or an allocation, which the guest leaves to the server
 * (FUSE_HANDLE_KILLPRIV_V2). Linux then asks for the size and times again, but not for the mode,
 * and would go on to show the bit, and to run the file with it.
 */
export function attributesHold(mode: number, otherwise: Validity): Validity {
  return (mode & SET_ID) !== 0 && (mode & FileType.MASK) === FileType.REGULAR ? NOT : otherwise;
}

/** `struct fuse_entry_out`, but for its `attr`, which must be there already. */
export function putEntry(
  words: Uint32Array,
  at: number,
  nodeLow: NodeIdLow,
  nodeHigh: NodeIdHigh,
  generation: NodeGeneration,
  entry: Validity,
  attributes: Validity,
): void {
  const { seconds, nanoseconds } = attributesHold(
    words[(at + fuse_entry_out.attr + fuse_attr.mode) >> 2]!,
    attributes,
  );
  words[(at + fuse_entry_out.nodeid) >> 2] = nodeLow;
  words[(at + fuse_entry_out.nodeid + 4) >> 2] = nodeHigh;
  words[(at + fuse_entry_out.generation) >> 2] = generation;
  words[(at + fuse_entry_out.generation + 4) >> 2] = 0;
  words[(at + fuse_entry_out.entry_valid) >> 2] = entry.seconds;
  words[(at + fuse_entry_out.entry_valid + 4) >> 2] = 0;
  words[(at + fuse_entry_out.attr_valid) >> 2] = seconds;
  words[(at + fuse_entry_out.attr_valid + 4) >> 2] = 0;
  words[(at + fuse_entry_out.entry_valid_nsec) >> 2] = entry.nanoseconds;
  words[(at + fuse_entry_out.attr_valid_nsec) >> 2] = nanoseconds;
}

/**
 * The whole reply to a LOOKUP of a missing name. With node id 0 the guest keeps for a while that it
 * is missing; a time of 0 would say the same as ENOENT, which is shorter.
 * @returns bytes of the structure, or 0 where the answer is ENOENT.
 */
export function putMissing(words: Uint32Array, { seconds, nanoseconds }: Validity): number {
  if (seconds === 0 && nanoseconds === 0) return 0;
  words.fill(0, BODY >> 2, (BODY + fuse_entry_out.bytes) >> 2);
  words[(BODY + fuse_entry_out.entry_valid) >> 2] = seconds;
  words[(BODY + fuse_entry_out.entry_valid_nsec) >> 2] = nanoseconds;
  return fuse_entry_out.bytes;
}

/** `struct fuse_attr_out` of a reply, but for its `attr`, which must be there already. */
export function putAttributesValid(words: Uint32Array, attributes: Validity): void {
  const { seconds, nanoseconds } = attributesHold(
    words[(BODY + fuse_attr_out.attr + fuse_attr.mode) >> 2]!,
    attributes,
  );
  words[(BODY + fuse_attr_out.attr_valid) >> 2] = seconds;
  words[(BODY + fuse_attr_out.attr_valid + 4) >> 2] = 0;
  words[(BODY + fuse_attr_out.attr_valid_nsec) >> 2] = nanoseconds;
  words[(BODY + fuse_attr_out.dummy) >> 2] = 0;
}

/** `struct fuse_write_out` of a reply. */
export function putWritten(words: Uint32Array, count: number): void {
  words[(BODY + fuse_write_out.size) >> 2] = count;
  words[(BODY + fuse_write_out.padding) >> 2] = 0;
}

/**
 * Copies a reply of whole words, header and structure, to the guest: by one copy where its first
 * segment has room. Linux gives the structure a segment of its own.
 * @param bytes {@link BODY} or more, a multiple of 4.
 */
export function sendWords(writable: SegmentList, words: Uint32Array, bytes: number): void {
  if (bytes <= writable.firstLength) {
    writable.copyWordsIn(0, words, 0, bytes >> 2);
    return;
  }
  writable.copyWordsIn(0, words, 0, BODY >> 2);
  if (bytes > BODY) writable.copyWordsIn(BODY, words, BODY >> 2, (bytes - BODY) >> 2);
}
