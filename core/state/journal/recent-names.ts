import type { NodeIdHigh, NodeIdLow, Slot } from '../ids.js';
import { NO_SLOT, type NodeTable } from '../node-table.js';

/** Names that are kept, a power of two. Their memory is 4 MB. */
const PLACES = 32_768;
/** UTF-16 units of the longest name that is kept. */
const NAME_UNITS = 48;

/** Words of a place: the hash, the ids of directory and node, its slot, units of the name. */
const Cell = {
  HASH: 0,
  PARENT_LOW: 1,
  PARENT_HIGH: 2,
  LOW: 3,
  HIGH: 4,
  SLOT: 5,
  DIRECTORY: 6,
  LENGTH: 7,
} as const;
const CELL_WORDS = 8;
/** Places among which a name may be, two lines of the processor's cache. */
const WAYS = 4;
const NOWHERE = -1;

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
  /** No strings: the garbage collector would copy each of them. */
  readonly #names = new Uint16Array(PLACES * NAME_UNITS);
  /** Of each place a {@link Cell}. */
  readonly #cells = new Int32Array(PLACES * CELL_WORDS);
  #version = 0;
  #underWay = 0;
  /** Where the cell of the last {@link find} begins. */
  #found = NOWHERE;
  /** Which of its places the next name takes that finds all of them taken. */
  #nextWay = 0;
  /** What {@link #hash} was last asked, and its answer. */
  #lastName = '';
  #lastParentLow = 0;
  #lastHash = 0;

  constructor(nodes: NodeTable) {
    this.#nodes = nodes;
  }

  /** Another one after each change. */
  get version(): number {
    return this.#version;
  }

  /** A name stands for a node. @param version when that began to be found out. */
  found(parent: Slot, name: string, slot: Slot, isDirectory: boolean, version: number): void {
    const at = this.#put(parent, name, slot, version);
    if (at < 0) return;
    this.#cells[at + Cell.LOW] = this.#nodes.idLow(slot);
    this.#cells[at + Cell.HIGH] = this.#nodes.idHigh(slot);
    this.#cells[at + Cell.DIRECTORY] = isDirectory ? 1 : 0;
  }

  /** A name is not there. @param version when that began to be found out. */
  missing(parent: Slot, name: string, version: number): void {
    this.#put(parent, name, NO_SLOT, version);
  }

  /** A name is about to change. */
  change(parent: Slot, name: string): void {
    this.#version = (this.#version + 1) | 0;
    const at = this.#find(parent, name);
    if (at >= 0) this.#cells[at + Cell.LENGTH] = 0;
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
    const at = this.#underWay > 0 ? NOWHERE : this.#find(parent, name);
    this.#found = at;
    if (at < 0) return NOT_RECENT;
    const cells = this.#cells;
    const slot = cells[at + Cell.SLOT]! as Slot;
    if (slot === NO_SLOT) return NO_SLOT;
    const low = cells[at + Cell.LOW]! as NodeIdLow;
    const found = this.#nodes.find(low, cells[at + Cell.HIGH]! as NodeIdHigh);
    return found === slot ? slot : NOT_RECENT;
  }

  /** Whether what {@link find} has just found is a directory. */
  get isDirectory(): boolean {
    return this.#cells[this.#found + Cell.DIRECTORY] === 1;
  }

  /** @returns where the name's cell begins, or {@link NOWHERE} if what was found does not count. */
  #put(parent: Slot, name: string, slot: Slot, version: number): number {
    if (version !== this.#version || this.#underWay > 0 || name.length > NAME_UNITS) return NOWHERE;
    const hash = this.#hash(parent, name);
    const known = this.#look(hash, parent, name);
    const at = known >= 0 ? known : this.#vacate(hash);
    const cells = this.#cells;
    cells[at + Cell.SLOT] = slot;
    if (known >= 0) return at;
    cells[at + Cell.HASH] = hash;
    cells[at + Cell.PARENT_LOW] = this.#nodes.idLow(parent);
    cells[at + Cell.PARENT_HIGH] = this.#nodes.idHigh(parent);
    cells[at + Cell.LENGTH] = name.length;
    const from = (at / CELL_WORDS) * NAME_UNITS;
    for (let i = 0; i < name.length; i++) this.#names[from + i] = name.charCodeAt(i);
    return at;
  }

  /** @returns where the name's cell begins, or {@link NOWHERE}. */
  #find(parent: Slot, name: string): number {
    return this.#look(this.#hash(parent, name), parent, name);
  }

  #look(hash: number, parent: Slot, name: string): number {
    const cells = this.#cells;
    const first = firstCell(hash);
    for (let at = first; at < first + WAYS * CELL_WORDS; at += CELL_WORDS) {
      if (cells[at + Cell.HASH] !== hash) continue;
      const isIts =
        cells[at + Cell.LENGTH] === name.length &&
        cells[at + Cell.PARENT_LOW] === this.#nodes.idLow(parent) &&
        cells[at + Cell.PARENT_HIGH] === this.#nodes.idHigh(parent) &&
        this.#isNamed(at, name);
      if (isIts) return at;
    }
    return NOWHERE;
  }

  #isNamed(at: number, name: string): boolean {
    const from = (at / CELL_WORDS) * NAME_UNITS;
    for (let i = 0; i < name.length; i++) if (this.#names[from + i] !== name.charCodeAt(i)) return false;
    return true;
  }

  /** @returns where a cell begins that another name may have. */
  #vacate(hash: number): number {
    const first = firstCell(hash);
    for (let at = first; at < first + WAYS * CELL_WORDS; at += CELL_WORDS)
      if (this.#cells[at + Cell.LENGTH] === 0) return at;
    this.#nextWay = (this.#nextWay + 1) % WAYS;
    return first + this.#nextWay * CELL_WORDS;
  }

  /** Every bit depends on every character: numbered names must not share places. */
  #hash(parent: Slot, name: string): number {
    const low = this.#nodes.idLow(parent);
    // A request asks of a name, changes it, and says what became of it.
    if (name === this.#lastName && low === this.#lastParentLow) return this.#lastHash;
    let hash: number = low;
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash, 31) + name.charCodeAt(i);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    hash ^= hash >>> 16;
    this.#lastName = name;
    this.#lastParentLow = low;
    this.#lastHash = hash;
    return hash;
  }
}

/** Where the first of the cells begins among which a name with such a hash may be. */
function firstCell(hash: number): number {
  return (hash & (PLACES / WAYS - 1)) * WAYS * CELL_WORDS;
}
