import { setImmediate } from 'node:timers/promises';
import {
  type Attributes,
  type Awaitable,
  type Backend,
  type Context,
  DAEMON,
  type DirectoryEntry,
  type Entry,
  FileType,
  FsError,
  type FsStatistics,
  nodeBytesOf,
  type Steps,
  UsageError,
  wait,
} from '../../backend/index.js';
import { heapLimit } from '../../backend/limits.js';
import { NodesInUse } from '../nodes-in-use.js';

/** What is known of a node that is in use. */
export interface Charged {
  /** Bytes that the sum has for it. */
  size: number;
  /** It has lost its last name: what it is charged for goes with it. */
  isOrphan: boolean;
  /** It was opened to append: where a write goes is not known before. */
  appends: boolean;
  /** Requests under way that change its content. */
  changing: number;
  /** One of these may change its size. */
  isDirty: boolean;
}

/** Nodes that are counted at a start before other work gets its turn. */
const AT_ONCE = 256;

/** Bytes of the heap for a node that is kept while nodes are counted, beside the backend's own. */
const COUNTED_BYTES = 64;

const BLOCK_BYTES = 4096;

/** What a file system holds, and what it may hold. */
export class Usage<N extends object, F> {
  readonly #inner: Backend<N, F>;
  readonly #limits: { readonly bytes: number; readonly inodes: number };
  readonly #mostKept: number;
  readonly nodes: NodesInUse<N, Charged>;
  #bytes = 0;
  #inodes = 0;

  /** @param keptBytes of the heap, for what is kept while nodes are counted: an eighth. */
  constructor(
    inner: Backend<N, F>,
    limits: { readonly bytes: number; readonly inodes: number },
    keptBytes = heapLimit / 8,
  ) {
    this.#inner = inner;
    this.#limits = limits;
    this.#mostKept = Math.floor(keptBytes / (COUNTED_BYTES + nodeBytesOf(inner)));
    this.nodes = new NodesInUse((node, charged) => {
      if (charged.isOrphan) {
        this.#bytes -= charged.size;
        this.#inodes -= 1;
      }
      inner.forget?.(node);
    });
  }

