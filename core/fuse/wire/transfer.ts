import { WriteFlags, type GuestBuffer } from '../../backend/index.js';
import type { Message } from '../../memory/index.js';
import type { Arguments } from './arguments.js';
import { BODY } from './reply.js';
import { fuse_read_in, fuse_write_in, WRITE_DATA } from './structures.js';

/*
 * READ and WRITE as they lie in a message: the arguments in the header's segment, the data in the
 * guest's own pages. Who asks has checked that the arguments are there.
 */

/** The largest request in pages that INIT offers: Linux FUSE_MAX_MAX_PAGES. */
export const MAX_PAGES = 256;

/** The most bytes of a WRITE that INIT offers. */
export const MAX_WRITE_BYTES = 2 ** 20;

/**
 * The most bytes that a READ gives: as many pages as INIT offers, of 64 KiB, the largest pages that
 * a guest may have (arm64, ppc64). More only a hostile guest asks for, to hold the others.
 */
const MAX_READ_BYTES = MAX_PAGES * 65536;

/**
 * Bytes that a READ asks for and has room for, behind its reply's header.
 * @returns less than 0 where there is no room for the header.
 */
export function readSize(input: Arguments, message: Message): number {
  return Math.min(input.u32(fuse_read_in.size), message.writable.length - BODY, MAX_READ_BYTES);
}

/** Where a READ begins, as {@link Arguments.u64}. */
export function readOffset(input: Arguments): number {
  return input.u64(fuse_read_in.offset);
}

/** Where a READ's data goes. */
export function readData(message: Message, size: number): GuestBuffer {
  return message.writable.window(BODY, BODY + size);
}

/** Bytes that a WRITE says it has. */
export function writeSize(input: Arguments): number {
  return input.u32(fuse_write_in.size);
}

/** Where a WRITE begins, as {@link Arguments.u64}. */
export function writeOffset(input: Arguments): number {
  return input.u64(fuse_write_in.offset);
}

/** Those of {@link WriteFlags}; the protocol's numbers are the same. */
export function writeFlags(input: Arguments): number {
  return input.u32(fuse_write_in.write_flags) & (WriteFlags.CACHE | WriteFlags.KILL_SUIDGID);
}

/** Whether a WRITE has as many bytes of data as it says, and no more than INIT offers. */
export function isWholeWrite(message: Message, size: number): boolean {
  return size === message.readable.length - WRITE_DATA && size <= MAX_WRITE_BYTES;
}

/** Where a WRITE's data comes from. */
export function writeData(message: Message, size: number): GuestBuffer {
  return message.readable.window(WRITE_DATA, WRITE_DATA + size);
}

/** Whether all bytes of a transfer have offsets that are exact. */
export function isInRange(offset: number, size: number): boolean {
  return offset + size <= Number.MAX_SAFE_INTEGER;
}
