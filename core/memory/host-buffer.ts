import type { HostBuffer } from '../backend/index.js';
import { NativeMemory } from '../system/index.js';
import { SegmentList } from './segment-list.js';
import { NativeWindow } from './windows.js';

/** Memory of the daemon that looks like a guest's. */
class NativeBuffer extends SegmentList implements HostBuffer {
  readonly #memory: NativeMemory;
  #bytes: Uint8Array;

  constructor(memory: NativeMemory, length: number) {
    super(new NativeWindow(memory), 1);
    this.#memory = memory;
    this.#bytes = memory.u8.subarray(0, length);
    this.push(memory.address, length);
  }

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  discard(start: number, end: number): void {
    this.#memory.discard(start, end);
  }

  override close(): void {
    if (this.#bytes.length === 0) return;
    this.#bytes = new Uint8Array(0);
    super.close();
    this.#memory.free();
  }
}

/** A buffer of 1 to 2^30 bytes, zeroed. @throws SystemError if there is not that much memory. */
export function hostBuffer(length: number): HostBuffer {
  return new NativeBuffer(NativeMemory.allocate(length), length);
}