  /**
   * Counts what there is below the root, anew.
   * @throws UsageError if the directories to come, and files of which some names are to come, are
   *   more than the heap may have.
   */
  async count(root: N): Promise<void> {
    this.#bytes = 0;
    this.#inodes = 0;
    /** Files that have further names, and how many of these are to come. */
    const linked = new Map<N, number>();
    const directories: N[] = [root];
    let seen = 0;
    for (let at = directories.pop(); at !== undefined; at = directories.pop()) {
      for await (const { name } of await this.#list(at)) {
        if (name === '.' || name === '..') continue;
        if (++seen % AT_ONCE === 0) await setImmediate();
        if (directories.length + linked.size > this.#mostKept)
          throw new UsageError(
            `quota: more than ${this.#mostKept} directories, or files with several names, to count at a time; start with a larger heap (NODE_OPTIONS=--max-old-space-size=MIB)`,
          );
        const found = await this.#inner.lookup(at, name, DAEMON);
        if (found === undefined) continue;
        const { node, attributes } = found;
        const isParent = isDirectory(attributes);
        this.#inodes += 1;
        if (isParent) {
          directories.push(node);
          continue;
        }
        const others = (linked.get(node) ?? attributes.nlink ?? 1) - 1;
        if (!linked.has(node)) this.#bytes += chargedSize(attributes);
        // Kept until its other names have come, so that they give the same object.
        if (others > 0) linked.set(node, others);
        else {
          linked.delete(node);
          this.#inner.forget?.(node);
        }
      }
      if (at !== root) this.#inner.forget?.(at);
    }
    for (const node of linked.keys()) this.#inner.forget?.(node);
  }

  async #list(node: N): Promise<Iterable<DirectoryEntry> | AsyncIterable<DirectoryEntry>> {
    return (await this.#inner.readdir?.(node, DAEMON)) ?? [];
  }

  /** Adds to what is held. @throws ENOSPC beyond a limit; nothing is added then. */
  reserve(bytes: number, inodes: number): void {
    const isTooMuch =
      (bytes > 0 && this.#bytes + bytes > this.#limits.bytes) ||
      (inodes > 0 && this.#inodes + inodes > this.#limits.inodes);
    if (isTooMuch) throw FsError.of('ENOSPC');
    this.#bytes += bytes;
    this.#inodes += inodes;
  }

  /** The engine gets to know a node. */
  use({ node, attributes }: Entry<N>): Charged {
    return this.nodes.use(node, () => charge(attributes));
  }

  /** Looks a name up for the wrapper, which lets go of the node afterwards. */
  *find(parent: N, name: string, context: Context): Steps<Entry<N> | undefined> {
    const found = yield* this.nodes.giving(
      () => this.#inner.lookup(parent, name, context),
      (entry) => entry && this.nodes.hold(entry.node, () => charge(entry.attributes)),
    );
    return found && { node: found.node, attributes: { ...found.attributes } };
  }

  /** A name of a node is gone. `attributes` are those from before. */
  lostName({ node, attributes }: Entry<N>): void {
    const isLast = isDirectory(attributes) || (attributes.nlink ?? 1) <= 1;
    const charged = this.nodes.get(node);
    if (isLast && charged !== undefined) charged.isOrphan = true;
    else this.#inodes -= 1;
  }

  /**
   * Carries out what changes a file's content.
   * @param end the size that the file has then, if that is more than it has.
   * @throws ENOSPC
   */
  *change<R>(
    node: N,
    file: F | undefined,
    context: Context,
    end: (size: number) => number,
    go: () => Awaitable<R>,
    shrinks = false,
  ): Steps<R> {
    const charged = this.nodes.get(node) ?? (yield* this.#unknown(node, file, context));
    const reserved = Math.max(0, end(charged.size) - charged.size);
    this.reserve(reserved, 0);
    charged.changing += 1;
    charged.isDirty ||= reserved > 0 || shrinks;
    try {
      return yield* wait(go());
    } finally {
      charged.changing -= 1;
      if (charged.changing === 0 && charged.isDirty) {
        charged.isDirty = false;
        try {
          // The guest may have given up on the change, which has happened nevertheless.
          yield* this.#measure(node, file, charged, DAEMON);
        } catch {
          // What was reserved is the file's until it is measured, at the next change, or is gone.
          charged.isDirty = true;
          charged.size += reserved;
          this.#bytes += reserved;
        }
      }
      this.#bytes -= reserved;
    }
  }

  /** The engine knows all nodes that it uses from here, except the root. */
  *#unknown(node: N, file: F | undefined, context: Context): Steps<Charged> {
    const attributes = yield* wait(this.#inner.getattr(node, file, context));
    return charge(attributes);
  }

  *#measure(node: N, file: F | undefined, charged: Charged, context: Context): Steps<void> {
    const attributes = yield* wait(this.#inner.getattr(node, file, context));
    // Others have begun meanwhile: the last of them measures.
    if (charged.changing > 0) charged.isDirty = true;
    const size = charged.changing > 0 ? Math.max(charged.size, sizeOf(attributes)) : sizeOf(attributes);
    this.#bytes += size - charged.size;
    charged.size = size;
  }

  /** Figures with the limits in them. */
  statistics(inner: FsStatistics): FsStatistics {
    const { bytes, inodes } = this.#limits;
    const { blockSize = BLOCK_BYTES, blocks, blocksFree, files, filesFree } = inner;
    const limit = Math.floor(bytes / blockSize);
    const left = Math.floor(Math.max(0, bytes - this.#bytes) / blockSize);
    const leftInodes = Math.max(0, inodes - this.#inodes);
    const free = blocks === undefined ? left : Math.min(blocksFree ?? 0, left);
    return {
      ...inner,
      blockSize,
      blocks: Math.min(blocks ?? limit, limit),
      blocksFree: free,
      blocksAvailable: Math.min(inner.blocksAvailable ?? free, free),
      files: Math.min(files ?? inodes, inodes),
      filesFree: files === undefined ? leftInodes : Math.min(filesFree ?? 0, leftInodes),
    };
  }
}

function charge(attributes: Attributes): Charged {
  return {
    size: chargedSize(attributes),
    isOrphan: false,
    appends: false,
    changing: 0,
    isDirty: false,
  };
}

function sizeOf(attributes: Attributes): number {
  return attributes.size ?? 0;
}

/** Only regular files are charged for their size. */
function chargedSize(attributes: Attributes): number {
  return (attributes.mode & FileType.MASK) === FileType.REGULAR ? sizeOf(attributes) : 0;
}

function isDirectory(attributes: Attributes): boolean {
  return (attributes.mode & FileType.MASK) === FileType.DIRECTORY;
}
