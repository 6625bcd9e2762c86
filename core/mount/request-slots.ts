import { memfd, NativeMemory, type OwnedFd, PAGE_SIZE, Seal } from '../system/index.js';
import { fallocate } from '../system/calls/files.js';

/** Requests at a time. Further ones wait in the kernel. */
export const MAX_SLOTS = 4096;

/** fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE. */
const PUNCH_HOLE = 3;

/** Bytes of a 64-bit number. */
const NUMBER_BYTES = 8;

const TABLE_BYTES = MAX_SLOTS * NUMBER_BYTES;

/** Room for one request, which the kernel writes there. */
export class RequestSlot {
  readonly index: number;
  readonly memory: NativeMemory;
  readonly #slots: RequestSlots;
  #isWhole = false;

  constructor(slots: RequestSlots, index: number, memory: NativeMemory) {
    this.#slots = slots;
    this.index = index;
    this.memory = memory;
  }

  /** To be called before a request is read. */
  claim(): void {
    if (!this.#isWhole) {
      // The kernel gives up a request, with EIO for its caller, if it finds no page in the place
      // of one that a process reads which is being killed.
      for (let at = 0; at < this.memory.length; at += PAGE_SIZE) this.memory.u8[at] = 0;
      this.#isWhole = true;
    }
    this.#slots.order[this.index] = this.#slots.next();
  }

  /** There is no request any more: it was answered, or none was read. */
  release(): void {
    this.memory.u32[0] = 0;
    this.#slots.order[this.index] = 0;
  }

  /** A request of so many bytes is here for long. The memory behind it is given back. */
  trim(length: number): void {
    if (!this.#isWhole) return;
    this.#isWhole = false;
    this.#slots.discard(this, length);
  }

  /** Nobody needs the slot now. */
  free(): void {
    this.memory.free();
    this.#slots.giveBack(this);
  }
}

/**
 * Requests that were read from the device and not answered, in memory that outlives this process:
 * the one that follows finds them there, and answers them.
 *
 * The kernel writes a request right into its slot, the header first, whose first word is the
 * request's length and never 0. So a process that is killed leaves each request that it has read,
 * and no other one. Replies are written before their slot is released. A request that is answered
 * once more is unknown to the kernel (ENOENT), which harms nobody.
 */
export class RequestSlots {
  /** When each slot was claimed, as a number that rises; 0 for a slot without a request. */
  readonly order: Float64Array;
  readonly #fd: OwnedFd;
  readonly #bytes: number;
  readonly #table: NativeMemory;
  readonly #unused: number[] = [];
  #last = 0;

  /**
   * @param fd which {@link make} has made, here or in a former process. It is owned from here on.
   * @param bytes of the largest request, in whole pages.
   */
  constructor(fd: OwnedFd, bytes: number) {
    this.#fd = fd;
    this.#bytes = bytes;
    this.#table = NativeMemory.shared(fd.value, TABLE_BYTES, 0);
    this.order = new Float64Array(this.#table.u8.buffer, 0, MAX_SLOTS);
  }

  /** Makes memory for requests of at most so many bytes, in whole pages. @throws SystemError */
  static make(bytes: number): OwnedFd {
    const seals = Seal.SHRINK | Seal.GROW | Seal.SEAL;
    return memfd('virtiofs-kit requests', TABLE_BYTES + MAX_SLOTS * bytes, seals);
  }

  /**
   * What a former process has left, in the order in which it has read it. To be called first, and
   * once.
   */
  left(): RequestSlot[] {
    const found: RequestSlot[] = [];
    for (let index = 0; index < MAX_SLOTS; index++) {
      const number = this.order[index]!;
      if (number === 0) this.#unused.push(index);
      else {
        this.#last = Math.max(this.#last, number);
        found.push(this.#open(index));
      }
    }
    return found.sort((a, b) => this.order[a.index]! - this.order[b.index]!);
  }

  /** @returns undefined if all are in use. */
  take(): RequestSlot | undefined {
    const index = this.#unused.pop();
    return index === undefined ? undefined : this.#open(index);
  }

  /** @internal The number of the next request. */
  next(): number {
    return ++this.#last;
  }

  /** @internal */
  discard({ index }: RequestSlot, from: number): void {
    const start = Math.ceil(from / PAGE_SIZE) * PAGE_SIZE;
    fallocate(this.#fd.value, PUNCH_HOLE, this.#offset(index) + start, this.#bytes - start);
  }

  /** @internal */
  giveBack(slot: RequestSlot): void {
    if (this.order[slot.index] !== 0) return;
    this.discard(slot, 0);
    this.#unused.push(slot.index);
  }

  close(): void {
    this.#table.free();
    this.#fd.close();
  }

  #open(index: number): RequestSlot {
    const memory = NativeMemory.shared(this.#fd.value, this.#bytes, this.#offset(index));
    return new RequestSlot(this, index, memory);
  }

  #offset(index: number): number {
    return TABLE_BYTES + index * this.#bytes;
  }
}
