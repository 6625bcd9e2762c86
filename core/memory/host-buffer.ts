import type { HostBuffer } from '../backend/index.js';
import { NativeMemory } from '../system/index.js';
import { SegmentList } from './segment-list.js';
import { NativeWindow } from './windows.js';

/** A buffer in the daemon's own memory, with the interface of guest memory. */
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

/** Makes a zeroed buffer of 1 to 2^30 bytes. @throws SystemError if memory is used up. */
export function hostBuffer(length: number): HostBuffer {
  return new NativeBuffer(NativeMemory.allocate(length), length);
}
