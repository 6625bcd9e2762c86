import { type Fd, type Mapping, signal } from '../system/index.js';
import {
  availableRingBytes,
  DESCRIPTOR_SIZE,
  DescriptorFlag,
  descriptorTableBytes,
  passed,
  USED_NO_NOTIFY,
  usedRingBytes,
} from './split-ring-layout.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;
const NONE = 0xffff;

/** How a driver queue works. */
export interface DriverQueueOptions {
  /** Entries: a power of two up to 1024. */
  readonly size: number;
  readonly eventIdx?: boolean;
  /**
   * Entries of the indirect table that each request has, which limits its segments. With 0 there
   * are no such tables, and requests are chains in the descriptor table.
   */
  readonly indirect?: number;
}

/**
 * The driver's side of a split ring, which in a guest is the kernel's. The ring lies in memory of
 * this process that the device shares. A request allocates nothing:
 *
 * ```
 * queue.begin();
 * queue.readable(address, 64);
 * queue.writable(address + 64, 4096);
 * const token = queue.submit();
 * queue.kick(kick);
 * …
 * for (let token = queue.poll(); token >= 0; token = queue.poll()) use(token, queue.usedLength);
 * ```
 */
export class DriverQueue {
  readonly size: number;
  /** Guest addresses of the ring's parts. */
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /** Bytes that the device has written for the request that {@link poll} returned last. */
  usedLength = 0;
  /** Requests submitted and not yet polled. */
  pending = 0;
  readonly #eventIdx: boolean;
  readonly #indirect: number;
  readonly #tables: number;
  readonly #table: Uint32Array;
  readonly #indirectTables: Uint32Array;
  readonly #available: Uint16Array;
  readonly #used16: Uint16Array;
  readonly #used32: Uint32Array;
  /** Descriptors not in use, linked by `next`. */
  #free = 0;
  /** The chain under construction: first descriptor, last one, and segments. */
  #head = NONE;
  #last = NONE;
  #count = 0;
  #availableNext = 0;
  #published = 0;
  #usedNext = 0;

  /** Bytes of memory that a queue needs. */
  static bytes(options: DriverQueueOptions): number {
    const { size } = options;
    return indirectOffset(size) + size * (options.indirect ?? 0) * DESCRIPTOR_SIZE;
  }

