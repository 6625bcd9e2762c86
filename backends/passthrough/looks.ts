import { type Attributes, type Entry, FsError } from '../../core/backend/index.js';
import { CallList, NativeMemory } from '../../core/system/index.js';
import type { Node } from './nodes.js';
import { putComponent } from './scratch.js';
import { newEntry, type OwnEntry, type Share } from './share.js';
import { addStatName, fillFromStat, takeStat } from './stat.js';

const ENOENT = -2;

/** Looks in one list at most. */
const CAPACITY = 64;

/** A look's place: its result, `struct stat` or `struct statx`, and the name with its NUL. */
const NAME = 256;
const PLACE = 512;
/** Longest name that surely fits: a UTF-16 unit takes three bytes at most. */
const LONGEST = 85;

/** A look that was put aside: at a name in a directory, at a node where it was last seen, or at what a descriptor stands for. */
interface Look {
  parent: Node | undefined;
  node: Node | undefined;
  name: string;
  readonly entry: OwnEntry;
}

/** Looks at files that are made together: what `lookup` and `getattr` begin with. */
export class Looks {
  readonly #share: Share;
  readonly #list: CallList;
  readonly #memory = NativeMemory.allocate(CAPACITY * PLACE);
  readonly #looks: readonly Look[] = Array.from({ length: CAPACITY }, () => ({
    parent: undefined,
    node: undefined,
    name: '',
    entry: newEntry(),
  }));

  private constructor(share: Share, list: CallList) {
    this.#share = share;
    this.#list = list;
    // They are made early then: a descriptor's number may stand for another file afterwards.
    share.nodes.beforeClose = () => list.run();
  }

  /** @returns nothing where calls cannot be made together. */
  static open(share: Share): Looks | undefined {
    const list = CallList.open(CAPACITY);
    return list === undefined ? undefined : new Looks(share, list);
  }

  get count(): number {
    return this.#list.count;
  }

  /** Adds a look at a name in a directory. @returns whether there was room. @throws FsError EINVAL for what is no name. */
  addName(parent: Node, name: string): boolean {
    return this.#add(parent, undefined, name);
  }

  /** Adds a look at a node, where `whereSeen` says that it was seen last. @returns whether there was room. */
  addNode(parent: Node, node: Node): boolean {
    return this.#add(parent, node, node.name);
  }

  /** Adds a look at what a descriptor stands for, without the time of birth. @returns whether there was room. */
  addDescriptor(fd: number): boolean {
    if (this.#list.isFull) return false;
    const index = this.#list.count;
    this.#looks[index]!.parent = undefined;
    this.#list.fstat(fd, this.#memory.address + index * PLACE);
    return true;
  }

  #add(parent: Node, node: Node | undefined, name: string): boolean {
    if (this.#list.isFull || name.length > LONGEST) return false;
    const fd = this.#share.nodes.descriptor(parent);
    if (fd < 0) return false;
    const index = this.#list.count;
    const place = index * PLACE;
    putComponent(name, this.#memory.u8, place + NAME);
    const look = this.#looks[index]!;
    look.parent = parent;
    look.node = node;
    look.name = name;
    const address = this.#memory.address + place;
    addStatName(this.#list, fd, address + NAME, address);
    return true;
  }

  /** Makes the looks. */
  run(): void {
    this.#list.run();
  }

  /** What `lookup` or `getattr` would have returned for the i-th look, in an object of its own. @throws what it would have thrown. */
  take(index: number): Attributes | Entry<Node> | undefined {
    const { parent, node, name, entry } = this.#looks[index]!;
    const share = this.#share;
    const code = this.#list.result(index);
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

  /** Begins anew. */
  clear(): void {
    this.#list.clear();
  }

  close(): void {
    this.#list.close();
    this.#memory.free();
  }
}
