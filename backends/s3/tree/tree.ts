import { FileType, FsError } from '../../../core/backend/index.js';
import { fresh, inodeNumber } from '../objects/attributes.js';
import { childPath, Directory, FileNode, pathOf, sameVersion } from './nodes.js';
import type { Known, Node } from './nodes.js';
import type { NameLookup } from './name-lookup.js';
import type { RemoteObject } from '../objects/attributes.js';
import type { Services } from '../service/services.js';

/** What a name stands for when it exists. */
export type Present = Exclude<Known, { kind: 'absent' }>;

/** The nodes in use: one for each file and directory, found by parent and name. */
export class Tree {
  readonly root: Directory;
  readonly #services: Services;
  readonly #nameLookup: NameLookup;
  readonly #byId = new Map<string, Node>();
  /** Time of directories without attributes of their own. */
  readonly #started = { seconds: Math.floor(Date.now() / 1000), nanoseconds: 0 };
  #unique = 0;
  /** What a process that was killed has left: keys by path, and all keys that are not paths. */
  #keys: ReadonlyMap<string, string> = new Map();
  #reserved: ReadonlySet<string> = new Set();
  /** Called when a node has another place, or is about to. */
  changed: (node: Node) => void = () => undefined;

  constructor(services: Services, nameLookup: NameLookup) {
    this.#services = services;
    this.#nameLookup = nameLookup;
    this.root = new Directory('', undefined, '', this.#directoryDefaults());
    this.#byId.set('', this.root);
  }

  #directoryDefaults(): ReturnType<typeof fresh> {
    const { directoryMode, uid, gid } = this.#services.defaults;
    return fresh(FileType.DIRECTORY | directoryMode, uid, gid, this.#started);
  }

  /**
   * A durable key for a node: its path, unless another node still has that key (one that was
   * renamed, or unlinked while open).
   */
  #claim(path: string): string {
    return this.#expected(path) ?? `${path}\0${Date.now().toString(36)}.${++this.#unique}`;
  }

  /** The key that a node at a path would get; undefined if that is settled only when it gets it. */
  #expected(path: string): string | undefined {
    const former = this.#keys.get(path);
    if (former !== undefined && !this.#byId.has(former)) return former;
    return this.#byId.has(path) || this.#reserved.has(path) ? undefined : path;
  }

  /** The inode number of what has a name, whether there is a node for it yet or not. */
  inodeOf(parent: Directory, name: string): number | undefined {
    const node = parent.children.get(name);
    if (node !== undefined) return inodeNumber(node.id);
    const id = this.#expected(childPath(parent, name));
    return id === undefined ? undefined : inodeNumber(id);
  }

  byId(id: string): Node | undefined {
    return this.#byId.get(id);
  }

  /**
   * Gives nodes the keys that they had in a process that was killed: those that are here already,
   * and others when they are found.
   * @param paths of nodes, by key.
   * @param reserved keys that no other node gets.
   */
  identify(paths: ReadonlyMap<string, string>, reserved: readonly string[]): void {
    this.#keys = new Map(Array.from(paths, ([id, path]) => [path, id]));
    this.#reserved = new Set(reserved);
    for (const [path, id] of this.#keys) {
      const node = this.at(path);
      if (node === undefined || node.id === id) continue;
      if (this.#byId.get(node.id) === node) this.#byId.delete(node.id);
      node.id = id;
      this.#byId.set(id, node);
    }
  }

  /** The node at a path, if it is in use. */
  at(path: string): Node | undefined {
    let node: Node | undefined = this.root;
    for (const name of path.split('/'))
      node = node?.kind === 'directory' ? node.children.get(name) : undefined;
    return node;
  }

  /** Takes a node in that has no name. */
  enter(node: Node): void {
    this.#byId.set(node.id, node);
  }

  /** Nodes whose key differs from their path, because they were renamed. */
  *renamed(): Generator<readonly [id: string, path: string]> {
    for (const node of this.#byId.values()) {
      if (!node.removed && node.id !== pathOf(node)) yield [node.id, pathOf(node)];
    }
  }

  /** The node for a name, updated with what is known of the name. */
  node(parent: Directory, name: string, known: Present): Node {
    let node = parent.children.get(name);
    if (node !== undefined && node.kind !== known.kind) {
      if (node.kind === 'file' && node.staged !== undefined) return node;
      // Another writer has replaced it by something of another kind.
      node.removed = true;
      parent.children.delete(name);
      this.changed(node);
      node = undefined;
    }
    if (known.kind === 'directory') return this.#directory(parent, name, known, node);
    return this.#file(parent, name, known, node);
  }

  #directory(
    parent: Directory,
    name: string,
    known: Present & { kind: 'directory' },
    node: Node | undefined,
  ): Directory {
    let directory = node as Directory | undefined;
    if (directory === undefined) {
      directory = new Directory(
        this.#claim(childPath(parent, name)),
        parent,
        name,
        this.#directoryDefaults(),
      );
      this.#add(directory);
      this.#nameLookup.adopt(directory);
    }
    directory.forgotten = false;
    directory.isAssumed = false;
    const { touched } = directory;
    if (known.posix !== undefined) {
      const later = touched !== undefined && touched.seconds >= known.posix.mtime.seconds;
      directory.posix = later ? { ...known.posix, mtime: touched, ctime: touched } : known.posix;
    }
    if (known.marker !== undefined) directory.marker = known.marker;
    directory.checked = known.at;
    return directory;
  }

