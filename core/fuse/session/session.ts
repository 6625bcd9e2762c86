import type { Accelerator, Completions, Gathered } from '../../backend/accelerator.js';
import {
  Errno,
  FsError,
  type Attributes,
  type Awaitable,
  type Backend,
  type Logger,
} from '../../backend/index.js';
import { eachInTurns } from '../../backend/in-turns.js';
import { Pool, type Message } from '../../memory/index.js';
import {
  descriptorBudget,
  KeepCache,
  handleBudget,
  HandleKind,
  HandleTable,
  LookupCounts,
  NO_HANDLE,
  NO_PLACE,
  NO_SLOT,
  type Export,
  type LockSession,
  type HandleGeneration,
  type HandleIndex,
  type NodeIdHigh,
  type NodeIdLow,
  type NodeTable,
  type SessionJournal,
  type Slot,
  uniqueOf,
  type Verdict,
} from '../../state/index.js';
import { CUSE_INIT_BSWAP_RESERVED, INIT_BSWAP_RESERVED, Opcode, OPCODE_END } from '../wire/abi.js';
import { Arguments } from '../wire/arguments.js';
import { Counters } from './counters.js';
import { Faults } from './faults.js';
import { correctAppends } from '../operations/at-most-once.js';
import { closeHandle, endHandle } from '../operations/handles.js';
import { InFlight } from './in-flight.js';
import { type HostFiles, KernelFiles } from './kernel-files.js';
import type { Negotiated } from './negotiation.js';
import { Observed } from './observer.js';
import { type Batch, Gathering, LARGE } from './gathering.js';
import { GATHERED, IGNORED, PARKED, refusal, type Operation } from '../operations/operation.js';
import { operations } from '../operations/table.js';
import { BODY, Reply, validity, type Validity } from '../wire/reply.js';
import type { ExportPace, GuestPace } from './pace.js';
import { Request } from './request.js';
import { WritesUnderWay } from './writes-under-way.js';
import type { FileTable } from './file-table.js';
import { putHeader, sendWords } from '../wire/reply-writers.js';
import { fuse_in_header } from '../wire/structures.js';

export interface SessionOptions {
  /** Takes what this guest has logged. Default: the export's. */
  readonly log?: Logger;
  /**
   * How many lock requests may wait at a time; further ones get ENOLCK. Default: the export's
   * `LockLimits.sessionWaiters`.
   */
  readonly maxWaiters?: number;
  /**
   * How long {@link Session.drain} waits for requests to finish, in milliseconds, and then once
   * more after it has aborted them. Default: 5000.
   */
  readonly drainTimeoutMs?: number;
  /** Where files are published to queue threads, if there may be such threads. */
  readonly fileTable?: FileTable | undefined;
  /** Counts what this guest does, perhaps together with others. Default: one of its own. */
  readonly counters?: Counters;
  /** Files of this host that the guest's kernel, which is this host's, may use itself. */
  readonly hostFiles?: HostFiles | undefined;
  /** Who looks on what this guest asks for, perhaps others', too. Default: nobody. */
  readonly observed?: Observed | undefined;
  /** How much the export's guests may do in a second. Default: no limit. */
  readonly pace?: ExportPace | undefined;
  /** Called when the guest has mounted. It must not throw. */
  readonly onMounted?: (() => void) | undefined;
  /** Called when the backend has failed and that is logged. It must not throw. */
  readonly onFault?: ((error: unknown, message: string) => void) | undefined;
}

function nobody(): void {}

/** Opcodes, beside those without a reply, that no limit holds back: they begin or end something. */
const UNPACED: ReadonlySet<number> = new Set([
  Opcode.INIT,
  Opcode.DESTROY,
  Opcode.RELEASE,
  Opcode.RELEASEDIR,
]);

