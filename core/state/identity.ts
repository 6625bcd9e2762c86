import { randomBytes } from 'node:crypto';
import type { NodeKey } from '../backend/index.js';

/** The node id of the root directory (FUSE_ROOT_ID). */
export const ROOT_ID = 1;

/**
 * An identity being computed is three words in a reused `Int32Array`, so that no number is boxed:
 * the node id's low and high half (never 0 or 1 together, Linux `invalid_nodeid()`), and the
 * generation.
 */
export const LOW = 0;
export const HIGH = 1;
export const GENERATION = 2;

/**
 * Computes the node id and the generation that a durable key stands for, into `words`: the same key
 * gives the same id in every process and on every host. Two lanes of the mixing step of
 * MurmurHash3, finished across the lanes, so that all bits of the 64 are usable; the generation is
 * a third finish. String, number and byte keys never stand for the same file in one backend, hence
 * differ by a tag only.
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

/** Moves on to the next id where another live node has this one. The generation stays. */
export function nextIdentity(words: Int32Array): void {
  words[LOW] = words[LOW]! + 1;
  if (words[LOW] === 0) words[HIGH] = words[HIGH]! + 1;
  avoidReserved(words);
}

/**
 * Ids for a backend without keys: a counter, under an epoch drawn anew by every process so that ids
 * of a former one are stale.
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

function finish(hash: number): number {
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
