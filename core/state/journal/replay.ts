import { type LogMemory, readLog, readText, readWide } from '../../lasting-memory/index.js';
import { HandleKind } from '../handle-table.js';
import { LockType, u64 } from '../locks/index.js';
import type { SavedExport, SavedHandle, SavedNode, SavedSession } from '../saved-form.js';
import { type Intent, IntentKind, NO_PLACE, type Verdict } from './intent.js';
import { KEY_BYTES, KEY_NONE, KEY_NUMBER, KEY_TEXT, type SessionPlace, VerdictKind } from './journal.js';
import { uniqueOf } from './open-requests.js';
import { AnswerKind, JOURNAL, LEAST_WORDS, LOCK_KINDS, RecordType } from './records.js';

/** An {@link Intent} without an answer. Nodes are indexes of the saved form; -1 for none. */
export interface OpenIntent extends Omit<Intent, 'slot' | 'other' | 'key'> {
  readonly unique: readonly [low: number, high: number];
  readonly node: number;
  readonly otherNode: number;
  /** In the saved form. */
  readonly key: SavedNode['key'] | undefined;
}

/** A {@link Verdict}. Nodes are indexes of the saved form. */
export interface OpenVerdict {
  readonly unique: readonly [low: number, high: number];
  readonly verdict: Verdict<number>;
}

/** What a session of a killed process had, beside its saved form. */
export interface LeftSession {
  readonly place: SessionPlace;
  readonly intents: readonly OpenIntent[];
  readonly verdicts: readonly OpenVerdict[];
}

/** What a killed process has left. */
export interface Left {
  readonly saved: SavedExport;
  /** In the order of `saved.sessions`. */
  readonly sessions: readonly LeftSession[];
  /** Numbers of the descriptors that are held, with the nodes that they are of. */
  readonly held: readonly (readonly [node: number, number: number])[];
  /** What the backend has said of nodes: see `Accelerator.trace`. */
  readonly traces: ReadonlyMap<number, string>;
}

/** What these have done is told by the key of a node. */
const OF_NODES: ReadonlySet<IntentKind> = new Set([IntentKind.LINK, IntentKind.REMOVAL, IntentKind.RENAME]);

type Mutable<T> = { -readonly [Name in keyof T]: T[Name] };

interface Listing {
  /** With room for more, so that parts are not copied again and again. */
  bytes: Uint8Array;
  used: number;
  complete: boolean;
}

interface Handle {
  generation: number;
  kind: number;
  slot: number;
  flags: number;
  listing: Listing | undefined;
}

interface Session {
  place: SessionPlace;
  lockId: number;
  lastGeneration: number;
  negotiated: SavedSession['negotiated'] | undefined;
  readonly counts: Map<number, number>;
  readonly handles: Map<number, Handle>;
  /** INTENT and VERDICT records without an answer: where they lie. */
  readonly open: Map<number, Place>;
  /** VERDICT records of answers that may not be published: where they lie, by their place. */
  readonly returned: Map<number, Place>;
}

/** Where a record lies. */
interface Place {
  readonly type: number;
  readonly at: number;
  readonly end: number;
}

interface Node {
  low: number;
  high: number;
  generation: number;
  key: SavedNode['key'];
  trace: string;
  held: number;
}

interface Lock {
  readonly slot: number;
  readonly session: number;
  readonly kind: number;
  readonly owner: bigint;
  readonly type: number;
  readonly start: bigint;
  readonly end: bigint;
}

/** The answer that was committed last, whose guest may not have got it. */
interface Last {
  readonly session: number;
  readonly unique: readonly [low: number, high: number];
  /** Bytes of the reply after its header, and where it lies; undefined where it is not kept. */
  readonly reply: { readonly length: number; readonly at: number; readonly end: number } | undefined;
  readonly lookups: Map<number, number>;
}

/**
 * Reads the journal of a process that was killed.
 * @returns undefined if there is none.
 * @throws RangeError for memory that no journal has written.
 */
export function replay(memory: LogMemory): Left | undefined {
  const reader = new Reader(memory);
  return readLog(memory, JOURNAL, (type, at, end) => reader.take(type, at, end))
    ? reader.finish()
    : undefined;
}

