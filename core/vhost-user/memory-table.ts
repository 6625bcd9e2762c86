import type { AddressSpace } from '../memory/index.js';
import { fileIdentity, Mapping, SystemError, type OwnedFd } from '../system/index.js';
import { checkDisjoint, MAX_MEM_SLOTS, ProtocolError, type Region } from './messages.js';

/** A region that is mapped, and the file behind it. */
interface Slot {
  readonly region: Region;
  readonly mapping: Mapping;
  readonly file: string;
}

/**
 * A new memory table, which is mapped but not in use yet. The caller calls either {@link apply} or
 * {@link discard}, once.
 */
export interface TableChange {
  /** Whether memory in use is removed. Requests must end before {@link apply} then. */
  readonly removes: boolean;
  /** Replaces the old regions by the new ones, and unmaps those that are no longer used. */
  apply(): void;
  /** Unmaps what was mapped for the change. */
  discard(): void;
}

/** The memory regions that the front-end has announced (spec "Memory regions description"). */
export class MemoryTable {
  readonly #space: AddressSpace;
  readonly #onLost: () => void;
  #slots: readonly Slot[] = [];

  /** @param onLost some of the memory turned out to have nothing behind it. */
  constructor(space: AddressSpace, onLost: () => void) {
    this.#space = space;
    this.#onLost = onLost;
  }

  /**
   * Prepares SET_MEM_TABLE. A region that is the same as before keeps its mapping, so that adding
   * memory to a running guest disturbs no request.
   * @throws ProtocolError if a region can't be mapped; nothing has changed then.
   */
  prepare(regions: readonly Region[], fds: readonly OwnedFd[]): TableChange {
    const before = this.#slots;
    const after: Slot[] = [];
    const discard = () => {
      for (const slot of after) if (!before.includes(slot)) slot.mapping.unmap();
    };
    try {
      for (const [i, region] of regions.entries()) {
        const file = identify(fds[i]!);
        const same = before.find((slot) => slot.file === file && sameRegion(slot.region, region));
        after.push(same ?? this.#map('SET_MEM_TABLE', region, fds[i]!, file));
      }
    } catch (error) {
      discard();
      throw error;
    }
    const gone = before.filter((slot) => !after.includes(slot));
    const apply = () => {
      for (const slot of gone) this.#drop(slot);
      for (const slot of after) if (!before.includes(slot)) this.#use(slot);
      this.#slots = after;
    };
    return { removes: gone.length > 0, apply, discard };
  }

  /**
   * ADD_MEM_REG.
   * @throws ProtocolError if the region overlaps another, can't be mapped, or is one too many.
   */
  add(region: Region, fd: OwnedFd): void {
    const name = 'ADD_MEM_REG';
    if (this.#slots.length >= MAX_MEM_SLOTS)
      throw new ProtocolError(`${name}: more than ${MAX_MEM_SLOTS} regions`);
    for (const slot of this.#slots) checkDisjoint(name, slot.region, region);
    const slot = this.#map(name, region, fd, identify(fd));
    this.#use(slot);
    this.#slots = [...this.#slots, slot];
  }

  /**
   * Prepares REM_MEM_REG: "identified by its guest address, user address and size. The mmap offset
   * is ignored."
   * @throws ProtocolError if there is no such region.
   */
  prepareRemoval(region: Region): () => void {
    const slot = this.#slots.find((other) =>
      sameRegion({ ...other.region, mmapOffset: region.mmapOffset }, region),
    );
    if (slot === undefined) throw new ProtocolError('REM_MEM_REG: there is no such region');
    return () => {
      this.#drop(slot);
      this.#slots = this.#slots.filter((other) => other !== slot);
    };
  }

  /** Unmaps everything. */
  clear(): void {
    for (const mapping of this.#space.clear()) mapping.unmap();
    this.#slots = [];
  }

  #use({ region, mapping }: Slot): void {
    this.#space.add(mapping, region.guestAddress, region.userAddress);
  }

  #map(name: string, region: Region, fd: OwnedFd, file: string): Slot {
    try {
      const mapping = Mapping.map(fd.value, region.size, region.mmapOffset, this.#onLost);
      return { region, file, mapping };
    } catch (error) {
      if (error instanceof RangeError || error instanceof SystemError)
        throw new ProtocolError(`${name}: ${error.message}`);
      throw error;
    }
  }

  #drop({ region, mapping }: Slot): void {
    this.#space.remove(region.guestAddress, region.userAddress, region.size);
    mapping.unmap();
  }
}

/** Whether two descriptors are of one file is told without asking its file system. */
function identify(fd: OwnedFd): string {
  return fileIdentity(fd.value) ?? '';
}

function sameRegion(a: Region, b: Region): boolean {
  return (
    a.guestAddress === b.guestAddress &&
    a.size === b.size &&
    a.userAddress === b.userAddress &&
    a.mmapOffset === b.mmapOffset
  );
}
