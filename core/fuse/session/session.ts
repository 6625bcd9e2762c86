import {
  Errno,
  FsError,
  type Attributes,
  type Awaitable,
  type Backend,
  type Completions,
  type Gathered,
} from '../../backend/index.js';
import type { Message } from '../../memory/index.js';
import {
  Freshness,
  HandleKind,
  HandleTable,
  LookupCounts,
  NO_HANDLE,
  NO_SLOT,
  type Export,
  type LockSession,
  type NodeTable,
} from '../../state/index.js';
import { CUSE_INIT_BSWAP_RESERVED, INIT_BSWAP_RESERVED, OPCODE_END } from '../wire/abi.js';
import { Arguments } from '../wire/arguments.js';
import { Counters } from './counters.js';
import { Faults } from './faults.js';
import { closeHandle, endHandle } from '../operations/handles.js';
import { InFlight } from './in-flight.js';
import type { Negotiated } from './negotiation.js';
import { type Batch, Gathering, LARGE } from './gathering.js';
import { GATHERED, IGNORED, PARKED, refusal, type Operation } from '../operations/operation.js';
import { operations } from '../operations/table.js';
import { BODY, Reply, validity, type Validity } from '../wire/reply.js';
import { Request } from './request.js';
import type { FileTable } from './file-table.js';
import { putHeader, sendWords } from '../wire/reply-structures.js';
import { fuse_in_header } from '../wire/structures.js';

export interface SessionOptions {
  /**
   * Most lock requests that may wait at a time; beyond, ENOLCK. Each keeps a place in its
   * transport's queue: they must be fewer than a queue has, or no unlock gets through. The default
   * suits QEMU's queues of 128.
   */
  readonly maxWaiters?: number;
  /**
   * Milliseconds that {@link Session.drain} lets requests finish, and then again after it has
   * aborted them.
   */
  readonly drainTimeout?: number;
  /** What threads see that serve queues of the session, where there may be some. */
  readonly fileTable?: FileTable | undefined;
}

const UNKNOWN_OPCODE = refusal('unknown opcode', Errno.ENOSYS);
const SWAPPED = refusal('INIT of the other byte order', Errno.EPROTO);
const MALFORMED = refusal('malformed request', Errno.EIO);
const TOO_SHORT = refusal('request that is too short', Errno.EINVAL);
const NOT_MOUNTED = refusal('request outside a mount', Errno.EIO);
const NO_ROOM = refusal('request with too little room for its reply', Errno.EIO);

/**
 * One guest that has mounted an export: requests go in by {@link dispatch}, each is answered once
 * through its message.
 *
 * A request of a synchronous backend is answered before `dispatch` returns and leaves no garbage;
 * the pooled {@link Request} of one that must be waited for is kept until its promise settles.
 */
