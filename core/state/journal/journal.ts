import type { Accelerator } from '../../backend/accelerator.js';
import type { Backend, Logger, NodeKey } from '../../backend/index.js';
import { Compaction, type LogMemory, putText, RecordLog, textWords } from '../../lasting-memory/index.js';
import type { DirectoryStream } from '../directory-stream.js';
import { HandleKind, type HandleTable } from '../handle-table.js';
import type { HandleIndex, Slot } from '../ids.js';
import { type LockChange, type LockTable, OFFSET_MAX } from '../locks/index.js';
import type { LookupCounts } from '../lookup-counts.js';
import { NO_SLOT, type NodeTable, ROOT_SLOT } from '../node-table.js';
import type { SavedSession } from '../saved-form.js';
import { type IntentKind, type NamedNode, NO_PLACE, type Verdict } from './intent.js';
import { KnownEnds } from './known-ends.js';
import { OpenRequests, uniqueOf } from './open-requests.js';
import { RecentNames } from './recent-names.js';
import { AnswerKind, JOURNAL, LOCK_KINDS, RecordType } from './records.js';

/** What all sessions of an export share. */
export interface JournaledExport {
  readonly backend: Backend;
  readonly accelerator: Accelerator;
  readonly nodes: NodeTable;
  readonly locks: LockTable<Slot>;
}

/** The part of a session that a journal keeps. */
export interface JournaledSession {
  readonly counts: LookupCounts;
  readonly handles: HandleTable;
  readonly locks: { readonly id: number };
  readonly negotiated: SavedSession['negotiated'] | undefined;
  /** Where it is there, other threads publish answers later than these are committed. */
  readonly fileTable?: object | undefined;
}

/** Which front-end a session belongs to. */
export interface SessionPlace {
  /** The keeper's number of the connection. */
  readonly connection: number;
  /** Number of the socket, in the order of the configuration. */
  readonly socket: number;
}

/** Somebody who holds descriptors, so that their files stay when this process is killed. */
export interface DescriptorHolder {
  /**
   * Hands a copy of a descriptor over. Never waits.
   * @returns its number, from 1 on; 0 if that is not possible now.
   */
  hold(fd: number): number;
  /** It need not be held any more. */
  drop(number: number): void;
}

export interface JournalOptions {
  readonly memory: LogMemory;
  readonly holder: DescriptorHolder;
  readonly log: Logger;
}

/** Bytes of a directory stream's entries that one record has. */
const LISTING_BYTES = 8192;

const NOT_HELD =
  'open files and directories that are removed cannot be handed to the keeper now: they do not survive a crash';

/** The highest count that a record has in one word. */
const MOST_IN_WORD = 0x7fffffff;

/** What a request has changed that is not written. */
const Unwritten = { NOTHING: 0, GIVEN: 1, TAKEN: 2, CLOSED: 3 } as const;
type Unwritten = (typeof Unwritten)[keyof typeof Unwritten];

/** The record of such a change and the answer of the request. */
const RECORD_OF = [0, RecordType.GAVE, RecordType.TOOK, RecordType.CLOSED] as const;

const FIRST_PLACES = 1024;

/** What of a directory stream is in the journal. */
interface KnownListing {
  listings: number;
  used: number;
  complete: boolean;
}

/**
 * Mirrors what the guests of an export have (nodes, lookup counts, handles, listings, locks, and
 * what INIT agreed) to memory that outlives this process, and notes which requests are carried out
 * and which were. If this process is killed, `replay` reads it, and the next one goes on.
 *
 * Everything is written with plain stores before the reply that tells the guest of it is published.
 */
export class Journal {
  readonly #export: JournaledExport;
  readonly #log: RecordLog;
  readonly #compaction: Compaction;
  readonly #holder: DescriptorHolder;
  readonly #logger: Logger;
  readonly #sessions = new Map<number, SessionJournal>();
  /** Those of all sessions: asked at each removal. */
  #counts: readonly LookupCounts[] = [];
  readonly #held = new Map<Slot, number>();
  /** Where the NODE record of a slot lies; 0 where there is none, or it has another trace. */
  #places = new Int32Array(FIRST_PLACES);
  /** What the guests' requests have lately found. */
  readonly names: RecentNames;
  readonly knownEnds: KnownEnds;
  #nextSession = 0;
  #isOver = false;
  #isFollowed = false;
  /** Whether the keeper has taken the last descriptor. */
  #isHeld = true;

