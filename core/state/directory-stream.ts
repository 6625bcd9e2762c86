import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type Awaitable,
  decodeName,
  type DirectoryEntry,
  encodeName,
  FileType,
  FsError,
  NAME_MAX,
  nameLength,
  andThen,
} from '../backend/index.js';

/**
 * Entries that are pulled from a backend in one turn of the event loop, before the one that is
 * asked for. A guest may ask for the last of a million.
 */
const PULLED_AT_ONCE = 1024;

/** What a backend's `readdir` returns. */
export type Listing = Iterable<DirectoryEntry> | AsyncIterable<DirectoryEntry>;

/** Limits the memory that all directory streams together may use. */
export class ListingBudget {
  readonly limit: number;
  #used = 0;

  /** @param limit bytes. */
  constructor(limit = 1 << 30) {
    this.limit = limit;
  }

  /** Bytes in use. */
  get used(): number {
    return this.#used;
  }

  /** Takes bytes from the budget. @throws ENOMEM if it does not have so many. */
  take(bytes: number): void {
    if (this.#used + bytes > this.limit) throw FsError.of('ENOMEM');
    this.#used += bytes;
  }

  /** Gives bytes back. */
  give(bytes: number): void {
    this.#used -= bytes;
  }
}

/** The saved form of a stream. */
export interface SavedStream {
  /** The entries seen so far, as the stream stores them. */
  readonly entries: Uint8Array;
  /** Whether the directory has no further entries. */
  readonly complete: boolean;
}

/**
 * A stored entry: inode number (two little-endian words), type and {@link LATER}, length of the
 * name, name.
 */
const HEADER = 10;
const TYPE = 8;
const LENGTH = 9;
/** Beside the type: the name is not to be looked up ahead. */
const LATER = 0x80;
const WORD = 2 ** 32;
const FIRST_BYTES = 512;
const FIRST_ENTRIES = 16;
/** Keeps offsets and cookies below 2^31, so that they are exact in every form. */
const MAX_BYTES = 0x7fff_ffff;

/**
 * One open directory. It keeps the entries in the order in which the backend lists them, and pulls
 * them from the backend only as far as the guest reads. `.` and `..` come first. The cookie of an
 * entry is its index plus one, so a READDIR at offset n begins with entry n. Cookies stay valid
 * whatever is created and removed meanwhile (POSIX `seekdir`). Offset 0 begins a new listing (POSIX
 * `rewinddir`). A listing may begin with `.` and `..` to tell their inode numbers.
 *
 * An entry takes 14 bytes and its name, at worst twice that, from a budget that all streams share.
 * When the budget is used up, listing fails with ENOMEM.
 */
export class DirectoryStream {
  readonly #budget: ListingBudget;
  /** The inode numbers of `.` and `..`, as the listing gave them; 0 if it did not. */
  #self: number | bigint = 0;
  #parent: number | bigint = 0;
  #bytes = new Uint8Array(0);
  #used = 0;
  #offsets = new Uint32Array(0);
  #count = 0;
  #iterator: Iterator<DirectoryEntry> | AsyncIterator<DirectoryEntry> | undefined;
  /** The names of a restored stream, which the continued listing leaves out. */
  #known: Set<string> | undefined;
  /** Whether the iterator returns promises. */
  #isAsync = false;
  #complete = false;
  #failure: { readonly error: unknown } | undefined;
  #closed = false;
  #listings = 0;
  #turn: Promise<void> | undefined;
  #list: () => Awaitable<Listing> = () => [];

  constructor(budget: ListingBudget) {
    this.#budget = budget;
  }

  /**
   * Serves one READDIR. It waits until earlier reads of this stream have ended, begins a new
   * listing if `offset` is 0, and runs `fill`, which reads entries from `offset` on by {@link at}.
   * The result is a promise only if something had to be waited for.
   * @param list asks the backend for a listing; called when one begins.
   * @throws EBADF on a closed stream, and what `list` and `fill` throw.
   */
  read<R>(offset: number, list: () => Awaitable<Listing>, fill: () => Awaitable<R>): Awaitable<R> {
    return this.#inTurn(() => {
      if (this.#closed) throw FsError.of('EBADF');
      this.#list = list;
      return offset === 0 ? andThen(this.#stop(), () => this.#restart(fill)) : fill();
    });
  }

