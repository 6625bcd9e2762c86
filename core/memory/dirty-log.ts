import type { Mapping } from '../system/index.js';

/**
 * The bytes of guest memory for each bit of the log (vhost-user, "Migration": `VHOST_LOG_PAGE`).
 */
const LOG_PAGE_BYTES = 4096;

/**
 * The bitmap in which a back-end marks the pages that it has written, so that live migration sends
 * them again (QEMU docs/interop/vhost-user.rst, "Migration"). Bit n of byte b is page 8b + n of
 * guest physical memory.
 */
export class DirtyLog {
  readonly #mapping: Mapping;

  /** @param mapping the shared bitmap, which the caller keeps owning. */
  constructor(mapping: Mapping) {
    this.#mapping = mapping;
  }

  /**
   * Marks the pages of `length` bytes at a guest physical address. Pages beyond the log's end are
   * ignored.
   */
  mark(guestAddress: number, length: number): void {
    if (length === 0) return;
    const last = Math.floor((guestAddress + length - 1) / LOG_PAGE_BYTES);
    for (let page = Math.floor(guestAddress / LOG_PAGE_BYTES); page <= last; page++) {
      const byte = Math.floor(page / 8);
      if (byte >= this.#mapping.length) return;
      const address = this.#mapping.address + byte;
      const window = this.#mapping.windowAt(address);
      // Atomic, since the front-end reads and clears bits at the same time.
      Atomics.or(window.u8, address - window.start, 1 << (page % 8));
    }
  }
}
