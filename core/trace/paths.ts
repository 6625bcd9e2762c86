/** Bytes of heap that a name takes: its places in two maps, and for each of its characters. */
const NAME_BYTES = 256;
const CHARACTER_BYTES = 4;
/** Longer paths are cut off: their begin is a node's number. PATH_MAX of Linux. */
const MOST_PATH = 4096;

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
  readonly #mostBytes: () => number;
  #bytes = 0;

  /** @param mostBytes bytes of heap that names may take. Those that were told last stay. */
  constructor(mostBytes: () => number) {
    this.#mostBytes = mostBytes;
  }

  /** A node was found, or made, under a name. */
  learn(parent: bigint, name: string, node: bigint): void {
    if (node === 0n || node === ROOT || name === '.' || name === '..') return;
    this.#drop(node);
    this.#names.set(node, { parent, name });
    this.#nodes.set(keyOf(parent, name), node);
    this.#bytes += bytesOf(name);
    while (this.#bytes > this.#mostBytes()) {
      const [oldest] = this.#names.keys();
      this.#drop(oldest!);
    }
  }

  #drop(node: bigint): void {
    const known = this.#names.get(node);
    if (known === undefined) return;
    this.#names.delete(node);
    this.#nodes.delete(keyOf(known.parent, known.name));
    this.#bytes -= bytesOf(known.name);
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
    let characters = 0;
    for (let at = node; at !== ROOT;) {
      const known = this.#names.get(at);
      characters += (known?.name.length ?? 0) + 1;
      if (known === undefined || characters > MOST_PATH) {
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

function bytesOf(name: string): number {
  return NAME_BYTES + CHARACTER_BYTES * name.length;
}

function keyOf(parent: bigint, name: string): string {
  return `${parent}/${name}`;
}
