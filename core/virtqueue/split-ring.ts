import type { AddressSpace, DirtyLog, SegmentList } from '../memory/index.js';
import { BROKEN, type DeviceRing, EMPTY } from './device-ring.js';
import type { InflightQueue } from './inflight.js';
import {
  AVAIL_NO_INTERRUPT,
  availableRingBytes,
  DESCRIPTOR_SIZE,
  DescriptorFlag,
  descriptorTableBytes,
  MAX_QUEUE_SIZE,
  passed,
  USED_NO_NOTIFY,
  USED_RING_OFFSET,
  usedRingBytes,
} from './split-ring-layout.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;

/**
 * Whether other processors see stores in the order in which they were made. On x86-64 they do
 * (Intel SDM 3A 9.2.2), and V8 does not reorder stores to typed arrays.
 */
const STORES_IN_ORDER = process.arch === 'x64';

/** Where a split ring lies and how it works. Addresses are host addresses in its address space. */
export interface SplitRingSetup {
  readonly size: number;
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /** The available index of the first entry to take. */
  readonly base: number;
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  /** Where it is noted which chains the device has. */
  readonly inflight?: InflightQueue | undefined;
  /** Heads of chains that a former process has taken, in order. They are taken again first. */
  readonly again?: readonly number[] | undefined;
}

/** The device side of a split ring, section 2.7. */
export class SplitRing implements DeviceRing {
  violation = '';
  readonly size: number;
  readonly notifiesByIndex: boolean;
  readonly #space: AddressSpace;
  readonly #mask: number;
  readonly #indirect: boolean;
  /** Descriptors as words: address low, address high, length, flags and next. */
  readonly #descriptors: Uint32Array;
  /** flags, idx, ring[size], used_event. */
  readonly #available: Uint16Array;
  /** flags, idx, ring[size], avail_event. */
  readonly #used16: Uint16Array;
  /** The same memory. The entries of ring[size] begin at index 1. */
  readonly #used32: Uint32Array;
  /** By head: 1 if the device has the chain. */
  readonly #taken: Uint8Array;
  readonly #inflight: InflightQueue | undefined;
  /** Heads that are still to be taken again, the next one last. */
  readonly #again: number[];
  readonly #scratch = new Uint32Array(DESCRIPTOR_SIZE / 4);
  readonly #scratchBytes = new Uint8Array(this.#scratch.buffer);
  /** The guest's available idx as last read. */
  #seen: number;
  /** Index of the next available entry to take. */
  #next: number;
  /** Index of the next used entry to write. */
  #usedNext: number;
  /** The used idx at the last {@link takeInterrupt}. */
  #announced: number;
  #log: DirtyLog | undefined;
  /** Guest address of the used ring, for the log. */
  #logAddress = 0;

  /** @throws RangeError if a part of the ring is not in the address space. */
  constructor(space: AddressSpace, setup: SplitRingSetup) {
    const { size, eventIdx } = setup;
    this.#space = space;
    this.size = size;
    this.#mask = size - 1;
    this.notifiesByIndex = eventIdx;
    this.#indirect = setup.indirect;
    this.#inflight = setup.inflight;
    this.#again = (setup.again ?? []).toReversed();
    this.#descriptors = new Uint32Array(space.view(setup.descriptors, descriptorTableBytes(size)));
    this.#available = new Uint16Array(space.view(setup.available, availableRingBytes(size, eventIdx)));
    const used = space.view(setup.used, usedRingBytes(size, eventIdx));
    this.#used16 = new Uint16Array(used);
    this.#used32 = new Uint32Array(used, 0, 1 + 2 * size);
    this.#taken = new Uint8Array(size);
    this.#seen = setup.base;
    this.#next = setup.base;
    this.#usedNext = this.#used16[1]!;
    this.#announced = this.#usedNext;
  }

  get base(): number {
    return this.#next;
  }

