import { FsError } from '../../../core/backend/index.js';
import { INODE_HEAP_BYTES } from '../limits.js';
import { type HeapBudget, HeapShare } from './heap-share.js';

const ENOSPC = FsError.of('ENOSPC');

/** Bytes that an inode takes of the inode budget, as on tmpfs (`BOGO_INODE_SIZE`). */
const INODE_BYTES = 1024;

/**
 * Bytes that an xattr takes of the inode budget besides name and value, as on tmpfs
 * (`simple_xattr_space`).
 */
const XATTR_BYTES = 40;

/**
 * Bytes of heap that an xattr really takes besides name and value: an array with its header and
 * buffer, and a map entry.
 */
const XATTR_HEAP_BYTES = 512;

/** Most bytes of heap for a character of a string. */
const CHARACTER_BYTES = 2;

/** A volume's limits, and what it uses of them. */
export class Space {
  /** Pages of 4 KiB that file content may take. */
  readonly maxPages: number;
  /** Inodes. Each further hard link counts as one, as on tmpfs, since names take memory too. */
  readonly maxInodes: number;
  #pages = 0;
  #inodeBytes = 0;
  #attributeMemory = 0;
  /**
   * Bytes of heap of the content of all files, as if none of it were shared with other volumes.
   * {@link Arena} limits them.
   */
  contentHeapBytes = 0;
  /** Bytes of heap of inodes, names, targets and xattrs. */
  #heapBytes = 0;
  /** Of those, what is its origin's. */
  #inheritedHeapBytes = 0;
  #heap: HeapShare | undefined;

  /** @param heap of all volumes; none for what only counts. */
  constructor(maxPages: number, maxInodes: number, heap?: HeapBudget) {
    this.maxPages = maxPages;
    this.maxInodes = maxInodes;
    this.#heap = heap === undefined ? undefined : new HeapShare(heap);
  }

  /** Pages in use. */
  get pages(): number {
    return this.#pages;
  }

  /** Pages left; 0 where a fork took over more than its own limit. */
  get freePages(): number {
    return Math.max(0, this.maxPages - this.#pages);
  }

  /** Inodes in use, including the space of xattrs. */
  get inodes(): number {
    return Math.ceil(this.#inodeBytes / INODE_BYTES);
  }

  get freeInodes(): number {
    return Math.max(0, this.maxInodes - this.inodes);
  }

  /** @throws ENOSPC */
  takePages(count: number): void {
    if (count > this.freePages) throw ENOSPC;
    this.#pages += count;
  }

  givePages(count: number): void {
    this.#pages -= count;
  }

  /** @throws ENOSPC when no inode is left. */
  takeInode(): void {
    this.#checkHeap(INODE_HEAP_BYTES);
    this.#takeBytes(INODE_BYTES);
    this.#addHeap(INODE_HEAP_BYTES);
  }

  giveInode(): void {
    this.#inodeBytes -= INODE_BYTES;
    this.#addHeap(-INODE_HEAP_BYTES);
  }

  /**
   * Takes the space of an xattr. As on tmpfs, ACLs are not `counted` in the inode budget. But the
   * memory of all xattrs together is limited.
   * @throws ENOSPC
   */
  takeXattr(bytes: number, counted: boolean): void {
    this.#checkAttribute(bytes + XATTR_HEAP_BYTES);
    if (counted) this.#takeBytes(bytes + XATTR_BYTES);
    this.#addAttribute(bytes + XATTR_HEAP_BYTES);
  }

  giveXattr(bytes: number, counted: boolean): void {
    if (counted) this.#inodeBytes -= bytes + XATTR_BYTES;
    this.#addAttribute(-bytes - XATTR_HEAP_BYTES);
  }

  /**
   * Takes the heap of a symbolic link's target, which takes a page of the content too, as on tmpfs.
   * @throws ENOSPC
   */
  takeTarget(characters: number): void {
    const bytes = characters * CHARACTER_BYTES;
    this.#checkAttribute(bytes);
    this.#addAttribute(bytes);
  }

  giveTarget(characters: number): void {
    this.#addAttribute(-characters * CHARACTER_BYTES);
  }

  /** Adds what another volume uses, even beyond the limits. */
  inherit(other: Space): void {
    this.#pages += other.#pages;
    this.#inodeBytes += other.#inodeBytes;
    this.#attributeMemory += other.#attributeMemory;
    this.contentHeapBytes += other.contentHeapBytes;
    this.#addHeap(other.#heapBytes);
  }

  /** As {@link inherit}, of a volume that keeps it: the heap is not taken once more. */
  share(origin: Space): void {
    this.#inheritedHeapBytes += origin.#heapBytes;
    this.inherit(origin);
  }

  /** Nothing of what is counted is there any more. */
  end(): void {
    this.#heap?.set(0);
    this.#heap = undefined;
  }

  /** Returns to what a {@link copy} says. */
  rewind(to: Space): void {
    this.#pages = to.#pages;
    this.#inodeBytes = to.#inodeBytes;
    this.#attributeMemory = to.#attributeMemory;
    this.#addHeap(to.#heapBytes - this.#heapBytes);
  }

  /** A copy with the same limits and use. */
  copy(): Space {
    const copy = new Space(this.maxPages, this.maxInodes);
    copy.inherit(this);
    return copy;
  }

  /** @throws ENOSPC if attributes and targets cannot have so many bytes of heap more. */
  #checkAttribute(bytes: number): void {
    if (this.#attributeMemory + bytes > this.maxInodes * INODE_BYTES) throw ENOSPC;
    this.#checkHeap(bytes);
  }

  #addAttribute(bytes: number): void {
    this.#attributeMemory += bytes;
    this.#addHeap(bytes);
  }

  /** @throws ENOSPC if volumes have no heap left for so many bytes. */
  #checkHeap(bytes: number): void {
    const own = this.#heapBytes + bytes - this.#inheritedHeapBytes;
    if (this.#heap?.allows(Math.max(0, own)) === false) throw ENOSPC;
  }

  #addHeap(bytes: number): void {
    this.#heapBytes += bytes;
    this.#heap?.set(Math.max(0, this.#heapBytes - this.#inheritedHeapBytes));
  }

  #takeBytes(bytes: number): void {
    if (this.#inodeBytes + bytes > this.maxInodes * INODE_BYTES) throw ENOSPC;
    this.#inodeBytes += bytes;
  }
}
