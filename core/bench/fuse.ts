/*
 * Lays out the requests that are measured, each in the memory of a slot. Ids and handles are in two
 * halves of 32 bits. The name of a file is a prefix and, from 0 on, a number.
 */

import {
  fuse_attr_out,
  fuse_entry_out,
  fuse_init_in,
  fuse_init_out,
  fuse_open_out,
  InitFlag,
  Opcode,
} from '../fuse/index.js';
import { ARGUMENTS, BODY, type RequestSlot } from './request-slot.js';

export { Opcode } from '../fuse/index.js';

/** Bytes of `struct fuse_entry_out` in a reply. */
export const ENTRY_OUT = fuse_entry_out.bytes;
export const ATTR_OUT = fuse_attr_out.bytes;
export const OPEN_OUT = fuse_open_out.bytes;

const O_RDWR = 2;
const O_APPEND = 0o2000;

/** What Linux offers, as far as it makes a difference to the figures. */
const INIT_FLAGS =
  InitFlag.ASYNC_READ |
  InitFlag.ATOMIC_O_TRUNC |
  InitFlag.BIG_WRITES |
  InitFlag.DO_READDIRPLUS |
  InitFlag.PARALLEL_DIROPS |
  InitFlag.MAX_PAGES;

/** INIT of protocol 7.38. */
export function init(slot: RequestSlot): void {
  slot.request(Opcode.INIT, 0, 0, fuse_init_in.bytes, fuse_init_out.bytes);
  slot.words.fill(0, ARGUMENTS, ARGUMENTS + 16);
  slot.words.set([7, 38, 2 ** 17, INIT_FLAGS], ARGUMENTS);
}

/** LOOKUP of a name. */
export function lookup(
  slot: RequestSlot,
  parent: number,
  parentHigh: number,
  prefix: string,
  number = -1,
): void {
  slot.request(Opcode.LOOKUP, parent, parentHigh, slot.name(0, prefix, number), ENTRY_OUT);
}

/** FORGET of `count` lookups, on the hiprio queue. It has no reply. */
export function forget(slot: RequestSlot, node: number, nodeHigh: number, count = 1): void {
  slot.request(Opcode.FORGET, node, nodeHigh, 8, 0);
  slot.words[ARGUMENTS] = count;
  slot.words[ARGUMENTS + 1] = 0;
  slot.outBytes = 0;
  slot.queue = 0;
}

/** GETATTR of a node, without a handle. */
export function getattr(slot: RequestSlot, node: number, nodeHigh: number): void {
  slot.request(Opcode.GETATTR, node, nodeHigh, 16, ATTR_OUT);
  slot.words.fill(0, ARGUMENTS, ARGUMENTS + 4);
}

/** MKDIR, mode 755. */
export function mkdir(
  slot: RequestSlot,
  parent: number,
  parentHigh: number,
  prefix: string,
  number = -1,
): void {
  slot.request(Opcode.MKDIR, parent, parentHigh, slot.name(8, prefix, number), ENTRY_OUT);
  slot.words[ARGUMENTS] = 0o755;
  slot.words[ARGUMENTS + 1] = 0;
}

/** UNLINK or RMDIR. */
export function remove(
  slot: RequestSlot,
  opcode: typeof Opcode.UNLINK | typeof Opcode.RMDIR,
  parent: number,
  parentHigh: number,
  prefix: string,
  number = -1,
): void {
  slot.request(opcode, parent, parentHigh, slot.name(0, prefix, number), 0);
}

/** RENAME within a directory: another number after the same prefix. */
export function rename(
  slot: RequestSlot,
  parent: number,
  parentHigh: number,
  prefix: string,
  from: number,
  to: number,
): void {
  const bytes = slot.name(slot.name(8, prefix, from), prefix, to);
  slot.request(Opcode.RENAME, parent, parentHigh, bytes, 0);
  slot.words[ARGUMENTS] = parent;
  slot.words[ARGUMENTS + 1] = parentHigh;
}

