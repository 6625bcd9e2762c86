import {
  type Awaitable,
  type Completions,
  type Context,
  FsError,
  type Gathered,
  type GuestBuffer,
  WriteFlags,
} from '../../../core/backend/index.js';
import { CallList, IoThreads, type IoWork } from '../../../core/system/index.js';
import { useFsetid } from '../calls/caller.js';
import { Looks } from './stat-batches.js';
import type { Node } from '../nodes/nodes.js';
import type { OpenFile } from '../nodes/open-file.js';
import type { Share } from '../share.js';

/**
 * What a read returns that gave less than was asked for, or minus an errno, by the flags it was
 * made with.
 * @throws FsError
 */
type EndRead = (
  node: Node,
  file: OpenFile,
  buffer: GuestBuffer,
  offset: number,
  count: number,
  nowait: number,
) => Awaitable<number>;

/** What {@link gatherOperations}' `submit` fills. */
type Results = Awaitable<Gathered<Node>>[];

/** Calls in one list at most. */
const CAPACITY = 64;

/** A read or write that was gathered, and may have to be gone on with. */
interface Transferred {
  isRead: boolean;
  node: Node;
  file: OpenFile;
  buffer: GuestBuffer;
  length: number;
  offset: number;
  flags: number;
}

/** Reads, writes and looks that are made together, by this thread or another. */
class Group implements IoWork {
  readonly list: CallList;
  /**
   * Whether its writes clear set-id bits, which all of one group do or don't; nothing where there
   * are none.
   */
  clears: boolean | undefined;
  readonly #endRead: EndRead;
  readonly #looks: Looks;
  readonly #onEnd: (group: Group) => void;
  /** By call; nothing for a look. */
  readonly #transfers: (Transferred | undefined)[] = [];
  readonly #spare: Transferred[] = [];
  /** A read among them is work for a thread. */
  #isLarge = false;
  #hasLooks = false;
  #results: Results = [];
  #later: () => void = () => {};

  /** @param onEnd told when another thread has made it. */
  constructor(list: CallList, looks: Looks, endRead: EndRead, onEnd: (group: Group) => void) {
    this.list = list;
    this.#looks = looks;
    this.#endRead = endRead;
    this.#onEnd = onEnd;
  }

  addTransfer(isRead: boolean, node: Node, file: OpenFile, buffer: GuestBuffer, offset: number): void {
    const { list } = this;
    const { length } = buffer;
    const flags = isRead ? file.nowait : 0;
    const one = this.#spare.pop();
    if (one === undefined) {
      this.#transfers[list.count] = { isRead, node, file, buffer, length, offset, flags };
    } else {
      one.isRead = isRead;
      one.node = node;
      one.file = file;
      one.buffer = buffer;
      one.length = length;
      one.offset = offset;
      one.flags = flags;
      this.#transfers[list.count] = one;
    }
    if (length > CallList.SMALL) this.#isLarge = true;
    if (isRead) list.read(file.fd, buffer, offset, flags);
    else list.write(file.fd, buffer, offset);
  }

  addName(parent: Node, name: string): boolean {
    return this.#tookLook(this.#looks.addName(this.list, parent, name));
  }

  addNode(parent: Node, node: Node): boolean {
    return this.#tookLook(this.#looks.addNode(this.list, parent, node));
  }

  addDescriptor(fd: number): boolean {
    this.#looks.addDescriptor(this.list, fd);
    return this.#tookLook(true);
  }

  #tookLook(isTaken: boolean): boolean {
    if (!isTaken) return false;
    this.#hasLooks = true;
    this.#transfers[this.list.count - 1] = undefined;
    return true;
  }

  /** Makes what was added so far, on this thread. */
  run(): void {
    if (this.clears !== undefined) useFsetid(!this.clears);
    this.list.run();
  }

  carryOut(results: Results): void {
    this.run();
    this.#fill(results);
  }

  /**
   * Has another thread make it, where that is worth it.
   * @returns false where it is not, or none has room.
   */
  give(threads: IoThreads, results: Results, later: () => void): boolean {
    // Looks share their memory, and another thread acts with its own capabilities.
    if (!this.#isLarge || this.#hasLooks || this.clears !== undefined) return false;
    this.#results = results;
    this.#later = later;
    return threads.give(this);
  }

  end(): void {
    this.#fill(this.#results);
    this.#onEnd(this);
    this.#later();
  }

  /** Takes all results, and begins anew. */
  #fill(results: Results): void {
    const { list } = this;
    const { count } = list;
    for (let i = 0; i < count; i++) {
      const one = this.#transfers[i];
      if (one === undefined) results[i] = this.#takeLook(i);
      else {
        const done = list.result(i);
        results[i] = done === one.length ? done : this.#complete(one, done);
        this.#spare.push(one);
      }
    }
    list.clear();
    this.clears = undefined;
    this.#isLarge = false;
    this.#hasLooks = false;
  }

  #takeLook(index: number): Awaitable<Gathered<Node>> {
    try {
      return this.#looks.take(this.list, index);
    } catch (error) {
      return error instanceof FsError ? -error.errno : Promise.reject(error);
    }
  }

  /** What comes of a transfer that is not complete. */
  #complete({ isRead, node, file, buffer, offset, flags }: Transferred, count: number): Awaitable<number> {
    if (!isRead || flags === 0) return count;
    try {
      return this.#endRead(node, file, buffer, offset, count, flags);
    } catch (error) {
      return error instanceof FsError ? -error.errno : Promise.reject(error);
    }
  }
}

