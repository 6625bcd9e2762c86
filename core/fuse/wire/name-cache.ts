import { decodeName } from '../../backend/index.js';

/** Places of the cache, a power of two. */
const PLACES = 1024;

/** The longest name that is kept, in bytes: longer ones are not worth comparison and memory. */
const LONGEST = 64;

/**
 * Decodes names and keeps the recent ones, since guests use the same names again and again. To
 * compare a short name costs less than to make its string, and leaves no garbage.
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

/** Whether the bytes spell `text` and are all ASCII. */
function isAscii(text: string, bytes: Uint8Array, start: number, end: number): boolean {
  if (text.length !== end - start) return false;
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!;
    if (byte >= 0x80 || text.charCodeAt(i - start) !== byte) return false;
  }
  return true;
}