/** OPEN, to read and write, or to append. {@link keepFile} keeps the handle. */
export function open(slot: RequestSlot, node: number, nodeHigh: number, appends = false): void {
  slot.request(Opcode.OPEN, node, nodeHigh, 8, OPEN_OUT);
  slot.words[ARGUMENTS] = appends ? O_RDWR | O_APPEND : O_RDWR;
  slot.words[ARGUMENTS + 1] = 0;
}

/** OPENDIR. {@link keepFile} keeps the handle. */
export function opendir(slot: RequestSlot, node: number, nodeHigh: number): void {
  slot.request(Opcode.OPENDIR, node, nodeHigh, 8, OPEN_OUT);
  slot.words.fill(0, ARGUMENTS, ARGUMENTS + 2);
}

/**
 * CREATE, to read and write, mode 644. {@link keepNode} keeps the node, {@link keepFile} at {@link
 * ENTRY_OUT} the handle.
 */
export function create(
  slot: RequestSlot,
  parent: number,
  parentHigh: number,
  prefix: string,
  number = -1,
): void {
  slot.request(Opcode.CREATE, parent, parentHigh, slot.name(16, prefix, number), ENTRY_OUT + OPEN_OUT);
  slot.words[ARGUMENTS] = O_RDWR;
  slot.words[ARGUMENTS + 1] = 0o644;
  slot.words[ARGUMENTS + 2] = 0;
  slot.words[ARGUMENTS + 3] = 0;
}

/** READ of `size` bytes at the offset in bytes, from the slot's open file. */
export function read(slot: RequestSlot, offset: number, size: number): void {
  transfer(slot, Opcode.READ, offset >>> 0, Math.floor(offset / 2 ** 32), size, 0);
  slot.dataOutBytes = size;
}

/** READDIRPLUS of `size` bytes from a cookie on, of the slot's open directory. */
export function readdirplus(slot: RequestSlot, cookie: number, cookieHigh: number, size: number): void {
  transfer(slot, Opcode.READDIRPLUS, cookie, cookieHigh, size, 0);
  slot.dataOutBytes = size;
}

/** WRITE of `size` bytes at the offset in bytes, to the slot's open file. */
export function write(slot: RequestSlot, offset: number, size: number): void {
  transfer(slot, Opcode.WRITE, offset >>> 0, Math.floor(offset / 2 ** 32), size, 8);
  slot.dataInBytes = size;
}

/** `struct fuse_read_in` and `struct fuse_write_in` have the same layout. */
function transfer(
  slot: RequestSlot,
  opcode: number,
  offset: number,
  offsetHigh: number,
  size: number,
  outBytes: number,
): void {
  slot.request(opcode, slot.node, slot.nodeHigh, 40, outBytes);
  const words = slot.words;
  words[ARGUMENTS] = slot.file;
  words[ARGUMENTS + 1] = slot.fileHigh;
  words[ARGUMENTS + 2] = offset;
  words[ARGUMENTS + 3] = offsetHigh;
  words[ARGUMENTS + 4] = size;
  words.fill(0, ARGUMENTS + 5, ARGUMENTS + 10);
}

/** RELEASE or RELEASEDIR of the slot's open file or directory. */
export function release(slot: RequestSlot, opcode: typeof Opcode.RELEASE | typeof Opcode.RELEASEDIR): void {
  slot.request(opcode, slot.node, slot.nodeHigh, 24, 0);
  slot.words[ARGUMENTS] = slot.file;
  slot.words[ARGUMENTS + 1] = slot.fileHigh;
  slot.words.fill(0, ARGUMENTS + 2, ARGUMENTS + 6);
}

/** Keeps the node of the entry in the reply as the slot's node. */
export function keepNode(slot: RequestSlot): void {
  slot.node = slot.reply[BODY]!;
  slot.nodeHigh = slot.reply[BODY + 1]!;
}

/** Keeps the handle in the reply as the slot's. @param at the byte of the reply's body. */
export function keepFile(slot: RequestSlot, at = 0): void {
  slot.file = slot.reply[BODY + at / 4]!;
  slot.fileHigh = slot.reply[BODY + at / 4 + 1]!;
}
