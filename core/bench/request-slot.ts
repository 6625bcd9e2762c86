import { fuse_in_header, fuse_out_header } from '../fuse/index.js';
import type { SharedMemory } from '../vhost-user/index.js';

/**
 * Memory for a request's header, arguments and names, and as much for a reply's header and
 * structures.
 */
const AREA_BYTES = 4096;

/** Bytes of `struct fuse_in_header`; arguments follow it. */
export const IN_HEADER = fuse_in_header.bytes;
/** Bytes of `struct fuse_out_header`; the body follows it. */
export const OUT_HEADER = fuse_out_header.bytes;
/** Index of the first word of the arguments. */
export const ARGUMENTS = IN_HEADER / 4;
/** Index of the first word of a reply's body. */
export const BODY = OUT_HEADER / 4;

/**
 * The memory of one request in flight, shared with the daemon. There are as many slots as requests
 * are in flight at a time. Requests are written in place, so that none needs an allocation.
 */
export class RequestSlot {
  readonly index: number;
  /** The request's header and arguments. */
  readonly words: Uint32Array;
  /** The same as bytes. */
  readonly bytes: Uint8Array;
  /** The reply's header and structures. */
  readonly reply: Uint32Array;
  /** Data of a WRITE, or of a READ's reply. */
  readonly data: Uint8Array;
  /** The same as words. */
  readonly dataWords: Uint32Array;
  /** Where the slot begins in the shared memory, in bytes. */
  readonly offset: number;

  /** The queue to which the request goes. */
  queue = 1;
  /** Bytes of the request's header and arguments. */
  inBytes = 0;
  /** Bytes of data that follow them. */
  dataInBytes = 0;
  /** Bytes of the reply's header and structures; 0 for a request without a reply. */
  outBytes = 0;
  /** Bytes of room for data that follows them. */
  dataOutBytes = 0;

  /** When the operation began, by `performance.now()`. */
  startedMs = 0;
  /** How far the operation has come. A load may use it as it likes, as what follows. */
  step = 0;
  /** Id of the node that the operation works on. */
  node = 0;
  nodeHigh = 0;
  /** Its handle. */
  file = 0;
  fileHigh = 0;
  /** The number in its name. */
  number = 0;

  /** @throws RangeError if the memory has no room. */
  constructor(index: number, memory: SharedMemory, dataBytes: number) {
    this.index = index;
    this.offset = memory.allocate(2 * AREA_BYTES + dataBytes);
    if (this.offset < 0) throw new RangeError('the shared memory is too small for this depth');
    const { buffer, byteOffset } = memory.bytes;
    const start = byteOffset + this.offset;
    this.words = new Uint32Array(buffer, start, AREA_BYTES / 4);
    // What lies here from earlier would be the caller's ids. New files would then belong to that
    // user, and a daemon needs more system calls for that.
    this.words.fill(0);
    this.bytes = new Uint8Array(buffer, start, AREA_BYTES);
    this.reply = new Uint32Array(buffer, start + AREA_BYTES, AREA_BYTES / 4);
    this.data = new Uint8Array(buffer, start + 2 * AREA_BYTES, dataBytes);
    this.dataWords = new Uint32Array(buffer, start + 2 * AREA_BYTES, dataBytes >> 2);
  }

  /** Where the reply begins in the shared memory, in bytes. */
  get replyOffset(): number {
    return this.offset + AREA_BYTES;
  }

  /** Where the data begins in the shared memory, in bytes. */
  get dataOffset(): number {
    return this.offset + 2 * AREA_BYTES;
  }

  /** The reply's `error`: 0, or a positive errno. */
  get errno(): number {
    return -(this.reply[1]! | 0);
  }

  /** The reply's length, header and data included. */
  get replyBytes(): number {
    return this.reply[0]!;
  }

  /**
   * Writes a request's header. The caller writes the arguments into `words`, from {@link ARGUMENTS}
   * on.
   * @param argumentBytes of arguments, names included.
   * @param outBytes of structures in the reply, without its header.
   */
  request(opcode: number, node: number, nodeHigh: number, argumentBytes: number, outBytes: number): void {
    const words = this.words;
    words[1] = opcode;
    words[4] = node;
    words[5] = nodeHigh;
    words[8] = 1;
    this.inBytes = IN_HEADER + argumentBytes;
    this.outBytes = OUT_HEADER + outBytes;
    this.dataInBytes = 0;
    this.dataOutBytes = 0;
    this.queue = 1;
  }

  /**
   * Writes a name with its terminator: a prefix and, from 0 on, a number.
   * @param at the byte of the arguments where it begins.
   * @returns the byte of the arguments where it ends.
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
