import type { NodeIdHigh, NodeIdLow, Slot } from '../ids.js';
import { NO_SLOT, type NodeTable } from '../node-table.js';

/**
 * Names that are kept, a power of two. Each takes 33 bytes, and its text: 17 MB if all are of 255
 * characters that are not in Latin-1.
 */
const PLACES = 32_768;

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
  /** Ids of the directory and the node, and the node's slot, by place. */
  readonly #parentLow = new Int32Array(PLACES);
  readonly #parentHigh = new Int32Array(PLACES);
  readonly #low = new Int32Array(PLACES);
  readonly #high = new Int32Array(PLACES);
  readonly #slot = new Int32Array(PLACES);
  readonly #isDirectory = new Uint8Array(PLACES);
  #version = 0;
  #underWay = 0;
  /** The place of the last {@link find}. */
  #found = 0;

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
    this.#low[at] = this.#nodes.idLow(slot);
    this.#high[at] = this.#nodes.idHigh(slot);
    this.#isDirectory[at] = isDirectory ? 1 : 0;
  }

  /** A name is not there. @param version when that began to be found out. */
  missing(parent: Slot, name: string, version: number): void {
    this.#put(parent, name, NO_SLOT, version);
  }

  /** A name is about to change. */
  change(parent: Slot, name: string): void {
    this.#version = (this.#version + 1) | 0;
    const at = this.#place(parent, name);
    if (this.#is(at, parent, name)) this.#names[at] = '';
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
    const at = this.#place(parent, name);
    this.#found = at;
    if (this.#underWay > 0 || !this.#is(at, parent, name)) return NOT_RECENT;
    const slot = this.#slot[at]! as Slot;
    if (slot === NO_SLOT) return NO_SLOT;
    const found = this.#nodes.find(this.#low[at]! as NodeIdLow, this.#high[at]! as NodeIdHigh);
    return found === slot ? slot : NOT_RECENT;
  }

  /** Whether what {@link find} has just found is a directory. */
  get isDirectory(): boolean {
    return this.#isDirectory[this.#found] === 1;
  }

  /** @returns the name's place, or -1 if what was found does not count. */
  #put(parent: Slot, name: string, slot: Slot, version: number): number {
    if (version !== this.#version || this.#underWay > 0) return -1;
    const at = this.#place(parent, name);
    this.#names[at] = name;
    this.#parentLow[at] = this.#nodes.idLow(parent);
    this.#parentHigh[at] = this.#nodes.idHigh(parent);
    this.#slot[at] = slot;
    return at;
  }

  #is(at: number, parent: Slot, name: string): boolean {
    return (
      this.#parentLow[at] === this.#nodes.idLow(parent) &&
      this.#parentHigh[at] === this.#nodes.idHigh(parent) &&
      this.#names[at] === name
    );
  }

  #place(parent: Slot, name: string): number {
    let hash: number = this.#nodes.idLow(parent);
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash, 31) + name.charCodeAt(i);
    return (hash ^ (hash >>> 16)) & (PLACES - 1);
  }
}
