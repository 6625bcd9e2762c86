import { SEAL_BYTES } from './sealing.js';

/*
 * The content of a file in the inner backend: a header, then blocks, each sealed by itself. Only
 * the last block may be shorter. A block of zeros was never written, and reads as zeros.
 *
 *   0    4 bytes   "VFKE"
 *   4    1 byte    version: 1
 *   5    3 bytes   zero
 *   8    24 bytes  random, the file's own: its key is made of it
 *   32   blocks    nonce (12 bytes), content (4,096 bytes or less), tag (16 bytes)
 */

export const BLOCK_BYTES = 4096;
export const HEADER_BYTES = 32;
export const SEALED_BLOCK_BYTES = BLOCK_BYTES + SEAL_BYTES;

const START = Buffer.from('VFKE\u0001\0\0\0', 'latin1');

/** The largest size whose sealed form has at most 2^53-1 bytes. */
export const SIZE_MAX =
  Math.floor((Number.MAX_SAFE_INTEGER - HEADER_BYTES) / SEALED_BLOCK_BYTES) * BLOCK_BYTES;

/** Where a block is in the inner backend's file. */
export function positionOf(block: number): number {
  return HEADER_BYTES + block * SEALED_BLOCK_BYTES;
}

/** The size of a file by that of the inner backend's. */
export function sizeOf(sealed: number): number {
  const body = Math.max(0, sealed - HEADER_BYTES);
  const rest = body % SEALED_BLOCK_BYTES;
  return Math.floor(body / SEALED_BLOCK_BYTES) * BLOCK_BYTES + Math.max(0, rest - SEAL_BYTES);
}

/** The size of the inner backend's file, for one of 1 byte or more. */
export function sealedSizeOf(size: number): number {
  const rest = size % BLOCK_BYTES;
  return positionOf(Math.floor(size / BLOCK_BYTES)) + (rest === 0 ? 0 : rest + SEAL_BYTES);
}

export function headerOf(id: Uint8Array): Buffer {
  return Buffer.concat([START, id]);
}

/** The file's own bytes; undefined if it is no header. */
export function idIn(header: Uint8Array): Uint8Array | undefined {
  if (header.length < HEADER_BYTES || !START.equals(header.subarray(0, START.length))) return undefined;
  return header.slice(START.length, HEADER_BYTES);
}

/** What a block's seal is bound to, beside the file's key. */
export function placeOf(block: number): Buffer {
  const place = Buffer.alloc(8);
  place.writeBigUInt64LE(BigInt(block));
  return place;
}
