import { closeBacking } from '../../../core/system/index.js';
import type { Node, Nodes } from './nodes.js';

/** A file that a guest has open. */
export class OpenFile {
  readonly fd: number;
  /** The next open file of the same node. */
  next: OpenFile | undefined;
  /**
   * Flags for preadv2 that make a read fail rather than wait for the disk; 0 where the file system
   * can't tell.
   */
  nowait: number;
  /** Writes go to the end whatever their offset. */
  readonly append: boolean;
  /** Every write waits for the disk. */
  readonly synchronous: boolean;
  /** Opened for writing. */
  readonly writable: boolean;
  /** A regular file whose data goes through the page cache. */
  readonly cached: boolean;

  private constructor(fd: number, next: OpenFile | undefined, flags: OpenFileFlags) {
    this.fd = fd;
    this.next = next;
    this.nowait = flags.nowait;
    this.append = flags.append;
    this.synchronous = flags.synchronous;
    this.writable = flags.writable;
    this.cached = flags.cached;
  }

  /** Takes the descriptor over and enters the file with its node. */
  static enter(nodes: Nodes, node: Node, fd: number, flags: OpenFileFlags): OpenFile {
    const file = new OpenFile(fd, node.open, flags);
    if (node.open === undefined) nodes.opened(node);
    node.open = file;
    return file;
  }

  /** Closes the file. */
  leave(nodes: Nodes, node: Node): void {
    if (node.open === this) node.open = this.next;
    else {
      let before = node.open;
      while (before !== undefined && before.next !== this) before = before.next;
      if (before !== undefined) before.next = this.next;
    }
    if (node.open === undefined) nodes.closed(node);
    nodes.beforeClose();
    closeBacking(this.fd);
  }
}

export interface OpenFileFlags {
  readonly nowait: number;
  readonly append: boolean;
  readonly synchronous: boolean;
  readonly writable: boolean;
  readonly cached: boolean;
}
