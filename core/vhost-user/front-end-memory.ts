import { type Fd, Mapping, memfd, PAGE_SIZE, Seal, type OwnedFd } from '../system/index.js';
import type { Region } from './messages.js';

/**
 * Address of the memory's first byte: the guest address, and the user address that the daemon gets.
 * Neither is where this process has mapped it.
 */
const GUEST_BASE = 0x4000_0000;
const USER_BASE = 0x7f00_0000_0000;

/**
 * The memory of a front-end without a guest: a memfd that the daemon maps as well. It is allocated
 * in whole pages.
 */
export class SharedMemory {
  readonly mapping: Mapping;
  readonly bytes: Uint8Array;
  readonly #fd: OwnedFd;
  /** Free ranges, in order of their offsets. Two that touch are one. */
  readonly #free: { offset: number; length: number }[];
  /** Length of each allocated range, by its offset. */
  readonly #used = new Map<number, number>();

  /** @param size bytes, up to 1 GiB. @throws SystemError if there is not that much memory. */
  constructor(size: number) {
    const length = roundUp(size);
    // Sealed, so that a daemon may rely on its size. QEMU's memory is sealed, too.
    this.#fd = memfd('virtiofs-kit front-end', length, Seal.SHRINK | Seal.GROW | Seal.SEAL);
    this.mapping = Mapping.map(this.#fd.value, length, 0);
    this.bytes = new Uint8Array(this.mapping.view(this.mapping.address, length));
    this.#free = [{ offset: 0, length }];
  }

  get fd(): Fd {
    return this.#fd.value;
  }

  /** The region to announce to the daemon. */
  get region(): Region {
    return { guestAddress: GUEST_BASE, size: this.mapping.length, userAddress: USER_BASE, mmapOffset: 0 };
  }

  /**
   * Allocates `size` bytes. They may have content of an earlier allocation.
   * @returns their offset, page-aligned, or -1 if there is no room now.
   */
  allocate(size: number): number {
    const length = roundUp(Math.max(size, 1));
    const index = this.#free.findIndex((run) => run.length >= length);
    const run = this.#free[index];
    if (run === undefined) return -1;
    const { offset } = run;
    run.offset += length;
    run.length -= length;
    if (run.length === 0) this.#free.splice(index, 1);
    this.#used.set(offset, length);
    return offset;
  }

  /** Frees an allocation. @param offset as {@link allocate} returned it. */
  release(offset: number): void {
    const length = this.#used.get(offset)!;
    this.#used.delete(offset);
    const after = this.#free.findIndex((run) => run.offset > offset);
    const at = after < 0 ? this.#free.length : after;
    const previous = this.#free[at - 1];
    const next = this.#free[at];
    const joinsPrevious = previous !== undefined && previous.offset + previous.length === offset;
    const joinsNext = next !== undefined && offset + length === next.offset;
    if (joinsPrevious) previous.length += length + (joinsNext ? next.length : 0);
    if (joinsNext && !joinsPrevious) {
      next.offset = offset;
      next.length += length;
    }
    if (joinsPrevious && joinsNext) this.#free.splice(at, 1);
    if (!joinsPrevious && !joinsNext) this.#free.splice(at, 0, { offset, length });
  }

  /** The guest address of an offset, as descriptors of a ring have it. */
  guestAddress(offset: number): number {
    return GUEST_BASE + offset;
  }

  /** The user address of a guest address, as SET_VRING_ADDR has it. */
  userAddress(guestAddress: number): number {
    return guestAddress - GUEST_BASE + USER_BASE;
  }

  close(): void {
    this.mapping.unmap();
    this.#fd.close();
  }
}

function roundUp(size: number): number {
  return Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
}