  get given(): number {
    return Atomics.load(this.#used16, 1);
  }

  get ready(): boolean {
    return this.#again.length > 0 || Atomics.load(this.#available, 1) !== this.#next;
  }

  get following(): number {
    return ((this.#seen - this.#next) & 0xffff) + this.#again.length;
  }

  pop(readable: SegmentList, writable: SegmentList): number {
    if (this.#again.length > 0) return this.#popAgain(readable, writable);
    if (this.#seen === this.#next && !this.#readIndex()) return this.violation === '' ? EMPTY : BROKEN;
    const head = this.#available[2 + (this.#next & this.#mask)]!;
    if (head >= this.size) return this.#break('a head beyond the descriptor table');
    if (this.#taken[head] === 1) return this.#break('a chain made available again while the device has it');
    if (!this.walk(head, readable, writable)) return BROKEN;
    this.#taken[head] = 1;
    this.#inflight?.take(head);
    this.#next = (this.#next + 1) & 0xffff;
    return head;
  }

  /** Takes a chain that is marked as taken in the in-flight region. The index stays. */
  #popAgain(readable: SegmentList, writable: SegmentList): number {
    const head = this.#again.pop()!;
    if (!this.walk(head, readable, writable)) return BROKEN;
    this.#taken[head] = 1;
    return head;
  }

  /**
   * Reads the guest's available idx. The guest writes the entries before it (2.7.13.1).
   * @returns whether there are entries to take.
   */
  #readIndex(): boolean {
    const seen = Atomics.load(this.#available, 1);
    if (((seen - this.#next) & 0xffff) > this.size) {
      this.#break('more chains available than the queue has entries');
      return false;
    }
    this.#seen = seen;
    return seen !== this.#next;
  }

  #break(violation: string): number {
    this.violation = violation;
    return BROKEN;
  }

  walk(head: number, readable: SegmentList, writable: SegmentList): boolean {
    const descriptors = this.#descriptors;
    let index = head;
    for (let left = this.size; left > 0; left--) {
      const at = index << 2;
      const tail = descriptors[at + 3]!;
      if ((tail & INDIRECT) !== 0) {
        return this.#walkIndirect(
          descriptors[at]!,
          descriptors[at + 1]!,
          descriptors[at + 2]!,
          tail,
          readable,
          writable,
        );
      }
      if (
        !this.#segment(descriptors[at]!, descriptors[at + 1]!, descriptors[at + 2]!, tail, readable, writable)
      ) {
        return false;
      }
      if ((tail & NEXT) === 0) return true;
      index = tail >>> 16;
      if (index >= this.size) {
        this.#break('a next beyond the descriptor table');
        return false;
      }
    }
    // 2.7.5.2: no loops; 2.7.5.3.1: no chain longer than the queue.
    this.#break('a chain longer than the queue');
    return false;
  }

  /**
   * Appends the segments of an indirect table (2.7.5.3). A descriptor with the INDIRECT flag is the
   * last of its chain. Its table has no such descriptors. Its WRITE flag is ignored (2.7.5.3.2).
   */
  #walkIndirect(
    low: number,
    high: number,
    length: number,
    tail: number,
    readable: SegmentList,
    writable: SegmentList,
  ): boolean {
    const entries = length / DESCRIPTOR_SIZE;
    let violation = '';
    if (!this.#indirect) violation = 'an indirect descriptor without INDIRECT_DESC';
    else if ((tail & NEXT) !== 0) violation = 'an indirect descriptor with a next one';
    else if (!Number.isInteger(entries) || entries === 0) violation = `an indirect table of ${length} bytes`;
    else if (entries > MAX_QUEUE_SIZE)
      violation = `an indirect table of more than ${MAX_QUEUE_SIZE} descriptors`;
    const table = violation === '' ? this.#space.translateGuest(high * 0x100000000 + low, length) : 0;
    if (table < 0) {
      const outside = this.#space.describeOutside(high * 0x100000000 + low, length);
      violation = `an indirect table outside memory: ${outside ?? 'it lies in several regions'}`;
    }
    if (violation !== '') {
      this.#break(violation);
      return false;
    }
    // A table that is aligned and in one window is read in place. Nearly all are.
    const window = this.#space.windowAt(table);
    const offset = table - window.start;
    const inPlace = (offset & 3) === 0 && table + length <= window.end;
    const words = inPlace ? window.u32 : this.#scratch;
    let index = 0;
    for (let left = entries; left > 0; left--) {
      let at = 0;
      if (inPlace) at = (offset + index * DESCRIPTOR_SIZE) >>> 2;
      else this.#fetch(table + index * DESCRIPTOR_SIZE);
      const entry = words[at + 3]!;
      if ((entry & INDIRECT) !== 0) {
        this.#break('an indirect table in an indirect table');
        return false;
      }
      if (!this.#segment(words[at]!, words[at + 1]!, words[at + 2]!, entry, readable, writable)) return false;
      if ((entry & NEXT) === 0) return true;
      index = entry >>> 16;
      if (index >= entries) {
        this.#break('a next beyond the indirect table');
        return false;
      }
    }
    this.#break('a loop in an indirect table');
    return false;
  }

  /** Copies a descriptor of a table that is not aligned, or crosses windows, into `#scratch`. */
  #fetch(address: number): void {
    for (let i = 0; i < DESCRIPTOR_SIZE; i++) {
      const window = this.#space.windowAt(address + i);
      this.#scratchBytes[i] = window.u8[address + i - window.start]!;
    }
  }

  /** Appends a descriptor's memory to one of the lists. @returns false if it breaks a rule. */
  #segment(
    low: number,
    high: number,
    length: number,
    tail: number,
    readable: SegmentList,
    writable: SegmentList,
  ): boolean {
    let list = writable;
    if ((tail & WRITE) === 0) {
      // 2.7.4.2: all readable descriptors come first.
      if (writable.count !== 0) {
        this.#break('a readable descriptor after a writable one');
        return false;
      }
      list = readable;
    }
    if (length === 0) return true;
    const address = high * 0x100000000 + low;
    const host = this.#space.translateGuest(address, length);
    if (host >= 0 ? list.push(host, length) : this.#space.append(list, address, length)) return true;
    const outside = this.#space.describeOutside(address, length);
    this.#break(
      outside === undefined
        ? 'a chain with too many segments or bytes'
        : `a segment outside memory: ${outside}`,
    );
    return false;
  }

  push(id: number, written: number): void {
    this.#taken[id] = 0;
    const at = 1 + ((this.#usedNext & this.#mask) << 1);
    this.#used32[at] = id;
    this.#used32[at + 1] = written;
    const slot = this.#usedNext & this.#mask;
    this.#usedNext = (this.#usedNext + 1) & 0xffff;
    this.#inflight?.beforeReturn(id);
    // 2.7.8.2: the element must be written before the index.
    if (STORES_IN_ORDER) this.#used16[1] = this.#usedNext;
    else Atomics.store(this.#used16, 1, this.#usedNext);
    this.#inflight?.afterReturn(id, this.#usedNext);
    if (this.#log !== undefined) this.#logUsed(USED_RING_OFFSET + 8 * slot, 8);
  }

  takeInterrupt(): boolean {
    const before = this.#announced;
    const now = this.#usedNext;
    if (now === before) return false;
    this.#announced = now;
    // The index must be stored before used_event or the flag is read (2.7.10). Both accesses are
    // sequentially consistent.
    Atomics.store(this.#used16, 1, now);
    if (this.notifiesByIndex) return passed(Atomics.load(this.#available, 2 + this.size), now, before);
    return (Atomics.load(this.#available, 0) & AVAIL_NO_INTERRUPT) === 0;
  }

  suppressNotifications(): void {
    // 2.7.10: with EVENT_IDX nothing needs to be written. Once the guest has added a chain, the
    // avail_event that was stored last lies behind its index, and it does not notify of more.
    if (!this.notifiesByIndex) {
      this.#used16[0] = USED_NO_NOTIFY;
      if (this.#log !== undefined) this.#logUsed(0, 2);
    }
  }

  enableNotifications(many: number): boolean {
    if (this.notifiesByIndex) {
      Atomics.store(this.#used16, 2 + 4 * this.size, (this.#next + many - 1) & 0xffff);
      if (this.#log !== undefined) this.#logUsed(USED_RING_OFFSET + 8 * this.size, 2);
    } else {
      Atomics.store(this.#used16, 0, 0);
      if (this.#log !== undefined) this.#logUsed(0, 2);
    }
    if (many === 1) return this.ready;
    return ((Atomics.load(this.#available, 1) - this.#next) & 0xffff) >= many;
  }

  logTo(log: DirtyLog | undefined, guestAddress: number): void {
    this.#log = log;
    this.#logAddress = guestAddress;
  }

  /** Marks a part of the used ring, and its idx, in the dirty log. */
  #logUsed(offset: number, length: number): void {
    this.#log!.mark(this.#logAddress + offset, length);
    this.#log!.mark(this.#logAddress + 2, 2);
  }
}
