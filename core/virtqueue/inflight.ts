import type { Mapping } from '../system/index.js';
import { MAX_QUEUE_SIZE } from './split-ring-layout.js';

/**
 * The in-flight region: which chains of which queue the device has taken and not returned. The
 * front-end holds it, so that it outlives this process, and gives it to the next one
 * (`docs/interop/vhost-user.rst`, "Inflight I/O tracking", whose layout for split rings this is).
 *
 * For each queue there are 16 bytes of header and 16 for each descriptor, by head:
 *
 * | offset | header          | descriptor |
 * | ------ | --------------- | ---------- |
 * | 0      | features        | inflight (1 byte), padding (5) |
 * | 6      |                 | next (2): the head that was returned before this one |
 * | 8      | version (2)     | counter (8): the order in which chains were taken |
 * | 10     | desc_num (2)    | |
 * | 12     | last_batch_head (2) | |
 * | 14     | used_idx (2)    | |
 */
const HEADER_BYTES = 16;
const DESCRIPTOR_BYTES = 16;

/** Queues begin at multiples of this many bytes. */
const ALIGNMENT = 64;

/** Version of a queue's layout. 0 stands for a queue that was never started. */
const VERSION = 1;

/** Fields of the header, in 16-bit words. */
const Header = { VERSION: 4, SIZE: 5, LAST_BATCH_HEAD: 6, USED_INDEX: 7 } as const;

/** Places of the first descriptor's fields, in 16-bit words and in 32-bit words. */
const INFLIGHT = HEADER_BYTES / 2;
const NEXT = INFLIGHT + 3;
const COUNTER = HEADER_BYTES / 4 + 2;

/** How a region is divided. */
export interface InflightGeometry {
  readonly queues: number;
  /** The most entries that a ring may have. */
  readonly queueSize: number;
}

