import { FsError } from '../../core/backend/index.js';

const ENOSPC = FsError.of('ENOSPC');

/** What a volume may use, and what it uses. */
export class Space {
  /** Pages of 4 KiB that file content may take. */
  readonly maxPages: number;
  /** Inodes, counting each further hard link as one (as tmpfs does: a name takes memory too). */
  readonly maxInodes: number;
  /** Pages in use. */
  pages = 0;
  /** Inodes in use. */
  inodes = 0;

  constructor(maxPages: number, maxInodes: number) {
    this.maxPages = maxPages;
    this.maxInodes = maxInodes;
  }

  /** @throws ENOSPC when no inode is left. */
  takeInode(): void {
    if (this.inodes >= this.maxInodes) throw ENOSPC;
    this.inodes += 1;
  }

  /** @throws ENOSPC */
  takePages(count: number): void {
    if (count > this.maxPages - this.pages) throw ENOSPC;
    this.pages += count;
  }

  giveInode(): void {
    this.inodes -= 1;
  }
}
