import { type Awaitable, run, type Steps } from '../backend/index.js';

/**
 * Routines of which some need to be alone. One that waits for nothing, with nothing before it that
 * it has to wait for, runs at once.
 */
export class Turns {
  /** The last one that is alone, until it has ended. */
  #alone: Promise<unknown> | undefined;
  /** Those beside each other since, until they have ended. */
  readonly #beside = new Set<Promise<unknown>>();

  /** Runs a routine when all before have ended, and none beside it. */
  run<R>(routine: () => Steps<R>): Awaitable<R> {
    const before = [...this.#beside];
    if (this.#alone !== undefined) before.push(this.#alone);
    const result = before.length === 0 ? run(routine()) : Promise.all(before).then(() => run(routine()));
    if (!(result instanceof Promise)) return result;
    const ended: Promise<unknown> = settled(result).then(() => this.#end(ended));
    this.#alone = ended;
    return result;
  }

  /** Runs a routine when those before that need to be alone have ended, beside others. */
  beside<R>(routine: () => Steps<R>): Awaitable<R> {
    const result = this.#alone === undefined ? run(routine()) : this.#alone.then(() => run(routine()));
    if (!(result instanceof Promise)) return result;
    const ended: Promise<unknown> = settled(result).then(() => this.#beside.delete(ended));
    this.#beside.add(ended);
    return result;
  }

  #end(ended: Promise<unknown>): void {
    if (this.#alone === ended) this.#alone = undefined;
  }
}

function settled(result: Promise<unknown>): Promise<void> {
  return result.then(nothing, nothing);
}

function nothing(): void {}