/** Bytes of one queue. */
function queueBytes(queueSize: number): number {
  const bytes = HEADER_BYTES + queueSize * DESCRIPTOR_BYTES;
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** Bytes of a whole region. @throws RangeError for a size that no ring has. */
export function inflightBytes({ queues, queueSize }: InflightGeometry): number {
  if (queues < 1) throw new RangeError('the region is for no queue');
  if (!(queueSize >= 1 && queueSize <= MAX_QUEUE_SIZE))
    throw new RangeError(`${queueSize} entries, not 1 to ${MAX_QUEUE_SIZE}`);
  return queues * queueBytes(queueSize);
}

/** What a former process has left in flight. */
export interface LeftOver {
  /** Heads of its chains, in the order in which they were taken. */
  readonly heads: readonly number[];
  /** The next available index. */
  readonly base: number;
}

/** Where a queue's part lies in this process. */
export interface InflightPlace {
  readonly address: number;
  readonly length: number;
  readonly queueSize: number;
}

/**
 * The part of a region that belongs to one queue. The front-end may write to the region at any
 * time. It is read only when a queue starts; all that is read is checked.
 *
 * A process that is killed leaves the stores that it made up to one of its instructions, and none
 * of a later one. So the order of stores is what makes each moment readable.
 */
export class InflightQueue {
  /** For another thread that tracks the queue. The mapping must stay as long as it does. */
  readonly place: InflightPlace;
  readonly mapping: Mapping;
  readonly #size: number;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  #counter = 0;

  /** @throws RangeError if the region has no such queue. */
  constructor(region: Mapping, { queueSize }: InflightGeometry, index: number) {
    const bytes = queueBytes(queueSize);
    const address = region.address + index * bytes;
    const view = region.view(address, bytes);
    this.mapping = region;
    this.place = { address, length: bytes, queueSize };
    this.#size = queueSize;
    this.#u16 = new Uint16Array(view);
    this.#u32 = new Uint32Array(view);
  }

  /** The device takes a chain. */
  take(head: number): void {
    const counter = this.#counter++;
    const at = COUNTER + 4 * head;
    this.#u32[at] = counter;
    this.#u32[at + 1] = counter / 2 ** 32;
    this.#u16[INFLIGHT + 8 * head] = 1;
  }

  /** To be called before the used index is stored by which a chain is returned. */
  beforeReturn(head: number): void {
    this.#u16[NEXT + 8 * head] = this.#u16[Header.LAST_BATCH_HEAD]!;
    this.#u16[Header.LAST_BATCH_HEAD] = head;
  }

  /** To be called after that. */
  afterReturn(head: number, usedIndex: number): void {
    this.#u16[INFLIGHT + 8 * head] = 0;
    this.#u16[Header.USED_INDEX] = usedIndex;
  }

  /**
   * Begins to track a queue that starts, or starts again.
   * @param size entries of the ring.
   * @param usedIndex the used index in the ring.
   * @param base the next available index. Chains between the two stay marked, if there are as many:
   * a stop has not waited for them.
   * @throws RangeError if the ring is larger than the region's.
   */
  begin(size: number, usedIndex: number, base: number): void {
    this.#check(size);
    if (this.#marked(size).length !== ((base - usedIndex) & 0xffff))
      for (let head = 0; head < size; head++) this.#u16[INFLIGHT + 8 * head] = 0;
    this.#u16[Header.VERSION] = VERSION;
    this.#u16[Header.SIZE] = size;
    this.#u16[Header.LAST_BATCH_HEAD] = 0;
    this.#u16[Header.USED_INDEX] = usedIndex;
  }

  /**
   * Reads what a former process has left, and goes on tracking.
   * @param usedIndex the used index in the ring, which the guest can write.
   * @returns undefined if no process has started the queue with this region.
   * @throws RangeError if the region is of a ring of another size.
   */
  resume(size: number, usedIndex: number): LeftOver | undefined {
    this.#check(size);
    if (this.#u16[Header.VERSION] === 0) return undefined;
    const version = this.#u16[Header.VERSION];
    if (version !== VERSION) throw new RangeError(`an in-flight region of version ${version}`);
    const known = this.#u16[Header.SIZE];
    if (known !== size)
      throw new RangeError(`the in-flight region is of a ring of ${known} entries, not ${size}`);
    this.#clearReturned(usedIndex);
    const heads = this.#marked(size);
    const counters = new Map(heads.map((head) => [head, this.#counterOf(head)]));
    heads.sort((a, b) => counters.get(a)! - counters.get(b)!);
    // One above the highest, as far as the front-end has left numbers that can be counted up.
    const last = heads.length === 0 ? 0 : counters.get(heads.at(-1)!)!;
    this.#counter = last < 2 ** 52 ? last + 1 : 0;
    return { heads, base: (usedIndex + heads.length) & 0xffff };
  }

  /** The former process may have returned chains, and not got to marking them so. */
  #clearReturned(usedIndex: number): void {
    const returned = (usedIndex - this.#u16[Header.USED_INDEX]!) & 0xffff;
    let head = this.#u16[Header.LAST_BATCH_HEAD]!;
    for (let left = Math.min(returned, this.#size); left > 0 && head < this.#size; left--) {
      this.#u16[INFLIGHT + 8 * head] = 0;
      head = this.#u16[NEXT + 8 * head]!;
    }
    this.#u16[Header.USED_INDEX] = usedIndex;
  }

  #marked(size: number): number[] {
    const heads: number[] = [];
    for (let head = 0; head < size; head++)
      if ((this.#u16[INFLIGHT + 8 * head]! & 0xff) !== 0) heads.push(head);
    return heads;
  }

  #counterOf(head: number): number {
    const at = COUNTER + 4 * head;
    return this.#u32[at]! + this.#u32[at + 1]! * 2 ** 32;
  }

  #check(size: number): void {
    if (size > this.#size)
      throw new RangeError(`a ring of ${size} entries, and an in-flight region for ${this.#size}`);
  }
}