export class Session {
  readonly export: Export;
  readonly backend: Backend;
  readonly nodes: NodeTable;
  readonly counts: LookupCounts;
  readonly handles: HandleTable;
  /** What data the guest may keep, where the cache policy's `data` is `auto`. */
  readonly freshness: Freshness | undefined;
  /** The guest's locks. Replaced when the guest starts anew. */
  locks: LockSession<number>;
  /** The request being started. */
  readonly in = new Arguments();
  /** The reply being composed. */
  readonly out = new Reply();
  /** What INIT settled; nothing before. */
  negotiated: Negotiated | undefined = undefined;
  /** Requests that the backend is to carry out together. */
  readonly gathering = new Gathering((batch) => this.#endBatch(batch));
  /** What threads see that serve queues of the session. */
  readonly fileTable: FileTable | undefined;
  /** Figures for monitoring, of what this thread serves. */
  readonly counters = new Counters();
  readonly entryValidity: Validity;
  readonly negativeValidity: Validity;
  readonly attributeValidity: Validity;

  readonly #faults: Faults;
  readonly #maxWaiters: number;
  readonly #drainTimeout: number;
  readonly #spare: Request[] = [];
  readonly #inFlight = new InFlight();
  #incarnation = 0;
  #closed = false;

  /** @param id number of a session that is brought back; else a new one. */
  constructor(shared: Export, options: SessionOptions = {}, id: number = shared.nextSession()) {
    this.export = shared;
    this.backend = shared.backend;
    this.nodes = shared.nodes;
    this.counts = new LookupCounts(shared.nodes);
    this.handles = new HandleTable(shared.limits.handles);
    this.freshness = shared.cache.data === 'auto' ? new Freshness() : undefined;
    this.#maxWaiters = options.maxWaiters ?? 96;
    this.locks = shared.locks.openSession(id, this.#maxWaiters);
    this.entryValidity = validity(shared.cache.entryTimeout);
    this.negativeValidity = validity(shared.cache.negativeTimeout);
    this.attributeValidity = validity(shared.cache.attributeTimeout);
    this.fileTable = options.fileTable;
    this.fileTable?.begin(
      { entry: this.entryValidity, negative: this.negativeValidity, attributes: this.attributeValidity },
      {
        returnLookups: (slot, lookups) => this.counts.forget(slot, lookups),
        attributesDiffer: (slot) => this.freshness?.lose(slot),
      },
    );
    this.#faults = new Faults(shared.log);
    this.#drainTimeout = options.drainTimeout ?? 5000;
  }

  /** How this thread learns of what the backend carries out beside it. */
  get completions(): Completions | undefined {
    return this.backend.completions;
  }

  /** Counts the guest's starts. */
  get incarnation(): number {
    return this.#incarnation;
  }

  /** Requests that wait for a promise or a lock. */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Whether INIT settled a flag of the first word. */
  has(flag: number): boolean {
    return this.negotiated !== undefined && (this.negotiated.flags & flag) !== 0;
  }

  /** Whether INIT settled a flag of the second word. */
  has2(flag: number): boolean {
    return this.negotiated !== undefined && (this.negotiated.flags2 & flag) !== 0;
  }

  /**
   * Serves one request. Never throws; the message is answered now or later, once.
   * @param following requests that are to be handed over in the same turn, before {@link submit}:
   * where there are many, they may be gathered.
   */
  dispatch(message: Message, following = 0): void {
    const { gathering } = this;
    if (gathering.outstanding > 0) this.backend.completions!.collect();
    const request = this.#spare.pop() ?? new Request();
    request.message = message;
    const loaded = this.in.load(message);
    if (loaded < 0) {
      this.#recycle(request);
      this.counters.unanswerable += 1;
      message.fail();
      return;
    }
    const operation = this.#admit(request, loaded);
    request.operation = operation;
    if (gathering.count > 0 && operation.startsDuringBatch !== true) this.submit();
    gathering.following = following;
    let length: number;
    try {
      const result = operation.start(this, request);
      if (result instanceof Promise) {
        this.#wait(request, result);
        return;
      }
      if (result === PARKED) return;
      if (result === GATHERED) {
        if (gathering.add(request)) this.submit();
        return;
      }
      length = operation.finish(this, request, result);
    } catch (error) {
      length = -this.#errnoOf(error, request);
    }
    this.#reply(request, length);
  }

  /**
   * Whether the request at hand may be offered to a method of the backend that gathers.
   * @param size bytes of data.
   */
  mayGather(size: number): boolean {
    const { gathering, backend } = this;
    // It may be carried out on another thread, for which those before it need not wait.
    if (size >= LARGE && gathering.count > 0 && backend.completions !== undefined) this.submit();
    return gathering.begin(size);
  }

  /** Carries out the requests that were gathered. Never throws. */
  submit(): void {
    const { gathering } = this;
    if (gathering.count === 0) return;
    const batch = gathering.end();
    const { requests, results, count } = batch;
    const isLater = this.#submit(batch);
    for (let i = 0; i < count; i++) {
      const request = requests[i]!;
      const result = results[i]!;
      if (isLater) this.#keep(request);
      else if (result instanceof Promise) this.#wait(request, result);
      else this.#reply(request, isErrno(result) ? result : this.#finish(request, result));
    }
    if (isLater) gathering.outstanding += 1;
    else gathering.recycle(batch);
  }

  /** Has the backend carry out a batch. @returns whether it ends later. */
  #submit({ requests, results, count, later }: Batch): boolean {
    try {
      return this.backend.submit!(results, this.gathering.following > 0 ? later : undefined);
    } catch (error) {
      for (let i = 0; i < count; i++) results[i] = -this.#errnoOf(error, requests[i]!);
      return false;
    }
  }

  /**
   * Has the backend carry out at once what it gathered for one request. Never throws: what fails
   * has minus an errno for a result.
   */
  submitFor(request: Request, results: Awaitable<Gathered<object>>[], count: number): void {
    try {
      this.backend.submit!(results);
    } catch (error) {
      const code = -this.#errnoOf(error, request);
      for (let i = 0; i < count; i++) results[i] = code;
    }
  }

  /** A batch that was carried out beside this thread has its results. */
  #endBatch(batch: Batch): void {
    const { requests, results, count } = batch;
    this.gathering.outstanding -= 1;
    for (let i = 0; i < count; i++) {
      const request = requests[i]!;
      const result = results[i]!;
      if (result instanceof Promise) this.#settleLater(request, result);
      else if (isErrno(result)) this.#end(request, result);
      else this.#settle(request, result);
    }
    this.gathering.recycle(batch);
  }

