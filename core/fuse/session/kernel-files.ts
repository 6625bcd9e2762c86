import type { Slot } from '../../state/index.js';

/** Files of the host that the kernel uses itself, by numbers (FUSE_PASSTHROUGH). */
export interface HostFiles {
  /** @returns the number, above 0, or minus an errno. */
  open(fd: number): number;
  close(id: number): void;
}

/**
 * Which open files the kernel reads and writes itself. For one node these are all of those that are
 * open at a time, or none: it does not mix them, and has one file behind a node (Linux
 * `fs/fuse/iomode.c`). So the first one that is opened decides.
 */
export class KernelFiles {
  readonly #files: HostFiles;
  /** By node: the number, 0 where requests come for them, and how many are open. */
  readonly #open = new Map<Slot, { readonly id: number; count: number }>();

  constructor(files: HostFiles) {
    this.#files = files;
  }

  /**
   * A file is opened.
   * @param fd its descriptor, or -1 if requests are to come for it.
   * @returns the number, or 0 if requests come for it.
   */
  begin(slot: Slot, fd: number): number {
    const known = this.#open.get(slot);
    if (known !== undefined) {
      known.count += 1;
      return known.id;
    }
    const id = fd < 0 ? 0 : Math.max(0, this.#files.open(fd));
    this.#open.set(slot, { id, count: 1 });
    return id;
  }

  /** A file was closed. */
  end(slot: Slot): void {
    const known = this.#open.get(slot);
    if (known === undefined) return;
    known.count -= 1;
    if (known.count > 0) return;
    this.#open.delete(slot);
    if (known.id > 0) this.#files.close(known.id);
  }
}
