import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { decodeName, FsError, nameBytes, SYMLINK_MAX } from '../../backend/index.js';
import type { Keys } from './keys.js';
import { open, seal, SEAL_BYTES } from './sealing.js';

/*
 * Targets of symbolic links are sealed and written in base64url. Those that are too long then are
 * compressed before, and filled up with dots to a length that base64url never has.
 */

const PLACE = Buffer.from('link');

/** Whether a target was compressed, by its length in the inner backend. */
export function isCompressed(length: number): boolean {
  return length % 4 === 1;
}

/** Length of a target that was not compressed, by its length in the inner backend. */
export function targetLength(sealed: number): number {
  return Math.max(0, Math.floor((sealed * 3) / 4) - SEAL_BYTES);
}

/** @throws ENAMETOOLONG for what is too long, also if it is compressed. */
export function sealTarget(keys: Keys, target: string): string {
  const text = nameBytes(target);
  const sealed = seal(keys.links, PLACE, text).toString('base64url');
  if (sealed.length <= SYMLINK_MAX) return sealed;
  const short = seal(keys.links, PLACE, deflateRawSync(text)).toString('base64url');
  const filled = short + '.'.repeat((5 - (short.length % 4)) % 4);
  if (filled.length > SYMLINK_MAX) throw FsError.of('ENAMETOOLONG');
  return filled;
}

/** @throws EIO for what was not sealed so. */
export function openTarget(keys: Keys, sealed: string): string {
  const text = open(keys.links, PLACE, Buffer.from(sealed.replace(/\.+$/, ''), 'base64url'));
  if (text === undefined) throw FsError.of('EIO');
  return decodeName(
    isCompressed(sealed.length) ? inflateRawSync(text, { maxOutputLength: SYMLINK_MAX }) : text,
  );
}
