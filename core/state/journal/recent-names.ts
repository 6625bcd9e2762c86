import { randomBytes } from '../../system/calls/random.js';
import { finish } from '../identity.js';
import type { Slot } from '../ids.js';
import { NO_SLOT, type NodeTable } from '../node-table.js';

/** Names that are kept, a power of two. Their memory is 512 KiB. */
const PLACES = 32_768;

/**
 * Words of a place. Of a name and its directory it has a hash of 64 bits with a seed of this
 * process's own, which stands for them: what is remembered then takes one access to memory, and no
 * string is kept, compared or copied.
 */
const Cell = {
  HASH: 0,
  CHECK: 1,
  /** The node's slot above what is known of the name ({@link State}). */
  STATE: 2,
  /** {@link idOf} the node. Its slot may be another one's by now. */
  ID: 3,
} as const;
const CELL_WORDS = 4;
/** Places among which a name may be, in one or two lines of the processor's cache. */
const WAYS = 4;
const NOWHERE = -1;

/** What is known of a name in a place, in the lowest bits. */
const State = { NOTHING: 0, MISSING: 1, FILE: 2, DIRECTORY: 3 } as const;
const STATE_BITS = 2;
const STATE_MASK = 3;

/** What {@link RecentNames} says of a name of which it knows nothing. */
export const NOT_RECENT = -2 as Slot;

/**
 * What names of directories stood for when they were last looked up or changed through this engine.
 * A guest looks a name up before it makes, removes or moves it. So the backend need not be asked
 * again what there was before.
 *
 * A request that looks or changes notes the {@link version} when it begins. What it has found
 * counts only if no change has begun since, and nothing counts while one is under way.
 */
export class RecentNames {
  readonly #nodes: NodeTable;
  readonly #cells = new Int32Array(PLACES * CELL_WORDS);
  readonly #seedA = randomBytes(4).readInt32LE();
  readonly #seedB = randomBytes(4).readInt32LE();
  #version = 0;
  #underWay = 0;
  /** Where the cell of the last {@link find} begins. */
  #found = NOWHERE;
  /** Which of its places the next name takes that finds all of them taken. */
  #nextWay = 0;
  /** What was last hashed, and its hash. A request asks of a name more than once. */
  #lastName = '';
  #lastLow = 0;
  #lastHigh = 0;
  #hash = 0;
  #check = 0;

  constructor(nodes: NodeTable) {
    this.#nodes = nodes;
  }

  /** Another one after each change. */
  get version(): number {
    return this.#version;
  }

  /** A name stands for a node. @param version when that began to be found out. */
  found(parent: Slot, name: string, slot: Slot, isDirectory: boolean, version: number): void {
    const at = this.#put(parent, name, version);
    if (at < 0) return;
    const cells = this.#cells;
    cells[at + Cell.STATE] = (slot << STATE_BITS) | (isDirectory ? State.DIRECTORY : State.FILE);
    cells[at + Cell.ID] = this.#idOf(slot);
  }

  /** A name is not there. @param version when that began to be found out. */
  missing(parent: Slot, name: string, version: number): void {
    const at = this.#put(parent, name, version);
    if (at >= 0) this.#cells[at + Cell.STATE] = State.MISSING;
  }

  /** A name is about to change. */
  change(parent: Slot, name: string): void {
    this.#version = (this.#version + 1) | 0;
    const at = this.#look(parent, name);
    if (at >= 0) this.#cells[at + Cell.STATE] = State.NOTHING;
  }

  /** A change does not end at once. {@link end} is called when it has ended. */
  wait(): void {
    this.#underWay += 1;
  }

  /** See {@link wait}. */
  end(): void {
    this.#underWay -= 1;
    this.#version = (this.#version + 1) | 0;
  }

  /**
   * What a name stands for.
   * @returns {@link NO_SLOT} if it is not there, {@link NOT_RECENT} if that is not known.
   */
  find(parent: Slot, name: string): Slot {
    const at = this.#underWay > 0 ? NOWHERE : this.#look(parent, name);
    this.#found = at;
    if (at < 0) return NOT_RECENT;
    const cells = this.#cells;
    const state = cells[at + Cell.STATE]!;
    if ((state & STATE_MASK) < State.FILE) return state === State.MISSING ? NO_SLOT : NOT_RECENT;
    const slot = (state >> STATE_BITS) as Slot;
    return this.#nodes.isUsed(slot) && this.#idOf(slot) === cells[at + Cell.ID] ? slot : NOT_RECENT;
  }

  /** Both halves of a node's id, of which every bit depends on its key, in one. */
  #idOf(slot: Slot): number {
    return this.#nodes.idLow(slot) ^ this.#nodes.idHigh(slot);
  }

  /** Whether what {@link find} has just found is a directory. */
  get isDirectory(): boolean {
    return (this.#cells[this.#found + Cell.STATE]! & STATE_MASK) === State.DIRECTORY;
  }

  /** @returns where the name's cell begins, or {@link NOWHERE} if what was found does not count. */
  #put(parent: Slot, name: string, version: number): number {
    if (version !== this.#version || this.#underWay > 0) return NOWHERE;
    const known = this.#look(parent, name);
    if (known >= 0) return known;
    const at = this.#vacate();
    this.#cells[at + Cell.HASH] = this.#hash;
    this.#cells[at + Cell.CHECK] = this.#check;
    return at;
  }

  /** @returns where the name's cell begins, or {@link NOWHERE}. */
  #look(parent: Slot, name: string): number {
    this.#hashOf(parent, name);
    const cells = this.#cells;
    const hash = this.#hash;
    const first = firstCell(hash);
    for (let at = first; at < first + WAYS * CELL_WORDS; at += CELL_WORDS)
      if (cells[at] === hash && cells[at + Cell.CHECK] === this.#check) return at;
    return NOWHERE;
  }

  /** @returns where a cell begins that the name last hashed may have. */
  #vacate(): number {
    const first = firstCell(this.#hash);
    for (let at = first; at < first + WAYS * CELL_WORDS; at += CELL_WORDS)
      if (this.#cells[at + Cell.STATE] === State.NOTHING) return at;
    this.#nextWay = (this.#nextWay + 1) % WAYS;
    return first + this.#nextWay * CELL_WORDS;
  }

  /** Two lanes, as those of node ids. Every bit of the result depends on every character. */
  #hashOf(parent: Slot, name: string): void {
    const low = this.#nodes.idLow(parent);
    const high = this.#nodes.idHigh(parent);
    if (name === this.#lastName && low === this.#lastLow && high === this.#lastHigh) return;
    let a = Math.imul(low ^ this.#seedA, 0x9e3779b1);
    let b = Math.imul(high ^ this.#seedB, 0x85ebca77);
    for (let i = 0; i < name.length; i++) {
      const unit = name.charCodeAt(i);
      a = Math.imul(a ^ unit, 0x9e3779b1);
      a = (a << 13) | (a >>> 19);
      b = Math.imul(b ^ unit, 0x85ebca77);
      b = (b << 17) | (b >>> 15);
    }
    a = finish(a + b);
    this.#hash = a;
    this.#check = finish(b + a);
    this.#lastName = name;
    this.#lastLow = low;
    this.#lastHigh = high;
  }
}

/** Where the first of the cells begins among which a name with such a hash may be. */
function firstCell(hash: number): number {
  return (hash & (PLACES / WAYS - 1)) * WAYS * CELL_WORDS;
}
