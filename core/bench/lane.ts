import { fuse_in_header, fuse_out_header } from '../fuse/index.js';
import type { SharedMemory } from '../vhost-user/index.js';

/** Bytes for a request's header, arguments and names, and for a reply's header and structures. */
const AREA = 4096;

/** Arguments follow the header. */
export const IN_HEADER = fuse_in_header.bytes;
export const OUT_HEADER = fuse_out_header.bytes;
/** Index of the first word of arguments, and of a reply's body. */
export const ARGUMENTS = IN_HEADER / 4;
export const BODY = OUT_HEADER / 4;

/**
 * The memory of one request, shared with the daemon. There are as many lanes as requests in flight.
 * Words are written in place; nothing is allocated for a request.
 */
export class Lane {
  readonly index: number;
  /** Request: header and arguments. */
  readonly words: Uint32Array;
  readonly bytes: Uint8Array;
  /** Reply: header and structures. */
  readonly reply: Uint32Array;
  /** Data to write, or read. */
  readonly data: Uint8Array;
  readonly dataWords: Uint32Array;
  /** Offset in the shared memory. */
  readonly offset: number;

  /** The queue to which the request goes. */
  queue = 1;
  /**
   * Bytes of header and arguments, of data to write, of the reply's structures, and of room for
   * data.
   */
  inBytes = 0;
  dataIn = 0;
  outBytes = 0;
  dataOut = 0;

  /** When the operation began, in milliseconds, and a number for the load to use. */
  started = 0;
  step = 0;
  /** What an operation keeps from one request to the next. */
  node = 0;
  nodeHigh = 0;
  file = 0;
  fileHigh = 0;
  number = 0;

  constructor(index: number, memory: SharedMemory, dataBytes: number) {
    this.index = index;
    this.offset = memory.allocate(2 * AREA + dataBytes);
    if (this.offset < 0) throw new RangeError('the shared memory is too small for this depth');
    const { buffer, byteOffset } = memory.bytes;
    const start = byteOffset + this.offset;
    this.words = new Uint32Array(buffer, start, AREA / 4);
    // Left-over words would be the caller's ids. New files would belong to that user, for which a
    // daemon needs more system calls.
    this.words.fill(0);
    this.bytes = new Uint8Array(buffer, start, AREA);
    this.reply = new Uint32Array(buffer, start + AREA, AREA / 4);
    this.data = new Uint8Array(buffer, start + 2 * AREA, dataBytes);
    this.dataWords = new Uint32Array(buffer, start + 2 * AREA, dataBytes >> 2);
  }

  /** Offsets of the areas in the shared memory. */
  get replyOffset(): number {
    return this.offset + AREA;
  }

  get dataOffset(): number {
    return this.offset + 2 * AREA;
  }

  /** The reply's `error`: 0, or a positive errno. */
  get errno(): number {
    return -(this.reply[1]! | 0);
  }

  /** The reply's length, header included. */
  get replyLength(): number {
    return this.reply[0]!;
  }

  /**
   * Writes a request's header. Arguments are written into `words` from {@link ARGUMENTS} on.
   * @param argumentBytes bytes of arguments, names included.
   * @param outBytes bytes of structures in the reply, without its header.
   */
  request(opcode: number, node: number, nodeHigh: number, argumentBytes: number, outBytes: number): void {
    const words = this.words;
    words[1] = opcode;
    words[4] = node;
    words[5] = nodeHigh;
    words[8] = 1;
    this.inBytes = IN_HEADER + argumentBytes;
    this.outBytes = OUT_HEADER + outBytes;
    this.dataIn = 0;
    this.dataOut = 0;
    this.queue = 1;
  }

  /**
   * Writes a name and its terminator at a byte of the arguments.
   * @returns the bytes of the arguments up to its end.
   */
  name(at: number, prefix: string, number = -1): number {
    const bytes = this.bytes;
    let to = IN_HEADER + at;
    for (let i = 0; i < prefix.length; i++) bytes[to++] = prefix.charCodeAt(i);
    if (number >= 0) {
      let digits = 1;
      for (let rest = number; rest >= 10; rest = Math.floor(rest / 10)) digits += 1;
      for (let i = to + digits - 1, rest = number; i >= to; i--, rest = Math.floor(rest / 10)) {
        bytes[i] = 48 + (rest % 10);
      }
      to += digits;
    }
    bytes[to++] = 0;
    return to - IN_HEADER;
  }
}
