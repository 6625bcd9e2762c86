import { performance } from 'node:perf_hooks';
import { pause } from '../../../core/backend/pauses.js';

/** Milliseconds that a long work takes of one turn of the event loop. */
const TURN_MS = 1;

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
  async next(): Promise<void> {
    await pause();
    this.#endMs = performance.now() + TURN_MS;
  }
}
