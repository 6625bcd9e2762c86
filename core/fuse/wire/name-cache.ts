import { decodeName } from '../../backend/index.js';

/** Places, a power of two. A guest asks for the names that it uses again and again. */
const PLACES = 1024;

/** Longer names are not worth the comparison, nor the memory. */
const LONGEST = 64;

/**
 * Decodes names, and keeps those of late: to compare a short one costs less than to make its
 * string, and leaves no garbage.
 */
export class NameCache {
  readonly #names: string[] = Array.from({ length: PLACES }, () => '');

  /** The name in the bytes from `start` to `end`, as {@link decodeName} gives it. */
  decode(bytes: Uint8Array, start: number, end: number): string {
    if (end - start > LONGEST) return decodeName(bytes, start, end);
    let hash = end - start;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
    const place = (hash ^ (hash >>> 15)) & (PLACES - 1);
    const known = this.#names[place]!;
    if (isAscii(known, bytes, start, end)) return known;
    const name = decodeName(bytes, start, end);
    this.#names[place] = name;
    return name;
  }
}

/** Whether the bytes are those of a text in ASCII. What is not ASCII never is. */
function isAscii(text: string, bytes: Uint8Array, start: number, end: number): boolean {
  if (text.length !== end - start) return false;
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!;
    if (byte >= 0x80 || text.charCodeAt(i - start) !== byte) return false;
  }
  return true;
}