  #file(
    parent: Directory,
    name: string,
    known: Present & { kind: 'file' },
    node: Node | undefined,
  ): FileNode {
    const posix = known.posix ?? this.#nameLookup.posixFromListing(known.object);
    let file = node as FileNode | undefined;
    if (file === undefined) {
      file = new FileNode(this.#claim(childPath(parent, name)), parent, name, posix, known.object);
      this.#add(file);
    } else this.#update(file, known, posix);
    file.forgotten = false;
    file.isAssumed = false;
    file.checked = known.at;
    return file;
  }

  #update(file: FileNode, known: Present & { kind: 'file' }, posix: FileNode['posix']): void {
    // Staged data takes precedence. Its upload finds out whether it may replace what is in the
    // bucket.
    if (file.staged !== undefined || file.uploading !== undefined) return;
    const { object } = file.version;
    const same =
      object !== undefined && object.etag === known.object.etag && object.size === known.object.size;
    // Where locks say who may write when, open handles go on with what others have written.
    const isShared = this.#services.fence !== undefined;
    // Handles of a process before were opened in a version that nobody knows any more.
    const isUnknown = file.isAssumed && object === undefined;
    if (!same && (isShared || isUnknown)) file.version.object = known.object;
    else if (!same) file.version = { object: known.object };
    else if (!sameVersion(object, known.object) || Number.isNaN(object.modified))
      file.version.object = known.object;
    file.posix = posix;
  }

  /** A new file that the bucket does not have yet. */
  create(parent: Directory, name: string, posix: FileNode['posix']): FileNode {
    const file = new FileNode(this.#claim(childPath(parent, name)), parent, name, posix, undefined);
    this.#add(file);
    return file;
  }

  #add(node: Node): void {
    this.#byId.set(node.id, node);
    node.parent?.children.set(node.name, node);
  }

  /** Gives a node another name. */
  move(node: Node, parent: Directory, name: string): void {
    if (node.parent?.children.get(node.name) === node) node.parent.children.delete(node.name);
    node.parent = parent;
    node.name = name;
    parent.children.set(name, node);
    this.moving(node, undefined);
  }

  /** A node is about to get another path; undefined once it has it, or does not get it. */
  moving(node: Node, path: string | undefined): void {
    node.moving = path;
    this.#changedBelow(node);
  }

  /** A node is about to lose its name, as {@link FileNode.leaving} says; undefined if it stays. */
  leaving(node: Node, path: string | undefined): void {
    node.leaving = path;
    this.changed(node);
  }

  #changedBelow(node: Node): void {
    this.changed(node);
    if (node.kind === 'directory') for (const child of node.children.values()) this.#changedBelow(child);
  }

  /** Removes a node's name. */
  detach(node: Node): void {
    node.removed = true;
    node.leaving = undefined;
    if (node.parent?.children.get(node.name) === node) node.parent.children.delete(node.name);
    if (node.forgotten) this.#byId.delete(node.id);
    this.changed(node);
  }

  /**
   * Called when the engine gets a node. It may have been released while it was on its way there.
   */
  hold(node: Node): void {
    node.forgotten = false;
    const { parent } = node;
    if (node.removed || parent === undefined) return;
    if (!parent.children.has(node.name)) parent.children.set(node.name, node);
    if (!this.#byId.has(node.id)) this.#byId.set(node.id, node);
  }

  /**
   * Called when the engine has no reference any more. A node with data to upload, or with nodes
   * below it, is kept for now.
   */
  forget(node: Node): void {
    node.forgotten = true;
    this.release(node);
  }

  /** Removes a forgotten node if nothing else needs it. */
  release(node: Node): void {
    if (!node.forgotten || node.parent === undefined) return;
    if (node.kind === 'directory' ? node.children.size > 0 : node.staged !== undefined || node.opens > 0)
      return;
    if (node.kind === 'directory') this.#nameLookup.retire(node);
    const { parent } = node;
    if (parent.children.get(node.name) === node) parent.children.delete(node.name);
    this.#byId.delete(node.id);
    this.release(parent);
  }

  /**
   * The node at a path, made without asking the bucket, for what a process before has left: whoever
   * uses it looks for it first.
   * @param object the version in which a file was open.
   * @throws ESTALE where something of another kind is in use there.
   */
  assume(path: string, kind: Node['kind'], object?: RemoteObject): Node {
    const slash = path.lastIndexOf('/');
    const parent = this.assumeDirectory(path.slice(0, Math.max(0, slash)));
    return this.#assume(parent, path.slice(slash + 1), kind, object);
  }

  /** As {@link assume}; '' for the root. */
  assumeDirectory(path: string): Directory {
    let directory = this.root;
    for (const name of path === '' ? [] : path.split('/'))
      directory = this.#assume(directory, name, 'directory', undefined) as Directory;
    return directory;
  }

  #assume(parent: Directory, name: string, kind: Node['kind'], object: RemoteObject | undefined): Node {
    const known = parent.children.get(name);
    if (known !== undefined && known.kind !== kind) throw FsError.of('ESTALE');
    if (known !== undefined) return known;
    const id = this.#claim(childPath(parent, name));
    const posix = this.#directoryDefaults();
    const node =
      kind === 'directory'
        ? new Directory(id, parent, name, posix)
        : new FileNode(id, parent, name, posix, object);
    node.isAssumed = true;
    node.forgotten = true;
    node.checked = Number.NEGATIVE_INFINITY;
    this.#add(node);
    if (node.kind === 'directory') this.#nameLookup.adopt(node);
    return node;
  }
}
