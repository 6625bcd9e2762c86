/** Names that are remembered, of those that were told last. */
const MOST_NAMES = 100_000;
/** Longer paths are cut off: their begin is a node's number. */
const MOST_PARTS = 64;

const ROOT = 1n;

interface Name {
  readonly parent: bigint;
  readonly name: string;
}

/**
 * What nodes are called, as far as requests have told. A node has one name here, the last one that
 * was told, even if it has several links.
 */
export class Paths {
  readonly #names = new Map<bigint, Name>();
  /** Nodes by their directory and name. */
  readonly #nodes = new Map<string, bigint>();

  /** A node was found, or made, under a name. */
  learn(parent: bigint, name: string, node: bigint): void {
    if (node === 0n || node === ROOT || name === '.' || name === '..') return;
    const known = this.#names.get(node);
    if (known !== undefined) {
      this.#names.delete(node);
      this.#nodes.delete(keyOf(known.parent, known.name));
    }
    this.#names.set(node, { parent, name });
    this.#nodes.set(keyOf(parent, name), node);
    if (this.#names.size <= MOST_NAMES) return;
    const [[oldest, { parent: of, name: called }]] = this.#names as unknown as [[bigint, Name]];
    this.#names.delete(oldest);
    this.#nodes.delete(keyOf(of, called));
  }

  /** A name was moved. */
  move(from: bigint, name: string, to: bigint, newName: string): void {
    const node = this.#nodes.get(keyOf(from, name));
    if (node !== undefined) this.learn(to, newName, node);
  }

  /** Two names were exchanged. */
  exchange(from: bigint, name: string, to: bigint, newName: string): void {
    const node = this.#nodes.get(keyOf(from, name));
    const other = this.#nodes.get(keyOf(to, newName));
    if (node !== undefined) this.learn(to, newName, node);
    if (other !== undefined) this.learn(from, name, other);
  }

  /** `/a/b`, or `#1f/b` below a node whose name was not told. */
  of(node: bigint): string {
    const parts: string[] = [];
    for (let at = node; at !== ROOT;) {
      const known = this.#names.get(at);
      if (known === undefined || parts.length === MOST_PARTS) {
        return [`#${at.toString(16)}`, ...parts.toReversed()].join('/');
      }
      parts.push(known.name);
      at = known.parent;
    }
    return `/${parts.toReversed().join('/')}`;
  }

  /** The path of a name in a directory. */
  below(parent: bigint, name: string): string {
    const path = this.of(parent);
    return path === '/' ? `/${name}` : `${path}/${name}`;
  }
}

function keyOf(parent: bigint, name: string): string {
  return `${parent}/${name}`;
}
