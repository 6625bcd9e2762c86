import type { Accelerator, Completions, Gathered } from '../../../core/backend/accelerator.js';
import {
  type Awaitable,
  type Context,
  FsError,
  type GuestBuffer,
  WriteFlags,
} from '../../../core/backend/index.js';
import { type Fd, CallList, IoThreads, type IoWork } from '../../../core/system/index.js';
import { useFsetid } from '../calls/impersonation.js';
import { StatBatch } from './stat-batches.js';
import type { Node } from '../nodes/nodes.js';
import type { OpenFile } from '../nodes/open-file.js';
import type { Share } from '../share.js';

/**
 * Finishes a read whose call returned `count`: fewer bytes than asked for, or minus an errno.
 * `nowait` are the `preadv2` flags of that call.
 * @throws FsError
 */
type FinishRead = (
  node: Node,
  file: OpenFile,
  buffer: GuestBuffer,
  offset: number,
  count: number,
  nowait: number,
  context: Context,
) => Awaitable<number>;

/** What {@link Accelerator.submit} fills: the answer of each request, in order. */
type Results = Awaitable<Gathered<Node>>[];

/** Most bytes of a read that an I/O thread is given. */
const GATHERED_BYTES = 2 ** 20;
/** Most calls in one batch. */
const BATCH_CAPACITY = 64;

/** A read or write in a batch, kept so that a short read can be finished afterwards. */
interface Transfer {
  isRead: boolean;
  node: Node;
  file: OpenFile;
  buffer: GuestBuffer;
  length: number;
  offset: number;
  flags: number;
  context: Context;
}

/** Reads, writes and stat calls that are made together, by this thread or by an I/O thread. */
class CallBatch implements IoWork {
  readonly list: CallList;
  /**
   * Whether the writes in it clear set-id bits. All writes of one batch agree, since the thread's
   * CAP_FSETID is set once for all of them. Undefined while there are none.
   */
  clearsSetIds: boolean | undefined;
  readonly #finishRead: FinishRead;
  readonly #stats: StatBatch;
  readonly #onEnd: (batch: CallBatch) => void;
  /** By index of the call; undefined for a stat call. */
  readonly #transfers: (Transfer | undefined)[] = [];
  readonly #spareTransfers: Transfer[] = [];
  /** Whether one of its reads is larger than `CallList.SMALL_BYTES`, so that an I/O thread pays. */
  #isLarge = false;
  #hasStats = false;
  #results: Results = [];
  #later: () => void = () => {};

  /** @param onEnd called when an I/O thread has made the calls. */
  constructor(list: CallList, stats: StatBatch, finishRead: FinishRead, onEnd: (batch: CallBatch) => void) {
    this.list = list;
    this.#stats = stats;
    this.#finishRead = finishRead;
    this.#onEnd = onEnd;
  }

  addTransfer(
    isRead: boolean,
    node: Node,
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    context: Context,
  ): void {
    const { list } = this;
    const { length } = buffer;
    const flags = isRead ? file.nowait : 0;
    const transfer = this.#spareTransfers.pop();
    if (transfer === undefined) {
      this.#transfers[list.count] = { isRead, node, file, buffer, length, offset, flags, context };
    } else {
      transfer.isRead = isRead;
      transfer.node = node;
      transfer.file = file;
      transfer.buffer = buffer;
      transfer.length = length;
      transfer.offset = offset;
      transfer.flags = flags;
      transfer.context = context;
      this.#transfers[list.count] = transfer;
    }
    if (length > CallList.SMALL_BYTES) this.#isLarge = true;
    if (isRead) list.read(file.fd, buffer, offset, flags);
    else list.write(file.fd, buffer, offset);
  }

  addName(parent: Node, name: string): boolean {
    return this.#tookStat(this.#stats.addName(this.list, parent, name));
  }

  addNode(parent: Node, node: Node): boolean {
    return this.#tookStat(this.#stats.addNode(this.list, parent, node));
  }

  addDescriptor(fd: Fd): boolean {
    this.#stats.addDescriptor(this.list, fd);
    return this.#tookStat(true);
  }

  #tookStat(isTaken: boolean): boolean {
    if (!isTaken) return false;
    this.#hasStats = true;
    this.#transfers[this.list.count - 1] = undefined;
    return true;
  }

  /** Makes the calls that were added so far, on this thread. */
  run(): void {
    if (this.clearsSetIds !== undefined) useFsetid(!this.clearsSetIds);
    if (this.#hasStats) this.#stats.takeHandles();
    this.list.run();
  }

  carryOut(results: Results): void {
    this.run();
    this.#fill(results);
  }

  /**
   * Hands the batch to an I/O thread.
   * @returns false if the caller must run it: no read in it is large, it contains stat calls or
   * writes, or no thread has room.
   */
  giveTo(threads: IoThreads, results: Results, later: () => void): boolean {
    // All batches share one `StatBatch`, and an I/O thread has capabilities of its own.
    if (!this.#isLarge || this.#hasStats || this.clearsSetIds !== undefined) return false;
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
      const transfer = this.#transfers[i];
      if (transfer === undefined) results[i] = this.#takeStat(i);
      else {
        const done = list.result(i);
        results[i] = done === transfer.length ? done : this.#complete(transfer, done);
        this.#spareTransfers.push(transfer);
      }
    }
    list.clear();
    if (this.#hasStats) this.#stats.clear();
    this.clearsSetIds = undefined;
    this.#isLarge = false;
    this.#hasStats = false;
  }

  #takeStat(index: number): Awaitable<Gathered<Node>> {
    try {
      return this.#stats.take(this.list, index);
    } catch (error) {
      return error instanceof FsError ? -error.errno : Promise.reject(error);
    }
  }

  /** The answer of a transfer that is not complete: a short or failed read is finished. */
  #complete(
    { isRead, node, file, buffer, offset, flags, context }: Transfer,
    count: number,
  ): Awaitable<number> {
    if (!isRead || flags === 0) return count;
    try {
      return this.#finishRead(node, file, buffer, offset, count, flags, context);
    } catch (error) {
      return error instanceof FsError ? -error.errno : Promise.reject(error);
    }
  }
}

