import { acceleratorOf, engineSlot, type Accelerator } from '../backend/accelerator.js';
import type { Backend, NodeKey } from '../backend/index.js';
import type { Budget } from './budgets.js';
import type { NodeGeneration, NodeIdHigh, NodeIdLow, Slot } from './ids.js';
import { RememberedNodes } from './remembered-nodes.js';
import { Counter, GENERATION, HIGH, LOW, ROOT_ID, identify, nextIdentity } from './identity.js';
import { randomBytes } from '../system/calls/random.js';

/** The slot of the root directory. */
export const ROOT_SLOT = 0 as Slot;

/** Stands for no slot: there is no such node, or no room for one. */
export const NO_SLOT = -1 as Slot;

const FIRST_CAPACITY = 1024;

/** Nodes that are forgotten together when a grace period ends. The rest waits for later turns. */
const FORGOTTEN_AT_ONCE = 512;

interface Slotted {
  [engineSlot]: Slot;
}

/** What each node takes of a budget that tables share. */
export interface NodeCharge {
  readonly budget: Budget;
  /** Bytes, more than 0. */
  readonly bytes: number;
}

/** Told of changes of a {@link NodeTable}. */
export interface NodeObserver {
  inserted(slot: Slot, key: NodeKey): void;
  /** The slot is free from here on. */
  forgotten(slot: Slot): void;
}

/**
 * The nodes that the guests of one export know: node id ↔ slot ↔ backend node. A slot is a small
 * number that stands for a node inside the engine.
 *
 * A slot is referenced by each session whose lookup count for it is above zero, by each open
 * handle, and by each lock or parked lock request. When the last reference goes, the node is
 * *retired*. An asynchronous request in flight may be about to return that same node. So the node
 * is forgotten (`backend.forget`) only after every request that was in flight at that moment has
 * ended, and it stays if one of them returns it. With nothing in flight it is forgotten at once.
 *
 * Halves of ids are signed 32-bit numbers, since V8 boxes larger unsigned ones. A node costs 4
 * bytes in each of five columns, 8 to 16 bytes in the index and 8 in `#nodes`, and also 8 bytes in
 * its own `engineSlot` or about 50 in a map.
 */
export class NodeTable {
  readonly #backend: Backend;
  readonly #limit: number;
  readonly #charge: NodeCharge | undefined;
  /** Node id and generation, by slot. For a free slot `#idLow` is the next free slot. */
  #idLow = new Int32Array(FIRST_CAPACITY);
  #idHigh = new Int32Array(FIRST_CAPACITY);
  #generation = new Int32Array(FIRST_CAPACITY);
  #references = new Int32Array(FIRST_CAPACITY);
  /** The grace period in which the slot was last retired. */
  #retiredIn = new Int32Array(FIRST_CAPACITY);
  readonly #nodes: (object | undefined)[] = [];
  /** Slots by node, if the backend's nodes have no `engineSlot`. */
  readonly #slots: Map<object, Slot> | undefined;
  #size = 0;
  #freeSlot = NO_SLOT;
  /**
   * Finds slots by node id. A hash table with open addressing, at most half full: an entry is slot
   * + 1, at or after the id's home, and 0 is an empty place.
   */
  #index = new Int32Array(FIRST_CAPACITY * 2);
  readonly #seed = randomBytes(4).readInt32LE();
  readonly #counter = new Counter();
  readonly #identity = new Int32Array(3);
  /**
   * The number of asynchronous requests in flight, and the retired slots, by the parity of the
   * grace period in which they began.
   */
  readonly #active = [0, 0];
  readonly #limbo: [Slot[], Slot[]] = [[], []];
  #period = 1;
  /** Slots that were too many to be forgotten together, by the grace period that has ended. */
  readonly #backlog: { readonly slots: Slot[]; readonly period: number }[] = [];
  readonly #report: (error: unknown) => void;
  /** Nodes that are forgotten, and found again by their ids. */
  readonly remembered: RememberedNodes;
  readonly #remembers: boolean;
  readonly #accelerator: Accelerator | undefined;
  /** For a backend with keys. */
  observer: NodeObserver | undefined = undefined;
  /** Called for each node that is added while less than an eighth of the table is free. */
  onCrowded: (() => void) | undefined = undefined;

  /**
   * @param limit how many nodes may be known at a time, the root included.
   * @param report is told of what the backend's `forget` throws.
   * @param isSlotted whether every node has a place for its slot.
   * @param remembered how many forgotten nodes are remembered, of a backend with keys.
   * @param charge what a node takes of a budget beside the limit. Absent: nothing.
   */
  constructor(
    backend: Backend,
    root: object,
    limit: number,
    report: (error: unknown) => void,
    isSlotted = false,
    remembered = 0,
    charge?: NodeCharge,
  ) {
    this.#charge = charge;
    this.#backend = backend;
    this.#report = report;
    this.remembered = new RememberedNodes(remembered);
    this.#remembers = remembered > 0 && backend.key !== undefined;
    this.#accelerator = acceleratorOf(backend);
    this.#limit = limit;
    this.#identity[LOW] = ROOT_ID;
    this.#slots = isSlotted ? undefined : new Map();
    this.#insert(root);
    this.#references[ROOT_SLOT] = 1;
  }