/** Opcodes that neither see nor change the content of a file, nor its size. */
const BESIDE_TRANSFERS: ReadonlySet<number> = new Set([
  Opcode.LOOKUP,
  Opcode.FORGET,
  Opcode.BATCH_FORGET,
  Opcode.READLINK,
  Opcode.SYMLINK,
  Opcode.MKNOD,
  Opcode.MKDIR,
  Opcode.UNLINK,
  Opcode.RMDIR,
  Opcode.RENAME,
  Opcode.RENAME2,
  Opcode.LINK,
  Opcode.STATFS,
  Opcode.OPENDIR,
  Opcode.READDIR,
  Opcode.READDIRPLUS,
  Opcode.RELEASEDIR,
  Opcode.ACCESS,
  Opcode.INTERRUPT,
]);
/** Opcodes that see them, of the file of their header. */
const SEES_FILE: ReadonlySet<number> = new Set([
  Opcode.READ,
  Opcode.GETATTR,
  Opcode.STATX,
  Opcode.LSEEK,
  Opcode.GETXATTR,
  Opcode.LISTXATTR,
]);
/** Opcodes that may change any file, or all of them. */
const CHANGES_ANY: ReadonlySet<number> = new Set([
  Opcode.COPY_FILE_RANGE,
  Opcode.COPY_FILE_RANGE_64,
  Opcode.CREATE,
  Opcode.SYNCFS,
  Opcode.INIT,
  Opcode.DESTROY,
]);

const UNKNOWN_OPCODE = refusal('unknown opcode', Errno.ENOSYS);
const SWAPPED = refusal('INIT of the other byte order', Errno.EPROTO);
const MALFORMED = refusal('malformed request', Errno.EIO);
const UNBEGUN = refusal('request that was held back', Errno.EINTR);
const TOO_SHORT = refusal('request that is too short', Errno.EINVAL);
const NOT_MOUNTED = refusal('request outside a mount', Errno.EIO);
const NO_ROOM = refusal('request with too little room for its reply', Errno.EIO);

/**
 * One guest that has mounted an export. {@link dispatch} takes a request, and its message is
 * answered once.
 *
 * If the backend returns a value, the reply is sent before `dispatch` returns, and no garbage is
 * made. If it returns a promise, the pooled {@link Request} is kept until the promise settles.
 */
export class Session {
  readonly export: Export;
  readonly backend: Backend;
  readonly log: Logger;
  readonly accelerator: Accelerator;
  readonly nodes: NodeTable;
  readonly counts: LookupCounts;
  readonly handles: HandleTable;
  /** Decides whose cached data the guest may keep, if the cache policy's `data` is `auto`. */
  readonly keepCache: KeepCache | undefined;
  /** The guest's locks. Replaced when the guest starts anew (see {@link reset}). */
  locks: LockSession<Slot>;
  /** What is being written, for backends that write later. */
  readonly writes = new WritesUnderWay();
  /** The request being started. */
  readonly in = new Arguments();
  /** The reply being composed. */
  readonly out = new Reply();
  /** What INIT negotiated; undefined outside a mount. */
  negotiated: Negotiated | undefined = undefined;
  /** The batch of requests that the backend will carry out together. */
  readonly gathering = new Gathering((batch) => this.#endBatch(batch));
  /** Where files are published to the threads that serve queues of this session. */
  readonly fileTable: FileTable | undefined;
  /**
   * Figures for monitoring. What queue threads answer themselves is added by {@link
   * countThreads}.
   */
  readonly counters: Counters;
  /** Open files that the kernel reads and writes itself, where it may. */
  readonly kernelFiles: KernelFiles | undefined;
  readonly #observed: Observed;
  readonly #pace: GuestPace<Request> | undefined;
  /** Keeps what the guest has for a process that follows, where somebody holds it. */
  journal: SessionJournal | undefined = undefined;
  /** What a former process has done of requests that come again, by their ids. */
  recovered: Map<number, Verdict> | undefined = undefined;
  readonly entryValidity: Validity;
  readonly negativeValidity: Validity;
  readonly attributeValidity: Validity;

  /** Tells that the guest has mounted. */
  readonly mounted: () => void;

  readonly #faults: Faults;
  readonly #maxWaiters: number | undefined;
  readonly #drainTimeoutMs: number;
  readonly #spare = new Pool<Request>();
  /** Whether there were requests since {@link submit}. */
  #hasTaken = false;
  /** Stands for this guest in the contexts of its requests. */
  readonly #guest: object = Object.freeze({});
  readonly #inFlight = new InFlight();
  #incarnation = 0;
  /** What resets have begun: handles, lookups and files that go in turns of the event loop. */
  #emptying: Promise<unknown> | undefined = undefined;
  #closed = false;

  /** @param id the number of a session that is restored. Default: a new one. */
  constructor(shared: Export, options: SessionOptions = {}, id: number = shared.nextSession()) {
    this.export = shared;
    this.backend = shared.backend;
    this.log = options.log ?? shared.log;
    this.accelerator = shared.accelerator;
    this.nodes = shared.nodes;
    this.counts = new LookupCounts(shared.nodes);
    // Where open files have descriptors, those are scarcer than memory.
    const budget = shared.accelerator.descriptors === true ? descriptorBudget : handleBudget;
    this.handles = new HandleTable(shared.limits.handles, budget);
    this.keepCache = shared.cache.data === 'auto' ? new KeepCache() : undefined;
    this.#maxWaiters = options.maxWaiters;
    this.locks = shared.locks.openSession(id, this.#maxWaiters);
    this.entryValidity = validity(shared.cache.entryTimeout);
    this.negativeValidity = validity(shared.cache.negativeTimeout);
    this.attributeValidity = validity(shared.cache.attributeTimeout);
    this.counters = options.counters ?? new Counters();
    this.kernelFiles = options.hostFiles === undefined ? undefined : new KernelFiles(options.hostFiles);
    this.#observed = options.observed ?? new Observed();
    this.#pace = options.pace?.join<Request>({
      counters: this.counters,
      resume: (request) => this.#begin(request),
    });
    this.fileTable = options.fileTable;
    this.fileTable?.begin(
      { entry: this.entryValidity, negative: this.negativeValidity, attributes: this.attributeValidity },
      {
        returnLookups: (slot, lookups) => this.counts.forget(slot, lookups),
        attributesDiffer: (slot) => this.keepCache?.lose(slot),
      },
    );
    if (this.fileTable !== undefined) this.#observed.begin(this.fileTable);
    this.#faults = new Faults(this.log, options.onFault);
    this.mounted = options.onMounted ?? nobody;
    this.#drainTimeoutMs = options.drainTimeoutMs ?? 5000;
  }

