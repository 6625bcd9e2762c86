import { type Fd, closeBacking } from '../../../core/system/index.js';

/** A node with the list of its open files. */
export interface OpenNode {
  /** The first of its open files, which are linked by `next`. */
  open: OpenFile | undefined;
}

/** The table of nodes, as it follows which of them are open. */
export interface OpenNodes<N extends OpenNode> {
  /** A node gets its first open file. */
  opened(node: N): void;
  /** A node has lost its last open file. */
  closed(node: N): void;
  /** A descriptor is about to be closed. */
  beforeClose(): void;
}

/** A file that a guest has open. */
export class OpenFile {
  readonly fd: Fd;
  /** The next open file of the same node. */
  next: OpenFile | undefined;
  /**
   * `preadv2` flags that make a read fail rather than wait for the disk; 0 if the file system does
   * not support them.
   */
  nowait: number;
  /** Opened with O_APPEND: writes go to the end, whatever their offset. */
  readonly append: boolean;
  /** Opened with O_SYNC or O_DSYNC: every write waits for the disk. */
  readonly synchronous: boolean;
  /** Opened for writing. */
  readonly writable: boolean;
  /** A regular file whose data goes through the page cache. */
  readonly cached: boolean;

  private constructor(fd: Fd, next: OpenFile | undefined, flags: OpenFileFlags) {
    this.fd = fd;
    this.next = next;
    this.nowait = flags.nowait;
    this.append = flags.append;
    this.synchronous = flags.synchronous;
    this.writable = flags.writable;
    this.cached = flags.cached;
  }

  /** Makes an open file of a descriptor, which it now owns, and adds it to the node's list. */
  static enter<N extends OpenNode>(nodes: OpenNodes<N>, node: N, fd: Fd, flags: OpenFileFlags): OpenFile {
    const file = new OpenFile(fd, node.open, flags);
    if (node.open === undefined) nodes.opened(node);
    node.open = file;
    return file;
  }

  /** Removes the file from the node's list and closes its descriptor. */
  leave<N extends OpenNode>(nodes: OpenNodes<N>, node: N): void {
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
