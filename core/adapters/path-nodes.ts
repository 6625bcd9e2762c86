import { FileType, FsError } from '../backend/index.js';
import type { PathAttributes, PathFile } from './path-file-system.js';

/** A name in a directory. */
interface Place {
  readonly parent: PathNode;
  readonly name: string;
}

/** What tells a file from another one. */
type Told = Pick<PathAttributes, 'identity' | 'mode'>;

/** A path has 4096 bytes at most, and Linux takes none that is longer. */
const NAMES_MAX = 4096;

/** A file, directory or link that guests know. */
export class PathNode {
  readonly identity: string | undefined;
  /** Its {@link FileType}. */
  readonly type: number;
  /** Its names, as far as they are known. */
  readonly places: Place[] = [];
  /** What is known of a directory. */
  readonly children = new Map<string, PathNode>();
  /** Its open files. */
  readonly files = new Set<PathFile>();
  isForgotten = false;

  constructor({ identity, mode }: Told) {
    this.identity = identity;
    this.type = mode & FileType.MASK;
  }

  /** Whether that may be the same file. A number is given again, to a file of any type. */
  is({ identity, mode }: Told): boolean {
    return this.identity === identity && this.type === (mode & FileType.MASK);
  }
}

/** Whether a name has no bytes but UTF-8: others come as lone surrogates. */
export function isUtf8(name: string): boolean {
  return !/\p{Surrogate}/u.test(name);
}

/** Which node has which path just now. */
export class PathNodes {
  readonly root = new PathNode({ identity: undefined, mode: FileType.DIRECTORY });
  readonly #byIdentity = new Map<string, PathNode>();

  /**
   * @throws ESTALE for a file without a path: it was removed, or is not where it was. Directories
   * that others move may seem to be in each other.
   */
  pathOf(node: PathNode): string {
    const names: string[] = [];
    for (let at = node; at !== this.root;) {
      const [place] = at.places;
      if (place === undefined || names.length === NAMES_MAX) throw FsError.of('ESTALE');
      names.unshift(place.name);
      at = place.parent;
    }
    return `/${names.join('/')}`;
  }

  /**
   * The path of a directory. The host would follow what is a link, out of the root.
   * @throws ENOTDIR for anything else.
   */
  pathOfDirectory(node: PathNode): string {
    if (node.type !== FileType.DIRECTORY) throw FsError.of('ENOTDIR');
    return this.pathOf(node);
  }

  /**
   * The path of a name in a directory. A name that is not UTF-8 is EILSEQ.
   * @throws ENOTDIR where the parent is none.
   */
  pathIn(parent: PathNode, name: string): string {
    if (!isUtf8(name)) throw FsError.of('EILSEQ');
    return `${parent === this.root ? '' : this.pathOfDirectory(parent)}/${name}`;
  }

  /** A name stands for a file: the node of it. */
  found(parent: PathNode, name: string, told: Told): PathNode {
    const { identity } = told;
    const there = parent.children.get(name);
    if (there?.is(told) === true) {
      const at = there.places.findIndex((place) => place.parent === parent && place.name === name);
      // Others may have moved it, and back.
      if (at > 0) there.places.unshift(...there.places.splice(at, 1));
      there.isForgotten = false;
      return there;
    }
    const known = identity === undefined ? undefined : this.#byIdentity.get(identity);
    // A number may be used again once its file has neither a name nor is open.
    const isAlive = known?.is(told) === true && (known.places.length > 0 || known.files.size > 0);
    return this.#enter(parent, name, isAlive ? known : new PathNode(told));
  }

  /** A file was made: no other has its identity, whatever had it before. */
  made(parent: PathNode, name: string, told: Told): PathNode {
    return this.#enter(parent, name, new PathNode(told));
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
    const unused = [node];
    for (let at = unused.pop(); at !== undefined; at = unused.pop()) {
      if (!at.isForgotten || at.children.size > 0) continue;
      if (at.identity !== undefined && this.#byIdentity.get(at.identity) === at)
        this.#byIdentity.delete(at.identity);
      for (const { parent, name } of at.places.splice(0)) {
        parent.children.delete(name);
        unused.push(parent);
      }
    }
  }
}
