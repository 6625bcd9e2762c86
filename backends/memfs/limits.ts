import { heapLimit, memoryLimit } from '../../core/backend/limits.js';

/** Limits of a volume. */
export interface VolumeLimits {
  /** Bytes of file content, counted in pages of 4 KiB. Default: half of the memory. */
  readonly size?: number | undefined;
  /** Files and directories. Default, and most of one volume: what a quarter of the heap holds. */
  readonly inodes?: number | undefined;
}

/**
 * Bytes of heap reserved for one inode or further name: the object, its entry, a long name, and the
 * engine's share.
 */
export const INODE_HEAP_BYTES = 1024;

/** Default limit of inodes: those of the first volume. */
export function defaultInodes(): number {
  return Math.floor(heapLimit / 4 / INODE_HEAP_BYTES);
}

/** Default limit of file content in bytes. */
export function defaultSize(): number {
  return Math.floor(memoryLimit() / 2);
}
