import type { Attributes, DirectoryEntry } from '../../backend/index.js';
import type { Budget, Item } from './budget.js';

/** What a directory's cache has for a name: a node, or that there is none. */
interface Name<N extends object> extends Item {
  readonly known: Known<N> | undefined;
  readonly untilMs: number;
}

/** A block of a file's content. It is shorter than others where the file ends in it. */
interface Block extends Item {
  readonly content: Uint8Array;
}

interface Listing extends Item {
  readonly entries: readonly DirectoryEntry[];
  readonly untilMs: number;
}

/** About what a name, a block or a node takes beside its content. */
const OVERHEAD_BYTES = 200;

/** All attributes from before the present period are asked for anew. */
export interface Clock {
  period: number;
}

/** What the cache knows of a node. */
export class Known<N extends object> {
  readonly node: N;
  readonly #clock: Clock;
  readonly #budget: Budget;
  readonly #names = new Map<string, Name<N>>();
  readonly #blocks = new Map<number, Block>();
  #attributes: Attributes | undefined;
  #untilMs = 0;
  #learnedIn = 0;
  #listing: Listing | undefined;
  /** What keeps the node beyond its use by guests. */
  kept: Item | undefined;
  /** Its content bypasses the cache. */
  isDirect = false;
  /** Grows with each change: what was asked for before it is not kept. */
  generation = 0;

  constructor(node: N, clock: Clock, budget: Budget) {
    this.node = node;
    this.#clock = clock;
    this.#budget = budget;
  }

  /** The attributes, while they count. */
  attributes(): Attributes | undefined {
    const counts = performance.now() < this.#untilMs && this.#learnedIn === this.#clock.period;
    return counts ? this.#attributes : undefined;
  }

  /**
   * Takes attributes. Content goes if they tell of another one.
   * @param generation the one in which they were asked for.
   */
  learn(attributes: Attributes, forMs: number, generation: number): void {
    if (generation !== this.generation) return;
    if (this.#attributes !== undefined && !isSameContent(this.#attributes, attributes)) this.changed();
    this.#attributes = { ...attributes };
    this.#untilMs = performance.now() + forMs;
    this.#learnedIn = this.#clock.period;
  }

  /** Nothing that was kept of it counts any more, except its names. */
  changed(): void {
    this.generation += 1;
    this.#untilMs = 0;
    for (const block of this.#blocks.values()) this.#budget.remove(block);
    this.#blocks.clear();
    if (this.#listing !== undefined) this.#budget.remove(this.#listing);
    this.#listing = undefined;
  }

  /**
   * The node is not in use any more: nothing is kept.
   * @returns what its names stood for, which is to be kept no longer: see {@link unkeep}.
   */
  end(): Known<N>[] {
    this.changed();
    const stood: Known<N>[] = [];
    for (const name of this.#names.values()) {
      this.#budget.remove(name);
      if (name.known?.kept !== undefined) stood.push(name.known);
    }
    this.#names.clear();
    return stood;
  }

  /** What a name stands for, whether or not that counts still. */
  name(name: string): Name<N> | undefined {
    const found = this.#names.get(name);
    if (found !== undefined) this.#budget.touch(found);
    return found;
  }

  setName(name: string, known: Known<N> | undefined, forMs: number): void {
    this.#takeName(name, known);
    if (forMs <= 0) return;
    const item: Name<N> = {
      known,
      untilMs: performance.now() + forMs,
      bytes: OVERHEAD_BYTES + 2 * name.length,
      drop: () => {
        this.#names.delete(name);
        known?.unkeep();
      },
    };
    this.#names.set(name, item);
    this.#budget.add(item);
  }

  /** Forgets a name. What it stood for is kept no longer: nobody may know of its end. */
  forgetName(name: string): void {
    this.#takeName(name, undefined);
  }

  /** @param next what the name stands for from now on. */
  #takeName(name: string, next: Known<N> | undefined): void {
    const item = this.#names.get(name);
    if (item === undefined) return;
    this.#names.delete(name);
    this.#budget.remove(item);
    if (item.known !== next) item.known?.unkeep();
  }

  block(index: number): Uint8Array | undefined {
    const block = this.#blocks.get(index);
    if (block !== undefined) this.#budget.touch(block);
    return block?.content;
  }

  setBlock(index: number, content: Uint8Array): void {
    const before = this.#blocks.get(index);
    if (before !== undefined) this.#budget.remove(before);
    const item: Block = {
      content,
      bytes: OVERHEAD_BYTES + content.length,
      drop: () => this.#blocks.delete(index),
    };
    this.#blocks.set(index, item);
    this.#budget.add(item);
  }

  listing(): readonly DirectoryEntry[] | undefined {
    if (this.#listing === undefined || performance.now() >= this.#listing.untilMs) return undefined;
    this.#budget.touch(this.#listing);
    return this.#listing.entries;
  }

  setListing(entries: readonly DirectoryEntry[], forMs: number): void {
    if (this.#listing !== undefined) this.#budget.remove(this.#listing);
    const bytes = entries.reduce((sum, { name }) => sum + OVERHEAD_BYTES + 2 * name.length, 0);
    const drop = (): void => void (this.#listing = undefined);
    this.#listing = { entries, untilMs: performance.now() + forMs, bytes, drop };
    this.#budget.add(this.#listing);
  }

  /**
   * Keeps the node while the budget has room and a name is kept that stands for it, also if no
   * guest uses it.
   * @param innerBytes what the inner backend keeps for it.
   */
  keep(innerBytes: number, letGo: () => void): void {
    if (this.kept !== undefined) return this.#budget.touch(this.kept);
    const drop = (): void => {
      this.kept = undefined;
      letGo();
    };
    this.kept = { bytes: 5 * OVERHEAD_BYTES + innerBytes, drop };
    this.#budget.add(this.kept);
  }

  /** Does not keep it any longer than guests use it. */
  unkeep(): void {
    if (this.kept === undefined) return;
    this.#budget.remove(this.kept);
    this.kept.drop();
  }
}

function isSameContent(a: Attributes, b: Attributes): boolean {
  return (
    a.size === b.size &&
    a.mtime === b.mtime &&
    a.mtimeNsec === b.mtimeNsec &&
    a.ctime === b.ctime &&
    a.ctimeNsec === b.ctimeNsec
  );
}