  /**
   * Whether there is an entry `index`; pulls entries up to it. Only to be called within {@link
   * read}.
   * @throws the backend's error, if the listing failed before that entry; ENOMEM beyond the budget;
   * an Error if the backend listed an impossible name.
   */
  at(index: number): Awaitable<boolean> {
    for (let left = PULLED_AT_ONCE; index >= this.#count; left--) {
      if (this.#failure !== undefined) throw this.#failure.error;
      if (this.#complete) return false;
      const pulled = left === 0 ? nextTurn() : this.#pull();
      if (pulled instanceof Promise) return this.#atLater(index, pulled);
    }
    return true;
  }

  /**
   * Whether there is an entry `index` that needs no waiting and has no error before it. Only to be
   * called within {@link read}, for an entry behind one that {@link at} has found.
   */
  has(index: number): boolean {
    while (index >= this.#count) {
      if (this.#failure !== undefined || this.#iterator === undefined || this.#isAsync) return false;
      void this.#pull();
    }
    return true;
  }

  async #atLater(index: number, pulled: Promise<void>): Promise<boolean> {
    await pulled;
    let left = PULLED_AT_ONCE;
    while (index >= this.#count && this.#failure === undefined && !this.#complete) {
      const next = this.#pull();
      if (next instanceof Promise) await next;
      else if (--left === 0) {
        await nextTurn();
        left = PULLED_AT_ONCE;
      }
    }
    return this.at(index);
  }

  /** How often a listing began, see {@link read}. */
  get listings(): number {
    return this.#listings;
  }

  /** Whether the directory has no further entries. */
  get complete(): boolean {
    return this.#complete;
  }

  /** How many of {@link bytes} are stored entries. */
  get used(): number {
    return this.#used;
  }

  /**
   * The stored entries. The name of an entry lies from {@link nameStart} to {@link nameEnd}. Valid
   * until the next entry is pulled.
   */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  nameStart(index: number): number {
    return this.#offsets[index]! + HEADER;
  }

  nameEnd(index: number): number {
    const offset = this.#offsets[index]!;
    return offset + HEADER + this.#bytes[offset + LENGTH]!;
  }

  /** The type as in `struct fuse_dirent`: the type bits of a mode, shifted right by 12. */
  type(index: number): number {
    return this.#bytes[this.#offsets[index]! + TYPE]! & ~LATER;
  }

  /** Whether the name is looked up only when the guest asks for that. */
  isLater(index: number): boolean {
    return (this.#bytes[this.#offsets[index]! + TYPE]! & LATER) !== 0;
  }

  /** The low half of the inode number. Both halves are 0 if it is unknown. */
  inoLow(index: number): number {
    return this.#word(this.#offsets[index]!);
  }

  inoHigh(index: number): number {
    return this.#word(this.#offsets[index]! + 4);
  }

  /** Closes the stream and the backend's iterator, after the reads that are under way. */
  close(): Awaitable<void> {
    return this.#inTurn(() => {
      this.#closed = true;
      this.#clear();
      return this.#stop();
    });
  }

  /** The stream as plain data. */
  save(): SavedStream {
    return { entries: this.#bytes.slice(0, this.#used), complete: this.#complete };
  }

  /**
   * Restores a saved stream. Its entries keep their cookies. If the listing was not complete, the
   * backend lists the directory again, and the names that the stream does not have yet follow.
   * @throws RangeError for data that no stream has saved; ENOMEM beyond the budget.
   */
  static restore(saved: SavedStream, budget: ListingBudget): DirectoryStream {
    const stream = new DirectoryStream(budget);
    const { entries } = saved;
    const known = new Set<string>();
    for (let at = 0; at < entries.length;) {
      const end = at + HEADER + (entries[at + LENGTH] ?? 0);
      if (at + HEADER >= end || end > entries.length)
        throw new RangeError('saved directory stream: bad entry');
      stream.#reserve(end - at);
      stream.#bytes.set(entries.subarray(at, end), at);
      known.add(decodeName(entries, at + HEADER, end));
      stream.#append(end - at);
      at = end;
    }
    if (stream.#count > 0) stream.#known = known;
    stream.#complete = saved.complete;
    return stream;
  }

  #inTurn<R>(step: () => Awaitable<R>): Awaitable<R> {
    const result = this.#turn === undefined ? step() : this.#turn.then(step);
    if (result instanceof Promise) {
      const end = (): void => {
        if (this.#turn === turn) this.#turn = undefined;
      };
      const turn: Promise<void> = result.then(end, end);
      this.#turn = turn;
    }
    return result;
  }

  #restart<R>(fill: () => Awaitable<R>): Awaitable<R> {
    this.#clear();
    return fill();
  }

  #clear(): void {
    this.#budget.give(this.#bytes.length + this.#offsets.byteLength);
    this.#bytes = new Uint8Array(0);
    this.#offsets = new Uint32Array(0);
    this.#used = 0;
    this.#count = 0;
    this.#self = 0;
    this.#parent = 0;
    this.#known = undefined;
    this.#listings += 1;
    this.#complete = false;
    this.#failure = undefined;
  }

  #stop(): Awaitable<void> {
    const iterator = this.#iterator;
    this.#iterator = undefined;
    const ended: unknown = iterator?.return?.();
    return ended instanceof Promise ? ended.then(() => undefined) : undefined;
  }

