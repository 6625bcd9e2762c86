import type { Slot } from '../ids.js';
import type { NodeTable } from '../node-table.js';

/**
 * For how long it is believed that a file ends where the engine has left it, in milliseconds. In
 * that time a process of the host may move the end unseen.
 */
const BELIEVED_MS = 1;

/** Files that are known, a power of two. */
const PLACES = 64;

/**
 * Where the last append of any guest has left the end of a file: the next one need not ask for it.
 * It does not count after anything else that may change the file's size, nor while a request waits
 * for its backend.
 */
export class KnownEnds {
  readonly #nodes: NodeTable;
  /** By slot, modulo the places: half of the node's id, the end, since when, and the round. */
  readonly #ids = new Int32Array(PLACES);
  readonly #ends = new Float64Array(PLACES).fill(-1);
  readonly #since = new Float64Array(PLACES);
  readonly #rounds = new Int32Array(PLACES);
  /** Another one after what may have changed any file. */
  #round = 0;
  #version = 0;
  /** When {@link of} was asked last. */
  #now = 0;

  constructor(nodes: NodeTable) {
    this.#nodes = nodes;
  }

  /** Another one after each {@link forget}. */
  get version(): number {
    return this.#version;
  }

  /** To be called before an append. @returns -1 where the file's size must be asked for. */
  of(slot: Slot): number {
    const at = slot & (PLACES - 1);
    this.#now = performance.now();
    const isKnown =
      this.#rounds[at] === this.#round &&
      this.#ids[at] === this.#nodes.idLow(slot) &&
      this.#now - this.#since[at]! <= BELIEVED_MS &&
      !this.#nodes.isAwaited;
    return isKnown ? this.#ends[at]! : -1;
  }

  /** Appends that {@link of} was asked for were carried out, and nothing else since. */
  set(slot: Slot, end: number): void {
    if (this.#nodes.isAwaited) return;
    const at = slot & (PLACES - 1);
    this.#ids[at] = this.#nodes.idLow(slot);
    this.#ends[at] = end;
    this.#since[at] = this.#now;
    this.#rounds[at] = this.#round;
  }

  /**
   * To be called before the size of a file may change otherwise.
   * @param slot absent: it may be any file.
   */
  forget(slot?: Slot): void {
    this.#version = (this.#version + 1) | 0;
    if (slot === undefined) this.#round = (this.#round + 1) | 0;
    else this.#ends[slot & (PLACES - 1)] = -1;
  }
}
