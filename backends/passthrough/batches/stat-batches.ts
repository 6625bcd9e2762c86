import { type Attributes, type Entry, FsError } from '../../../core/backend/index.js';
import { type CallList, NativeMemory } from '../../../core/system/index.js';
import type { Node } from '../nodes/nodes.js';
import { putComponent } from '../calls/call-memory.js';
import { newEntry, type OwnEntry, type Share } from '../share.js';
import { addStatName, fillFromStat, takeStat } from '../calls/stat.js';

const ENOENT = -2;

/** A look's place: its result, `struct stat` or `struct statx`, and the name with its NUL. */
const NAME = 256;
const PLACE = 512;
/** Longest name that surely fits: a UTF-16 unit takes three bytes at most. */
const LONGEST = 85;

/**
 * A look that was put aside: at a name in a directory, at a node where it was last seen, or at what
 * a descriptor stands for.
 */
interface Look {
  parent: Node | undefined;
  node: Node | undefined;
  name: string;
  readonly entry: OwnEntry;
}

/**
 * Looks at files that are made together, one list of calls after another: what `lookup` and
 * `getattr` begin with.
 */
export class Looks {
  readonly #share: Share;
  readonly #memory: NativeMemory;
  readonly #looks: readonly Look[];

  /** @param capacity of the lists. */
  constructor(share: Share, capacity: number) {
    this.#share = share;
    this.#memory = NativeMemory.allocate(capacity * PLACE);
    this.#looks = Array.from({ length: capacity }, () => ({
      parent: undefined,
      node: undefined,
      name: '',
      entry: newEntry(),
    }));
  }

  /**
   * Adds a look at a name in a directory to a list that has room. @returns whether it can be made
   * so.
   * @throws FsError EINVAL for what is no name.
   */
  addName(list: CallList, parent: Node, name: string): boolean {
    return this.#add(list, parent, undefined, name);
  }

  /** Adds a look at a node, where `whereSeen` says that it was seen last, as {@link addName}. */
  addNode(list: CallList, parent: Node, node: Node): boolean {
    return this.#add(list, parent, node, node.name);
  }

  /**
   * Adds a look at what a descriptor stands for, without the time of birth, to a list that has
   * room.
   */
  addDescriptor(list: CallList, fd: number): void {
    const index = list.count;
    this.#looks[index]!.parent = undefined;
    list.fstat(fd, this.#memory.address + index * PLACE);
  }

  #add(list: CallList, parent: Node, node: Node | undefined, name: string): boolean {
    if (name.length > LONGEST) return false;
    const fd = this.#share.nodes.descriptor(parent);
    if (fd < 0) return false;
    const index = list.count;
    const place = index * PLACE;
    putComponent(name, this.#memory.u8, place + NAME);
    const look = this.#looks[index]!;
    look.parent = parent;
    look.node = node;
    look.name = name;
    const address = this.#memory.address + place;
    addStatName(list, fd, address + NAME, address);
    return true;
  }

  /**
   * What `lookup` or `getattr` would have returned for the i-th call of a list that was made, a
   * look; in an object of its own.
   * @throws what it would have thrown.
   */
  take(list: CallList, index: number): Attributes | Entry<Node> | undefined {
    const { parent, node, name, entry } = this.#looks[index]!;
    const share = this.#share;
    const code = list.result(index);
    const start = (index * PLACE) >>> 2;
    const { u32, i32, address } = this.#memory;
    if (parent === undefined) {
      if (code < 0) throw FsError.of(-code);
      fillFromStat(u32, i32, start, entry.attributes);
      return share.translated(entry.attributes);
    }
    if (code === 0) takeStat(u32, start);
    if (node !== undefined) {
      if (code < 0 || !share.isStatOf(node)) share.statCold(node);
      return share.attributes(entry.attributes);
    }
    if (code === ENOENT) return undefined;
    return share.found(code, parent, share.descriptor(parent), address + index * PLACE + NAME, name, entry);
  }

  close(): void {
    this.#memory.free();
  }
}