/**
 * Small reads and writes of the page cache, and looks at files, many in one foreign call; and large
 * reads on threads of their own, while further requests wait. Small ones are not worth a thread:
 * what passes between processors costs as much as they do. Writes stay here: the kernel lets one
 * thread at a time write to a file.
 */
export function gatherOperations(share: Share, endRead: EndRead) {
  const { ioThreads } = share.options;
  const list = CallList.open(CAPACITY);
  if (list === undefined) {
    if (ioThreads > 0) share.log.warn({}, 'calls cannot be made together here: ioThreads has no effect');
    return { startThreads: () => {}, stopThreads: () => Promise.resolve() };
  }
  const looks = new Looks(share, CAPACITY);
  const idle = [create(list)];
  let group: Group | undefined;
  let threads: IoThreads | undefined;
  // What was added is made early then: a descriptor's number may stand for another file afterwards.
  share.nodes.beforeClose = () => group?.run();
  share.onClose(() => looks.close());

  /** The group at hand, if it has room for one more. */
  function open(): Group | undefined {
    group ??= idle.pop() ?? create(CallList.open(CAPACITY)!);
    return group.list.isFull ? undefined : group;
  }

  function create(calls: CallList): Group {
    share.onClose(() => calls.close());
    return new Group(calls, looks, endRead, (ended) => idle.push(ended));
  }

  function isTaken({ length }: GuestBuffer, { cached }: OpenFile, isRead: boolean): boolean {
    return cached && (length <= CallList.SMALL || (isRead && threads?.hasRoom === true));
  }

  const completions: Completions = {
    get pending() {
      return threads?.pending ?? 0;
    },
    get ready() {
      return threads?.ready === true;
    },
    collect: () => threads?.collect(),
    attend: () => threads?.attend(),
    rest: () => threads?.rest() === true,
  };

  return {
    ...(ioThreads === 0 ? {} : { completions }),

    gatherRead(node: Node, file: OpenFile, buffer: GuestBuffer, offset: number, _context: Context): boolean {
      const into = isTaken(buffer, file, true) ? open() : undefined;
      into?.addTransfer(true, node, file, buffer, offset);
      return into !== undefined;
    },

    gatherWrite(
      node: Node,
      file: OpenFile,
      buffer: GuestBuffer,
      offset: number,
      flags: number,
      _context: Context,
    ): boolean {
      const isPlaced = file.append && (flags & WriteFlags.CACHE) !== 0;
      if (isPlaced || file.synchronous || !isTaken(buffer, file, false)) return false;
      const into = open();
      const clears = (flags & WriteFlags.KILL_SUIDGID) !== 0;
      if (into === undefined || (into.clears ?? clears) !== clears) return false;
      share.dropCapabilities(file.fd);
      into.clears = clears;
      into.addTransfer(false, node, file, buffer, offset);
      return true;
    },

    gatherLookup(parent: Node, name: string, _context: Context): boolean {
      return open()?.addName(parent, name) === true;
    },

    gatherGetattr(node: Node, file: OpenFile | undefined, _context: Context): boolean {
      const into = open();
      if (into === undefined) return false;
      if (file !== undefined) return into.addDescriptor(file.fd);
      if (share.nodes.isAnchored(node)) return into.addDescriptor(share.descriptor(node));
      const parent = share.whereSeen(node);
      return parent !== undefined && into.addNode(parent, node);
    },

    submit(results: Results, later?: () => void): boolean {
      const current = group;
      group = undefined;
      if (current === undefined) return false;
      if (later !== undefined && threads !== undefined && current.give(threads, results, later)) return true;
      current.carryOut(results);
      idle.push(current);
      return false;
    },

    startThreads(): void {
      if (ioThreads === 0) return;
      threads = new IoThreads(ioThreads, (error) => {
        share.log.error({ err: error }, 'a thread for reads ended; the others, or none, go on');
      });
    },

    async stopThreads(): Promise<void> {
      await threads?.close();
      threads = undefined;
    },
  };
}
