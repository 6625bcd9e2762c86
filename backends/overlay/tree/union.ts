import {
  DAEMON,
  type Attributes,
  type Awaitable,
  type BackendHost,
  type Entry,
  FileType,
  FsError,
  isPromise,
  type Opened,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import type { Layer } from '../layers/layer.js';
import {
  isPossibleMetacopy,
  type Located,
  mayBeMetacopy,
  ownContent,
  setContent,
  tryLocate,
} from '../layers/content.js';
import type { Found, Marks } from '../layers/whiteouts.js';
import { type Content, type LowerNode, OverlayNode } from './node.js';
import { type Links, readLinks, readOrigin } from '../layers/origin.js';
import { dropAll, mergeLowers, redirectOf, type Stack } from '../layers/stack.js';
import { ChangeQueue } from './change-queue.js';
import type { WorkArea } from '../layers/work-area.js';

/** The upper of a writable union. */
export interface Upper {
  readonly layer: Layer;
  readonly marks: Marks;
  readonly work: WorkArea;
}

/** A pinned node with the attributes of its topmost layer. */
export interface PinnedEntry {
  readonly node: OverlayNode;
  readonly attributes: Attributes;
}

/**
 * The tree of the union. It knows which layers' nodes make up each node, and looks names up from
 * the top layer down. Rules: Linux `Documentation/filesystems/overlayfs.rst`, "Upper and Lower",
 * "whiteouts and opaque directories", "redirect_dir".
 */
export class Union {
  readonly host: BackendHost;
  readonly upper: Upper | undefined;
  /** Top first. */
  readonly lowers: readonly Layer[];
  readonly redirectDir: boolean;
  /**
   * Whether files with their content in another layer (`overlay.metacopy`) are followed, and
   * created by copy-up.
   */
  readonly metacopy: boolean;
  readonly root: OverlayNode;
  /** Files and directories that were copied up. */
  copyUps = 0;
  /** Called when a node that the engine knows has another place or another file in the upper. */
  changed: ((node: OverlayNode) => void) | undefined;
  /**
   * What guests know files of the upper by that came from another host, where no mark says so, by
   * the identity that they would have.
   */
  readonly arrived = new Map<string, { readonly identity: string; readonly ino: number | undefined }>();
  /** Whether directories of the upper may have come from another host: marks say what they are. */
  hasArrived = false;
  /** Runs the changes of the tree one at a time. */
  readonly changeQueue = new ChangeQueue();
  readonly #byUpper = new Map<object, OverlayNode>();
  readonly #byLower = new Map<object, OverlayNode>();
  readonly #byIdentity = new Map<string, OverlayNode>();

  constructor(
    host: BackendHost,
    upper: Upper | undefined,
    lowers: readonly Layer[],
    { redirectDir, metacopy }: { readonly redirectDir: boolean; readonly metacopy: boolean },
  ) {
    this.host = host;
    this.upper = upper;
    this.lowers = lowers;
    this.redirectDir = redirectDir;
    this.metacopy = metacopy;
    const stack = lowers.map((layer) => ({ layer, node: layer.root }));
    this.root = new OverlayNode(FileType.DIRECTORY, 'root', undefined, upper?.work.root, stack);
    for (const { layer, node } of stack) layer.hold(node);
    if (upper !== undefined) upper.layer.hold(upper.work.root);
    this.root.known = true;
    this.root.references = 1;
    this.#enter(this.root);
  }

  /** To be called after the layers' `restore`, before the engine knows any node but the root. */
  *layersRestored(): Steps<void> {
    const { upper, root } = this;
    if (upper === undefined) return;
    yield* upper.work.reopen();
    if (root.upper === upper.work.root) return;
    this.#byUpper.delete(root.upper!);
    upper.layer.hold(upper.work.root);
    upper.layer.drop(root.upper!);
    root.upper = upper.work.root;
    this.#byUpper.set(root.upper, root);
  }

  /** To be called when the upper has got all that it had on another host. */
  *upperArrived(): Steps<void> {
    const { layer, marks, work } = this.writable();
    if (!marks.inPlace) return;
    yield* wait(marks.set(layer, work.root, 'kit.arrived', 'y'));
    yield* this.readRoot();
  }

  /** Reads what is marked at the root of the upper. */
  *readRoot(): Steps<void> {
    const { layer, marks, work } = this.writable();
    this.root.impure = yield* wait(marks.isImpure(layer, work.root));
    this.hasArrived = marks.inPlace && (yield* wait(marks.get(layer, work.root, 'kit.arrived'))) === 'y';
  }

  /** Whether a change of metadata leaves a file's content in the lower. */
  get writesMetacopy(): boolean {
    if (!this.metacopy || this.upper === undefined) return false;
    const { marks, layer } = this.upper;
    const { setattr, removexattr } = layer.backend;
    return marks.holds(FileType.REGULAR) && setattr !== undefined && removexattr !== undefined;
  }

  /** Number of known nodes: the root, what the engine knows, and their parents. */
  get knownNodes(): number {
    return this.#byIdentity.size;
  }

  /** The known node with an identity. */
  known(identity: string): OverlayNode | undefined {
    return this.#byIdentity.get(identity);
  }

  /** The known node with a node of the upper. */
  inUpper(upperNode: object): OverlayNode | undefined {
    return this.#byUpper.get(upperNode);
  }

  /** Every node that the engine knows, except the root. */
  *knownToEngine(): Iterable<OverlayNode> {
    for (const node of this.#byIdentity.values()) if (node.known && node !== this.root) yield node;
  }

  /** Whether guests can neither see nor use a name in a directory. */
  isReserved(parent: OverlayNode, name: string): boolean {
    if (this.upper === undefined) return this.lowers.some(({ marks }) => marks.reserves(name));
    return this.upper.marks.reserves(name) || (parent === this.root && this.upper.work.isHidden(name));
  }

  /**
   * Looks a name up. @returns the entry with its node pinned, or undefined. Without a promise the
   * attributes are the layer's own object, valid until the layer is asked again. Known nodes over
   * synchronous layers are found by plain calls, since every LOOKUP comes through here.
   */
  lookup(parent: OverlayNode, name: string): Awaitable<PinnedEntry | undefined> {
    if (this.isReserved(parent, name)) return undefined;
    const { upper } = this;
    if (upper !== undefined && parent.upper !== undefined) {
      const top = upper.marks.find(upper.layer, parent.upper, name);
      if (isPromise(top)) return run(this.#afterUpper(parent, name, top));
      if (top === 'whiteout') return undefined;
      if (top !== undefined) {
        const node = this.#byUpper.get(top.node);
        if (node === undefined) return run(this.#foundInUpper(parent, name, top));
        upper.layer.drop(top.node);
        return this.#seen(node, parent, name, top.attributes);
      }
    }
    const first = parent.lowers[0];
    if (first === undefined) return undefined;
    const { layer } = first;
    const found = layer.marks.reserves(name) ? undefined : layer.marks.find(layer, first.node, name);
    if (isPromise(found)) return run(this.#afterFirst(parent, name, found));
    return this.#foundFirst(parent, name, found);
  }

  /** {@link lookup} within steps. The attributes are a copy. */
  *find(parent: OverlayNode, name: string): Steps<PinnedEntry | undefined> {
    const seen = yield* wait(this.lookup(parent, name));
    return seen && { node: seen.node, attributes: { ...seen.attributes } };
  }

  /** Pins a node that was found at a place and records the place. */
  #seen(node: OverlayNode, parent: OverlayNode, name: string, attributes: Attributes): PinnedEntry {
    this.pin(node);
    this.#place(node, parent, name);
    return { node, attributes };
  }

  *#afterUpper(parent: OverlayNode, name: string, pending: Promise<Found>): Steps<PinnedEntry | undefined> {
    const top = yield* wait(pending);
    if (top === 'whiteout') return undefined;
    if (top !== undefined) return yield* this.#foundInUpper(parent, name, top);
    return yield* this.#findBelow(parent, name);
  }

  *#foundInUpper(parent: OverlayNode, name: string, top: Entry<object>): Steps<PinnedEntry> {
    const attributes = { ...top.attributes };
    try {
      const node =
        this.#byUpper.get(top.node) ?? (yield* this.#enterUpper(parent, name, top.node, attributes));
      return this.#seen(node, parent, name, attributes);
    } finally {
      this.upper!.layer.drop(top.node);
    }
  }

  *#afterFirst(parent: OverlayNode, name: string, pending: Promise<Found>): Steps<PinnedEntry | undefined> {
    return yield* wait(this.#foundFirst(parent, name, yield* wait(pending)));
  }

  /**
   * Decides by what the topmost lower has at the name. A known node needs no look at the lowers
   * below; neither does a new one that nothing below can be merged with.
   */
  #foundFirst(parent: OverlayNode, name: string, found: Found): Awaitable<PinnedEntry | undefined> {
    if (found === 'whiteout') return undefined;
    if (found === undefined) {
      return parent.lowers.length === 1 ? undefined : run(this.#findBelow(parent, name));
    }
    const directory = parent.lowers[0]!;
    const { layer } = directory;
    const { node: inLayer, attributes } = found;
    const known = this.#byLower.get(inLayer);
    if (known !== undefined) {
      layer.drop(inLayer);
      if (known.upper === undefined) return this.#seen(known, parent, name, attributes);
      return run(this.#seenInUpper(known, parent, name));
    }
    const isDirectory = (attributes.mode & FileType.MASK) === FileType.DIRECTORY;
    if (isDirectory && layer !== this.lowers.at(-1)) {
      layer.drop(inLayer);
      return run(this.#findBelow(parent, name));
    }
    const stack = [{ layer, node: inLayer }];
    if (this.#mayHaveUpper(attributes) || mayBeMetacopy(attributes, directory) !== false) {
      return run(this.#enterFirst(parent, name, stack, { ...attributes }));
    }
    // Asking for the node's key may make the layer refill its answer.
    const kept = { ...attributes };
    return this.#seen(this.#enterStack(parent, name, stack, kept, ownContent(stack[0]!)), parent, name, kept);
  }

  *#enterFirst(
    parent: OverlayNode,
    name: string,
    stack: readonly LowerNode[],
    attributes: Attributes,
  ): Steps<PinnedEntry> {
    const node = yield* this.#enterLower(parent, name, stack, attributes);
    if (node.upper === undefined) return this.#seen(node, parent, name, attributes);
    return yield* this.#seenInUpper(node, parent, name);
  }

  *#findBelow(parent: OverlayNode, name: string): Steps<PinnedEntry | undefined> {
    const { stack, attributes } = yield* mergeLowers(this.lowers, parent, name);
    const first = stack[0];
    if (first === undefined || attributes === undefined) return undefined;
    const node = this.#byLower.get(first.node);
    if (node === undefined) return yield* this.#enterFirst(parent, name, stack, attributes);
    dropAll(stack);
    if (node.upper === undefined) return this.#seen(node, parent, name, attributes);
    return yield* this.#seenInUpper(node, parent, name);
  }

  /** The entry of a lower file that was copied up under another of its names. */
  *#seenInUpper(node: OverlayNode, parent: OverlayNode, name: string): Steps<PinnedEntry> {
    const seen = this.#seen(node, parent, name, NONE);
    try {
      const attributes = yield* wait(this.upper!.layer.backend.getattr(node.upper!, undefined, DAEMON));
      return { node, attributes: { ...attributes } };
    } catch (error) {
      this.unpin(seen.node);
      throw error;
    }
  }

  /** Makes the node of what was found in the upper, unless it is known by another name. */
  *#enterUpper(
    parent: OverlayNode,
    name: string,
    upperNode: object,
    attributes: Attributes,
  ): Steps<OverlayNode> {
    const { layer, marks } = this.upper!;
    const type = attributes.mode & FileType.MASK;
    let lowers: readonly LowerNode[] = [];
    let redirect: string | undefined;
    let impure = false;
    let identity: string | undefined;
    let ino: number | undefined;
    let links: Links | undefined;
    let located: Located | undefined;
    if (type === FileType.DIRECTORY) {
      impure = yield* wait(marks.isImpure(layer, upperNode));
      if (!(yield* wait(marks.isOpaque(layer, upperNode)))) {
        redirect = yield* redirectOf(layer, upperNode);
        const merged = yield* this.#mergeBelow(parent, redirect ?? name);
        lowers = merged.stack;
        const first = lowers[0];
        if (first !== undefined) {
          identity = first.layer.identity(first.node, merged.attributes?.ino, () =>
            this.lowerPathOf(parent, redirect ?? name),
          );
          ino = first.layer.inode(merged.attributes?.ino);
        }
      }
      const origin =
        this.hasArrived && identity === undefined ? yield* readOrigin(layer, upperNode) : undefined;
      if (origin !== undefined) ({ identity, ino } = origin);
    } else if (marks.holds(type)) {
      const origin = yield* readOrigin(layer, upperNode);
      if (origin !== undefined) ({ identity, ino } = origin);
      if (origin !== undefined && type === FileType.REGULAR) links = yield* readLinks(layer, upperNode, type);
    }
    if (type === FileType.REGULAR) {
      located = yield* tryLocate(this, parent, name, { layer, node: upperNode });
      if (located?.content.node !== upperNode) redirect = yield* redirectOf(layer, upperNode);
    }
    // Another request may have entered the node in the meantime. From here to the end nothing
    // waits.
    if (identity === undefined) {
      identity = layer.identity(upperNode, attributes.ino);
      const arrived = this.arrived.get(identity);
      ({ identity, ino } = arrived ?? { identity, ino: layer.inode(attributes.ino) });
    }
    const known = this.#byUpper.get(upperNode) ?? this.#byIdentity.get(identity);
    if (known !== undefined && (known.upper === undefined || known.upper === upperNode)) {
      dropAll(lowers);
      if (known.upper === undefined) this.setUpper(known, upperNode, located?.content);
      if (known.followed === undefined) known.followed = located?.followed;
      else if (located?.followed !== undefined) dropAll([located.followed]);
      return known;
    }
    layer.hold(upperNode);
    const node = new OverlayNode(type, identity, ino, upperNode, lowers);
    node.redirect = redirect;
    node.impure = impure;
    if (located !== undefined) setContent(node, located);
    Object.assign(node, links);
    this.#enter(node);
    return node;
  }

  /** Whether another name of the lower file may have been copied up. */
  #mayHaveUpper({ mode, nlink = 1 }: Attributes): boolean {
    return nlink > 1 && this.upper !== undefined && (mode & FileType.MASK) !== FileType.DIRECTORY;
  }

  *#enterLower(
    parent: OverlayNode,
    name: string,
    stack: readonly LowerNode[],
    attributes: Attributes,
  ): Steps<OverlayNode> {
    const first = stack[0]!;
    let found: InUpper | undefined;
    if (this.#mayHaveUpper(attributes)) {
      const { layer, work } = this.upper!;
      const upperNode = yield* wait(work.findIndexed(this.#identityOf(parent, name, first, attributes)));
      if (upperNode !== undefined) {
        const type = attributes.mode & FileType.MASK;
        found = { upperNode, links: (yield* readLinks(layer, upperNode, type)) ?? UNKNOWN_LINKS };
      }
    }
    let located: Located | undefined;
    if (found !== undefined) {
      const top = { layer: this.upper!.layer, node: found.upperNode };
      located = yield* tryLocate(this, parent, name, top);
    } else {
      const directory = parent.lowers.find((lower) => lower.layer === first.layer);
      if (directory === undefined || (yield* isPossibleMetacopy(attributes, directory))) {
        located = yield* tryLocate(this, parent, name, first);
      } else located = ownContent(first);
    }
    return this.#enterStack(parent, name, stack, attributes, located, found);
  }

  #identityOf(parent: OverlayNode, name: string, { layer, node }: LowerNode, { ino }: Attributes): string {
    return layer.identity(node, ino, () => this.lowerPathOf(parent, name));
  }

  /**
   * Makes the node of what was found in lowers, unless it is known by another name.
   * @param stack its nodes in the lowers, held; this call takes the holds over.
   */
  #enterStack(
    parent: OverlayNode,
    name: string,
    stack: readonly LowerNode[],
    attributes: Attributes,
    located: Located | undefined,
    found?: InUpper,
  ): OverlayNode {
    const first = stack[0]!;
    const type = attributes.mode & FileType.MASK;
    const identity = this.#identityOf(parent, name, first, attributes);
    const upperNode = found?.upperNode;
    const known =
      (upperNode === undefined ? undefined : this.#byUpper.get(upperNode)) ?? this.#byIdentity.get(identity);
    if (known !== undefined && known.type === type) {
      dropAll(stack);
      if (upperNode !== undefined) this.upper!.layer.drop(upperNode);
      if (located?.followed !== undefined) dropAll([located.followed]);
      return known;
    }
    const node = new OverlayNode(type, identity, first.layer.inode(attributes.ino), upperNode, stack);
    if (located !== undefined) setContent(node, located);
    if (found !== undefined) Object.assign(node, found.links);
    this.#enter(node);
    return node;
  }

  /** The nodes in the lowers that are merged with a directory of the upper. */
  *#mergeBelow(parent: OverlayNode, nameOrPath: string): Steps<Stack> {
    const merged = yield* mergeLowers(this.lowers, parent, nameOrPath);
    const { attributes } = merged;
    if (attributes !== undefined && (attributes.mode & FileType.MASK) !== FileType.DIRECTORY) {
      dropAll(merged.stack);
      return { stack: [], attributes: undefined };
    }
    return merged;
  }

  /** Whether a lower has something at a name, so that its removal needs a whiteout. */
  *existsBelow(parent: OverlayNode, name: string): Steps<boolean> {
    const { stack } = yield* mergeLowers(this.lowers, parent, name);
    dropAll(stack);
    return stack.length > 0;
  }

  /** The path of a directory in the lowers, as a redirect must give it. */
  lowerPath(node: OverlayNode): string {
    if (node.parent === undefined) return '';
    return this.lowerPathOf(node.parent, node.redirect ?? node.name);
  }

  /** The path in the lowers of a name in a directory, or of what a redirect says. */
  lowerPathOf(parent: OverlayNode, nameOrPath: string): string {
    return nameOrPath.startsWith('/') ? nameOrPath : `${this.lowerPath(parent)}/${nameOrPath}`;
  }

  /**
   * Makes a node without a name. Takes over the hold of its object in one layer.
   * @param attributes as that layer shows them.
   */
  enterNameless(layer: Layer, inLayer: object, identity: string, attributes: Attributes): OverlayNode {
    const ino = layer.inode(attributes.ino);
    const type = attributes.mode & FileType.MASK;
    const isUpper = layer.number === 0;
    const lowers = isUpper ? [] : [{ layer, node: inLayer }];
    const node = new OverlayNode(type, identity, ino, isUpper ? inLayer : undefined, lowers);
    this.#enter(node);
    return node;
  }

  /** Makes the node of what was just created in the upper, and pins it. */
  created(parent: OverlayNode, name: string, upperNode: object, attributes: Attributes): OverlayNode {
    const { layer } = this.upper!;
    let node = this.#byUpper.get(upperNode);
    if (node === undefined) {
      layer.hold(upperNode);
      const identity = layer.identity(upperNode, attributes.ino);
      node = new OverlayNode(
        attributes.mode & FileType.MASK,
        identity,
        layer.inode(attributes.ino),
        upperNode,
        [],
      );
      node.content = { layer, node: upperNode };
      this.#enter(node);
    }
    this.#place(node, parent, name);
    this.pin(node);
    return node;
  }

  /**
   * Records that a node is in the upper now.
   * @param content where the content of a file is: in the upper or below.
   */
  setUpper(node: OverlayNode, upperNode: object, content: Content | undefined): void {
    // A look-up may have found it in its place before.
    if (node.upper !== upperNode) this.upper!.layer.hold(upperNode);
    node.upper = upperNode;
    node.content = content;
    this.#byUpper.set(upperNode, node);
    this.#tell(node);
  }

  #tell(node: OverlayNode): void {
    if (node.known) this.changed?.(node);
  }

  #enter(node: OverlayNode): void {
    this.#byIdentity.set(node.identity, node);
    if (node.upper !== undefined) this.#byUpper.set(node.upper, node);
    const first = node.lowers[0];
    if (first !== undefined && (node.upper === undefined || !node.isDirectory))
      this.#byLower.set(first.node, node);
  }

  #place(node: OverlayNode, parent: OverlayNode, name: string): void {
    if (node === this.root || (node.parent === parent && node.name === name)) return;
    this.move(node, parent, name);
  }

  /** Records another parent and name of a node; undefined if it has none. */
  move(node: OverlayNode, parent: OverlayNode | undefined, name: string): void {
    const before = node.parent;
    if (parent !== undefined) parent.references += 1;
    node.parent = parent;
    node.name = name;
    node.nextPlace = undefined;
    this.#tell(node);
    if (before !== undefined) this.#release(before);
  }

  /** To be called before {@link move}, and before the layers are changed. */
  willMove(node: OverlayNode, parent: OverlayNode, name: string): void {
    node.nextPlace = [parent, name];
    this.#tell(node);
  }

  /** Called when the engine gets to know the node. */
  reference(node: OverlayNode): void {
    if (node.known) return;
    node.known = true;
    node.references += 1;
  }

  /** Called when the engine has forgotten the node. */
  forget(node: OverlayNode): void {
    if (!node.known || node === this.root) return;
    node.known = false;
    this.#release(node);
  }

  /** Keeps a node in the tree while it is used. */
  pin(node: OverlayNode): void {
    node.references += 1;
  }

  /** Undoes one {@link pin}. A node without references is removed. */
  unpin(node: OverlayNode): void {
    this.#release(node);
  }

  /**
   * Removes a reference. With the last one the node is removed, which releases its parent: a chain
   * as deep as guests make directories.
   */
  #release(node: OverlayNode): void {
    for (let at: OverlayNode | undefined = node; at !== undefined;) {
      at.references -= 1;
      if (at.references > 0 || at === this.root) return;
      this.#remove(at);
      const { parent }: OverlayNode = at;
      at.parent = undefined;
      at = parent;
    }
  }

  /** Removes a node without references; its parent is still to be released. */
  #remove(node: OverlayNode): void {
    if (this.#byIdentity.get(node.identity) === node) this.#byIdentity.delete(node.identity);
    if (node.upper !== undefined) {
      this.#byUpper.delete(node.upper);
      if (node.orphan !== undefined) void this.#letGo(node.upper, node.orphan);
      this.upper!.layer.drop(node.upper);
    }
    const first = node.lowers[0];
    if (first !== undefined && this.#byLower.get(first.node) === node) this.#byLower.delete(first.node);
    dropAll(node.lowers);
    if (node.followed !== undefined) dropAll([node.followed]);
  }

  async #letGo(upperNode: object, { file }: Opened<unknown>): Promise<void> {
    try {
      await this.upper!.layer.backend.release?.(upperNode, file);
    } catch (error) {
      this.host.log.warn({ error: String(error) }, 'an unlinked file could not be closed');
    }
  }

  /** The upper. @throws EROFS if there is none. */
  writable(): Upper {
    if (this.upper === undefined) throw FsError.of('EROFS');
    return this.upper;
  }
}

/** Placeholder until the attributes are read. */
const NONE: Attributes = { mode: 0 };

/** The upper file that another name of a lower file was copied up to. */
interface InUpper {
  /** Held. */
  readonly upperNode: object;
  readonly links: Links;
}

/** Links of a file in the index whose mark cannot be read. */
const UNKNOWN_LINKS: Links = { indexed: true, linkDelta: 0 };
