import type { NodeKey } from '../backend/index.js';
import { randomBytes } from '../system/calls/random.js';

/** The node id of the root directory (FUSE_ROOT_ID). */
export const ROOT_ID = 1;

/**
 * Indexes of a node's identity in an `Int32Array`, which is reused so that no number is boxed: the
 * node id's low and high half, and the generation. The ids 0 and 1 are not used: 0 is invalid, 1 is
 * the root (Linux `invalid_nodeid()`).
 */
export const LOW = 0;
export const HIGH = 1;
export const GENERATION = 2;

/**
 * Computes the node id and the generation of a durable key, into `words`. The same key gives the
 * same id in every process and on every host. The hash has two lanes with the mixing step of
 * MurmurHash3. Its finishing step runs across the lanes, so that all 64 bits of the id are mixed;
 * the generation is a third finishing step. A tag tells string, number and byte keys apart.
 */
export function identify(key: NodeKey, words: Int32Array): void {
  let a = 0x8f1bbcdc;
  let b = 0x5a827999;
  let length: number;
  if (typeof key === 'string') {
    length = key.length;
    for (let i = 0; i < length; i++) {
      const unit = key.charCodeAt(i);
      a = Math.imul(a ^ unit, 0x9e3779b1);
      a = (a << 13) | (a >>> 19);
      b = Math.imul(b ^ unit, 0x85ebca77);
      b = (b << 17) | (b >>> 15);
    }
  } else if (typeof key === 'number') {
    length = 0x10000;
    float[0] = key;
    a = Math.imul(a ^ floatWords[0]!, 0x9e3779b1);
    a = Math.imul(((a << 13) | (a >>> 19)) ^ floatWords[1]!, 0x9e3779b1);
    b = Math.imul(b ^ floatWords[1]!, 0x85ebca77);
    b = Math.imul(((b << 17) | (b >>> 15)) ^ floatWords[0]!, 0x85ebca77);
  } else {
    length = key.length | 0x20000;
    for (let i = 0; i < key.length; i++) {
      const byte = key[i]!;
      a = Math.imul(a ^ byte, 0x9e3779b1);
      a = (a << 13) | (a >>> 19);
      b = Math.imul(b ^ byte, 0x85ebca77);
      b = (b << 17) | (b >>> 15);
    }
  }
  a ^= length;
  b ^= length;
  a = finish(a + b);
  b = finish(b + a);
  words[LOW] = a;
  words[HIGH] = b;
  words[GENERATION] = finish(Math.imul(a, 0xc2b2ae3d) ^ b);
  avoidReserved(words);
}

/** Takes the next id, because another node has this one. The generation stays. */
export function nextIdentity(words: Int32Array): void {
  words[LOW] = words[LOW]! + 1;
  if (words[LOW] === 0) words[HIGH] = words[HIGH]! + 1;
  avoidReserved(words);
}

/**
 * Makes ids for a backend without durable keys: a counter, with a random epoch in the high half.
 * Each process has another epoch, so that ids of a former process are stale.
 */
export class Counter {
  readonly #epoch = randomBytes(4).readInt32LE() | 1;
  #next = 2;

  identify(words: Int32Array): void {
    const count = this.#next++;
    words[LOW] = count;
    words[HIGH] = this.#epoch + Math.floor(count / 0x100000000);
    words[GENERATION] = this.#epoch;
    avoidReserved(words);
  }
}

/** The finishing step of MurmurHash3. */
export function finish(hash: number): number {
  let h = hash;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

function avoidReserved(words: Int32Array): void {
  if (words[HIGH] === 0 && (words[LOW] === 0 || words[LOW] === ROOT_ID)) words[LOW] = words[LOW]! + 2;
}

const float = new Float64Array(1);
const floatWords = new Int32Array(float.buffer);
