import { randomBytes } from 'node:crypto';
import { engineSlot, type Backend } from '../backend/index.js';
import { Counter, GENERATION, HIGH, LOW, ROOT_ID, identify, nextIdentity } from './identity.js';

/** The slot of the root directory. */
export const ROOT_SLOT = 0;

/** No such node, or no room for one. */
export const NO_SLOT = -1;

const FIRST_CAPACITY = 1024;

interface Slotted {
  [engineSlot]: number;
}

/**
 * The nodes that the guests of one export know: node id ↔ slot ↔ backend node.
 *
 * A slot is referenced by each session whose lookup count for it is above zero, by each open
 * handle, and by each lock or parked request; all else finds it only while it runs. When the last
 * reference goes the node is *retired*: it is forgotten (`backend.forget`) once every asynchronous
 * request that was in flight at that moment has ended, since any of them may be about to return the
 * same node; if one does, the node stays. With nothing in flight that is at once.
 *
 * Halves of ids are signed 32-bit numbers: the form that V8 does not box. A node costs 4 bytes in
 * each of five columns, 8 to 16 in the index, 8 in `#nodes`, and 8 in itself, or else about 50 in a
 * map.
 */
export class NodeTable {
  readonly #backend: Backend;
  readonly #limit: number;
  /** Node id and generation by slot; of a free slot `#idLow` is the next free one. */
  #idLow = new Int32Array(FIRST_CAPACITY);
  #idHigh = new Int32Array(FIRST_CAPACITY);
  #generation = new Int32Array(FIRST_CAPACITY);
  #references = new Int32Array(FIRST_CAPACITY);
  /** The grace period in which the slot was last retired. */
  #retiredIn = new Int32Array(FIRST_CAPACITY);
  readonly #nodes: (object | undefined)[] = [];
  /** By node, where nodes have no place for it. */
  readonly #slots: Map<object, number> | undefined;
  #size = 0;
  #freeSlot = NO_SLOT;
  /** Open addressing: slot + 1 at or after the id's home, 0 where empty; at most half full. */
  #index = new Int32Array(FIRST_CAPACITY * 2);
  readonly #seed = randomBytes(4).readInt32LE();
  readonly #counter = new Counter();
  readonly #identity = new Int32Array(3);
  /**
   * Asynchronous requests in flight, and the slots retired, by parity of the grace period that they
   * began in.
   */
  readonly #active = [0, 0];
  readonly #limbo: [number[], number[]] = [[], []];
  #period = 1;

  /** @param limit most nodes known at a time, the root included. */
  constructor(backend: Backend, root: object, limit: number) {
    this.#backend = backend;
    this.#limit = limit;
    this.#identity[LOW] = ROOT_ID;
    this.#slots = engineSlot in root ? undefined : new Map();
    this.#insert(root);
    this.#references[ROOT_SLOT] = 1;
  }

  /** Nodes known. */
  get size(): number {
    return this.#size;
  }

  /** Slots in use lie below this number. */
  get slotEnd(): number {
    return this.#nodes.length;
  }

