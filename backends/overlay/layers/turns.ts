import { performance } from 'node:perf_hooks';

/** Milliseconds that a long work takes of one turn of the event loop. */
const TURN_MS = 1;

/** Works that wait for their turn. */
const waiting: (() => void)[] = [];

function nextTurn(): void {
  waiting.shift()!();
  if (waiting.length > 0) setImmediate(nextTurn);
}

/**
 * When a long work, such as the reading of a directory that has a million entries, makes room for
 * others. Many may go on at a time: one of them does in each turn of the event loop.
 */
export class Turns {
  #endMs = performance.now() + TURN_MS;

  get isOver(): boolean {
    return performance.now() >= this.#endMs;
  }

  /** Resolves when the next turn has begun. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      if (waiting.length === 0) setImmediate(nextTurn);
      waiting.push(() => {
        this.#endMs = performance.now() + TURN_MS;
        resolve();
      });
    });
  }
}
