/** Memory that outlives this process: a shared mapping that somebody else holds too. */
export interface LogMemory {
  /** All of it, zeroed in the beginning. */
  readonly words: Int32Array;
  /** Frees what backs the words from `from` up to `to`; they read as zeros then. */
  discard(from: number, to: number): void;
}

/** What tells the logs of one kind from others. */
export interface LogForm {
  /** What errors call it. */
  readonly name: string;
  /** 32 bits, not 0. */
  readonly magic: number;
  readonly version: number;
  /** The oldest version that is read. Default: only `version` is. */
  readonly oldest?: number;
}

/** Words of the header. The length of a part is stored last, and makes its records valid. */
const Header = { MAGIC: 0, VERSION: 1, ORDER: 2, LENGTHS: 3 } as const;

/** Which parts count, the earlier one first. */
const ORDERS: readonly (readonly number[])[] = [[0], [0, 1], [1], [1, 0]];

const HEADER_WORDS = 1024;

/** So many bytes are stored one by one, which takes less time than a call. */
const FEW_BYTES = 64;

/** A part that was left is given back if it has more words than this. */
const KEPT_WORDS = 1 << 19;

/**
 * A log of records in shared memory, which a later process reads when this one was killed.
 *
 * A record begins with a word that has its type in the lowest 8 bits and its length in words above.
 * A process that is killed leaves the stores that it made up to one of its instructions, and none
 * of a later one. So what was written counts from the moment at which the length is stored.
 *
 * There are two parts. When one has become long, the records that still matter are written to the
 * other one, little by little, among those of the changes meanwhile. Both parts count until that is
 * done.
 */
export class RecordLog {
  readonly #memory: LogMemory;
  readonly #magic: number;
  /** All of the memory, for {@link reserve}. */
  readonly words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #partWords: number;
  #order = 0;
  /** Where the present part begins and ends, and where the next word goes. */
  #start = 0;
  #end = 0;
  #at = 0;
  #committed = 0;
  /** Where its length is stored. */
  #lengthAt = 0;

  /**
   * @param memory in which there is no valid log; or one that {@link readLog} has read, which is
   * gone on with.
   */
  constructor(memory: LogMemory, { magic, version }: LogForm) {
    this.#memory = memory;
    this.words = memory.words;
    const { buffer, byteOffset, byteLength } = memory.words;
    this.#bytes = new Uint8Array(buffer, byteOffset, byteLength);
    this.#magic = magic;
    this.#partWords = Math.floor((memory.words.length - HEADER_WORDS) / 2);
    if (this.words[Header.MAGIC] === magic) {
      this.#order = this.words[Header.ORDER]!;
      this.#enter(this.#part, this.words[Header.LENGTHS + this.#part]!);
    } else {
      const isUsed = this.words[Header.VERSION] !== 0;
      if (isUsed) this.words.fill(0, Header.ORDER, HEADER_WORDS);
      this.words[Header.VERSION] = version;
      this.#enter(0, 0);
    }
  }

  /** From here on a later process finds the log. */
  begin(): void {
    this.words[Header.MAGIC] = this.#magic;
  }

  /** Whether both parts count: {@link turn} was called, and {@link leave} was not. */
  get isHalved(): boolean {
    return ORDERS[this.#order]!.length === 2;
  }

  /** Words that a part holds. */
  get capacity(): number {
    return this.#partWords;
  }

  /** Whether something was written and not committed. */
  get pending(): boolean {
    return this.#at !== this.#committed;
  }

  /** Words in the present part. */
  get length(): number {
    return this.#at - this.#start;
  }

  /** Where the next record will begin, for {@link copy}. */
  get position(): number {
    return this.#at;
  }

  /** Whether so many more words fit into the present part. */
  hasRoom(words: number): boolean {
    return this.#at + words <= this.#end;
  }

  /**
   * Makes a place for words that are set in {@link words} at once. There must be room.
   * @returns where it begins.
   */
  reserve(words: number): number {
    const at = this.#at;
    this.#at = at + words;
    return at;
  }

  /** Appends a word. There must be room. */
  put(word: number): void {
    this.words[this.#at++] = word;
  }

  /** Appends bytes, in whole words. There must be room. */
  putBytes(bytes: Uint8Array, from: number, to: number): void {
    let at = this.#at * 4;
    if (to - from <= FEW_BYTES) for (let i = from; i < to; i++) this.#bytes[at++] = bytes[i]!;
    else this.#bytes.set(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to), at);
    this.#at += (to - from + 3) >>> 2;
  }

  /** Words of the record at a position. */
  lengthAt(position: number): number {
    return this.words[position]! >>> 8;
  }

  /** Appends a record that lies at an earlier position. @returns its new position. */
  copy(position: number): number {
    const words = this.lengthAt(position);
    const to = this.#at;
    this.words.copyWithin(to, position, position + words);
    this.#at += words;
    return to;
  }

  /** Makes everything valid that was written. */
  commit(): void {
    this.#committed = this.#at;
    this.words[this.#lengthAt] = this.#at - this.#start;
  }

  /**
   * Goes on in the other part. What is in this one counts until {@link leave}. Nothing may be
   * pending.
   */
  turn(): void {
    const next = 1 - this.#part;
    this.words[Header.LENGTHS + next] = 0;
    this.#order = (this.#order + 1) & 3;
    this.words[Header.ORDER] = this.#order;
    this.#enter(next, 0);
  }

  /** Drops the part that was left. */
  leave(): void {
    const left = 1 - this.#part;
    const words = this.words[Header.LENGTHS + left]!;
    this.#order = (this.#order + 1) & 3;
    this.words[Header.ORDER] = this.#order;
    const from = HEADER_WORDS + left * this.#partWords;
    if (words > KEPT_WORDS) this.#memory.discard(from, from + words);
  }

  /** Makes the log invalid: a later process finds none. */
  invalidate(): void {
    this.words[Header.MAGIC] = 0;
  }

  get #part(): number {
    return ORDERS[this.#order]!.at(-1)!;
  }

  /** @param length words that are in the part already. */
  #enter(part: number, length: number): void {
    this.#lengthAt = Header.LENGTHS + part;
    this.#start = HEADER_WORDS + part * this.#partWords;
    this.#end = this.#start + this.#partWords;
    this.#at = this.#start + length;
    this.#committed = this.#at;
  }
}

/**
 * Calls `visit` for each valid record, in order.
 * @returns false if there is no log.
 * @throws RangeError for a log that is no log of this version.
 */
export function readLog(
  { words }: LogMemory,
  { name, magic, version, oldest = version }: LogForm,
  visit: (type: number, at: number, end: number) => void,
): boolean {
  if (words.length <= HEADER_WORDS || words[Header.MAGIC] !== magic) return false;
  const its = words[Header.VERSION]!;
  if (its < oldest || its > version) throw new RangeError(`a ${name} of version ${its}, not ${version}`);
  const partWords = Math.floor((words.length - HEADER_WORDS) / 2);
  const order = ORDERS[words[Header.ORDER]!];
  if (order === undefined) throw new RangeError(`${name}: bad order`);
  for (const part of order) {
    const length = words[Header.LENGTHS + part]!;
    if (length < 0 || length > partWords) throw new RangeError(`${name}: bad length`);
    const start = HEADER_WORDS + part * partWords;
    for (let at = start; at < start + length;) {
      const end = at + (words[at]! >>> 8);
      if (end <= at || end > start + length) throw new RangeError(`${name}: bad record`);
      visit(words[at]! & 0xff, at + 1, end);
      at = end;
    }
  }
  return true;
}
