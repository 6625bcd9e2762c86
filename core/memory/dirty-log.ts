import type { Mapping } from '../system/index.js';

/**
 * Bytes of guest memory that one bit of the log stands for (vhost-user, "Migration":
 * `VHOST_LOG_PAGE`).
 */
const LOG_PAGE = 4096;

/**
 * The bitmap in which a back-end tells its front-end what it wrote, so that live migration sends
 * those pages again (QEMU docs/interop/vhost-user.rst, "Migration"): bit n of byte b is page 8b + n
 * of guest physical memory.
 */
export class DirtyLog {
  readonly #mapping: Mapping;

  /** @param mapping the shared bitmap; stays its owner's. */
  constructor(mapping: Mapping) {
    this.#mapping = mapping;
  }

  /**
   * Marks the pages that `length` bytes at a guest physical address touch. Pages beyond the log are
   * left out.
   */
  mark(guestAddress: number, length: number): void {
    if (length === 0) return;
    const last = Math.floor((guestAddress + length - 1) / LOG_PAGE);
    for (let page = Math.floor(guestAddress / LOG_PAGE); page <= last; page++) {
      const byte = Math.floor(page / 8);
      if (byte >= this.#mapping.length) return;
      const address = this.#mapping.address + byte;
      const window = this.#mapping.windows.find(({ end }) => address < end)!;
      // The front-end fetches and clears the bits while they are set here.
      Atomics.or(window.u8, address - window.start, 1 << (page % 8));
    }
  }
}
