import { type Awaitable, type Steps, wait } from '../backend/index.js';

interface Held<R> {
  readonly record: R;
  /** The engine refers to the node. */
  isUsed: boolean;
  /** How often the wrapper itself refers to it. */
  holds: number;
}

/**
 * What a wrapper knows of each node that the engine or it itself refers to. It forwards `forget`
 * when neither does. A node that a call under way may be about to give out stays until that call
 * has ended: so what is known of a node is never older than what the call tells of it.
 */
export class NodesInUse<N extends object, R> {
  readonly #nodes = new Map<N, Held<R>>();
  /** Numbers of the calls under way that give nodes, lowest first. */
  readonly #running = new Set<number>();
  /** Nodes that nobody refers to, with the number of the last call before that, lowest first. */
  readonly #idle = new Map<N, number>();
  readonly #dropped: (node: N, record: R) => void;
  #calls = 0;

  /** @param dropped is told of each node to which nobody refers any more. */
  constructor(dropped: (node: N, record: R) => void) {
    this.#dropped = dropped;
  }

  get(node: N): R | undefined {
    return this.#nodes.get(node)?.record;
  }

  /** Makes a call that may give nodes. `taken` says which, by `use` or `hold`. */
  *giving<T>(call: () => Awaitable<T>, taken: (result: T) => void): Steps<T> {
    const number = ++this.#calls;
    this.#running.add(number);
    try {
      const result = yield* wait(call());
      taken(result);
      return result;
    } finally {
      this.#running.delete(number);
      this.#sweep();
    }
  }

  /** The engine refers to the node from now on. */
  use(node: N, make: () => R): R {
    const held = this.#held(node, make);
    held.isUsed = true;
    return held.record;
  }

  /** The wrapper refers to the node, until it calls `letGo` as often. */
  hold(node: N, make: () => R): R {
    const held = this.#held(node, make);
    held.holds += 1;
    return held.record;
  }

  /** The wrapper does not refer to the node any more. */
  letGo(node: N): void {
    const held = this.#nodes.get(node);
    if (held === undefined) return;
    held.holds -= 1;
    this.#leave(node, held);
  }

  /** The engine does not refer to the node any more. */
  forget(node: N): void {
    const held = this.#nodes.get(node);
    if (held === undefined) return;
    held.isUsed = false;
    this.#leave(node, held);
  }

  #held(node: N, make: () => R): Held<R> {
    let held = this.#nodes.get(node);
    if (held === undefined) this.#nodes.set(node, (held = { record: make(), isUsed: false, holds: 0 }));
    this.#idle.delete(node);
    return held;
  }

  #leave(node: N, { isUsed, holds }: Held<R>): void {
    if (isUsed || holds > 0) return;
    this.#idle.set(node, this.#calls);
    this.#sweep();
  }

  #sweep(): void {
    const [oldest = Infinity] = this.#running;
    for (const [node, number] of this.#idle) {
      if (number >= oldest) return;
      this.#idle.delete(node);
      const { record } = this.#nodes.get(node)!;
      this.#nodes.delete(node);
      this.#dropped(node, record);
    }
  }
}
