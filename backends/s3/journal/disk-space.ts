import { statfsSync } from 'node:fs';

/** The part of a disk for nothing but the journal's own records, and its limits in bytes. */
const RESERVE_SHARE = 1 / 16;
const RESERVE_MIN_BYTES = 2 ** 20;
const RESERVE_MAX_BYTES = 64 * 2 ** 20;
/** Milliseconds for which a figure is used, less what was announced since. */
const FIGURE_MS = 250;

/**
 * The free space of the disk with the cache folder. A reserve is kept: what was accepted needs
 * records of its uploads and renames even when the disk has no room for more data.
 */
export class DiskSpace {
  readonly #folder: string;
  /** Bytes that were available when the mount began. */
  readonly atStart: number;
  readonly reserve: number;
  #available: number;
  #until = 0;

  private constructor(folder: string, total: number, available: number) {
    this.#folder = folder;
    this.atStart = available;
    this.#available = available;
    this.reserve = Math.min(RESERVE_MAX_BYTES, Math.max(RESERVE_MIN_BYTES, total * RESERVE_SHARE));
  }

  /** @throws the system's error where the folder does not exist. */
  static of(folder: string): DiskSpace {
    const { blocks, bavail, bsize } = statfsSync(folder);
    return new DiskSpace(folder, blocks * bsize, bavail * bsize);
  }

  /**
   * Whether the disk takes so many bytes more without the reserve. They count as taken from then
   * on.
   */
  takes(bytes: number): boolean {
    const now = performance.now();
    const isNear = this.#available - bytes < 4 * this.reserve;
    if (isNear || now > this.#until) {
      const { bavail, bsize } = statfsSync(this.#folder);
      this.#available = bavail * bsize;
      this.#until = now + FIGURE_MS;
    }
    if (this.#available - bytes < this.reserve) return false;
    this.#available -= bytes;
    return true;
  }
}

/** Whether a system call failed for want of room. */
export function isFull(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return code === 'ENOSPC' || code === 'EDQUOT';
}