  /** Tells when batches have ended that the backend carries out on other threads. */
  get completions(): Completions | undefined {
    return this.accelerator.completions;
  }

  /** Counts how often the guest has started anew, see {@link reset}. */
  get incarnation(): number {
    return this.#incarnation;
  }

  /** Requests that wait for a promise or a lock. */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  /**
   * For how long the oldest request has waited for the backend, in milliseconds; 0 if none waits.
   */
  get longestWait(): number {
    let since = Infinity;
    this.#inFlight.each((request) => {
      if (request.lockId === undefined) since = Math.min(since, request.since);
    });
    return since === Infinity ? 0 : performance.now() - since;
  }

  /** Whether INIT negotiated a flag of the first word ({@link InitFlag}). */
  has(flag: number): boolean {
    return this.negotiated !== undefined && (this.negotiated.flags & flag) !== 0;
  }

  /** Whether INIT negotiated a flag of the second word ({@link InitFlag2}). */
  has2(flag: number): boolean {
    return this.negotiated !== undefined && (this.negotiated.flags2 & flag) !== 0;
  }

  /**
   * Serves one request. Never throws; the message is answered now or later, once.
   * @param following how many more requests will be dispatched before {@link submit} is called. If
   * there are many, the session may gather them.
   */
  dispatch(message: Message, following = 0): void {
    const { gathering } = this;
    if (gathering.outstanding > 0) this.accelerator.completions!.collect();
    const request = this.#spare.take() ?? new Request(this.#guest);
    request.message = message;
    const loaded = this.in.load(message);
    this.#hasTaken = true;
    if (loaded < 0) this.#refuse(request);
    else if (this.#pace === undefined || this.#pace.isOpen || !this.#isHeldBack(this.#pace, request))
      this.#start(request, loaded, following);
  }

  /** A message is no request, or has become none. */
  #refuse(request: Request): void {
    const { message } = request;
    this.#recycle(request);
    this.counters.unanswerable += 1;
    message.fail();
  }

  /** Whether the current request is to begin later. What gives something back never does. */
  #isHeldBack(pace: GuestPace<Request>, request: Request): boolean {
    const { words, ints } = this.in;
    const opcode = words[fuse_in_header.opcode >> 2]!;
    const operation = opcode < OPCODE_END ? operations[opcode] : undefined;
    if (operation?.silent === true || UNPACED.has(opcode)) return false;
    request.uniqueLow = ints[fuse_in_header.unique >> 2]!;
    request.uniqueHigh = ints[(fuse_in_header.unique >> 2) + 1]!;
    return pace.hold(request);
  }

  /** Serves a request that was held back. The guest may have changed it since. */
  #begin(request: Request): void {
    const loaded = this.in.load(request.message);
    if (loaded < 0) this.#refuse(request);
    else this.#start(request, loaded, 0);
    this.submit();
  }

  /** Serves the current request. */
  #start(request: Request, loaded: number, following: number): void {
    const { gathering } = this;
    request.began = this.counters.begin();
    const operation = this.#admit(request, loaded);
    request.operation = operation;
    if (request.began !== 0) this.#sample(request);
    if (this.#observed.observer !== undefined) this.#observe(request);
    if (gathering.count > 0 && operation.startsDuringBatch !== true) this.submitGathered();
    gathering.following = following;
    if (this.recovered !== undefined && this.#recover(request)) return;
    if (this.export.unfinished.count > 0) this.#finishBefore(request.opcode);
    let length: number;
    try {
      const result = operation.start(this, request);
      if (result instanceof Promise) {
        this.#wait(request, result);
        return;
      }
      if (result === PARKED) return;
      if (result === GATHERED) {
        if (gathering.add(request)) this.submitGathered();
        return;
      }
      length = operation.finish(this, request, result);
    } catch (error) {
      length = -this.#errnoOf(error, request);
    }
    this.#reply(request, length);
  }

  /**
   * Whether the current request may be offered to one of the accelerator's `gather` methods.
   * @param size the bytes of data that it transfers.
   */
  mayGather(size: number): boolean {
    const { gathering, accelerator } = this;
    // A large transfer may run on another thread. The requests gathered before it need not wait.
    if (size >= LARGE && gathering.count > 0 && accelerator.completions !== undefined) this.submitGathered();
    return gathering.begin(size);
  }

  /** Finishes the long transfers of all guests that the current request must not come amid. */
  #finishBefore(opcode: number): void {
    const { unfinished } = this.export;
    if (BESIDE_TRANSFERS.has(opcode)) return;
    const { ints } = this.in;
    const at = fuse_in_header.nodeid >> 2;
    const slot = CHANGES_ANY.has(opcode)
      ? undefined
      : this.counts.resolve(ints[at] as NodeIdLow, ints[at + 1] as NodeIdHigh);
    unfinished.finish(slot, !SEES_FILE.has(opcode));
  }

  /** Keeps a request of which a part is done, until {@link resume}. */
  suspend(request: Request): void {
    this.#keep(request);
  }

  /** Ends a request that was suspended. @param result what its operation's `finish` takes. */
  resume(request: Request, result: Awaitable<unknown>): void {
    if (result instanceof Promise) this.#settleLater(request, result);
    else this.#settle(request, result);
  }

  /** Requests that begin later, since the export's rate is limited. */
  get heldBack(): number {
    return this.#pace?.held ?? 0;
  }

  /** Content was read or written. */
  moved(bytes: number): void {
    this.#pace?.moved(bytes);
  }

  /** Adds to {@link counters} what queue threads have answered since the last call. */
  countThreads(): void {
    this.fileTable?.addTo(this.counters);
  }

  /**
   * Has the backend carry out the gathered requests, and keeps the journal short. Never throws.
   */
  submit(): void {
    if (this.#hasTaken) this.counters.batches += 1;
    this.#hasTaken = false;
    this.submitGathered();
    this.journal?.collect();
  }

  /** Has the backend carry out the gathered requests. Never throws. */
  submitGathered(): void {
    const { gathering } = this;
    if (gathering.count === 0) return;
    const batch = gathering.end();
    const { requests, results, count } = batch;
    const isLater = this.#submit(batch);
    if (batch.appends > 0 && !isLater) correctAppends(this, batch);
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

  /** Has the backend carry out a batch. @returns whether it ends later, on another thread. */
  #submit({ requests, results, count, later }: Batch): boolean {
    try {
      return this.accelerator.submit!(results, this.gathering.following > 0 ? later : undefined);
    } catch (error) {
      for (let i = 0; i < count; i++) results[i] = -this.#errnoOf(error, requests[i]!);
      return false;
    }
  }

  /**
   * Has the backend carry out at once the look-ups that it gathered for one request. Never throws:
   * the result of a failed one is minus an errno.
   */
  submitFor(request: Request, results: Awaitable<Gathered<object>>[], count: number): void {
    try {
      this.accelerator.submit!(results);
    } catch (error) {
      const code = -this.#errnoOf(error, request);
      for (let i = 0; i < count; i++) results[i] = code;
    }
  }

  /** Answers the requests of a batch that another thread has carried out. */
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

  /** Reads the header. @returns the opcode's operation, or one that refuses the request. */
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

  /** Notes who makes a request that is timed, and of which file. */
  #sample({ context }: Request): void {
    const { ints } = this.in;
    const at = fuse_in_header.nodeid >> 2;
    this.counters.files.see(ints[at]!, ints[at + 1]!);
    this.counters.processes.see(context.pid | 0, this.locks.id | 0);
  }

  #observe(request: Request): void {
    const { flags = 0, flags2 = 0 } = this.negotiated ?? {};
    request.observation = this.#observed.observer?.began(this.locks.id, request, this.in, flags, flags2);
  }

  /** Keeps a request until its promise settles. */
  #wait(request: Request, result: Promise<unknown>): void {
    this.#keep(request);
    this.#settleLater(request, result);
  }

  /** Keeps a request, and the nodes and handles that it uses, until {@link #end}. */
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

  /** Keeps a request until {@link answer} is called for it. */
  park(request: Request): void {
    request.incarnation = this.#incarnation;
    request.since = performance.now();
    if (this.#inFlight.add(request)) this.#cancel(request);
  }

  /** Answers a request that was kept. @param length as {@link Operation.finish} returns it. */
  answer(request: Request, length: number): void {
    if (request.abandoned) {
      this.#recycle(request);
      return;
    }
    this.#inFlight.remove(request);
    this.#reply(request, length);
  }

  /** Answers a request and puts it back into the pool. */
  #reply(request: Request, length: number): void {
    const { message, operation } = request;
    this.counters.count(request.opcode, length);
    if (request.began !== 0) this.counters.time(request.opcode, request.began);
    let written = 0;
    if (operation.silent !== true) {
      if (message.writable.length < BODY) written = -1;
      else written = this.#compose(request, length);
    }
    request.observation?.ended(request, length, this.out);
    const { journal } = this;
    // The guest must not learn of what a process that follows would not know.
    if (journal !== undefined && (journal.pending || journal.isOpen(request.uniqueLow, request.uniqueHigh)))
      this.#commit(journal, request, length);
    this.#recycle(request);
    if (written >= 0) message.complete(written);
    else {
      this.counters.unanswerable += 1;
      message.fail();
    }
  }

  /** Looks-ups are carried out again, as is what has more data than a structure. */
  #commit(journal: SessionJournal, request: Request, length: number): void {
    const { uniqueLow, uniqueHigh, data, opcode, message } = request;
    const isRepeated = data > 0 || opcode === Opcode.LOOKUP;
    const reply = isRepeated ? undefined : this.out.words;
    journal.answered(uniqueLow, uniqueHigh, length, reply, BODY >> 2, message.place ?? NO_PLACE);
  }

  /**
   * Goes on with a request that a former process has had.
   * @returns whether it is answered.
   */
  #recover(request: Request): boolean {
    const unique = uniqueOf(request.uniqueLow, request.uniqueHigh);
    const verdict = this.recovered!.get(unique);
    if (verdict === undefined) return false;
    this.recovered!.delete(unique);
    if (this.recovered!.size === 0) this.recovered = undefined;
    switch (verdict.kind) {
      case 'answered':
        this.out.words.set(verdict.words, BODY >> 2);
        this.#reply(request, verdict.length);
        return true;
      case 'gave':
        for (const [slot, count] of verdict.lookups) this.counts.forget(slot, count);
        this.journal?.beginsAnew(request.uniqueLow, request.uniqueHigh, verdict.place);
        return false;
      case 'happened':
        request.happened = verdict.bytes;
        return false;
    }
  }

  /** Requests that a former process has had have come again, unless they were answered. */
  haveComeAgain(): void {
    for (const unique of this.recovered?.keys() ?? [])
      this.journal?.neverCame(unique | 0, Math.floor(unique / 2 ** 32) | 0);
    this.recovered = undefined;
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
    this.#spare.give(request);
  }

  /** The errno for an exception. One that is no {@link FsError} is logged and counted. */
  #errnoOf(error: unknown, request: Request): number {
    const faults = this.#faults.count;
    const errno = this.#faults.errnoOf(error, request);
    this.counters.faults += this.#faults.count - faults;
    return errno;
  }

  /**
   * The slot of the node that the request's header names.
   * @throws ESTALE if the guest has no lookup of it.
   */
  node(): Slot {
    return this.nodeAt(fuse_in_header.nodeid);
  }

  /**
   * The slot of the node whose id is at an offset of the whole request.
   * @throws ESTALE if the guest has no lookup of it.
   */
  nodeAt(offset: number): Slot {
    const { ints } = this.in;
    const at = offset >> 2;
    const slot = this.counts.resolve(ints[at] as NodeIdLow, ints[at + 1] as NodeIdHigh);
    if (slot === NO_SLOT) throw FsError.of('ESTALE');
    return slot;
  }

  /**
   * The handle whose `fh` is at an offset of the arguments. It keeps its node, so the guest may use
   * it even if a FORGET of the node, on another queue, came first.
   * @param node offset, in the whole request, of the node id that the handle must belong to.
   * @param isClosing whether the handle is being closed.
   * @throws EBADF if there is no such handle, or it belongs to another node; EIO for one on which a
   * lock was lost, unless it is being closed.
   */
  handle(
    offset: number,
    kind: HandleKind,
    node: number = fuse_in_header.nodeid,
    isClosing = false,
  ): HandleIndex {
    const { ints } = this.in;
    const at = (fuse_in_header.bytes + offset) >> 2;
    let index = this.handles.find(ints[at] as HandleIndex, ints[at + 1] as HandleGeneration, kind);
    if (index === NO_HANDLE) index = this.#lostHandle(at, kind, isClosing);
    const slot = this.handles.slot(index);
    if (this.nodes.idLow(slot) !== ints[node >> 2] || this.nodes.idHigh(slot) !== ints[(node >> 2) + 1]) {
      throw FsError.of('EBADF');
    }
    return index;
  }

  /** The handle at a word of the request if a lock on it was lost. @throws as {@link handle}. */
  #lostHandle(at: number, kind: HandleKind, isClosing: boolean): HandleIndex {
    const { ints } = this.in;
    const low = ints[at] as HandleIndex;
    const high = ints[at + 1] as HandleGeneration;
    const index = kind === HandleKind.FILE ? this.handles.find(low, high, HandleKind.LOST) : NO_HANDLE;
    if (index === NO_HANDLE) throw FsError.of('EBADF');
    if (!isClosing) throw FsError.of('EIO');
    return index;
  }

  /**
   * Publishes a node in the file table, after a thread had to pass on a request for it.
   * @param told the attributes in the reply that the guest is just getting, if there are any.
   */
  publishNode(slot: Slot, told: Attributes | undefined): void {
    const { fileTable, nodes, counts, accelerator } = this;
    const low = nodes.idLow(slot);
    const high = nodes.idHigh(slot);
    // The reply may come after the guest's last FORGET, which has withdrawn the node.
    if (fileTable === undefined || counts.resolve(low, high) === NO_SLOT) return;
    const backing = accelerator.backing?.(nodes.node(slot), undefined);
    if (backing === undefined || backing.fd < 0 || !backing.attributes) return;
    fileTable.publishNode(slot, low, high, backing, told);
  }

  /**
   * Publishes the node of a name in the file table, after a thread had to pass on its LOOKUP.
   * @param slot the slot of the directory.
   * @param hash the hash of the name.
   * @param child the slot of the node.
   */
  publishEntry(slot: Slot, hash: number, child: Slot, attributes: Attributes): void {
    const { fileTable, nodes, accelerator } = this;
    if (fileTable === undefined || attributes.submount === true) return;
    // Threads do not tell of lookups that they take, so a process that follows would not know.
    if (this.journal !== undefined) return;
    const parent = accelerator.backing?.(nodes.node(slot), undefined);
    const backing = accelerator.backing?.(nodes.node(child), undefined);
    const mount = parent?.names === true ? parent.identity?.mount : undefined;
    if (backing?.identity === undefined || backing.identity.mount !== mount) return;
    const name = { low: nodes.idLow(slot), high: nodes.idHigh(slot), hash };
    const low = nodes.idLow(child);
    const high = nodes.idHigh(child);
    const node = { low, high, generation: nodes.generation(child) };
    const lookups = fileTable.publishEntry(name, child, node, backing, attributes);
    if (lookups > 0) this.counts.add(child, lookups);
  }

  /** Publishes an open file in the file table, after a thread had to pass on a request for it. */
  publishFile(handle: HandleIndex): void {
    const { fileTable, nodes, handles, accelerator } = this;
    if (fileTable === undefined) return;
    const generation = handles.generation(handle);
    // The reply may come after the RELEASE, which has withdrawn the file.
    if (handles.find(handle, generation, HandleKind.FILE) === NO_HANDLE) return;
    const slot = handles.slot(handle);
    const backing = accelerator.backing?.(nodes.node(slot), handles.object(handle));
    if (backing === undefined) return;
    fileTable.publishFile(handle, generation, nodes.idLow(slot), nodes.idHigh(slot), backing);
  }

  /**
   * Logs that a handle could not be released, unless its flush has told of it.
   * @param handle undefined for a file that no guest has got.
   */
  reportRelease(error: unknown, handle: HandleIndex | undefined): void {
    this.#faults.reportRelease(error, handle);
  }

  /** Aborts a request, by the halves of its `unique`. @returns whether it was in flight. */
  interrupt(low: number, high: number): boolean {
    const held = this.#pace?.remove(low, high);
    if (held !== undefined) {
      this.#giveUp(held);
      return true;
    }
    const request = this.#inFlight.find(low, high);
    if (request !== undefined) this.#cancel(request);
    return request !== undefined;
  }

  /** Remembers an INTERRUPT whose request has not come yet. */
  expectInterrupted(low: number, high: number): void {
    this.#inFlight.expect(low, high);
  }

  /**
   * A lock that was set through a file is lost. Every use of the file gives EIO until it is closed,
   * so that nobody writes in the belief that he holds the lock.
   */
  loseLock(handle: HandleIndex): void {
    this.handles.lose(handle);
    this.counters.lostLocks += 1;
  }

  /** Answers a request that was held back. */
  #giveUp(request: Request): void {
    request.operation = UNBEGUN;
    request.opcode = 0;
    request.began = 0;
    this.#reply(request, -Errno.EINTR);
  }

  #cancel(request: Request): void {
    if (request.lockId === undefined) request.context.abort();
    else this.locks.interrupt(request.lockId);
  }

  /**
   * Forgets the guest's state, because it is gone or starts anew (DESTROY, another INIT). Aborts
   * requests in flight, and releases locks, handles and lookups.
   * @returns a promise if the backend takes time to close files, or if there is much to release.
   */
  reset(): Promise<void> | undefined {
    this.export.unfinished.finish(undefined, true);
    this.negotiated = undefined;
    // The guest gives its requests the same ids again.
    this.recovered = undefined;
    this.#incarnation += 1;
    const unlocked = this.locks.close(Errno.EINTR);
    this.locks = this.export.locks.openSession(this.export.nextSession(), this.#maxWaiters);
    this.#inFlight.forgetExpected();
    for (const request of this.#pace?.removeAll() ?? []) this.#giveUp(request);
    this.#inFlight.each((request) => {
      if (request.incarnation !== this.#incarnation) request.context.abort();
    });
    // Gives the lookups that threads have taken back to the counts.
    this.fileTable?.clear();
    const closing: Promise<void>[] = unlocked === undefined ? [] : [unlocked];
    const closed = eachInTurns(0, this.handles.end, (item) => {
      const index = item as HandleIndex;
      if (!this.handles.isOpen(index)) return;
      const released = closeHandle(this, index);
      if (released !== undefined) closing.push(released);
    });
    const forgotten = this.counts.clear();
    this.journal?.describe();
    if (closed === undefined && forgotten === undefined && closing.length === 0) return undefined;
    const emptying = this.#empty(closed, forgotten, closing);
    this.#emptying = Promise.allSettled([this.#emptying, emptying]);
    return emptying;
  }

  async #empty(
    closed: Promise<void> | undefined,
    forgotten: Promise<void> | undefined,
    closing: readonly Promise<void>[],
  ): Promise<void> {
    await closed;
    await forgotten;
    await Promise.all(closing);
  }

  /**
   * Waits until nothing is in flight; to be called before the rings go away. Waiting locks are
   * answered with EINTR. Other requests may end by themselves for the drain timeout. Then they are
   * aborted and get the same time again. What remains is answered with EIO.
   */
  async drain(): Promise<void> {
    this.export.unfinished.finish(undefined, true);
    this.#pace?.release();
    this.locks.cancelAll(Errno.EINTR);
    if (await this.#inFlight.idle(this.#drainTimeoutMs)) return;
    this.#inFlight.each((request) => request.context.abort());
    if (await this.#inFlight.idle(this.#drainTimeoutMs)) return;
    this.log.warn({ requests: this.#inFlight.size }, 'requests that do not end are answered with EIO');
    this.#inFlight.each((request) => this.#abandon(request));
  }

  /**
   * Waits until all requests in flight wait for locks. Others may end by themselves for the drain
   * timeout. Then they are aborted and get the same time again.
   * @returns how many wait for locks.
   */
  async quiesce(): Promise<number> {
    this.export.unfinished.finish(undefined, true);
    this.#pace?.release();
    this.submit();
    for (const isLast of [false, true]) {
      const end = performance.now() + this.#drainTimeoutMs;
      while (this.#inFlight.others > 0 || this.gathering.outstanding > 0) {
        if (performance.now() > end) break;
        await new Promise((resolve) => setTimeout(resolve, 1));
        if (this.gathering.outstanding > 0) this.accelerator.completions!.collect();
      }
      if (this.#inFlight.others === 0) break;
      if (isLast) continue;
      this.#inFlight.each((request) => {
        if (request.lockId === undefined) request.context.abort();
      });
    }
    return this.#inFlight.size - this.#inFlight.others;
  }

  /** As {@link drain}, but requests that wait for locks go on waiting. */
  async settle(): Promise<void> {
    await this.quiesce();
    if (this.#inFlight.others === 0) return;
    this.log.warn({ requests: this.#inFlight.others }, 'requests that do not end are answered with EIO');
    this.#inFlight.each((request) => {
      if (request.lockId === undefined) this.#abandon(request);
    });
  }

  /**
   * Puts requests back that wait for locks, where their queue has stopped: they come again when it
   * starts again.
   */
  withdraw(): void {
    const requests = new Map<bigint, Request>();
    this.#inFlight.each((request) => {
      if (request.lockId !== undefined) requests.set(request.lockId, request);
    });
    for (const lockId of this.locks.waiting()) {
      const request = requests.get(lockId);
      if (request?.message.putBack?.() !== true) continue;
      this.#inFlight.remove(request);
      request.abandoned = true;
      this.locks.interrupt(lockId);
    }
  }

  /**
   * Answers a request with EIO before its result is there. If its promise settles later, the result
   * is discarded.
   */
  #abandon(request: Request): void {
    this.#inFlight.remove(request);
    request.abandoned = true;
    request.message.readable.leaveArrays();
    request.message.writable.leaveArrays();
    this.counters.count(request.opcode, -Errno.EIO);
    request.observation?.ended(request, -Errno.EIO, this.out);
    request.observation = undefined;
    if (request.operation.silent === true) request.message.complete(0);
    else if (request.message.writable.length < BODY) request.message.fail();
    else request.message.complete(this.#compose(request, -Errno.EIO));
  }

  /** Ends the session: drains it and releases everything that the guest had. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.drain();
    this.#pace?.end();
    if (this.fileTable !== undefined) this.#observed.end(this.fileTable);
    await this.reset();
    await this.#emptying;
    this.countThreads();
    await this.locks.close(Errno.EINTR);
    this.journal?.end();
  }
}

/** Whether the result of a gathered request is minus an errno. */
function isErrno(result: unknown): result is number {
  return typeof result === 'number' && result < 0;
}
