import { ARGUMENTS, BODY, type Lane } from './lane.js';

/** Opcodes of Linux `include/uapi/linux/fuse.h` that the scenarios use. */
export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  RELEASE: 18,
  INIT: 26,
  OPENDIR: 27,
  RELEASEDIR: 29,
  CREATE: 35,
  READDIRPLUS: 44,
} as const;

/** Bytes of structures in replies. */
export const ENTRY_OUT = 128;
export const ATTR_OUT = 104;
export const OPEN_OUT = 16;
const INIT_OUT = 64;

const O_RDWR = 2;

/**
 * FUSE_ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES, DO_READDIRPLUS, PARALLEL_DIROPS, MAX_PAGES, as Linux
 * offers them.
 */
const INIT_FLAGS = (1 << 0) | (1 << 3) | (1 << 5) | (1 << 13) | (1 << 18) | (1 << 22);

/** INIT, protocol 7.38. */
export function init(lane: Lane): void {
  lane.request(Opcode.INIT, 0, 0, 64, INIT_OUT);
  lane.words.fill(0, ARGUMENTS, ARGUMENTS + 16);
  lane.words.set([7, 38, 2 ** 17, INIT_FLAGS], ARGUMENTS);
}

export function lookup(lane: Lane, parent: number, parentHigh: number, prefix: string, number = -1): void {
  lane.request(Opcode.LOOKUP, parent, parentHigh, lane.name(0, prefix, number), ENTRY_OUT);
}

/** FORGET of one lookup, on the hiprio queue, without a reply. */
export function forget(lane: Lane, node: number, nodeHigh: number, count = 1): void {
  lane.request(Opcode.FORGET, node, nodeHigh, 8, 0);
  lane.words[ARGUMENTS] = count;
  lane.words[ARGUMENTS + 1] = 0;
  lane.outBytes = 0;
  lane.queue = 0;
}

export function getattr(lane: Lane, node: number, nodeHigh: number): void {
  lane.request(Opcode.GETATTR, node, nodeHigh, 16, ATTR_OUT);
  lane.words.fill(0, ARGUMENTS, ARGUMENTS + 4);
}

export function mkdir(lane: Lane, parent: number, parentHigh: number, prefix: string, number = -1): void {
  lane.request(Opcode.MKDIR, parent, parentHigh, lane.name(8, prefix, number), ENTRY_OUT);
  lane.words[ARGUMENTS] = 0o755;
  lane.words[ARGUMENTS + 1] = 0;
}

export function remove(
  lane: Lane,
  opcode: typeof Opcode.UNLINK | typeof Opcode.RMDIR,
  parent: number,
  parentHigh: number,
  prefix: string,
  number = -1,
): void {
  lane.request(opcode, parent, parentHigh, lane.name(0, prefix, number), 0);
}

/** RENAME within a directory, from one number to another. */
export function rename(
  lane: Lane,
  parent: number,
  parentHigh: number,
  prefix: string,
  from: number,
  to: number,
): void {
  const bytes = lane.name(lane.name(8, prefix, from), prefix, to);
  lane.request(Opcode.RENAME, parent, parentHigh, bytes, 0);
  lane.words[ARGUMENTS] = parent;
  lane.words[ARGUMENTS + 1] = parentHigh;
}

export function open(lane: Lane, node: number, nodeHigh: number): void {
  lane.request(Opcode.OPEN, node, nodeHigh, 8, OPEN_OUT);
  lane.words[ARGUMENTS] = O_RDWR;
  lane.words[ARGUMENTS + 1] = 0;
}

export function opendir(lane: Lane, node: number, nodeHigh: number): void {
  lane.request(Opcode.OPENDIR, node, nodeHigh, 8, OPEN_OUT);
  lane.words.fill(0, ARGUMENTS, ARGUMENTS + 2);
}

export function create(lane: Lane, parent: number, parentHigh: number, prefix: string, number = -1): void {
  lane.request(Opcode.CREATE, parent, parentHigh, lane.name(16, prefix, number), ENTRY_OUT + OPEN_OUT);
  lane.words[ARGUMENTS] = O_RDWR;
  lane.words[ARGUMENTS + 1] = 0o644;
  lane.words[ARGUMENTS + 2] = 0;
  lane.words[ARGUMENTS + 3] = 0;
}

/** READ of `size` bytes at `offset`, of the lane's file. */
export function read(lane: Lane, offset: number, size: number): void {
  transfer(lane, Opcode.READ, offset >>> 0, Math.floor(offset / 2 ** 32), size, 0);
  lane.dataOut = size;
}

/** READDIRPLUS of `size` bytes from a cookie, given as two words, of the lane's directory. */
export function readdirplus(lane: Lane, cookie: number, cookieHigh: number, size: number): void {
  transfer(lane, Opcode.READDIRPLUS, cookie, cookieHigh, size, 0);
  lane.dataOut = size;
}

/** WRITE of `size` bytes at `offset`, of the lane's file. */
export function write(lane: Lane, offset: number, size: number): void {
  transfer(lane, Opcode.WRITE, offset >>> 0, Math.floor(offset / 2 ** 32), size, 8);
  lane.dataIn = size;
}

/** `struct fuse_read_in` and `struct fuse_write_in` have the same layout. */
function transfer(
  lane: Lane,
  opcode: number,
  offset: number,
  offsetHigh: number,
  size: number,
  outBytes: number,
): void {
  lane.request(opcode, lane.node, lane.nodeHigh, 40, outBytes);
  const words = lane.words;
  words[ARGUMENTS] = lane.file;
  words[ARGUMENTS + 1] = lane.fileHigh;
  words[ARGUMENTS + 2] = offset;
  words[ARGUMENTS + 3] = offsetHigh;
  words[ARGUMENTS + 4] = size;
  words.fill(0, ARGUMENTS + 5, ARGUMENTS + 10);
}

export function release(lane: Lane, opcode: typeof Opcode.RELEASE | typeof Opcode.RELEASEDIR): void {
  lane.request(opcode, lane.node, lane.nodeHigh, 24, 0);
  lane.words[ARGUMENTS] = lane.file;
  lane.words[ARGUMENTS + 1] = lane.fileHigh;
  lane.words.fill(0, ARGUMENTS + 2, ARGUMENTS + 6);
}

/** Remembers the node of an entry in the reply. */
export function keepNode(lane: Lane): void {
  lane.node = lane.reply[BODY]!;
  lane.nodeHigh = lane.reply[BODY + 1]!;
}

/** Remembers the handle in the reply, at a byte of its body. */
export function keepFile(lane: Lane, at = 0): void {
  lane.file = lane.reply[BODY + at / 4]!;
  lane.fileHigh = lane.reply[BODY + at / 4 + 1]!;
}