  /** Makes one step: begins the listing, or takes its next entry. */
  #pull(): Awaitable<void> {
    try {
      const step = this.#iterator === undefined ? this.#begin() : this.#next(this.#iterator);
      return step instanceof Promise ? step.catch((error: unknown) => this.#fail(error)) : step;
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    this.#failure = { error };
  }

  /** Stores `.` and `..`, once the listing has come past where it may tell their numbers. */
  #pushDots(): void {
    this.#push('.', FileType.DIRECTORY, this.#self);
    this.#push('..', FileType.DIRECTORY, this.#parent);
  }

  #begin(): Awaitable<void> {
    return andThen(this.#list(), (listing) => {
      this.#isAsync = Symbol.asyncIterator in listing;
      this.#iterator =
        Symbol.asyncIterator in listing ? listing[Symbol.asyncIterator]() : listing[Symbol.iterator]();
    });
  }

  #next(iterator: Iterator<DirectoryEntry> | AsyncIterator<DirectoryEntry>): Awaitable<void> {
    return andThen(iterator.next(), (step) => {
      const entry = step.done ? undefined : step.value;
      if (entry?.name === '.' || entry?.name === '..') {
        if (entry.name === '.') this.#self = entry.ino ?? 0;
        else this.#parent = entry.ino ?? 0;
        return;
      }
      if (this.#count === 0) this.#pushDots();
      if (entry === undefined) {
        this.#complete = true;
        this.#iterator = undefined;
        return;
      }
      const { name, type, ino, lookupLater } = entry;
      if (this.#known?.has(name)) return;
      const length = nameLength(name);
      if (length === 0 || length > NAME_MAX || name.includes('/') || name.includes('\0')) {
        throw new Error(`the backend listed an impossible file name: ${JSON.stringify(name)}`);
      }
      this.#push(name, type, ino ?? 0, lookupLater);
    });
  }

  #push(name: string, type: number, ino: number | bigint, isLater = false): void {
    const length = nameLength(name);
    this.#reserve(HEADER + length);
    const at = this.#used;
    const bytes = this.#bytes;
    if (typeof ino === 'number') {
      writeWord(bytes, at, ino % WORD);
      writeWord(bytes, at + 4, Math.floor(ino / WORD));
    } else {
      writeWord(bytes, at, Number(ino & 0xffff_ffffn));
      writeWord(bytes, at + 4, Number((ino >> 32n) & 0xffff_ffffn));
    }
    bytes[at + TYPE] = ((type & FileType.MASK) >>> 12) | (isLater ? LATER : 0);
    bytes[at + LENGTH] = length;
    encodeName(name, bytes, at + HEADER);
    this.#append(HEADER + length);
  }

  #append(length: number): void {
    this.#offsets[this.#count] = this.#used;
    this.#count += 1;
    this.#used += length;
  }

  /** Makes room for one more entry, of `length` bytes. */
  #reserve(length: number): void {
    if (this.#used + length > this.#bytes.length) {
      const size = Math.max(this.#bytes.length * 2, FIRST_BYTES);
      if (size > MAX_BYTES) throw FsError.of('ENOMEM');
      this.#budget.take(size - this.#bytes.length);
      const bytes = new Uint8Array(size);
      bytes.set(this.#bytes);
      this.#bytes = bytes;
    }
    if (this.#count === this.#offsets.length) {
      const size = Math.max(this.#offsets.length * 2, FIRST_ENTRIES);
      this.#budget.take((size - this.#offsets.length) * 4);
      const offsets = new Uint32Array(size);
      offsets.set(this.#offsets);
      this.#offsets = offsets;
    }
  }

  #word(at: number): number {
    const bytes = this.#bytes;
    return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
  }
}

function writeWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}
