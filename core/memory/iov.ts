import { NativeMemory } from '../system/index.js';

/** The most entries that a system call accepts (Linux `IOV_MAX`). */
export const IOV_MAX = 1024;

/** `struct iovec` on a 64-bit machine: 8 bytes of address, 8 of length. */
const ENTRY = 16;
/** Bytes of native memory that are allocated at a time and divided into arrays. */
const SLAB = 65536;

/** The capacities of arrays, in entries. */
const CLASSES = [4, 64, 256, IOV_MAX] as const;

/** A native array of `struct iovec`. */
export interface IovArray {
  readonly address: number;
  /** In entries. */
  readonly capacity: number;
  /** The array as words, four for each entry: address low, address high, length, 0. */
  readonly words: Uint32Array;
}

const free: IovArray[][] = CLASSES.map(() => []);

/** Takes an array for at least `entries` entries, which are at most {@link IOV_MAX}. */
export function allocateIov(entries: number): IovArray {
  const index = CLASSES.findIndex((capacity) => capacity >= entries);
  const capacity = CLASSES[index];
  if (capacity === undefined) throw new RangeError(`${entries} entries: more than a system call takes`);
  const pool = free[index]!;
  if (pool.length === 0) {
    const slab = NativeMemory.allocate(SLAB);
    for (let at = 0; at < SLAB; at += capacity * ENTRY) {
      const words = slab.u32.subarray(at >>> 2, (at + capacity * ENTRY) >>> 2);
      pool.push({ address: slab.address + at, capacity, words });
    }
  }
  return pool.pop()!;
}

/** Gives an array back for the next {@link allocateIov}. */
export function releaseIov(array: IovArray): void {
  free[CLASSES.findIndex((capacity) => capacity === array.capacity)]!.push(array);
}

export function setEntry(array: IovArray, index: number, address: number, length: number): void {
  const words = array.words;
  const at = index << 2;
  const high = Math.floor(address / 0x100000000);
  words[at] = address - high * 0x100000000;
  words[at + 1] = high;
  words[at + 2] = length;
  words[at + 3] = 0;
}
