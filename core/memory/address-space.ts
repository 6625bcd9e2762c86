import type { Mapping, Window } from '../system/index.js';
import type { SegmentList } from './segment-list.js';
import type { WindowSource } from './windows.js';

/** The most regions. QEMU's front-end uses up to so many with CONFIGURE_MEM_SLOTS. */
export const MAX_REGIONS = 509;
/** Most regions in a line of the log. */
const REGIONS_SHOWN = 8;

/** A mapping, and its addresses in the guest and in the front-end. */
export interface Region {
  readonly mapping: Mapping;
  readonly guestAddress: number;
  readonly userAddress: number;
}

/** Regions sorted by one kind of address, as plain numbers for the search. */
interface Table {
  /** First address of each region. */
  readonly starts: Float64Array;
  /** The address after each region's end. */
  readonly ends: Float64Array;
  /** What must be added to an address to get the host address. */
  readonly offsets: Float64Array;
  /** Index of the region that was found last. */
  last: number;
}

/**
 * The memory that a guest shares with the daemon. The guest gives guest physical addresses (in
 * descriptors), and its front-end gives addresses of its own process (for rings). Both are
 * translated to host addresses here. Addresses and lengths are below 2^53. A range that does not
 * lie wholly in a region is refused.
 */
export class AddressSpace implements WindowSource {
  #regions: Region[] = [];
  #guest: Table = makeTable([], guestAddress);
  #user: Table = makeTable([], userAddress);
  /** Regions in order of host addresses. */
  #byHost: readonly Region[] = [];
  #lastWindow: Window | undefined;

  /** The regions, sorted by guest address. */
  get regions(): readonly Region[] {
    return this.#regions;
  }

  /** The mappings in use, sorted by guest address. */
  get mappings(): readonly Mapping[] {
    return this.#regions.map((region) => region.mapping);
  }

  /**
   * Adds a region. The caller keeps owning the mapping, and unmaps it after {@link remove}.
   * @throws RangeError if it overlaps another one, reaches beyond 2^53, or there are too many.
   */
  add(mapping: Mapping, guest: number, user: number): void {
    const { length } = mapping;
    for (const address of [guest, user]) {
      if (!(address >= 0 && Number.isSafeInteger(address) && Number.isSafeInteger(address + length))) {
        throw new RangeError(`a memory region cannot begin at ${address}`);
      }
    }
    if (this.#regions.length === MAX_REGIONS) throw new RangeError(`more than ${MAX_REGIONS} memory regions`);
    for (const other of this.#regions) {
      if (
        overlap(guest, length, other.guestAddress, other.mapping.length) ||
        overlap(user, length, other.userAddress, other.mapping.length)
      ) {
        throw new RangeError(
          `memory regions at 0x${guest.toString(16)} and 0x${other.guestAddress.toString(16)} overlap`,
        );
      }
    }
    this.#set([...this.#regions, { mapping, guestAddress: guest, userAddress: user }]);
  }

  /**
   * Removes the region with exactly these addresses and length.
   * @returns its mapping, or undefined if there is no such region.
   */
  remove(guest: number, user: number, length: number): Mapping | undefined {
    const found = this.#regions.find(
      (region) =>
        region.guestAddress === guest && region.userAddress === user && region.mapping.length === length,
    );
    if (found !== undefined) this.#set(this.#regions.filter((region) => region !== found));
    return found?.mapping;
  }

  /** Removes all regions. @returns their mappings. */
  clear(): Mapping[] {
    const mappings = this.#regions.map((region) => region.mapping);
    this.#set([]);
    return mappings;
  }

  /**
   * The host address of `length` bytes at a guest physical address, or -1 if they do not lie in one
   * region.
   */
  translateGuest(address: number, length: number): number {
    return translate(this.#guest, address, length);
  }

  /**
   * Says which memory is missing for a guest physical address, and what an operator can do.
   * @returns undefined if all of it is there.
   */
  describeOutside(address: number, length: number): string | undefined {
    const end = address + length;
    for (let at = address; at < end;) {
      const region = this.#regions.find(
        ({ guestAddress: guest, mapping }) => at >= guest && at < guest + mapping.length,
      );
      if (region === undefined) return `${length} bytes at ${hex(address)}, ${this.#describe(at)}`;
      at = region.guestAddress + region.mapping.length;
    }
    return undefined;
  }

