import { type Message, NativeWindow, SegmentList } from '../../core/memory/index.js';
import { NativeMemory } from '../../core/system/index.js';

const PAGE_BYTES = 4096;
/** Offset of the reply's header, so that what follows it begins on a page. */
const REPLY_BYTES = 2 * PAGE_BYTES - 16;

/** A request that can be sent again and again. It has the segments that Linux gives it. */
export class Again implements Message {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  answered = 0;
  readonly #memory: NativeMemory;

  /**
   * @param inputCut lengths of the segments that the request is in.
   * @param outputCut those of the reply, its header of 16 bytes first; none for a request without
   * reply.
   */
  constructor(input: Uint8Array, inputCut: readonly number[], outputCut: readonly number[]) {
    const room = outputCut.reduce((sum, length) => sum + length, 0);
    this.#memory = NativeMemory.allocate(REPLY_BYTES + room + PAGE_BYTES);
    this.#memory.u8.set(input);
    const window = new NativeWindow(this.#memory);
    this.readable = new SegmentList(window, inputCut.length);
    this.writable = new SegmentList(window, Math.max(1, outputCut.length));
    let at = this.#memory.address;
    for (const length of inputCut) {
      this.readable.push(at, length);
      at += length;
    }
    at = this.#memory.address + REPLY_BYTES;
    for (const length of outputCut) {
      this.writable.push(at, length);
      at += length;
    }
  }

  /** Changes 64 bits of the request, at an offset in bytes that 4 divides. */
  setLong(offset: number, low: number, high: number): void {
    this.#memory.u32[offset >> 2] = low;
    this.#memory.u32[(offset >> 2) + 1] = high;
  }

  /** 32 bits of the last reply, at an offset behind its header. */
  word(offset: number): number {
    return this.#memory.u32[(REPLY_BYTES + 16 + offset) >> 2]!;
  }

  complete(written: number): void {
    if (written < 16 && this.writable.length > 0) throw new Error(`answered with ${written} bytes`);
    this.answered += 1;
  }

  fail(): void {
    throw new Error('the session failed the queue');
  }
}
