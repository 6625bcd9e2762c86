import {
  type Awaitable,
  type Completions,
  type Context,
  FsError,
  type Gathered,
  type GuestBuffer,
  WriteFlags,
} from '../../core/backend/index.js';
import { IoBatch, IoThreads, type IoWork } from '../../core/system/index.js';
import { useFsetid } from './caller.js';
import { Looks } from './looks.js';
import type { Node } from './nodes.js';
import type { OpenFile } from './open-file.js';
import type { Share } from './share.js';

/** What a read returns that gave less than was asked for, or minus an errno, by the flags it was made with. @throws FsError */
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

/** What was gathered and may have to be gone on with. */
interface Transferred {
  isRead: boolean;
  node: Node;
  file: OpenFile;
  buffer: GuestBuffer;
  length: number;
  offset: number;
  flags: number;
}

/** Reads and writes for one system call, by this thread or another. */
class Group implements IoWork {
  readonly batch: IoBatch;
  /** Whether its writes clear set-id bits, which all of one group do or don't; nothing where there are none. */
  clears: boolean | undefined;
  /** A read among them is work for a thread. */
  isLarge = false;
  readonly #endRead: EndRead;
  readonly #gathered: Transferred[] = [];
  readonly #onEnd: (group: Group) => void;
  #count = 0;
  #results: Results = [];
  #later: () => void = () => {};

  /** @param onEnd told when another thread has carried it out. */
  constructor(batch: IoBatch, endRead: EndRead, onEnd: (group: Group) => void) {
    this.batch = batch;
    this.#endRead = endRead;
    this.#onEnd = onEnd;
  }

  add(isRead: boolean, node: Node, file: OpenFile, buffer: GuestBuffer, offset: number): void {
    const { batch } = this;
    const { length } = buffer;
    const flags = isRead ? file.nowait : 0;
    const one = this.#gathered[batch.count];
    if (one === undefined) this.#gathered.push({ isRead, node, file, buffer, length, offset, flags });
    else {
      one.isRead = isRead;
      one.node = node;
      one.file = file;
      one.buffer = buffer;
      one.length = length;
      one.offset = offset;
      one.flags = flags;
    }
    if (length > IoBatch.SMALL) this.isLarge = true;
    if (isRead) batch.addRead(file.fd, buffer, offset, flags);
    else batch.addWrite(file.fd, buffer, offset);
  }

  /** Carries them out on this thread. */
  carryOut(results: Results): void {
    if (this.clears !== undefined) useFsetid(!this.clears);
    this.clears = undefined;
    this.isLarge = false;
    this.#fill(results, this.batch.submit());
  }

  /** Has another thread carry them out. @returns false where none has room. */
  give(threads: IoThreads, results: Results, later: () => void): boolean {
    this.#count = this.batch.count;
    this.#results = results;
    this.#later = later;
    return threads.give(this);
  }

  end(): void {
    this.isLarge = false;
    this.#fill(this.#results, this.#count);
    this.#onEnd(this);
    this.#later();
  }

  #fill(results: Results, count: number): void {
    const counts = this.batch.results;
    for (let i = 0; i < count; i++) {
      const one = this.#gathered[i]!;
      const done = counts[i]!;
      results[i] = done === one.length ? done : this.#complete(one, done);
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
 * Small reads and writes of the page cache, many in one system call; looks at files, many in one foreign call; and large reads on
 * threads of their own, while further requests wait. Small ones are not worth a thread: what passes between processors costs as much
 * as they do. Writes stay here: the kernel lets one thread at a time write to a file.
 */
export function gatherOperations(share: Share, endRead: EndRead) {
  const { ioThreads } = share.options;
  const idle: Group[] = [];
  let group: Group | undefined;
  let isRefused = false;
  let threads: IoThreads | undefined;
  const looking = Looks.open(share);
  if (looking !== undefined) share.onClose(() => looking.close());
  /** Whether the i-th that was gathered is a look, where there are some; what came of the others. */
  const isLook: boolean[] = [];
  const transferred: Results = [];
  let count = 0;

  /** The group at hand, if it has room for one more. */
  function open(): Group | undefined {
    if (group === undefined) group = idle.pop() ?? create();
    return group === undefined || group.batch.isFull ? undefined : group;
  }

  function create(): Group | undefined {
    const batch = isRefused ? undefined : IoBatch.open();
    isRefused = batch === undefined;
    if (batch === undefined) return undefined;
    share.onClose(() => batch.close());
    return new Group(batch, endRead, (ended) => idle.push(ended));
  }

  function gather(isRead: boolean, node: Node, file: OpenFile, buffer: GuestBuffer, offset: number): boolean {
    if (!file.cached || (buffer.length > IoBatch.SMALL && !(isRead && threads?.hasRoom === true)))
      return false;
    const into = open();
    if (into === undefined) return false;
    into.add(isRead, node, file, buffer, offset);
    isLook[count++] = false;
    return true;
  }

  function gatherLookup(parent: Node, name: string, _context: Context): boolean {
    return tookLook(looking!.addName(parent, name));
  }

  function gatherGetattr(node: Node, file: OpenFile | undefined, _context: Context): boolean {
    if (file !== undefined) return tookLook(looking!.addDescriptor(file.fd));
    if (share.nodes.isAnchored(node)) return tookLook(looking!.addDescriptor(share.descriptor(node)));
    const parent = share.whereSeen(node);
    return parent !== undefined && tookLook(looking!.addNode(parent, node));
  }

  function tookLook(isTaken: boolean): boolean {
    if (isTaken) isLook[count++] = true;
    return isTaken;
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
      return gather(true, node, file, buffer, offset);
    },

    gatherWrite(
      node: Node,
      file: OpenFile,
      buffer: GuestBuffer,
      offset: number,
      flags: number,
      _context: Context,
    ): boolean {
      const isClearing = (flags & WriteFlags.KILL_SUIDGID) !== 0;
      const isPlaced = file.append && (flags & WriteFlags.CACHE) !== 0;
      const clears = group?.clears;
      if (isPlaced || file.synchronous || (clears !== undefined && clears !== isClearing)) return false;
      share.dropCapabilities(file.fd);
      if (!gather(false, node, file, buffer, offset)) return false;
      group!.clears = isClearing;
      return true;
    },

    ...(looking === undefined ? {} : { gatherLookup, gatherGetattr }),

    submit(results: Results, later?: () => void): boolean {
      const all = count;
      count = 0;
      const current = group;
      group = undefined;
      const looks = looking !== undefined && looking.count > 0 ? looking : undefined;
      if (current !== undefined) {
        const mayGive = later !== undefined && looks === undefined && current.isLarge;
        if (mayGive && threads !== undefined && current.clears === undefined) {
          if (current.give(threads, results, later)) return true;
        }
        current.carryOut(looks === undefined ? results : transferred);
        idle.push(current);
      }
      if (looks === undefined) return false;
      // After the writes, so that attributes show them.
      looks.run();
      for (let i = 0, look = 0; i < all; i++) {
        results[i] = isLook[i]! ? take(looks, look++) : transferred[i - look];
      }
      looks.clear();
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

/** What came of the i-th look. */
function take(looks: Looks, index: number): Awaitable<Gathered<Node>> {
  try {
    return looks.take(index);
  } catch (error) {
    return error instanceof FsError ? -error.errno : Promise.reject(error);
  }
}