  /**
   * Lays a queue out in a mapping. The memory must be zeroed.
   * @param guestAddress of the mapping's first byte.
   * @param offset of the queue in the mapping, a multiple of 16.
   */
  constructor(mapping: Mapping, guestAddress: number, offset: number, options: DriverQueueOptions) {
    const { size, eventIdx = true, indirect = 0 } = options;
    this.size = size;
    this.#eventIdx = eventIdx;
    this.#indirect = indirect;
    const host = mapping.address + offset;
    const guest = guestAddress + offset;
    this.descriptors = guest;
    this.available = guest + descriptorTableBytes(size);
    this.used = guest + usedOffset(size);
    this.#tables = guest + indirectOffset(size);
    this.#table = new Uint32Array(mapping.view(host, descriptorTableBytes(size)));
    this.#available = new Uint16Array(
      mapping.view(host + descriptorTableBytes(size), availableRingBytes(size, true)),
    );
    const used = mapping.view(host + usedOffset(size), usedRingBytes(size, true));
    this.#used16 = new Uint16Array(used);
    this.#used32 = new Uint32Array(used, 0, 1 + 2 * size);
    const tables = size * indirect * DESCRIPTOR_SIZE;
    this.#indirectTables =
      tables === 0 ? new Uint32Array(0) : new Uint32Array(mapping.view(host + indirectOffset(size), tables));
    for (let i = 0; i < size; i++) this.#table[i * 4 + 3] = (i + 1 === size ? NONE : i + 1) << 16;
  }

  /** The available index that was published last. */
  get availableIndex(): number {
    return this.#published;
  }

  /** Begins a request. */
  begin(): void {
    this.#count = 0;
    if (this.#indirect > 0) this.#head = this.#take();
  }

  /** Appends memory for the device to read. @throws RangeError if there is no descriptor left. */
  readable(guestAddress: number, length: number): void {
    this.#segment(guestAddress, length, 0);
  }

  /** Appends memory for the device to write. @throws RangeError if there is no descriptor left. */
  writable(guestAddress: number, length: number): void {
    this.#segment(guestAddress, length, WRITE);
  }

  /**
   * Ends the request and enters it into the available ring, for the next {@link publish}.
   * @returns its token, 0 to size - 1, which {@link poll} gives back.
   */
  submit(): number {
    const head = this.#head;
    if (this.#indirect > 0) {
      const table = this.#tables + head * this.#indirect * DESCRIPTOR_SIZE;
      this.#write(
        this.#table,
        head,
        table,
        this.#count * DESCRIPTOR_SIZE,
        INDIRECT,
        this.#table[head * 4 + 3]! >>> 16,
      );
    } else {
      // `next` without its flag is ignored.
      const at = this.#last * 4 + 3;
      this.#table[at] = this.#table[at]! & ~NEXT;
    }
    this.#available[2 + (this.#availableNext & (this.size - 1))] = head;
    this.#availableNext = (this.#availableNext + 1) & 0xffff;
    this.#head = NONE;
    this.#last = NONE;
    this.pending += 1;
    return head;
  }

  /** Makes submitted requests available. @returns whether the device must be notified (2.7.10). */
  publish(): boolean {
    const before = this.#published;
    const now = this.#availableNext;
    this.#published = now;
    Atomics.store(this.#available, 1, now);
    if (this.#eventIdx) return passed(Atomics.load(this.#used16, 2 + 4 * this.size), now, before);
    return (Atomics.load(this.#used16, 0) & USED_NO_NOTIFY) === 0;
  }

  /** Calls {@link publish}, and signals the kick eventfd if the device must be notified. */
  kick(fd: Fd): void {
    if (this.publish()) signal(fd);
  }

  /** Takes the next request that the device has returned. @returns its token, or -1 if none is. */
  poll(): number {
    if (Atomics.load(this.#used16, 1) === this.#usedNext) return -1;
    const at = 1 + ((this.#usedNext & (this.size - 1)) << 1);
    const head = this.#used32[at]!;
    this.usedLength = this.#used32[at + 1]!;
    this.#usedNext = (this.#usedNext + 1) & 0xffff;
    this.#release(head);
    this.pending -= 1;
    return head;
  }

  /** Whether {@link poll} would return a request. */
  get ready(): boolean {
    return Atomics.load(this.#used16, 1) !== this.#usedNext;
  }

  /**
   * Asks for an interrupt when the device returns a request.
   * @param after how many requests it returns without an interrupt before that one. EVENT_IDX only.
   * @returns true if the device has returned one already. The caller must poll again.
   */
  enableInterrupts(after = 0): boolean {
    if (this.#eventIdx) Atomics.store(this.#available, 2 + this.size, (this.#usedNext + after) & 0xffff);
    else Atomics.store(this.#available, 0, 0);
    return this.ready;
  }

  #segment(address: number, length: number, flags: number): void {
    if (this.#indirect > 0) {
      if (this.#count === this.#indirect) throw new RangeError(`more than ${this.#indirect} segments`);
      const first = this.#head * this.#indirect;
      if (this.#count > 0) {
        const at = (first + this.#count - 1) * 4 + 3;
        this.#indirectTables[at] = this.#indirectTables[at]! | NEXT;
      }
      this.#write(this.#indirectTables, first + this.#count, address, length, flags, this.#count + 1);
    } else {
      const index = this.#take();
      if (this.#head === NONE) this.#head = index;
      this.#write(this.#table, index, address, length, flags | NEXT, this.#table[index * 4 + 3]! >>> 16);
      this.#last = index;
    }
    this.#count += 1;
  }

  #write(
    table: Uint32Array,
    index: number,
    address: number,
    length: number,
    flags: number,
    next: number,
  ): void {
    const at = index * 4;
    table[at] = address;
    table[at + 1] = Math.floor(address / 0x100000000);
    table[at + 2] = length;
    table[at + 3] = flags | (next << 16);
  }

  #take(): number {
    const index = this.#free;
    if (index === NONE) throw new RangeError('no free descriptor');
    this.#free = this.#table[index * 4 + 3]! >>> 16;
    return index;
  }

  #release(head: number): void {
    let last = head;
    while ((this.#table[last * 4 + 3]! & NEXT) !== 0) last = this.#table[last * 4 + 3]! >>> 16;
    this.#table[last * 4 + 3] = this.#free << 16;
    this.#free = head;
  }
}

/**
 * Offset of the used ring, a multiple of 4. It follows the available ring, which has room for
 * used_event even without EVENT_IDX.
 */
function usedOffset(size: number): number {
  return roundTo(descriptorTableBytes(size) + availableRingBytes(size, true), 4);
}

function indirectOffset(size: number): number {
  return roundTo(usedOffset(size) + usedRingBytes(size, true), DESCRIPTOR_SIZE);
}

function roundTo(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
