import { heapLimit } from '../backend/limits.js';
import { descriptorLimit } from '../system/index.js';

/** A resource that all guests of the process share, in units of its own. */
export class Budget {
  readonly limit: number;
  #used = 0;

  constructor(limit: number) {
    this.limit = limit;
  }

  /**
   * Whether a guest that has `own` of it may have one more: it may not have more than is left, so
   * that there is always something for others. One guest gets half of it at most, the next one half
   * of the rest.
   */
  allows(own: number): boolean {
    return own < this.limit - this.#used;
  }

  take(amount = 1): void {
    this.#used += amount;
  }

  give(amount = 1): void {
    this.#used -= amount;
  }
}

/** Bytes of heap for the nodes that all guests know: two thirds, so that the first get a third. */
export const nodeBudget = new Budget(Math.floor((heapLimit * 2) / 3));

/** Bytes of heap for an open file or directory: its object, a directory's stream, and its place. */
const HANDLE_BYTES = 1024;

/** Open files and directories of all guests: a quarter of the heap. */
export const handleBudget = new Budget(Math.floor(heapLimit / 4 / HANDLE_BYTES));

/**
 * Open files of all guests that take a descriptor of the process each: three eighths of those that
 * it may have. Files that are kept open for speed take half at most; the rest is for connections.
 */
export const descriptorBudget = new Budget(
  Math.min(handleBudget.limit, Math.floor((descriptorLimit() * 3) / 8)),
);