/** The part of the share's accelerator that gathers, and the life of its threads. */
export interface GatherOperations {
  readonly gather: Accelerator<Node, OpenFile>;
  startThreads(): void;
  stopThreads(): Promise<void>;
}

/**
 * Operations that gather requests and carry them out together. Small reads and writes of cached
 * files, LOOKUP and GETATTR become one foreign call for many. Large reads go to I/O threads (option
 * `ioThreads`) while further requests are waiting.
 *
 * Small transfers stay on this thread: passing their data between processors costs as much as the
 * call itself. Writes stay too: the kernel lets only one thread at a time write to a file.
 */
export function gatherOperations(share: Share, finishRead: FinishRead): GatherOperations {
  const { ioThreads } = share.options;
  const list = CallList.open(BATCH_CAPACITY);
  if (list === undefined) {
    if (ioThreads > 0) share.log.warn({}, 'calls cannot be made together here: ioThreads has no effect');
    return { gather: {}, startThreads: () => {}, stopThreads: () => Promise.resolve() };
  }
  const stats = new StatBatch(share, BATCH_CAPACITY, CallList.open(BATCH_CAPACITY)!);
  const idle = [create(list)];
  let batch: CallBatch | undefined;
  let threads: IoThreads | undefined;
  // A descriptor that is closed may at once stand for another file: the calls that use it are made
  // before.
  share.nodes.beforeClose = () => batch?.run();
  share.onClose(() => stats.close());

  /** The batch that requests are added to; undefined when it is full. */
  function openBatch(): CallBatch | undefined {
    batch ??= idle.pop() ?? create(CallList.open(BATCH_CAPACITY)!);
    return batch.list.isFull ? undefined : batch;
  }

  function create(calls: CallList): CallBatch {
    share.onClose(() => calls.close());
    return new CallBatch(calls, stats, finishRead, (ended) => idle.push(ended));
  }

  function canGather({ length }: GuestBuffer, { cached }: OpenFile, isRead: boolean): boolean {
    if (!cached || length > GATHERED_BYTES) return false;
    return length <= CallList.SMALL_BYTES || (isRead && threads?.hasRoom === true);
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

  const gather: Accelerator<Node, OpenFile> = {
    ...(ioThreads === 0 ? {} : { completions }),

    gatherRead(node: Node, file: OpenFile, buffer: GuestBuffer, offset: number, context: Context): boolean {
      const target = canGather(buffer, file, true) ? openBatch() : undefined;
      target?.addTransfer(true, node, file, buffer, offset, context);
      return target !== undefined;
    },

    gatherWrite(
      node: Node,
      file: OpenFile,
      buffer: GuestBuffer,
      offset: number,
      flags: number,
      context: Context,
    ): boolean {
      const isPlaced = file.append && (flags & WriteFlags.CACHE) !== 0;
      if (isPlaced || file.synchronous || !canGather(buffer, file, false)) return false;
      const target = openBatch();
      const clearsSetIds = (flags & WriteFlags.KILL_SUIDGID) !== 0;
      if (target === undefined || (target.clearsSetIds ?? clearsSetIds) !== clearsSetIds) return false;
      share.xattrs.dropCapabilities(file.fd);
      target.clearsSetIds = clearsSetIds;
      target.addTransfer(false, node, file, buffer, offset, context);
      return true;
    },

    gatherLookup(parent: Node, name: string, _context: Context): boolean {
      return openBatch()?.addName(parent, name) === true;
    },

    gatherGetattr(node: Node, file: OpenFile | undefined, _context: Context): boolean {
      const target = openBatch();
      if (target === undefined) return false;
      if (file !== undefined) return target.addDescriptor(file.fd);
      if (share.nodes.isAnchored(node)) return target.addDescriptor(share.descriptor(node));
      const parent = share.finder.lastSeenParent(node);
      return parent !== undefined && target.addNode(parent, node);
    },

    submit(results: Results, later?: () => void): boolean {
      const current = batch;
      batch = undefined;
      if (current === undefined) return false;
      if (later !== undefined && threads !== undefined && current.giveTo(threads, results, later))
        return true;
      current.carryOut(results);
      idle.push(current);
      return false;
    },
  };

  return {
    gather,

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
