import {
  fuse_attr_out,
  fuse_entry_out,
  fuse_init_in,
  fuse_init_out,
  fuse_open_out,
  InitFlag,
  Opcode,
} from '../fuse/index.js';
import { ARGUMENTS, BODY, type Lane } from './lane.js';

export { Opcode } from '../fuse/index.js';

/** Bytes of structures in replies. */
export const ENTRY_OUT = fuse_entry_out.bytes;
export const ATTR_OUT = fuse_attr_out.bytes;
export const OPEN_OUT = fuse_open_out.bytes;

const O_RDWR = 2;

/** What Linux offers, as far as it changes what is measured. */
const INIT_FLAGS =
  InitFlag.ASYNC_READ |
  InitFlag.ATOMIC_O_TRUNC |
  InitFlag.BIG_WRITES |
  InitFlag.DO_READDIRPLUS |
  InitFlag.PARALLEL_DIROPS |
  InitFlag.MAX_PAGES;

/** INIT, protocol 7.38. */
export function init(lane: Lane): void {
  lane.request(Opcode.INIT, 0, 0, fuse_init_in.bytes, fuse_init_out.bytes);
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