  /** To be called before the export has sessions, or with {@link register} for those it has. */
  constructor(shared: JournaledExport, { memory, holder, log }: JournalOptions) {
    this.#export = shared;
    this.#log = new RecordLog(memory, JOURNAL);
    const everything = (): Iterator<void> => this.#everything();
    this.#compaction = new Compaction(this.#log, everything, () => this.boundary());
    this.#holder = holder;
    this.#logger = log;
    this.names = new RecentNames(shared.nodes);
    this.knownEnds = new KnownEnds(shared.nodes);
    shared.nodes.observer = {
      inserted: (slot, key) => this.#node(slot, key),
      forgotten: (slot) => this.#drop(slot),
    };
    shared.accelerator.watchTraces?.((node) => this.#traced(node));
    shared.locks.observer = {
      changed: (kind, slot, change) => this.#lock(LOCK_KINDS.indexOf(kind), slot, change),
    };
  }

  /** Writes everything that there is. From here on a later process finds the journal. */
  begin(): void {
    for (const _ of this.#everything());
    this.#log.commit();
    this.#log.begin();
    this.#compaction.written();
  }

  /** Keeps a session from here on. */
  register(session: JournaledSession, place: SessionPlace): SessionJournal {
    const one = new SessionJournal(this, this.#log, this.#nextSession++, session, place);
    this.#sessions.set(one.id, one);
    this.#counts = [...this.#counts, session.counts];
    one.describe();
    this.boundary();
    return one;
  }

  /**
   * Writes nothing more. What was committed stays, and what is held, for the process that follows.
   */
  stop(): void {
    this.#isOver = true;
    this.#isFollowed = true;
  }

  /** Makes valid what something else than a request has changed. */
  boundary(): void {
    if (!this.#log.pending || !this.has(1)) return;
    this.#log.put(RecordType.BOUNDARY | (1 << 8));
    this.#log.commit();
  }

  /** Numbers of the descriptors that are held. */
  get held(): Iterable<number> {
    return this.#held.values();
  }

  /** Whether a descriptor of a node is held. */
  holds(slot: Slot): boolean {
    return this.#held.has(slot);
  }

  /** Has the descriptors of a node held that a former process had held. */
  adoptHeld(slot: Slot, number: number): void {
    this.#held.set(slot, number);
  }

  /**
   * To be called before a node may lose its last name. If it is open, its descriptor is handed
   * over: nobody else could open it again.
   */
  holdOpen(slot: Slot): void {
    if (this.isInUse(slot)) this.hold(slot);
  }

  /** Whether a node is open or has locks. */
  isInUse(slot: Slot): boolean {
    const { nodes } = this.#export;
    let others = nodes.references(slot);
    for (let i = 0; i < this.#counts.length; i++) if (this.#counts[i]!.of(slot) > 0) others -= 1;
    return others > 0;
  }

  /**
   * Hands a node's descriptor over. To be called before a directory may lose its name: a process
   * may stay in it, of which only the guest's kernel knows.
   */
  hold(slot: Slot): void {
    const { nodes, accelerator } = this.#export;
    if (slot === ROOT_SLOT || this.#held.has(slot)) return;
    // What is in memory that outlives this process needs none.
    if (accelerator.descriptor === undefined && accelerator.contents !== undefined) return;
    const fd = accelerator.descriptor === undefined ? -1 : accelerator.descriptor(nodes.node(slot));
    if (fd === undefined) return;
    const number = fd < 0 ? 0 : this.#holder.hold(fd);
    if (number === 0) {
      if (this.#isHeld) this.#logger.warn({}, NOT_HELD);
      this.#isHeld = false;
      return;
    }
    this.#isHeld = true;
    this.#held.set(slot, number);
    this.#putHeld(slot, number);
  }

  /**
   * Gathers the log anew, a little at a time. Only to be called when every request that was
   * answered is published.
   */
  collect(): void {
    if (!this.#isOver) this.#compaction.collect();
  }

  /** Whether a record of so many words may be written. If not, the journal has ended. */
  has(words: number): boolean {
    if (this.#isOver) return false;
    if (this.#log.hasRoom(words)) return true;
    this.#isOver = true;
    this.#log.invalidate();
    this.#logger.error(
      {},
      'the guests have more open than the session journal holds: they do not survive a crash from here on',
    );
    return false;
  }

  /** @internal For a session that has ended. */
  forget(session: SessionJournal): void {
    this.#sessions.delete(session.id);
    this.#counts = this.#counts.filter((counts) => counts !== session.counts);
    if (this.has(2)) {
      this.#log.put(RecordType.SESSION_END | (2 << 8));
      this.#log.put(session.id);
    }
    this.boundary();
  }

  #node(slot: Slot, key: NodeKey): void {
    const { nodes, accelerator } = this.#export;
    const trace = accelerator.trace?.(nodes.node(slot)) ?? '';
    const words = 6 + textWords(trace) + keyWords(key);
    if (!this.has(words)) return;
    const log = this.#log;
    const w = log.words;
    const at = log.reserve(6);
    w[at] = RecordType.NODE | (words << 8);
    w[at + 1] = slot;
    w[at + 2] = nodes.idLow(slot);
    w[at + 3] = nodes.idHigh(slot);
    w[at + 4] = nodes.generation(slot);
    w[at + 5] = 0;
    putText(log, trace);
    putKey(log, key);
    if (slot >= this.#places.length) this.#widen(slot);
    this.#places[slot] = at;
  }

  #widen(slot: Slot): void {
    const wider = new Int32Array(Math.max(this.#places.length * 2, slot + 1));
    wider.set(this.#places);
    this.#places = wider;
  }

  /** A node that the engine knows has another trace, or is about to. */
  #traced(node: object): void {
    const { nodes, accelerator } = this.#export;
    const slot = nodes.slotOf(node);
    if (slot === NO_SLOT) return;
    const trace = accelerator.trace!(node);
    const words = 2 + textWords(trace);
    if (!this.has(words)) return;
    const log = this.#log;
    const { pending } = log;
    log.put(RecordType.TRACE | (words << 8));
    log.put(slot);
    putText(log, trace);
    this.#places[slot] = 0;
    // In the middle of a request's records it counts with them.
    if (!pending) this.boundary();
  }

  #drop(slot: Slot): void {
    const number = this.#held.get(slot);
    if (number === undefined || this.#isFollowed) return;
    this.#held.delete(slot);
    this.#putHeld(slot, 0);
    this.#holder.drop(number);
  }

  #putHeld(slot: Slot, number: number): void {
    if (!this.has(3)) return;
    this.#log.put(RecordType.HELD | (3 << 8));
    this.#log.put(slot);
    this.#log.put(number);
  }

  #lock(kind: number, slot: Slot, change: LockChange<Slot>): void {
    const words = 13;
    if (!this.has(words)) return;
    const log = this.#log;
    const { owner, type, start, end, pid, handle } = change;
    log.put(RecordType.LOCK | (words << 8));
    log.put(slot);
    log.put(owner.session);
    log.put(kind);
    putWide(log, owner.id);
    log.put(type);
    putWide(log, start);
    putWide(log, end);
    log.put(pid);
    log.put(handle);
  }

  /**
   * Writes a node's record again: that which is there, if it is as it should be.
   * @returns whether there is one now.
   */
  #nodeAnew(backend: Backend, slot: Slot): boolean {
    const place = slot < this.#places.length ? this.#places[slot]! : 0;
    if (place > 0) {
      if (!this.has(this.#log.lengthAt(place))) return false;
      this.#places[slot] = this.#log.copy(place);
      return true;
    }
    const key = this.#keyOf(backend, slot);
    if (key !== undefined) this.#node(slot, key);
    return key !== undefined;
  }

  /** @returns undefined for a file that is gone, where a key needs it. */
  #keyOf(backend: Backend, slot: Slot): NodeKey | undefined {
    try {
      return backend.key!(this.#export.nodes.node(slot));
    } catch {
      return undefined;
    }
  }

  /** Writes everything, with a pause after each small part. */
  *#everything(): Generator<void, void> {
    const { nodes, locks, backend } = this.#export;
    for (const session of this.#sessions.values()) {
      session.describe();
      session.copyOpen();
    }
    yield;
    for (let slot = (ROOT_SLOT + 1) as Slot; slot < nodes.slotEnd; slot++) {
      if (!nodes.isUsed(slot) || !this.#nodeAnew(backend, slot)) continue;
      const held = this.#held.get(slot);
      if (held !== undefined) this.#putHeld(slot, held);
      yield;
    }
    for (const session of this.#sessions.values()) yield* session.everything();
    for (const file of locks.files()) {
      for (const [owner, { list, pid, handle }] of file.posix)
        for (const range of list.ranges) this.#lock(0, file.node, { ...range, owner, pid, handle });
      for (const [owner, held] of file.flock)
        this.#lock(1, file.node, { ...held, owner, start: 0n, end: OFFSET_MAX });
      yield;
    }
  }
}

/** One session's part of a {@link Journal}. */
export class SessionJournal {
  readonly id: number;
  readonly counts: LookupCounts;
  readonly #journal: Journal;
  readonly #log: RecordLog;
  readonly #session: JournaledSession;
  readonly #place: SessionPlace;
  readonly #listings = new Map<HandleIndex, KnownListing>();
  /** INTENT and VERDICT records of requests that have no answer yet. */
  readonly #open = new OpenRequests();
  /** What the current request has changed and is not written: most change nothing else. */
  #unwritten: Unwritten = Unwritten.NOTHING;
  /** A slot and its count, or a handle's index and generation. */
  #unwrittenPlace = 0;
  #unwrittenValue = 0;
  /**
   * VERDICT records of answers that other threads may not have published yet, by place. That of a
   * published one stays until the place is used again, so that nobody needs to tell.
   */
  readonly #returned = new Map<number, number>();
  /** Lookups that the current request has added since it last waited: slots and numbers. */
  readonly #given: number[] = [];
  /** Numbers of them that count: an array that is emptied loses its memory. */
  #givenLength = 0;
  /** Those that requests that wait had added before, by `unique`. */
  readonly #givenBefore = new Map<number, readonly number[]>();

  constructor(journal: Journal, log: RecordLog, id: number, session: JournaledSession, place: SessionPlace) {
    this.#journal = journal;
    this.#log = log;
    this.id = id;
    this.#session = session;
    this.#place = place;
    const { counts, handles } = session;
    this.counts = counts;
    counts.observer = {
      counted: (slot, count, added) => {
        this.#write();
        if (added <= 1 && count <= MOST_IN_WORD) {
          this.#unwritten = added === 1 ? Unwritten.GIVEN : Unwritten.TAKEN;
          this.#unwrittenPlace = slot;
          this.#unwrittenValue = count;
        } else if (this.#count(slot, count)) this.#noteGiven(slot, added);
      },
      cleared: () => this.#clear(),
    };
    handles.observer = {
      opened: (index) => this.#handle(index),
      closed: (index) => {
        if (this.#listings.size > 0) this.#listings.delete(index);
        this.#write();
        this.#unwritten = Unwritten.CLOSED;
        this.#unwrittenPlace = index;
        this.#unwrittenValue = handles.generation(index);
      },
    };
  }

  /** Whether the current request has changed something that is not committed. */
  get pending(): boolean {
    return this.#unwritten !== Unwritten.NOTHING || this.#log.pending;
  }

  get names(): RecentNames {
    return this.#journal.names;
  }

  get knownEnds(): KnownEnds {
    return this.#journal.knownEnds;
  }

  /** See {@link Journal.isInUse}. */
  isInUse(slot: Slot): boolean {
    return this.#journal.isInUse(slot);
  }

  /** See {@link Journal.holdOpen}. */
  holdOpen(slot: Slot): void {
    this.#journal.holdOpen(slot);
  }

  /** See {@link Journal.hold}. */
  hold(slot: Slot): void {
    this.#journal.hold(slot);
  }

  /** See {@link Journal.collect}. */
  collect(): void {
    this.#journal.collect();
  }

  /** Writes what INIT agreed, and the like. To be called when that has changed. */
  describe(): void {
    const words = 13;
    if (!this.#journal.has(words)) return;
    const log = this.#log;
    const { handles, locks, negotiated } = this.#session;
    log.put(RecordType.SESSION | (words << 8));
    log.put(this.id);
    log.put(this.#place.connection);
    log.put(this.#place.socket);
    log.put(locks.id);
    log.put(handles.lastGeneration);
    log.put(negotiated === undefined ? 0 : 1);
    log.put(negotiated?.minor ?? 0);
    log.put(negotiated?.flags ?? 0);
    log.put(negotiated?.flags2 ?? 0);
    log.put(negotiated?.maxReadahead ?? 0);
    log.put(negotiated?.maxWrite ?? 0);
    log.put(negotiated?.maxPages ?? 0);
  }

  /** The session is over. */
  end(): void {
    this.#session.counts.observer = undefined;
    this.#session.handles.observer = undefined;
    this.#journal.forget(this);
  }

  /** Notes what a request is about to do, at once: the fields of `Intent`. */
  intend(
    low: number,
    high: number,
    kind: IntentKind,
    slot: Slot,
    name = '',
    target: NamedNode | undefined = undefined,
    other: Slot = NO_SLOT,
    newName = '',
    size = 0,
    length = 0,
  ): void {
    const key = target?.key;
    const words = 10 + textWords(name) + textWords(newName) + (key === undefined ? 1 : keyWords(key));
    if (!this.#journal.has(words)) return;
    const log = this.#log;
    const w = log.words;
    const at = log.reserve(10);
    this.#open.set(low, high, at);
    w[at] = RecordType.INTENT | (words << 8);
    w[at + 1] = this.id;
    w[at + 2] = low;
    w[at + 3] = high;
    w[at + 4] = kind;
    w[at + 5] = slot;
    w[at + 6] = other;
    w[at + 7] = size;
    w[at + 8] = size / 2 ** 32;
    w[at + 9] = length;
    putText(log, name);
    putText(log, newName);
    if (key !== undefined) putKey(log, key);
    else log.put(KEY_NONE | (target === undefined ? 0 : (target.slot + 1) << 2));
    log.commit();
  }

  /** As {@link intend}, for an append: the fields `slot`, `size` and `length` of `Intent`. */
  intendAppend(low: number, high: number, slot: Slot, size: number, length: number): void {
    const words = 8;
    if (!this.#journal.has(words)) return;
    const log = this.#log;
    const w = log.words;
    const at = log.reserve(words);
    this.#open.set(low, high, at);
    w[at] = RecordType.APPEND | (words << 8);
    w[at + 1] = this.id;
    w[at + 2] = low;
    w[at + 3] = high;
    w[at + 4] = slot;
    w[at + 5] = size;
    w[at + 6] = size / 2 ** 32;
    w[at + 7] = length;
    log.commit();
  }

  /** Keeps a verdict of a former process's request until that is answered. */
  keep(low: number, high: number, verdict: Verdict): void {
    const body = verdictWords(verdict);
    const words = 5 + body.length;
    if (!this.#journal.has(words)) return;
    const place = verdict.kind === 'happened' ? NO_PLACE : verdict.place;
    if (place === NO_PLACE) this.#open.set(low, high, this.#log.position);
    this.#verdict(low, high, place, words);
    for (const word of body) this.#log.put(word);
  }

  /** Begins a VERDICT record, whose body follows. */
  #verdict(low: number, high: number, place: number, words: number): void {
    const log = this.#log;
    if (place !== NO_PLACE) this.#returned.set(place, log.position);
    log.put(RecordType.VERDICT | (words << 8));
    log.put(this.id);
    log.put(low);
    log.put(high);
    log.put(place);
  }

  /**
   * Commits what a request has changed, with its answer. To be called before the answer is
   * published, and if anything is {@link pending}.
   * @param length bytes of the reply after its header, or minus an errno.
   * @param reply words from which that reply begins; undefined if the request can be carried out
   * again instead.
   * @param place {@link NO_PLACE} for an answer that is published right after this.
   */
  answered(
    low: number,
    high: number,
    length: number,
    reply: Uint32Array | undefined,
    from: number,
    place: number,
  ): void {
    if (this.#unwritten !== Unwritten.NOTHING && this.#answeredInOne(low, high, length, reply, place)) return;
    const count = reply === undefined || length <= 0 ? 0 : (length + 3) >>> 2;
    const words = 6 + count;
    const given = place === NO_PLACE ? undefined : this.#allGiven(low, high);
    const room = words + (given === undefined ? 0 : 7 + given.length);
    if (this.#givenBefore.size > 0) this.#givenBefore.delete(uniqueOf(low, high));
    if (!this.#journal.has(room)) {
      this.#givenLength = 0;
      return;
    }
    const log = this.#log;
    if (given !== undefined) {
      this.#verdict(low, high, place, reply === undefined ? 6 + given.length : 7 + count);
      log.put(reply === undefined ? VerdictKind.GAVE : VerdictKind.ANSWERED);
      if (reply === undefined) for (const word of given) log.put(word);
      else {
        log.put(length);
        for (let i = 0; i < count; i++) log.put(reply[from + i]!);
      }
    }
    const here = given === undefined ? count : 0;
    const w = log.words;
    const at = log.reserve(6 + here);
    w[at] = RecordType.DONE | ((6 + here) << 8);
    w[at + 1] = this.id;
    w[at + 2] = low;
    w[at + 3] = high;
    w[at + 4] = length;
    if (given !== undefined) w[at + 5] = AnswerKind.BEFORE;
    else w[at + 5] = reply === undefined ? AnswerKind.NONE : AnswerKind.REPLY;
    for (let i = 0; i < here; i++) w[at + 6 + i] = reply![from + i]!;
    log.commit();
    this.#givenLength = 0;
    this.#open.delete(low, high);
  }

  /**
   * Commits the only change of a request together with its answer, in one record.
   * @returns false if that takes more: then the change is written.
   */
  #answeredInOne(
    low: number,
    high: number,
    length: number,
    reply: Uint32Array | undefined,
    place: number,
  ): boolean {
    const isGiven = this.#unwritten === Unwritten.GIVEN;
    const isFit = isGiven ? reply === undefined && length >= 0 : reply !== undefined && length === 0;
    const words = 6;
    if (
      !isFit ||
      place !== NO_PLACE ||
      this.#givenLength > 0 ||
      this.#givenBefore.size > 0 ||
      !this.#journal.has(words)
    ) {
      this.#write();
      return false;
    }
    const log = this.#log;
    const w = log.words;
    const at = log.reserve(words);
    w[at] = RECORD_OF[this.#unwritten]! | (words << 8);
    w[at + 1] = this.id;
    w[at + 2] = low;
    w[at + 3] = high;
    w[at + 4] = this.#unwrittenPlace;
    w[at + 5] = this.#unwrittenValue;
    log.commit();
    this.#unwritten = Unwritten.NOTHING;
    this.#open.delete(low, high);
    return true;
  }

  /** Writes what is not. */
  #write(): void {
    const kind = this.#unwritten;
    if (kind === Unwritten.NOTHING) return;
    this.#unwritten = Unwritten.NOTHING;
    const place = this.#unwrittenPlace;
    if (kind === Unwritten.CLOSED) this.#closed(place as HandleIndex, this.#unwrittenValue);
    else if (this.#count(place as Slot, this.#unwrittenValue) && kind === Unwritten.GIVEN)
      this.#noteGiven(place as Slot, 1);
  }

  #noteGiven(slot: Slot, added: number): void {
    if (added <= 0) return;
    this.#given[this.#givenLength] = slot;
    this.#given[this.#givenLength + 1] = added;
    this.#givenLength += 2;
  }

  /**
   * The current request waits, and others have their turn. To be called if it may have added
   * lookups, which a later process must not take for those of another request.
   */
  waits(low: number, high: number): void {
    this.#write();
    if (this.#givenLength === 0) return;
    const given = this.#allGiven(low, high);
    this.#givenLength = 0;
    this.#givenBefore.set(uniqueOf(low, high), given);
    this.#gave(low, high, NO_PLACE, given);
  }

  /** What a request had given in a former process was taken back, and it begins anew. */
  beginsAnew(low: number, high: number, place: number): void {
    this.#gave(low, high, place, []);
  }

  /** Says, at once, which lookups a request has added that is carried out again. */
  #gave(low: number, high: number, place: number, given: readonly number[]): void {
    if (!this.#journal.has(6 + given.length)) return;
    if (place === NO_PLACE) this.#open.set(low, high, this.#log.position);
    this.#verdict(low, high, place, 6 + given.length);
    this.#log.put(VerdictKind.GAVE);
    for (const word of given) this.#log.put(word);
    this.#log.commit();
  }

  #allGiven(low: number, high: number): readonly number[] {
    const before = this.#givenBefore.size === 0 ? undefined : this.#givenBefore.get(uniqueOf(low, high));
    const now = this.#given.slice(0, this.#givenLength);
    return before === undefined ? now : [...before, ...now];
  }

  /** A request for which a verdict is kept does not come again. Nothing may be under way. */
  neverCame(low: number, high: number): void {
    if (!this.#open.has(low, high) || !this.#journal.has(6)) return;
    const log = this.#log;
    log.put(RecordType.DONE | (6 << 8));
    log.put(this.id);
    log.put(low);
    log.put(high);
    log.put(0);
    log.put(AnswerKind.BEFORE);
    log.commit();
    this.#open.delete(low, high);
  }

  /** Whether a request has an {@link intend}ed change or a verdict. */
  isOpen(low: number, high: number): boolean {
    return this.#open.has(low, high);
  }

  /** Writes what a directory stream has got since the last time. */
  listing(index: HandleIndex): void {
    if (!this.#session.handles.isOpen(index)) return;
    const stream = this.#session.handles.object(index) as DirectoryStream;
    let known = this.#listings.get(index);
    if (known === undefined) this.#listings.set(index, (known = { listings: 0, used: 0, complete: false }));
    const isSame = known.listings === stream.listings;
    if (isSame && known.used === stream.used && known.complete === stream.complete) return;
    let at = isSame ? known.used : 0;
    do {
      const end = Math.min(at + LISTING_BYTES, stream.used);
      this.#entries(index, stream, at, end);
      at = end;
    } while (at < stream.used);
    known.listings = stream.listings;
    known.used = stream.used;
    known.complete = stream.complete;
  }

  /** Copies the records of requests that may come again from the part that was left. */
  copyOpen(): void {
    const copy = (position: number): number =>
      this.#journal.has(this.#log.lengthAt(position)) ? this.#log.copy(position) : position;
    this.#open.move(copy);
    for (const [place, position] of this.#returned) this.#returned.set(place, copy(position));
  }

  /** Writes counts, handles and streams, with a pause after each small part. */
  *everything(): Generator<void, void> {
    const { counts, handles } = this.#session;
    for (let slot = (ROOT_SLOT + 1) as Slot; slot < counts.end; slot++) {
      const count = counts.of(slot);
      if (count === 0) continue;
      this.#count(slot, count);
      yield;
    }
    for (let index = 0 as HandleIndex; index < handles.end; index++) {
      if (!handles.isOpen(index)) continue;
      this.#handle(index);
      yield;
      if (!handles.isOpen(index) || !handles.isDirectory(index)) continue;
      const stream = handles.object(index) as DirectoryStream;
      const { listings } = stream;
      for (let at = 0; at < stream.used && stream.listings === listings;) {
        const end = Math.min(at + LISTING_BYTES, stream.used);
        if (!handles.isOpen(index) || handles.object(index) !== stream) break;
        this.#entries(index, stream, at, end);
        at = end;
        yield;
      }
    }
  }

  /** @returns whether there was room for the record. */
  #count(slot: Slot, count: number): boolean {
    if (!this.#journal.has(5)) return false;
    const w = this.#log.words;
    const at = this.#log.reserve(5);
    w[at] = RecordType.COUNT | (5 << 8);
    w[at + 1] = this.id;
    w[at + 2] = slot;
    w[at + 3] = count;
    w[at + 4] = count / 2 ** 32;
    return true;
  }

  #clear(): void {
    this.#write();
    // A guest that starts anew gives its requests the same ids.
    this.#open.clear();
    this.#returned.clear();
    this.#givenLength = 0;
    this.#givenBefore.clear();
    if (!this.#journal.has(2)) return;
    this.#log.put(RecordType.NO_COUNTS | (2 << 8));
    this.#log.put(this.id);
  }

  #handle(index: HandleIndex): void {
    const { handles } = this.#session;
    const file = handles.isLost(index) ? HandleKind.LOST : HandleKind.FILE;
    const kind = handles.isDirectory(index) ? HandleKind.DIRECTORY : file;
    this.#putHandle(index, handles.generation(index), kind, handles.slot(index), handles.flags(index));
  }

  #closed(index: HandleIndex, generation: number): void {
    this.#putHandle(index, generation, HandleKind.FREE, 0, 0);
  }

  #putHandle(index: HandleIndex, generation: number, kind: HandleKind, slot: number, flags: number): void {
    const words = 7;
    if (!this.#journal.has(words)) return;
    const log = this.#log;
    const w = log.words;
    const at = log.reserve(words);
    w[at] = RecordType.HANDLE | (words << 8);
    w[at + 1] = this.id;
    w[at + 2] = index;
    w[at + 3] = generation;
    w[at + 4] = kind;
    w[at + 5] = slot;
    w[at + 6] = flags;
  }

  #entries(index: HandleIndex, stream: DirectoryStream, from: number, to: number): void {
    const words = 6 + ((to - from + 3) >>> 2);
    if (!this.#journal.has(words)) return;
    const log = this.#log;
    log.put(RecordType.LISTING | (words << 8));
    log.put(this.id);
    log.put(index);
    log.put(from);
    log.put(to - from);
    log.put(stream.complete && to === stream.used ? 1 : 0);
    log.putBytes(stream.bytes, from, to);
  }
}

/** Kinds of verdicts, as records have them. */
export const VerdictKind = { HAPPENED: 1, ANSWERED: 2, GAVE: 3 } as const;

function verdictWords(verdict: Verdict): number[] {
  switch (verdict.kind) {
    case 'happened':
      return [VerdictKind.HAPPENED, verdict.bytes];
    case 'answered':
      return [VerdictKind.ANSWERED, verdict.length, ...verdict.words];
    case 'gave':
      return [VerdictKind.GAVE, ...verdict.lookups.flat()];
  }
}

/** The forms of a key: the lowest two bits of its first word; above them the length. */
export const KEY_BYTES = 0;
export const KEY_TEXT = 1;
export const KEY_NUMBER = 2;
export const KEY_NONE = 3;

const float = new Float64Array(1);
const floatWords = new Int32Array(float.buffer);

function keyWords(key: NodeKey): number {
  if (typeof key === 'string') return textWords(key);
  return typeof key === 'number' ? 3 : 1 + ((key.length + 3) >>> 2);
}

function putKey(log: RecordLog, key: NodeKey): void {
  if (typeof key === 'string') {
    putText(log, key, KEY_TEXT);
  } else if (typeof key === 'number') {
    float[0] = key;
    log.put(KEY_NUMBER);
    log.put(floatWords[0]!);
    log.put(floatWords[1]!);
  } else {
    log.put(KEY_BYTES | (key.length << 2));
    log.putBytes(key, 0, key.length);
  }
}

function putWide(log: RecordLog, value: bigint): void {
  log.put(Number(value & 0xffffffffn));
  log.put(Number(value >> 32n));
}
