import type { NativeMemory, Window } from '../system/index.js';

/** Memory that is reached by typed arrays, found by host address. */
export interface WindowSource {
  /** The window that holds the byte at a host address. @throws RangeError if there is none. */
  windowAt(hostAddress: number): Window;
}

/** A piece of native memory as one window. */
export class NativeWindow implements WindowSource, Window {
  readonly start: number;
  readonly end: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;

  constructor(memory: NativeMemory) {
    this.start = memory.address;
    this.end = memory.address + memory.length;
    this.u8 = memory.u8;
    this.u16 = memory.u16;
    this.u32 = memory.u32;
  }

  windowAt(hostAddress: number): Window {
    if (hostAddress >= this.start && hostAddress < this.end) return this;
    throw new RangeError('address outside its memory');
  }
}
