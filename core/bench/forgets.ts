import type { FrontEnd, FrontEndQueue, SharedMemory } from '../vhost-user/index.js';
import type { RequestSlot } from './request-slot.js';

/** The queue of requests without a reply. */
export const HIPRIO = 0;

/** Bytes of memory for a request: a FORGET has 48. */
const AREA_BYTES = 64;

/**
 * FORGETs in their ring. A guest does not wait for a daemon to give one back, and neither does the
 * slot whose request it is: each has memory of its own meanwhile.
 */
export class Forgets {
  readonly #queue: FrontEndQueue;
  readonly #memory: SharedMemory;
  readonly #offset: number;
  readonly #words: Uint32Array;
  /** Areas of the memory that no request uses. */
  readonly #free: number[];
  /** The area of each request in the ring, by its token. */
  readonly #areas: number[] = [];

  /** @throws RangeError if the memory has no room. */
  constructor({ queues, memory }: Pick<FrontEnd, 'queues' | 'memory'>) {
    this.#queue = queues[HIPRIO]!;
    this.#memory = memory;
    const { size } = this.#queue.driver;
    this.#offset = memory.allocate(size * AREA_BYTES);
    if (this.#offset < 0) throw new RangeError('the shared memory is too small for the FORGETs');
    const { buffer, byteOffset } = memory.bytes;
    this.#words = new Uint32Array(buffer, byteOffset + this.#offset, (size * AREA_BYTES) / 4);
    this.#free = Array.from({ length: size }, (_, area) => area);
  }

  /** Puts a slot's request into the ring, to be published. @returns false if that is full. */
  place({ words, inBytes }: RequestSlot): boolean {
    const area = this.#free.pop();
    if (area === undefined) return false;
    const { driver } = this.#queue;
    const at = area * AREA_BYTES;
    for (let i = 0; i < inBytes / 4; i++) this.#words[at / 4 + i] = words[i]!;
    driver.begin();
    driver.readable(this.#memory.guestAddress(this.#offset + at), inBytes);
    this.#areas[driver.submit()] = area;
    return true;
  }

  /** The daemon has given a request back. */
  giveBack(token: number): void {
    this.#free.push(this.#areas[token]!);
  }

  close(): void {
    this.#memory.release(this.#offset);
  }
}
