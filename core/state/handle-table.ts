import { type Budget, handleBudget } from './budgets.js';
import type { HandleGeneration, HandleIndex, Slot } from './ids.js';

/**
 * What a handle is of. LOST: a file on which a lock was lost, so that what its program believes no
 * longer holds. It can be closed, and nothing else.
 */
export const HandleKind = { FREE: 0, FILE: 1, DIRECTORY: 2, LOST: 4 } as const;
export type HandleKind = (typeof HandleKind)[keyof typeof HandleKind];

/** Stands for no handle: there is no such handle, or no room for one. */
export const NO_HANDLE = -1 as HandleIndex;

const FIRST_CAPACITY = 64;

/** Told of changes of a {@link HandleTable}. */
export interface HandleObserver {
  /** Also called when a handle becomes LOST. */
  opened(index: HandleIndex): void;
  /** The `fh` is invalid from here on. */
  closed(index: HandleIndex): void;
}

/**
 * The open files and directories of one session. An `fh` has the handle's index in its low 32 bits
 * and the generation of that place in its high 32 bits. So the `fh` of a closed handle is never
 * taken for a later handle with the same index.
 */
export class HandleTable {
  readonly #limit: number;
  readonly #budget: Budget;
  #kind = new Uint8Array(FIRST_CAPACITY);
  #generation = new Int32Array(FIRST_CAPACITY);
  #slot = new Int32Array(FIRST_CAPACITY);
  #flags = new Int32Array(FIRST_CAPACITY);
  /** The number of asynchronous requests that use the handle. */
  #uses = new Int32Array(FIRST_CAPACITY);
  readonly #objects: unknown[] = [];
  readonly #free: HandleIndex[] = [];
  #size = 0;
  /** Generation of places that were never used. */
  #firstGeneration = 0 as HandleGeneration;
  observer: HandleObserver | undefined = undefined;

  /**
   * @param limit how many handles may be open at a time.
   * @param budget what this guest's handles take from, with those of others.
   */
  constructor(limit: number, budget: Budget = handleBudget) {
    this.#limit = limit;
    this.#budget = budget;
  }

  /** The number of open handles. */
  get size(): number {
    return this.#size;
  }

  get full(): boolean {
    return this.#size >= this.#limit || !this.#budget.allows(this.#size);
  }

