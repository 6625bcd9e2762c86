import { heapLimit, memoryLimit } from '../../core/backend/limits.js';

/** Limits of a volume. */
export interface VolumeLimits {
  /** Bytes of file content, counted in pages of 4 KiB. Default: half of the memory. */
  readonly size?: number | undefined;
  /** Files and directories. Default: what half of the JavaScript heap holds. */
  readonly inodes?: number | undefined;
}

/**
 * Bytes of heap reserved for one inode: the object, its entry, a long name, and the engine's share.
 */
const HEAP_BYTES_PER_INODE = 2048;

/** Default limit of inodes. */
export function defaultInodes(): number {
  return Math.floor(heapLimit / 2 / HEAP_BYTES_PER_INODE);
}

/** Default limit of file content in bytes. */
export function defaultSize(): number {
  return Math.floor(memoryLimit() / 2);
}
