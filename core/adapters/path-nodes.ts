import { FsError } from '../backend/index.js';
import type { PathFile } from './path-file-system.js';

/** A name in a directory. */
interface Place {
  readonly parent: PathNode;
  readonly name: string;
}

/** A file, directory or link that guests know. */
export class PathNode {
  readonly identity: string | undefined;
  /** Its names, as far as they are known. */
  readonly places: Place[] = [];
  /** What is known of a directory. */
  readonly children = new Map<string, PathNode>();
  /** Its open files. */
  readonly files = new Set<PathFile>();
  isForgotten = false;

  constructor(identity: string | undefined) {
    this.identity = identity;
  }
}

/** Whether a name has no bytes but UTF-8: others come as lone surrogates. */
export function isUtf8(name: string): boolean {
  return !/\p{Surrogate}/u.test(name);
}

/** Which node has which path just now. */
export class PathNodes {
  readonly root = new PathNode(undefined);
  readonly #byIdentity = new Map<string, PathNode>();

  /**
   * @throws ESTALE for a file without a path: it was removed, or is not where it was.
   */
  pathOf(node: PathNode): string {
    const names: string[] = [];
    for (let at = node; at !== this.root;) {
      const [place] = at.places;
      if (place === undefined) throw FsError.of('ESTALE');
      names.unshift(place.name);
      at = place.parent;
    }
    return `/${names.join('/')}`;
  }

  /** The path of a name in a directory. A name that is not UTF-8 is EILSEQ. */
  pathIn(parent: PathNode, name: string): string {
    if (!isUtf8(name)) throw FsError.of('EILSEQ');
    return `${parent === this.root ? '' : this.pathOf(parent)}/${name}`;
  }

  /** A name stands for the file of an identity: the node of it. */
  found(parent: PathNode, name: string, identity: string | undefined): PathNode {
    const there = parent.children.get(name);
    if (there !== undefined && there.identity === identity) {
      there.isForgotten = false;
      return there;
    }
    const known = identity === undefined ? undefined : this.#byIdentity.get(identity);
    // A number may be used again once its file has neither a name nor is open.
    const isAlive = known !== undefined && (known.places.length > 0 || known.files.size > 0);
    return this.#enter(parent, name, isAlive ? known : new PathNode(identity));
  }

  /** A file was made: no other has its identity, whatever had it before. */
  made(parent: PathNode, name: string, identity: string | undefined): PathNode {
    return this.#enter(parent, name, new PathNode(identity));
  }

  #enter(parent: PathNode, name: string, node: PathNode): PathNode {
    this.removed(parent, name);
    if (node.identity !== undefined) this.#byIdentity.set(node.identity, node);
    this.#put(parent, name, node);
    node.isForgotten = false;
    return node;
  }

  /** Nothing has the name any more. */
  removed(parent: PathNode, name: string): void {
    const node = parent.children.get(name);
    if (node === undefined) return;
    this.#take(parent, name, node);
    this.#drop(parent);
  }

  /** Whether two names are known to stand for the same file. */
  areOne(parent: PathNode, name: string, other: PathNode, otherName: string): boolean {
    const node = parent.children.get(name);
    return node !== undefined && node === other.children.get(otherName);
  }

  renamed(parent: PathNode, name: string, newParent: PathNode, newName: string): void {
    const node = parent.children.get(name);
    this.removed(newParent, newName);
    if (node === undefined) return;
    this.#take(parent, name, node);
    this.#put(newParent, newName, node);
    this.#drop(parent);
  }

  forget(node: PathNode): void {
    node.isForgotten = true;
    this.#drop(node);
  }

  #put(parent: PathNode, name: string, node: PathNode): void {
    parent.children.set(name, node);
    // The newest first: what others moved is where it was found last.
    node.places.unshift({ parent, name });
  }

  #take(parent: PathNode, name: string, node: PathNode): void {
    parent.children.delete(name);
    const at = node.places.findIndex((place) => place.parent === parent && place.name === name);
    node.places.splice(at, 1);
  }

  /** Drops what nobody refers to. A directory stays as long as something below it is known. */
  #drop(node: PathNode): void {
    for (let at: PathNode | undefined = node; at?.isForgotten === true && at.children.size === 0;) {
      if (at.identity !== undefined && this.#byIdentity.get(at.identity) === at)
        this.#byIdentity.delete(at.identity);
      const parent: PathNode | undefined = at.places[0]?.parent;
      for (let [place] = at.places; place !== undefined; [place] = at.places)
        this.#take(place.parent, place.name, at);
      at = parent;
    }
  }
}