  /**
   * Opens a handle.
   * @param slot the node's slot, to which the caller adds a reference for the handle.
   * @param object the backend's open file, or the directory stream.
   * @param flags the open flags that the guest gave.
   * @returns its index, or {@link NO_HANDLE} if the table is full.
   */
  open(kind: HandleKind, slot: Slot, object: unknown, flags: number): HandleIndex {
    if (this.full) return NO_HANDLE;
    let index = this.#free.pop();
    if (index === undefined) {
      index = this.#objects.length as HandleIndex;
      if (index === this.#kind.length) this.#grow();
      this.#objects.push(object);
    } else this.#objects[index] = object;
    this.#kind[index] = kind;
    this.#slot[index] = slot;
    this.#flags[index] = flags;
    this.#uses[index] = 0;
    this.#generation[index] = this.#generation[index]! + 1;
    this.#size += 1;
    this.#budget.take();
    this.observer?.opened(index);
    return index;
  }

  /**
   * Restores a handle with its old `fh`. After the last one, {@link seal} must be called.
   * @throws RangeError for an index beyond the limit, or one that is in use.
   */
  restore(
    index: HandleIndex,
    generation: HandleGeneration,
    kind: HandleKind,
    slot: Slot,
    object: unknown,
    flags: number,
  ): void {
    if (index >= this.#limit || this.#size >= this.#limit)
      throw new RangeError(`handle ${index}: beyond the limit`);
    while (index >= this.#kind.length) this.#grow();
    while (index >= this.#objects.length) this.#objects.push(undefined);
    if (this.#kind[index] !== HandleKind.FREE) throw new RangeError(`handle ${index}: open already`);
    this.#kind[index] = kind;
    this.#slot[index] = slot;
    this.#flags[index] = flags;
    this.#uses[index] = 0;
    this.#generation[index] = generation;
    this.#objects[index] = object;
    this.#size += 1;
    this.#budget.take();
    this.observer?.opened(index);
  }

  /**
   * Ends restoring. New handles use the free indexes between the restored ones, with generations
   * above `generation`.
   */
  seal(generation: HandleGeneration): void {
    this.#generation.fill(generation, this.#objects.length);
    for (let index = (this.#objects.length - 1) as HandleIndex; index >= 0; index--) {
      if (this.#kind[index] !== HandleKind.FREE) continue;
      this.#generation[index] = generation;
      this.#free.push(index);
    }
    this.#firstGeneration = generation;
  }

  /** The highest generation that any handle has had. */
  get lastGeneration(): HandleGeneration {
    let last: number = this.#firstGeneration;
    for (let index = 0; index < this.#objects.length; index++)
      last = Math.max(last, this.#generation[index]!);
    return last as HandleGeneration;
  }

  /**
   * The index of an `fh`, given in signed halves, if it is an open handle of this kind; else {@link
   * NO_HANDLE}.
   */
  find(low: HandleIndex, high: HandleGeneration, kind: HandleKind): HandleIndex {
    return low >= 0 &&
      low < this.#objects.length &&
      this.#kind[low] === kind &&
      this.#generation[low] === high
      ? low
      : NO_HANDLE;
  }

  /** High half of the `fh` of an open handle, signed; its low half is the index. */
  generation(index: HandleIndex): HandleGeneration {
    return this.#generation[index] as HandleGeneration;
  }

  /** The slot of the handle's node. */
  slot(index: HandleIndex): Slot {
    return this.#slot[index] as Slot;
  }

  /** The open flags that the guest gave. */
  flags(index: HandleIndex): number {
    return this.#flags[index]!;
  }

  /** All handles have indexes below this number. */
  get end(): number {
    return this.#objects.length;
  }

  /** Whether there is an `fh` with an index below {@link end}. */
  isOpen(index: HandleIndex): boolean {
    const kind = this.#kind[index]!;
    return kind !== HandleKind.FREE && (kind & CLOSING) === 0;
  }

  /** Marks an open file as {@link HandleKind}'s LOST. @returns whether it is one now. */
  lose(index: HandleIndex): boolean {
    if (this.#kind[index] === HandleKind.FILE) {
      this.#kind[index] = HandleKind.LOST;
      this.observer?.opened(index);
    }
    return this.isLost(index);
  }

  isLost(index: HandleIndex): boolean {
    return (this.#kind[index]! & HandleKind.LOST) !== 0;
  }

  isDirectory(index: HandleIndex): boolean {
    return (this.#kind[index]! & HandleKind.DIRECTORY) !== 0;
  }

  /** The backend's open file, or the directory stream. */
  object(index: HandleIndex): unknown {
    return this.#objects[index];
  }

  /** An asynchronous request begins to use the handle. */
  use(index: HandleIndex): void {
    this.#uses[index] = this.#uses[index]! + 1;
  }

  /**
   * An asynchronous request no longer uses the handle.
   * @returns whether the handle must now be closed, by {@link free}.
   */
  unuse(index: HandleIndex): boolean {
    this.#uses[index] = this.#uses[index]! - 1;
    return this.#uses[index] === 0 && (this.#kind[index]! & CLOSING) !== 0;
  }

  /**
   * Makes the `fh` invalid.
   * @returns whether the handle must now be closed, by {@link free}. If not, a later {@link unuse}
   * will say so.
   */
  invalidate(index: HandleIndex): boolean {
    this.observer?.closed(index);
    this.#kind[index] = this.#kind[index]! | CLOSING;
    return this.#uses[index] === 0;
  }

  /** Frees the index of an invalidated handle. */
  free(index: HandleIndex): void {
    this.#kind[index] = HandleKind.FREE;
    this.#objects[index] = undefined;
    this.#size -= 1;
    this.#budget.give();
    this.#free.push(index);
  }

  /** Calls `visit` for each valid handle. */
  each(visit: (index: HandleIndex) => void): void {
    for (let index = 0 as HandleIndex; index < this.#objects.length; index++)
      if (this.isOpen(index)) visit(index);
  }

  #grow(): void {
    const length = this.#kind.length * 2;
    const kind = new Uint8Array(length);
    kind.set(this.#kind);
    this.#kind = kind;
    this.#generation = widen(this.#generation, length);
    this.#generation.fill(this.#firstGeneration, length / 2);
    this.#slot = widen(this.#slot, length);
    this.#flags = widen(this.#flags, length);
    this.#uses = widen(this.#uses, length);
  }
}

/** Set in a handle's kind once its `fh` is invalid. */
const CLOSING = 0x80;

function widen(column: Int32Array<ArrayBuffer>, length: number): Int32Array<ArrayBuffer> {
  const wider = new Int32Array(length);
  wider.set(column);
  return wider;
}