  #describe(at: number): string {
    const shown = this.#regions
      .slice(0, REGIONS_SHOWN)
      .map(({ guestAddress: guest, mapping }) => `${hex(guest)} to ${hex(guest + mapping.length)}`);
    const more =
      this.#regions.length > REGIONS_SHOWN ? ` and ${this.#regions.length - REGIONS_SHOWN} more` : '';
    return (
      `${hex(at)} is not shared with this process (shared: ${shown.join(', ') || 'nothing'}${more}); ` +
      'all memory of the guest, hot-plugged memory too, must be shared (QEMU: share=on)'
    );
  }

  /**
   * The host address of `length` bytes at an address of the front-end, or -1 if they do not lie in
   * one region.
   */
  translateUser(address: number, length: number): number {
    return translate(this.#user, address, length);
  }

  /** Visits the guest physical addresses of `length` bytes at a host address, region by region. */
  eachGuestRange(
    hostAddress: number,
    length: number,
    visit: (guestAddress: number, length: number) => void,
  ): void {
    const end = hostAddress + length;
    for (const { mapping, guestAddress: guest } of this.#regions) {
      const first = Math.max(hostAddress, mapping.address);
      const last = Math.min(end, mapping.address + mapping.length);
      if (first < last) visit(first - mapping.address + guest, last - first);
    }
  }

  /**
   * Appends the memory at a guest physical address to a list. It may extend over several regions.
   * @returns false if some of it is not mapped, or if the list is full. The list may then have a
   * part of it.
   */
  append(list: SegmentList, address: number, length: number): boolean {
    const host = translate(this.#guest, address, length);
    if (host >= 0) return list.push(host, length);
    const { starts, ends, offsets } = this.#guest;
    while (length > 0) {
      const index = find(this.#guest, address);
      if (index < 0) return false;
      const bytes = Math.min(length, ends[index]! - Math.max(address, starts[index]!));
      if (!list.push(address + offsets[index]!, bytes)) return false;
      address += bytes;
      length -= bytes;
    }
    return true;
  }

  /**
   * An ArrayBuffer over exactly `length` bytes at a host address.
   * @throws RangeError if they do not lie in one region.
   */
  view(hostAddress: number, length: number): ArrayBuffer {
    for (const { mapping } of this.#regions) {
      if (hostAddress >= mapping.address && hostAddress + length <= mapping.address + mapping.length) {
        return mapping.view(hostAddress, length);
      }
    }
    throw new RangeError('address outside the shared memory');
  }

  windowAt(hostAddress: number): Window {
    const last = this.#lastWindow;
    if (last !== undefined && hostAddress >= last.start && hostAddress < last.end) return last;
    const regions = this.#byHost;
    let low = 0;
    let high = regions.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { address, length } = regions[middle]!.mapping;
      if (address + length > hostAddress) high = middle;
      else low = middle + 1;
    }
    const mapping = regions[low]?.mapping;
    if (mapping === undefined || hostAddress < mapping.address)
      throw new RangeError('address outside the shared memory');
    return (this.#lastWindow = mapping.windowAt(hostAddress));
  }

  #set(regions: Region[]): void {
    this.#regions = regions.sort((a, b) => a.guestAddress - b.guestAddress);
    this.#guest = makeTable(regions, guestAddress);
    this.#user = makeTable(regions, userAddress);
    this.#byHost = [...regions].sort((a, b) => a.mapping.address - b.mapping.address);
    this.#lastWindow = undefined;
  }
}

function guestAddress(region: Region): number {
  return region.guestAddress;
}

function userAddress(region: Region): number {
  return region.userAddress;
}

function overlap(start: number, length: number, otherStart: number, otherLength: number): boolean {
  return start < otherStart + otherLength && otherStart < start + length;
}

function makeTable(regions: readonly Region[], addressOf: (region: Region) => number): Table {
  const sorted = [...regions].sort((a, b) => addressOf(a) - addressOf(b));
  return {
    starts: Float64Array.from(sorted, addressOf),
    ends: Float64Array.from(sorted, (region) => addressOf(region) + region.mapping.length),
    offsets: Float64Array.from(sorted, (region) => region.mapping.address - addressOf(region)),
    last: 0,
  };
}

function translate(table: Table, address: number, length: number): number {
  let index = table.last;
  if (!(address >= table.starts[index]! && address < table.ends[index]!)) {
    index = find(table, address);
    if (index < 0) return -1;
    table.last = index;
  }
  return length >= 0 && address + length <= table.ends[index]! ? address + table.offsets[index]! : -1;
}

/** Index of the region that holds an address, or -1. */
function find(table: Table, address: number): number {
  const { starts, ends } = table;
  let low = 0;
  let high = ends.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ends[middle]! > address) high = middle;
    else low = middle + 1;
  }
  return low < ends.length && address >= starts[low]! ? low : -1;
}

function hex(address: number): string {
  return `0x${address.toString(16)}`;
}