  /** @returns the reply's length, as {@link Operation.finish}. */
  #finish(request: Request, result: unknown): number {
    try {
      return request.operation.finish(this, request, result);
    } catch (error) {
      return -this.#errnoOf(error, request);
    }
  }

  /** Reads the header. @returns the opcode's operation, or one that refuses. */
  #admit(request: Request, loaded: number): Operation {
    const { words, ints } = this.in;
    const opcode = words[fuse_in_header.opcode >> 2]!;
    request.uniqueLow = ints[fuse_in_header.unique >> 2]!;
    request.uniqueHigh = ints[(fuse_in_header.unique >> 2) + 1]!;
    const context = request.context;
    context.uid = words[fuse_in_header.uid >> 2]!;
    context.gid = words[fuse_in_header.gid >> 2]!;
    context.pid = words[fuse_in_header.pid >> 2]!;
    const operation = opcode < OPCODE_END ? operations[opcode] : undefined;
    if (operation === undefined) {
      request.opcode = 0;
      return opcode === INIT_BSWAP_RESERVED || opcode === CUSE_INIT_BSWAP_RESERVED ? SWAPPED : UNKNOWN_OPCODE;
    }
    request.opcode = opcode;
    const silent = operation.silent === true;
    if (loaded !== 0) return silent ? IGNORED : MALFORMED;
    if (this.in.length < operation.arguments) return silent ? IGNORED : TOO_SHORT;
    if (this.#closed || (this.negotiated === undefined && operation.always !== true)) {
      return silent ? IGNORED : NOT_MOUNTED;
    }
    return silent || request.message.writable.length >= BODY + operation.reply ? operation : NO_ROOM;
  }

  /** Keeps a request until its promise settles. */
  #wait(request: Request, result: Promise<unknown>): void {
    this.#keep(request);
    this.#settleLater(request, result);
  }

  /** Keeps a request, and what it uses, until {@link #end}. */
  #keep(request: Request): void {
    request.period = this.nodes.enter();
    if (request.handle !== NO_HANDLE) this.handles.use(request.handle);
    if (request.otherHandle !== NO_HANDLE) this.handles.use(request.otherHandle);
    this.park(request);
  }

  #settleLater(request: Request, result: Promise<unknown>): void {
    result.then(
      (value) => this.#settle(request, value),
      (error: unknown) => this.#end(request, -this.#errnoOf(error, request)),
    );
  }

  #settle(request: Request, value: unknown): void {
    let length = -Errno.EIO;
    try {
      if (request.incarnation === this.#incarnation && !request.abandoned) {
        length = this.#finish(request, value);
      } else request.operation.discard?.(this, request, value);
    } catch (error) {
      length = -this.#errnoOf(error, request);
    }
    this.#end(request, length);
  }

  #end(request: Request, length: number): void {
    const { handle, otherHandle, period } = request;
    this.answer(request, length);
    if (handle !== NO_HANDLE && this.handles.unuse(handle)) void endHandle(this, handle);
    if (otherHandle !== NO_HANDLE && this.handles.unuse(otherHandle)) void endHandle(this, otherHandle);
    this.nodes.leave(period);
  }

  /** Keeps a request that {@link answer} will end. */
  park(request: Request): void {
    request.incarnation = this.#incarnation;
    if (this.#inFlight.add(request)) this.#cancel(request);
  }

  /** Ends a request that was kept. @param length as {@link Operation.finish} returns it. */
  answer(request: Request, length: number): void {
    if (request.abandoned) {
      this.#recycle(request);
      return;
    }
    this.#inFlight.remove(request);
    this.#reply(request, length);
  }

  /** Answers a request and takes it back into the pool. */
  #reply(request: Request, length: number): void {
    const { message, operation } = request;
    this.counters.count(request.opcode, length);
    let written = 0;
    if (operation.silent !== true) {
      if (message.writable.length < BODY) written = -1;
      else written = this.#compose(request, length);
    }
    this.#recycle(request);
    if (written >= 0) message.complete(written);
    else {
      this.counters.unanswerable += 1;
      message.fail();
    }
  }

  /** Puts header and structure into the guest's buffers. @returns the reply's length. */
  #compose(request: Request, length: number): number {
    const failed = length < 0;
    const total = failed ? BODY : BODY + length + request.data;
    const words = this.out.words;
    putHeader(words, total, failed ? length : 0, request.uniqueLow, request.uniqueHigh);
    const { writable } = request.message;
    const bytes = failed ? BODY : BODY + length;
    // Structures are whole words, names and values are not.
    sendWords(writable, words, (bytes & 3) === 0 ? bytes : BODY);
    if ((bytes & 3) !== 0) writable.copyIn(BODY, this.out.bytes, BODY, length);
    return total;
  }

  #recycle(request: Request): void {
    request.reset();
    this.#spare.push(request);
  }

  /** The errno for what was thrown; mistakes are logged. */
  #errnoOf(error: unknown, request: Request): number {
    const faults = this.#faults.count;
    const errno = this.#faults.errnoOf(error, request);
    this.counters.faults += this.#faults.count - faults;
    return errno;
  }

  /**
   * The slot of the node that the request's header names.
   * @throws ESTALE if the guest can't know it.
   */
  node(): number {
    const { ints } = this.in;
    const at = fuse_in_header.nodeid >> 2;
    return this.resolve(ints[at]!, ints[at + 1]!);
  }

  /** The slot of a node id, in signed halves. @throws ESTALE if the guest can't know it. */
  resolve(low: number, high: number): number {
    const slot = this.counts.resolve(low, high);
    if (slot === NO_SLOT) throw FsError.of('ESTALE');
    return slot;
  }

  /**
   * The handle whose `fh` is at an offset of the arguments.
   * @param node offset, in the request, of the node id that it must belong to. A guest may use the
   * node through a handle even where its FORGET, on another queue, came first.
   * @throws EBADF if there is no such handle, or it is another node's.
   */
  handle(offset: number, kind: HandleKind, node: number = fuse_in_header.nodeid): number {
    const { ints } = this.in;
    const at = (fuse_in_header.bytes + offset) >> 2;
    const index = this.handles.find(ints[at]!, ints[at + 1]!, kind);
    if (index === NO_HANDLE) throw FsError.of('EBADF');
    const slot = this.handles.slot(index);
    if (this.nodes.idLow(slot) !== ints[node >> 2] || this.nodes.idHigh(slot) !== ints[(node >> 2) + 1]) {
      throw FsError.of('EBADF');
    }
    return index;
  }

  /**
   * Shows a node that a thread had to ask for.
   * @param told attributes of which the guest is being told, if it is.
   */
  publishNode(slot: number, told: Attributes | undefined): void {
    const { fileTable, nodes, counts, backend } = this;
    const low = nodes.idLow(slot);
    const high = nodes.idHigh(slot);
    // The answer may come after the guest's last FORGET, which has hidden the node.
    if (fileTable === undefined || counts.resolve(low, high) === NO_SLOT) return;
    const backing = backend.backing?.(nodes.node(slot), undefined);
    if (backing === undefined || backing.fd < 0 || !backing.attributes) return;
    fileTable.publishNode(slot, low, high, backing, told);
  }

  /**
   * Shows a name's node that a thread had to ask for.
   * @param slot of the directory.
   * @param hash of the name.
   */
  publishEntry(slot: number, hash: number, child: number, attributes: Attributes): void {
    const { fileTable, nodes, backend } = this;
    if (fileTable === undefined || attributes.submount === true) return;
    const parent = backend.backing?.(nodes.node(slot), undefined);
    const backing = backend.backing?.(nodes.node(child), undefined);
    const mount = parent?.names === true ? parent.identity?.mount : undefined;
    if (backing?.identity === undefined || backing.identity.mount !== mount) return;
    const name = { low: nodes.idLow(slot), high: nodes.idHigh(slot), hash };
    const low = nodes.idLow(child);
    const high = nodes.idHigh(child);
    const node = { low, high, generation: nodes.generation(child) };
    const lookups = fileTable.publishEntry(name, child, node, backing, attributes);
    if (lookups > 0) this.counts.add(child, lookups);
  }

  /** Shows an open file that a thread had to ask for. */
  publishFile(handle: number): void {
    const { fileTable, nodes, handles, backend } = this;
    if (fileTable === undefined) return;
    const generation = handles.generation(handle);
    // The answer may come after the RELEASE, which has hidden the file.
    if (handles.find(handle, generation, HandleKind.FILE) === NO_HANDLE) return;
    const slot = handles.slot(handle);
    const backing = backend.backing?.(nodes.node(slot), handles.object(handle));
    if (backing === undefined) return;
    fileTable.publishFile(handle, generation, nodes.idLow(slot), nodes.idHigh(slot), backing);
  }

  /** Logs a mistake of the backend that no request is answered with. */
  report(error: unknown, message: string): void {
    this.#faults.report(error, message);
  }

  /** INTERRUPT: gives up a request. @returns whether it is in flight. */
  interrupt(low: number, high: number): boolean {
    const request = this.#inFlight.find(low, high);
    if (request !== undefined) this.#cancel(request);
    return request !== undefined;
  }

  /** An INTERRUPT overtook its request. */
  expectInterrupted(low: number, high: number): void {
    this.#inFlight.expect(low, high);
  }

  #cancel(request: Request): void {
    if (request.lockId === undefined) request.context.abort();
    else this.locks.interrupt(request.lockId);
  }

  /**
   * The guest is gone, or starts anew (a second INIT, DESTROY): gives up what is in flight, and
   * releases its locks, handles and lookups. @returns a promise where handles take time to close.
   */
  reset(): Promise<void> | undefined {
    this.negotiated = undefined;
    this.#incarnation += 1;
    this.locks.close(Errno.EINTR);
    this.locks = this.export.locks.openSession(this.export.nextSession(), this.#maxWaiters);
    this.#inFlight.forgetExpected();
    this.#inFlight.each((request) => {
      if (request.incarnation !== this.#incarnation) request.context.abort();
    });
    const closing: Promise<void>[] = [];
    this.handles.each((index) => {
      const closed = closeHandle(this, index);
      if (closed !== undefined) closing.push(closed);
    });
    this.fileTable?.clear();
    this.counts.clear();
    return closing.length === 0 ? undefined : Promise.all(closing).then(() => undefined);
  }

  /**
   * Finishes what is in flight, as before the rings are taken away: waiting locks are given up
   * (EINTR), the rest may end by itself, is then aborted, and at last answered with EIO whatever
   * becomes of it.
   */
  async drain(): Promise<void> {
    this.locks.cancelAll(Errno.EINTR);
    if (await this.#inFlight.idle(this.#drainTimeout)) return;
    this.#inFlight.each((request) => request.context.abort());
    if (await this.#inFlight.idle(this.#drainTimeout)) return;
    this.export.log.warn({ requests: this.#inFlight.size }, 'requests that do not end are answered with EIO');
    this.#inFlight.each((request) => this.#abandon(request));
  }

  /** Answers a request whose result never comes; the promise may still settle. */
  #abandon(request: Request): void {
    this.#inFlight.remove(request);
    request.abandoned = true;
    request.message.readable.leaveArrays();
    request.message.writable.leaveArrays();
    this.counters.count(request.opcode, -Errno.EIO);
    if (request.operation.silent === true) request.message.complete(0);
    else if (request.message.writable.length < BODY) request.message.fail();
    else request.message.complete(this.#compose(request, -Errno.EIO));
  }

  /** Ends the session: drains it and releases everything that the guest had. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.drain();
    await this.reset();
    this.locks.close(Errno.EINTR);
  }
}

/** Whether what came of a gathered request is minus an errno. */
function isErrno(result: unknown): result is number {
  return typeof result === 'number' && result < 0;
}
