import { heapLimit } from '../../backend/limits.js';
import type { NodeIdHigh, NodeIdLow, Slot } from '../ids.js';
import { NO_SLOT, type NodeTable } from '../node-table.js';

/** Bytes of memory for a name that is kept: its place, and 255 characters not in Latin-1. */
const NAME_BYTES = 552;
/** Names that are kept, a power of two: what a 64th of the heap holds, and 17 MB at most. */
const PLACES = Math.min(32_768, 2 ** Math.floor(Math.log2(heapLimit / 64 / NAME_BYTES)));

/** Words of a place: the hash, the ids of directory and node, the node's slot. */
const Cell = { HASH: 0, PARENT_LOW: 1, PARENT_HIGH: 2, LOW: 3, HIGH: 4, SLOT: 5, DIRECTORY: 6 } as const;
const CELL_WORDS = 8;
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
  readonly #names: string[] = Array.from({ length: PLACES }, () => '');
  /** Of each place a {@link Cell}: one line of the processor's cache. */
  readonly #cells = new Int32Array(PLACES * CELL_WORDS);
  #version = 0;
  #underWay = 0;
  /** Where the cell of the last {@link find} begins. */
  #found = NOWHERE;

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
    if (at >= 0) this.#names[at / CELL_WORDS] = '';
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
    if (version !== this.#version || this.#underWay > 0) return NOWHERE;
    const hash = this.#hash(parent, name);
    const place = hash & (PLACES - 1);
    const at = place * CELL_WORDS;
    const cells = this.#cells;
    this.#names[place] = name;
    cells[at + Cell.HASH] = hash;
    cells[at + Cell.PARENT_LOW] = this.#nodes.idLow(parent);
    cells[at + Cell.PARENT_HIGH] = this.#nodes.idHigh(parent);
    cells[at + Cell.SLOT] = slot;
    return at;
  }

  /** @returns where the name's cell begins, or {@link NOWHERE}. */
  #find(parent: Slot, name: string): number {
    const hash = this.#hash(parent, name);
    const place = hash & (PLACES - 1);
    const at = place * CELL_WORDS;
    const cells = this.#cells;
    const isIts =
      cells[at + Cell.HASH] === hash &&
      cells[at + Cell.PARENT_LOW] === this.#nodes.idLow(parent) &&
      cells[at + Cell.PARENT_HIGH] === this.#nodes.idHigh(parent) &&
      this.#names[place] === name;
    return isIts ? at : NOWHERE;
  }

  #hash(parent: Slot, name: string): number {
    let hash: number = this.#nodes.idLow(parent);
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash, 31) + name.charCodeAt(i);
    return hash ^ (hash >>> 16);
  }
}
