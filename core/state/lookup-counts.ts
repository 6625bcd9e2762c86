import { eachInTurns } from '../backend/in-turns.js';
import type { NodeIdHigh, NodeIdLow, Slot } from './ids.js';
import { NO_SLOT, ROOT_SLOT, type NodeTable } from './node-table.js';

/** The first slot after the root's. */
const FIRST_COUNTED = (ROOT_SLOT + 1) as Slot;

const FIRST_CAPACITY = 1024;

/** Told of changes of {@link LookupCounts}. */
export interface CountsObserver {
  /** @param added how many lookups were added; 0 if some were forgotten. */
  counted(slot: Slot, count: number, added: number): void;
  /** All counts are 0. */
  cleared(): void;
}

/**
 * The lookup counts of one session: how often the guest was given each node, less what it has
 * forgotten (`nlookup` of FUSE's FORGET). While a count is above zero, the guest may use the node
 * id, and the session has one reference to the node. The root is always known and not counted.
 * Counts are exact up to 2^53.
 */
export class LookupCounts {
  readonly #nodes: NodeTable;
  #counts = new Float64Array(FIRST_CAPACITY);
  observer: CountsObserver | undefined = undefined;

  constructor(nodes: NodeTable) {
    this.#nodes = nodes;
  }

  /** The slot of a node id, in signed halves, that the guest may use, or {@link NO_SLOT}. */
  resolve(low: NodeIdLow, high: NodeIdHigh): Slot {
    const slot = this.#nodes.find(low, high);
    return slot === ROOT_SLOT || (slot > ROOT_SLOT && this.of(slot) > 0) ? slot : NO_SLOT;
  }

  /** All slots with a count are below this number. */
  get end(): number {
    return Math.min(this.#counts.length, this.#nodes.slotEnd);
  }

  /** The lookup count of a node. */
  of(slot: Slot): number {
    return slot < this.#counts.length ? this.#counts[slot]! : 0;
  }

  /**
   * Counts lookups: one for each time that the guest is given a node (LOOKUP, creations,
   * READDIRPLUS), or as many as a saved count says.
   */
  add(slot: Slot, times = 1): void {
    if (slot === ROOT_SLOT) return;
    if (slot >= this.#counts.length) this.#grow(slot);
    const count = this.#counts[slot]!;
    if (count === 0) this.#nodes.reference(slot);
    this.#counts[slot] = count + times;
    this.observer?.counted(slot, count + times, times);
  }

  /** The guest forgets `count` lookups. If that is more than it has, it forgets all. */
  forget(slot: Slot, count: number): void {
    const held = this.of(slot);
    if (slot === ROOT_SLOT || held === 0 || count <= 0) return;
    const left = Math.max(held - count, 0);
    this.#counts[slot] = left;
    this.observer?.counted(slot, left, 0);
    if (left === 0) this.#nodes.release(slot);
  }

  /**
   * Forgets all lookups: the guest is gone.
   * @returns a promise if there are many nodes, which are then released in turns of the event loop.
   */
  clear(): Promise<void> | undefined {
    this.observer?.cleared();
    const { end } = this;
    const counts = this.#counts;
    this.#counts = new Float64Array(FIRST_CAPACITY);
    return eachInTurns(FIRST_COUNTED, end, (slot) => {
      if (counts[slot] !== 0) this.#nodes.release(slot as Slot);
    });
  }

  /** Calls `visit` for each node that the guest knows. */
  each(visit: (slot: Slot, count: number) => void): void {
    for (let slot = FIRST_COUNTED; slot < this.end; slot++) {
      const count = this.#counts[slot]!;
      if (count > 0) visit(slot, count);
    }
  }

  #grow(slot: Slot): void {
    const wider = new Float64Array(Math.max(this.#counts.length * 2, slot + 1));
    wider.set(this.#counts);
    this.#counts = wider;
  }
}