  /** The slot of a node id, given by its halves as signed numbers, or {@link NO_SLOT}. */
  find(low: number, high: number): number {
    if (low === ROOT_ID && high === 0) return ROOT_SLOT;
    const index = this.#index;
    const mask = index.length - 1;
    for (let at = this.#home(low, high) & mask; ; at = (at + 1) & mask) {
      const slot = index[at]! - 1;
      if (slot < 0) return NO_SLOT;
      if (this.#idLow[slot] === low && this.#idHigh[slot] === high) return slot;
    }
  }

  /**
   * The slot of a backend node, a new one if it was not known. A new slot has no reference yet: the
   * caller adds one, or calls {@link reap}.
   * @returns {@link NO_SLOT} where the table is full.
   */
  intern(node: object): number {
    const known = this.slotOf(node);
    if (known !== NO_SLOT) return known;
    if (this.#size >= this.#limit) return NO_SLOT;
    const identity = this.#identity;
    const backend = this.#backend;
    if (backend.key === undefined) this.#counter.identify(identity);
    else identify(backend.key(node), identity);
    while (this.find(identity[LOW]!, identity[HIGH]!) !== NO_SLOT) nextIdentity(identity);
    return this.#insert(node);
  }

  /**
   * Enters a node under the identity that it had in a former process; a new slot has no reference
   * yet.
   * @returns {@link NO_SLOT} where the table is full. A node or id that is known already keeps what
   * it has.
   */
  restore(node: object, low: number, high: number, generation: number): number {
    const known = this.slotOf(node);
    if (known !== NO_SLOT) return known;
    if (this.#size >= this.#limit) return NO_SLOT;
    const identity = this.#identity;
    identity[LOW] = low;
    identity[HIGH] = high;
    identity[GENERATION] = generation;
    return this.find(low, high) === NO_SLOT ? this.#insert(node) : this.intern(node);
  }

  /** The slot of a known backend node, or {@link NO_SLOT}. */
  slotOf(node: object): number {
    if (this.#slots !== undefined) return this.#slots.get(node) ?? NO_SLOT;
    const slot = (node as Slotted)[engineSlot];
    return slot >= 0 && this.#nodes[slot] === node ? slot : NO_SLOT;
  }

  /** The backend node of a slot in use. */
  node(slot: number): object {
    return this.#nodes[slot]!;
  }

  /** Halves of the node id, and the generation, as signed numbers. */
  idLow(slot: number): number {
    return this.#idLow[slot]!;
  }

  idHigh(slot: number): number {
    return this.#idHigh[slot]!;
  }

  generation(slot: number): number {
    return this.#generation[slot]!;
  }

  /** References held on a slot, for tests and figures. */
  references(slot: number): number {
    return this.#references[slot]!;
  }

  reference(slot: number): void {
    this.#references[slot] = this.#references[slot]! + 1;
  }

  /** Gives one reference back. The node is retired with the last. */
  release(slot: number): void {
    const left = this.#references[slot]! - 1;
    this.#references[slot] = left;
    if (left === 0) this.#retire(slot);
  }

  /** Retires a slot that no reference was added to. */
  reap(slot: number): void {
    if (this.#references[slot] === 0) this.#retire(slot);
  }

  /**
   * The backend returned a node that the guest will not hear of: it is forgotten unless it is
   * known.
   */
  discard(node: object): void {
    const slot = this.slotOf(node);
    if (slot === NO_SLOT) this.#backend.forget?.(node);
    else this.reap(slot);
  }

  /** An asynchronous request begins. @returns what {@link leave} takes. */
  enter(): number {
    const parity = this.#period & 1;
    this.#active[parity] = this.#active[parity]! + 1;
    return parity;
  }

  /** It has ended, its result handled. */
  leave(parity: number): void {
    this.#active[parity] = this.#active[parity]! - 1;
    this.#advance();
  }

  #retire(slot: number): void {
    if (this.#active[0] === 0 && this.#active[1] === 0) this.#forget(slot);
    else if (this.#retiredIn[slot] !== this.#period) {
      this.#retiredIn[slot] = this.#period;
      this.#limbo[this.#period & 1]!.push(slot);
    }
  }

  /** Ends the former grace period, and the present one, where none of their requests are left. */
  #advance(): void {
    for (let turn = 0; turn < 2; turn++) {
      const former = (this.#period + 1) & 1;
      if (this.#active[former] !== 0) return;
      this.#forgetLimbo(former, this.#period - 1);
      if (this.#limbo[this.#period & 1]!.length === 0) return;
      this.#period += 1;
    }
  }

  #forgetLimbo(parity: number, period: number): void {
    const slots = this.#limbo[parity]!;
    if (slots.length === 0) return;
    for (const slot of slots) {
      if (this.#retiredIn[slot] !== period) continue;
      this.#retiredIn[slot] = 0;
      if (this.#references[slot] === 0) this.#forget(slot);
    }
    slots.length = 0;
  }

  #forget(slot: number): void {
    const node = this.#nodes[slot]!;
    this.#unlink(slot);
    if (this.#slots === undefined) (node as Slotted)[engineSlot] = NO_SLOT;
    else this.#slots.delete(node);
    this.#size -= 1;
    this.#nodes[slot] = undefined;
    this.#idLow[slot] = this.#freeSlot;
    this.#freeSlot = slot;
    this.#backend.forget?.(node);
  }

  /** Enters a node under the identity in `#identity`. */
  #insert(node: object): number {
    let slot = this.#freeSlot;
    if (slot === NO_SLOT) {
      slot = this.#nodes.length;
      if (slot === this.#idLow.length) this.#grow();
      this.#nodes.push(node);
    } else {
      this.#freeSlot = this.#idLow[slot]!;
      this.#nodes[slot] = node;
    }
    this.#idLow[slot] = this.#identity[LOW]!;
    this.#idHigh[slot] = this.#identity[HIGH]!;
    this.#generation[slot] = this.#identity[GENERATION]!;
    this.#references[slot] = 0;
    this.#retiredIn[slot] = 0;
    if (this.#slots === undefined) (node as Slotted)[engineSlot] = slot;
    else this.#slots.set(node, slot);
    this.#size += 1;
    if (this.#size * 2 > this.#index.length) this.#rebuildIndex(this.#index.length * 2);
    else this.#link(slot);
    return slot;
  }

  /** Seeded, so that whoever chooses keys can't choose the places. */
  #home(low: number, high: number): number {
    const mixed = Math.imul(low ^ this.#seed, 0x9e3779b1) ^ Math.imul(high + this.#seed, 0x85ebca77);
    return mixed ^ (mixed >>> 15);
  }

  #link(slot: number): void {
    const index = this.#index;
    const mask = index.length - 1;
    let at = this.#home(this.#idLow[slot]!, this.#idHigh[slot]!) & mask;
    while (index[at] !== 0) at = (at + 1) & mask;
    index[at] = slot + 1;
  }

  /** Takes a slot out of the index and closes the gap (Knuth, TAOCP 3, 6.4 algorithm R). */
  #unlink(slot: number): void {
    const index = this.#index;
    const mask = index.length - 1;
    let gap = this.#home(this.#idLow[slot]!, this.#idHigh[slot]!) & mask;
    while (index[gap] !== slot + 1) gap = (gap + 1) & mask;
    for (let at = (gap + 1) & mask; index[at] !== 0; at = (at + 1) & mask) {
      const other = index[at]! - 1;
      const home = this.#home(this.#idLow[other]!, this.#idHigh[other]!) & mask;
      if (((at - home) & mask) < ((at - gap) & mask)) continue;
      index[gap] = other + 1;
      gap = at;
    }
    index[gap] = 0;
  }

  #rebuildIndex(length: number): void {
    this.#index = new Int32Array(length);
    for (let slot = 0; slot < this.#nodes.length; slot++)
      if (this.#nodes[slot] !== undefined) this.#link(slot);
  }

  #grow(): void {
    this.#idLow = widen(this.#idLow);
    this.#idHigh = widen(this.#idHigh);
    this.#generation = widen(this.#generation);
    this.#references = widen(this.#references);
    this.#retiredIn = widen(this.#retiredIn);
  }
}

function widen(column: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const wider = new Int32Array(column.length * 2);
  wider.set(column);
  return wider;
}