  /** How many nodes may be known at a time. */
  get limit(): number {
    return this.#limit;
  }

  /** Whether there is room for one more node. */
  get #hasRoom(): boolean {
    const charge = this.#charge;
    return (
      this.#size < this.#limit && (charge === undefined || charge.budget.allows(this.#size * charge.bytes))
    );
  }

  /** The nodes take nothing of the shared budget any more: the table is not used again. */
  discharge(): void {
    this.#charge?.budget.give(this.#size * this.#charge.bytes);
  }

  /** The number of known nodes. */
  get size(): number {
    return this.#size;
  }

  /** All slots in use are below this number. */
  get slotEnd(): number {
    return this.#nodes.length;
  }

  /** The slot of a node id, given by its halves as signed numbers, or {@link NO_SLOT}. */
  find(low: NodeIdLow, high: NodeIdHigh): Slot {
    if (low === ROOT_ID && high === 0) return ROOT_SLOT;
    const index = this.#index;
    const mask = index.length - 1;
    for (let at = this.#home(low, high) & mask; ; at = (at + 1) & mask) {
      const slot = (index[at]! - 1) as Slot;
      if (slot < 0) return NO_SLOT;
      if (this.#idLow[slot] === low && this.#idHigh[slot] === high) return slot;
    }
  }

  /**
   * The slot of a backend node; a new slot if the node was not known. A new slot has no reference
   * yet: the caller must add one or call {@link reap}.
   * @returns {@link NO_SLOT} if the table is full.
   */
  intern(node: object): Slot {
    const known = this.slotOf(node);
    if (known !== NO_SLOT) return known;
    if (!this.#hasRoom) return NO_SLOT;
    const identity = this.#identity;
    const key = this.#backend.key?.(node);
    if (key === undefined) this.#counter.identify(identity);
    else identify(key, identity);
    while (this.find(identity[LOW] as NodeIdLow, identity[HIGH] as NodeIdHigh) !== NO_SLOT)
      nextIdentity(identity);
    const slot = this.#insert(node);
    if (key !== undefined) this.observer?.inserted(slot, key);
    if (this.#size > this.#limit - (this.#limit >>> 3)) this.onCrowded?.();
    return slot;
  }

  /**
   * Adds a node under the id and generation that it had in a former process. A new slot has no
   * reference yet. A node that is known already keeps its id. If the id is taken by another node,
   * this one gets a new id.
   * @returns its slot, or {@link NO_SLOT} if the table is full.
   */
  restore(node: object, low: NodeIdLow, high: NodeIdHigh, generation: NodeGeneration): Slot {
    const known = this.slotOf(node);
    if (known !== NO_SLOT) return known;
    if (!this.#hasRoom) return NO_SLOT;
    const identity = this.#identity;
    identity[LOW] = low;
    identity[HIGH] = high;
    identity[GENERATION] = generation;
    if (this.find(low, high) !== NO_SLOT) return this.intern(node);
    const slot = this.#insert(node);
    if (this.observer !== undefined) this.observer.inserted(slot, this.#backend.key!(node));
    return slot;
  }

  /** The slot of a known backend node, or {@link NO_SLOT}. */
  slotOf(node: object): Slot {
    if (this.#slots !== undefined) return this.#slots.get(node) ?? NO_SLOT;
    const slot = (node as Slotted)[engineSlot];
    return slot >= 0 && this.#nodes[slot] === node ? slot : NO_SLOT;
  }

  /** Whether a slot below {@link slotEnd} is in use. */
  isUsed(slot: Slot): boolean {
    return this.#nodes[slot] !== undefined;
  }

  /** The backend node of a slot in use. */
  node(slot: Slot): object {
    return this.#nodes[slot]!;
  }

  /** The low half of the node id, signed. */
  idLow(slot: Slot): NodeIdLow {
    return this.#idLow[slot] as NodeIdLow;
  }

  /** The high half of the node id, signed. */
  idHigh(slot: Slot): NodeIdHigh {
    return this.#idHigh[slot] as NodeIdHigh;
  }

  /** The generation of the node, signed. */
  generation(slot: Slot): NodeGeneration {
    return this.#generation[slot] as NodeGeneration;
  }

  /** The number of references to a slot. */
  references(slot: Slot): number {
    return this.#references[slot]!;
  }

  reference(slot: Slot): void {
    this.#references[slot] = this.#references[slot]! + 1;
  }

  /** Removes a reference. With the last one the node is retired. */
  release(slot: Slot): void {
    const left = this.#references[slot]! - 1;
    this.#references[slot] = left;
    if (left === 0) this.#retire(slot);
  }

  /** Retires a slot if it has no reference. */
  reap(slot: Slot): void {
    if (this.#references[slot] === 0) this.#retire(slot);
  }

  /**
   * To be called for a node that the backend returned and the guest will not get. It is forgotten
   * unless a guest knows it, once no request is in flight that the backend may have given it, too.
   */
  discard(node: object): void {
    const slot = this.isAwaited ? this.#internSafely(node) : this.slotOf(node);
    if (slot === NO_SLOT) this.#tellBackend(node);
    else this.reap(slot);
  }

  /** As {@link intern}; {@link NO_SLOT} also if the backend cannot tell the node's key. */
  #internSafely(node: object): Slot {
    try {
      return this.intern(node);
    } catch {
      return NO_SLOT;
    }
  }

  /** An asynchronous request begins. @returns a value for {@link leave}. */
  enter(): number {
    const parity = this.#period & 1;
    this.#active[parity] = this.#active[parity]! + 1;
    return parity;
  }

  /** An asynchronous request has ended, and its result was handled. */
  leave(parity: number): void {
    this.#active[parity] = this.#active[parity]! - 1;
    this.#advance();
  }

  /** Whether an asynchronous request is in flight. */
  get isAwaited(): boolean {
    return this.#active[0] !== 0 || this.#active[1] !== 0;
  }

  #retire(slot: Slot): void {
    if (!this.isAwaited) this.#forget(slot);
    else if (this.#retiredIn[slot] !== this.#period) {
      this.#retiredIn[slot] = this.#period;
      this.#limbo[this.#period & 1]!.push(slot);
    }
  }

  /** Ends the former grace period, and then the present one, if no request of theirs is left. */
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
    this.#limbo[parity] = [];
    for (let left = FORGOTTEN_AT_ONCE; left > 0 && slots.length > 0; left--) {
      const slot = slots.pop()!;
      if (this.#retiredIn[slot] !== period) continue;
      this.#retiredIn[slot] = 0;
      if (this.#references[slot] === 0) this.#forget(slot);
    }
    if (slots.length === 0) return;
    if (this.#backlog.length === 0) setImmediate(() => this.#shortenBacklog());
    this.#backlog.push({ slots, period });
  }

  /** Retires some nodes of the backlog anew: what began since may be about to return them. */
  #shortenBacklog(): void {
    const { slots, period } = this.#backlog[0]!;
    for (let left = FORGOTTEN_AT_ONCE; left > 0 && slots.length > 0; left--) {
      const slot = slots.pop()!;
      if (this.#retiredIn[slot] !== period) continue;
      this.#retiredIn[slot] = 0;
      this.reap(slot);
    }
    if (slots.length === 0) this.#backlog.shift();
    if (this.#backlog.length > 0) setImmediate(() => this.#shortenBacklog());
  }

  #forget(slot: Slot): void {
    const node = this.#nodes[slot]!;
    if (this.#remembers) this.#remember(slot, node);
    this.observer?.forgotten(slot);
    this.#unlink(slot);
    if (this.#slots === undefined) (node as Slotted)[engineSlot] = NO_SLOT;
    else this.#slots.delete(node);
    this.#size -= 1;
    this.#charge?.budget.give(this.#charge.bytes);
    this.#nodes[slot] = undefined;
    this.#idLow[slot] = this.#freeSlot;
    this.#freeSlot = slot;
    this.#tellBackend(node);
  }

  #tellBackend(node: object): void {
    try {
      this.#backend.forget?.(node);
    } catch (error) {
      this.#report(error);
    }
  }

  #remember(slot: Slot, node: object): void {
    let key: NodeKey;
    try {
      key = this.#backend.key!(node);
    } catch {
      // The file is gone.
      return;
    }
    const [low, high, generation] = [this.idLow(slot), this.idHigh(slot), this.generation(slot)];
    const trace = this.#accelerator?.trace?.(node);
    const seen = this.#accelerator?.elsewhere?.seen?.(node);
    this.remembered.add({ low, high, generation, key, trace, seen });
  }

  /** Adds a node with the id and generation in `#identity`. */
  #insert(node: object): Slot {
    let slot = this.#freeSlot;
    if (slot === NO_SLOT) {
      slot = this.#nodes.length as Slot;
      if (slot === this.#idLow.length) this.#grow();
      this.#nodes.push(node);
    } else {
      this.#freeSlot = this.#idLow[slot] as Slot;
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
    this.#charge?.budget.take(this.#charge.bytes);
    if (this.#size * 2 > this.#index.length) this.#rebuildIndex(this.#index.length * 2);
    else this.#link(slot);
    return slot;
  }

  /** The hash of an id. It has a seed, so that nobody can choose keys that collide. */
  #home(low: number, high: number): number {
    const mixed = Math.imul(low ^ this.#seed, 0x9e3779b1) ^ Math.imul(high + this.#seed, 0x85ebca77);
    return mixed ^ (mixed >>> 15);
  }

  #link(slot: Slot): void {
    const index = this.#index;
    const mask = index.length - 1;
    let at = this.#home(this.#idLow[slot]!, this.#idHigh[slot]!) & mask;
    while (index[at] !== 0) at = (at + 1) & mask;
    index[at] = slot + 1;
  }

  /** Removes a slot from the index and closes the gap (Knuth, TAOCP 3, 6.4 algorithm R). */
  #unlink(slot: Slot): void {
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
    for (let slot = ROOT_SLOT; slot < this.#nodes.length; slot++)
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