class Reader {
  readonly #words: Int32Array;
  readonly #nodes = new Map<number, Node>();
  readonly #sessions = new Map<number, Session>();
  readonly #locks = new Map<string, Lock>();
  readonly #holders = new Map<string, { pid: number; handle: number }>();
  /** Lookups that the current request has added: by session and slot. */
  #added = new Map<number, number>();
  #last: Last | undefined;
  readonly #saved: SavedNode[] = [];
  readonly #indexes = new Map<number, number>();

  constructor({ words }: LogMemory) {
    this.#words = words;
  }

  take(type: number, at: number, end: number): void {
    const w = this.#words;
    const least = LEAST_WORDS[type];
    if (least === undefined) throw new RangeError(`session journal: a record of type ${type}`);
    if (end - at < least) throw new RangeError('session journal: a short record');
    switch (type) {
      case RecordType.NODE: {
        const { text: trace, next } = readText(w, at + 5, end, JOURNAL.name);
        const known = this.#nodes.get(w[at]!);
        const [low, high] = [w[at + 1]! >>> 0, w[at + 2]! >>> 0];
        this.#nodes.set(w[at]!, {
          low,
          high,
          generation: w[at + 3]! >>> 0,
          key: this.#nodeKey(next, end),
          trace,
          held: known?.low === low && known.high === high ? known.held : 0,
        });
        return;
      }
      case RecordType.TRACE: {
        const { text } = readText(w, at + 1, end, JOURNAL.name);
        const node = this.#nodes.get(w[at]!);
        if (node !== undefined) node.trace = text;
        return;
      }
      case RecordType.HELD: {
        const node = this.#nodes.get(w[at]!);
        if (node !== undefined) node.held = w[at + 1]!;
        return;
      }
      case RecordType.SESSION:
        this.#describe(at);
        return;
      case RecordType.SESSION_END:
        this.#sessions.delete(w[at]!);
        return;
      case RecordType.LOCK:
        this.#lock(at);
        return;
      case RecordType.BOUNDARY:
        this.#added = new Map();
        return;
    }
    const session = this.#sessions.get(w[at]!);
    if (session === undefined) return;
    switch (type) {
      case RecordType.COUNT:
        this.#count(session, w[at + 1]!, readWide(w, at + 2));
        return;
      case RecordType.GAVE:
      case RecordType.TOOK:
        this.#count(session, w[at + 3]!, w[at + 4]!);
        this.#done(session, at, type === RecordType.GAVE ? undefined : { length: 0, at: end, end });
        return;
      case RecordType.CLOSED:
        this.#closed(session, w[at + 3]!, w[at + 4]!);
        this.#done(session, at, { length: 0, at: end, end });
        return;
      case RecordType.NO_COUNTS:
        session.counts.clear();
        session.open.clear();
        session.returned.clear();
        return;
      case RecordType.HANDLE:
        this.#handle(session, at);
        return;
      case RecordType.LISTING:
        this.#listing(session, at, end);
        return;
      case RecordType.INTENT:
      case RecordType.APPEND:
      case RecordType.VERDICT: {
        const place = type === RecordType.VERDICT ? w[at + 3]! : NO_PLACE;
        if (place !== NO_PLACE) session.returned.set(place, { type, at, end });
        else session.open.set(uniqueOf(w[at + 1]!, w[at + 2]!), { type, at, end });
        // The lookups are in the record.
        if (type === RecordType.VERDICT && w[at + 4] === VerdictKind.GAVE) this.#added = new Map();
        return;
      }
      case RecordType.DONE: {
        const reply = w[at + 4] === AnswerKind.REPLY ? { length: w[at + 3]!, at: at + 5, end } : undefined;
        this.#done(session, at, reply);
        if (w[at + 4] === AnswerKind.BEFORE) this.#last = undefined;
      }
    }
  }

  #count(session: Session, slot: number, count: number): void {
    if (!Number.isSafeInteger(count)) throw new RangeError('session journal: a bad lookup count');
    const more = count - (session.counts.get(slot) ?? 0);
    if (more > 0) this.#added.set(slot, (this.#added.get(slot) ?? 0) + more);
    if (count === 0) session.counts.delete(slot);
    else session.counts.set(slot, count);
  }

  #closed(session: Session, index: number, generation: number): void {
    session.lastGeneration = Math.max(session.lastGeneration, generation);
    session.handles.delete(index);
  }

  /** A request is answered. @param at where a record has the session and the request's id. */
  #done({ open }: Session, at: number, reply: Last['reply']): void {
    const w = this.#words;
    const unique = [w[at + 1]!, w[at + 2]!] as const;
    this.#addEarlier(open.get(uniqueOf(...unique)));
    open.delete(uniqueOf(...unique));
    this.#last = { session: w[at]!, unique, reply, lookups: this.#added };
    this.#added = new Map();
  }

  finish(): Left {
    this.#saved.push({ key: { s: '' }, low: 1, high: 0, generation: 0 });
    this.#indexes.set(0, 0);
    const sessions: SavedSession[] = [];
    const left: LeftSession[] = [];
    const ids = new Set<number>();
    for (const [id, session] of this.#sessions) {
      sessions.push(this.#savedSession(session));
      left.push(this.#leftSession(id, session));
      ids.add(session.lockId);
    }
    const locks = [...this.#locks.values()].filter((lock) => ids.has(lock.session));
    const saved = {
      nodes: this.#saved,
      sessions,
      locks: { locks: locks.flatMap((lock) => this.#savedLock(lock)), waiters: [] },
    };
    const held: [number, number][] = [];
    const traces = new Map<number, string>();
    for (const [slot, index] of this.#indexes) {
      const { held: number = 0, trace = '' } = this.#nodes.get(slot) ?? {};
      if (number > 0) held.push([index, number]);
      if (trace !== '') traces.set(index, trace);
    }
    return { saved, sessions: left, held, traces };
  }

  /** Adds the lookups that a request had added before it waited. */
  #addEarlier(open: Place | undefined): void {
    const w = this.#words;
    if (open?.type !== RecordType.VERDICT || w[open.at + 4] !== VerdictKind.GAVE) return;
    for (let i = open.at + 5; i + 1 < open.end; i += 2)
      this.#added.set(w[i]!, (this.#added.get(w[i]!) ?? 0) + w[i + 1]!);
  }

  #describe(at: number): void {
    const w = this.#words;
    const known = this.#sessions.get(w[at]!);
    const session: Session = known ?? {
      place: { connection: 0, socket: 0 },
      lockId: 0,
      lastGeneration: 0,
      negotiated: undefined,
      counts: new Map(),
      handles: new Map(),
      open: new Map(),
      returned: new Map(),
    };
    session.place = { connection: w[at + 1]!, socket: w[at + 2]! };
    session.lockId = w[at + 3]!;
    if (w[at + 1]! < 0 || w[at + 2]! < 0 || session.lockId <= 0)
      throw new RangeError('session journal: a bad session');
    session.lastGeneration = Math.max(session.lastGeneration, w[at + 4]!);
    session.negotiated =
      w[at + 5] === 0
        ? undefined
        : {
            minor: w[at + 6]!,
            flags: w[at + 7]!,
            flags2: w[at + 8]!,
            maxReadahead: w[at + 9]! >>> 0,
            maxWrite: w[at + 10]! >>> 0,
            maxPages: w[at + 11]!,
          };
    this.#sessions.set(w[at]!, session);
  }

  #handle(session: Session, at: number): void {
    const w = this.#words;
    const index = w[at + 1]!;
    const generation = w[at + 2]!;
    if (w[at + 3] === HandleKind.FREE) {
      this.#closed(session, index, generation);
      return;
    }
    session.lastGeneration = Math.max(session.lastGeneration, generation);
    const known = session.handles.get(index);
    const listing = known?.generation === generation ? known.listing : undefined;
    session.handles.set(index, {
      generation,
      kind: w[at + 3]!,
      slot: w[at + 4]!,
      flags: w[at + 5]!,
      listing,
    });
  }

  #listing(session: Session, at: number, end: number): void {
    const w = this.#words;
    const handle = session.handles.get(w[at + 1]!);
    const from = w[at + 2]!;
    const length = w[at + 3]!;
    if (length < 0 || length > (end - at - 5) * 4) throw new RangeError('session journal: a bad listing');
    if (handle === undefined) return;
    const before = from === 0 ? undefined : handle.listing;
    if (from < 0 || from > (before?.used ?? 0)) throw new RangeError('session journal: a listing with a gap');
    let bytes = before?.bytes ?? new Uint8Array(0);
    const used = from + length;
    if (used > bytes.length) {
      const wider = new Uint8Array(used * 2);
      wider.set(bytes.subarray(0, from));
      bytes = wider;
    }
    bytes.set(new Uint8Array(w.buffer, w.byteOffset + (at + 5) * 4, length), from);
    handle.listing = { bytes, used, complete: w[at + 4] === 1 };
  }

  #lock(at: number): void {
    const w = this.#words;
    const [slot, session, kind] = [w[at]!, w[at + 1]!, w[at + 2]!];
    const owner = u64(w[at + 4]!, w[at + 3]!);
    const type = w[at + 5]!;
    if (LOCK_KINDS[kind] === undefined || type < LockType.READ || type > LockType.UNLOCK || w[at + 11]! < 0)
      throw new RangeError('session journal: a bad lock');
    const start = u64(w[at + 7]!, w[at + 6]!);
    const end = u64(w[at + 9]!, w[at + 8]!);
    const holder = `${slot} ${session} ${kind} ${owner}`;
    const name = `${holder} ${start}`;
    if (type === LockType.UNLOCK) this.#locks.delete(name);
    else {
      this.#locks.set(name, { slot, session, kind, owner, type, start, end });
      this.#holders.set(holder, { pid: w[at + 10]! >>> 0, handle: w[at + 11]! });
    }
  }

  #savedLock({ slot, session, kind, owner, type, start, end }: Lock): SavedExport['locks']['locks'] {
    const node = this.#index(slot);
    if (node < 0) return [];
    const holder = this.#holders.get(`${slot} ${session} ${kind} ${owner}`)!;
    const range = { type, start: `${start}`, end: `${end}` };
    return [{ kind: LOCK_KINDS[kind]!, session, node, owner: `${owner}`, ...range, ...holder }];
  }

  #savedSession(session: Session): SavedSession {
    const { lockId, negotiated, counts, handles, lastGeneration } = session;
    const saved: SavedHandle[] = [];
    for (const [index, handle] of handles) {
      const { generation, kind, slot, flags, listing } = handle;
      const node = this.#index(slot);
      if (node < 0) continue;
      const one: Mutable<SavedHandle> = { index, generation: generation >>> 0, node, flags: flags >>> 0 };
      if (kind === HandleKind.DIRECTORY) {
        const bytes = listing?.bytes.subarray(0, listing.used) ?? [];
        const entries = Buffer.from(bytes).toString('base64');
        one.stream = { entries, complete: listing?.complete === true };
      } else if (kind === HandleKind.LOST) one.lost = true;
      saved.push(one);
    }
    return {
      id: lockId,
      ...(negotiated === undefined ? {} : { negotiated }),
      lookups: this.#lookups(counts),
      handles: saved,
      handleGeneration: lastGeneration >>> 0,
    };
  }

  #leftSession(id: number, { place, open, returned }: Session): LeftSession {
    const intents: OpenIntent[] = [];
    const verdicts: OpenVerdict[] = [...returned.values()].map(({ at, end }) => this.#verdict(at, end));
    for (const { type, at, end } of open.values()) {
      if (type === RecordType.INTENT) intents.push(...this.#intent(at, end));
      else if (type === RecordType.APPEND) intents.push(...this.#append(at));
      else verdicts.push(this.#verdict(at, end));
    }
    const last = this.#last;
    if (last?.session === id) verdicts.push(this.#lastVerdict(last));
    return { place, intents, verdicts };
  }

  /** @returns none if a node is gone. */
  #intent(at: number, end: number): OpenIntent[] {
    const w = this.#words;
    const kind = w[at + 3]! as IntentKind;
    if (!Object.values(IntentKind).includes(kind)) throw new RangeError(`session journal: an intent ${kind}`);
    const { text: name, next } = readText(w, at + 9, end, JOURNAL.name);
    const { text: newName, next: keyAt } = readText(w, next, end, JOURNAL.name);
    // Of a node that guests know, only the slot is there.
    const key = this.#key(keyAt, end) ?? this.#nodes.get((w[keyAt]! >>> 2) - 1)?.key;
    if (key === undefined && OF_NODES.has(kind)) return [];
    const unique = [w[at + 1]!, w[at + 2]!] as const;
    const [size, length] = [readWide(w, at + 6), w[at + 8]!];
    const node = this.#index(w[at + 4]!);
    const otherNode = w[at + 5]! < 0 ? -1 : this.#index(w[at + 5]!);
    if (node < 0 || (kind === IntentKind.RENAME && otherNode < 0)) return [];
    return [{ unique, kind, node, otherNode, size, length, name, newName, key }];
  }

  /** @returns none if the node is gone. */
  #append(at: number): OpenIntent[] {
    const w = this.#words;
    const node = this.#index(w[at + 3]!);
    if (node < 0) return [];
    const unique = [w[at + 1]!, w[at + 2]!] as const;
    const [size, length] = [readWide(w, at + 4), w[at + 6]!];
    const none = { otherNode: -1, name: '', newName: '', key: undefined };
    return [{ unique, kind: IntentKind.APPEND, node, size, length, ...none }];
  }

  #verdict(at: number, end: number): OpenVerdict {
    const w = this.#words;
    const unique = [w[at + 1]!, w[at + 2]!] as const;
    const place = w[at + 3]!;
    switch (w[at + 4]) {
      case VerdictKind.HAPPENED:
        return { unique, verdict: { kind: 'happened', bytes: w[at + 5]! } };
      case VerdictKind.ANSWERED:
        return { unique, verdict: this.#answer(place, w[at + 5]!, at + 6, end) };
      case VerdictKind.GAVE: {
        const given: [number, number][] = [];
        for (let i = at + 5; i + 1 < end; i += 2) given.push([w[i]!, w[i + 1]!]);
        return { unique, verdict: { kind: 'gave', place, lookups: this.#lookups(given) } };
      }
      default:
        throw new RangeError(`session journal: a verdict ${w[at + 4]}`);
    }
  }

  #answer(place: number, length: number, at: number, end: number): Verdict<number> {
    if (end - at !== (length <= 0 ? 0 : (length + 3) >>> 2))
      throw new RangeError('session journal: a bad answer');
    return { kind: 'answered', place, length, words: this.#words.slice(at, end) };
  }

  #lastVerdict({ unique, reply, lookups }: Last): OpenVerdict {
    const place = NO_PLACE;
    if (reply !== undefined)
      return { unique, verdict: this.#answer(place, reply.length, reply.at, reply.end) };
    return { unique, verdict: { kind: 'gave', place, lookups: this.#lookups(lookups) } };
  }

  /** Counts by slot as counts by the index in the saved form. */
  #lookups(counts: Iterable<readonly [slot: number, count: number]>): [node: number, count: number][] {
    const lookups: [number, number][] = [];
    for (const [slot, count] of counts) {
      const node = this.#index(slot);
      if (node >= 0) lookups.push([node, count]);
    }
    return lookups;
  }

  /**
   * The index in the saved form of a node, which gets one if it has none.
   * @returns -1 for a node whose key could not be told: nobody could find it again.
   */
  #index(slot: number): number {
    const known = this.#indexes.get(slot);
    if (known !== undefined) return known;
    const node = this.#nodes.get(slot);
    if (node === undefined) return -1;
    const { key, low, high, generation } = node;
    this.#saved.push({ key, low, high, generation });
    this.#indexes.set(slot, this.#saved.length - 1);
    return this.#saved.length - 1;
  }

  #nodeKey(at: number, end: number): SavedNode['key'] {
    const key = this.#key(at, end);
    if (key === undefined) throw new RangeError('session journal: a node without a key');
    return key;
  }

  #key(at: number, end: number): SavedNode['key'] | undefined {
    const w = this.#words;
    const form = w[at]! & 3;
    const length = w[at]! >>> 2;
    const words = form === KEY_NUMBER ? 3 : 1;
    if (at + words > end) throw new RangeError('session journal: a key is missing');
    switch (form) {
      case KEY_NONE:
        return undefined;
      case KEY_NUMBER:
        return { n: new Float64Array(w.slice(at + 1, at + 3).buffer)[0]! };
      case KEY_TEXT:
        return { s: readText(w, at, end, JOURNAL.name).text };
      case KEY_BYTES:
      default: {
        if (at + 1 + ((length + 3) >>> 2) > end) throw new RangeError('session journal: a key is cut short');
        const bytes = Buffer.from(w.buffer, w.byteOffset + (at + 1) * 4, length);
        return { b: bytes.toString('base64') };
      }
    }
  }
}
