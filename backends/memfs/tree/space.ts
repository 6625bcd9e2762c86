import { FsError } from '../../../core/backend/index.js';

const ENOSPC = FsError.of('ENOSPC');

/** Bytes that an inode counts for in the inode budget, as on tmpfs (`BOGO_INODE_SIZE`). */
const INODE_COST = 1024;

/**
 * Bytes that an extended attribute counts for in it, beside name and value (`simple_xattr_space`).
 */
const XATTR_COST = 40;

/**
 * Bytes of heap that one really takes, beside name and value: an array, its header and a map's
 * entry.
 */
const XATTR_MEMORY = 256;

/** What a volume may use, and what it uses. */
export class Space {
  /** Pages of 4 KiB that file content may take. */
  readonly maxPages: number;
  /** Inodes; each further hard link counts as one (as on tmpfs: a name takes memory too). */
  readonly maxInodes: number;
  #pages = 0;
  #inodeBytes = 0;
  #attributeMemory = 0;

  constructor(maxPages: number, maxInodes: number) {
    this.maxPages = maxPages;
    this.maxInodes = maxInodes;
  }

  /** Pages in use. */
  get pages(): number {
    return this.#pages;
  }

  /** Pages left; 0 where a fork took over more than its own limit. */
  get freePages(): number {
    return Math.max(0, this.maxPages - this.#pages);
  }

  /** Inodes in use, the space of extended attributes included. */
  get inodes(): number {
    return Math.ceil(this.#inodeBytes / INODE_COST);
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
    this.#takeBytes(INODE_COST);
  }

  giveInode(): void {
    this.#inodeBytes -= INODE_COST;
  }

  /**
   * Takes what an extended attribute needs. ACLs are not `counted` in the inode budget, as on
   * tmpfs; but all attributes together are bounded by what they really take.
   * @throws ENOSPC
   */
  takeXattr(bytes: number, counted: boolean): void {
    if (this.#attributeMemory + bytes + XATTR_MEMORY > this.maxInodes * INODE_COST) throw ENOSPC;
    if (counted) this.#takeBytes(bytes + XATTR_COST);
    this.#attributeMemory += bytes + XATTR_MEMORY;
  }

  giveXattr(bytes: number, counted: boolean): void {
    if (counted) this.#inodeBytes -= bytes + XATTR_COST;
    this.#attributeMemory -= bytes + XATTR_MEMORY;
  }

  /** Takes over what another volume uses, beyond the limits if need be. */
  inherit(other: Space): void {
    this.#pages += other.#pages;
    this.#inodeBytes += other.#inodeBytes;
    this.#attributeMemory += other.#attributeMemory;
  }

  /** What is in use now, with the same limits. */
  copy(): Space {
    const copy = new Space(this.maxPages, this.maxInodes);
    copy.inherit(this);
    return copy;
  }

  #takeBytes(bytes: number): void {
    if (this.#inodeBytes + bytes > this.maxInodes * INODE_COST) throw ENOSPC;
    this.#inodeBytes += bytes;
  }
}
