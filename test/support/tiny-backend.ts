import {
  FileType,
  FsError,
  OpenFlags,
  RenameFlags,
  type AttributeChanges,
  type Attributes,
  type Backend,
  type Created,
  type DirectoryEntry,
  type Entry,
  type FsStatistics,
  type GuestBuffer,
  type NodeKey,
  type Opened,
} from '../../core/backend/index.js';

/** A file, directory or symbolic link of the {@link TinyBackend}. */
export class TinyNode {
  static #next = 1;
  readonly id = TinyNode.#next++;
  mode: number;
  nlink = 1;
  uid = 0;
  gid = 0;
  mtime = 1_700_000_000;
  data = new Uint8Array(0);
  readonly children = new Map<string, TinyNode>();
  readonly xattrs = new Map<string, Uint8Array>();
  target = '';

  constructor(mode: number) {
    this.mode = mode;
  }

  get isDirectory(): boolean {
    return (this.mode & FileType.MASK) === FileType.DIRECTORY;
  }
}

/** An open file of the {@link TinyBackend}. */
export class TinyFile {
  readonly node: TinyNode;
  readonly flags: number;

  constructor(node: TinyNode, flags: number) {
    this.node = node;
    this.flags = flags;
  }
}

/**
 * A small but complete file system in memory, for tests of the engine. It keeps which nodes the
 * engine has not forgotten, and which files it has not released.
 */
export class TinyBackend implements Backend<TinyNode, TinyFile> {
  readonly root = new TinyNode(FileType.DIRECTORY | 0o755);
  /** Nodes that the engine has been given and has not forgotten. */
  readonly known = new Set<TinyNode>();
  readonly openFiles = new Set<TinyFile>();
  /** Every `forget`, in order. */
  readonly forgotten: TinyNode[] = [];

  mount(): TinyNode {
    return this.root;
  }

  key(node: TinyNode): string {
    return `tiny:${node.id}`;
  }

  /** Every node that was ever handed out, by key. */
  readonly all = new Map<string, TinyNode>();

  resolve(key: NodeKey): TinyNode {
    const node = this.all.get(String(key));
    if (node === undefined || (node.nlink === 0 && !this.known.has(node))) throw FsError.of('ESTALE');
    this.known.add(node);
    return node;
  }

  forget(node: TinyNode): void {
    this.forgotten.push(node);
    this.known.delete(node);
  }

  lookup(parent: TinyNode, name: string): Entry<TinyNode> | undefined {
    this.#directory(parent);
    const node = parent.children.get(name);
    return node === undefined ? undefined : this.#entry(node);
  }

  getattr(node: TinyNode): Attributes {
    const { mode, nlink, uid, gid, mtime, data } = node;
    return { mode, nlink, uid, gid, mtime, size: data.length, atime: mtime };
  }

  setattr(node: TinyNode, changes: AttributeChanges): Attributes {
    if (changes.mode !== undefined) node.mode = (node.mode & FileType.MASK) | changes.mode;
    if (changes.uid !== undefined) node.uid = changes.uid;
    if (changes.gid !== undefined) node.gid = changes.gid;
    if (changes.size !== undefined) this.#resize(node, changes.size);
    if (changes.mtime !== undefined)
      node.mtime = changes.mtime === 'now' ? Date.now() / 1000 : changes.mtime.seconds;
    return this.getattr(node);
  }

  readlink(node: TinyNode): string {
    if ((node.mode & FileType.MASK) !== FileType.SYMLINK) throw FsError.of('EINVAL');
    return node.target;
  }

  mknod(parent: TinyNode, name: string, mode: number): Entry<TinyNode> {
    return this.#entry(this.#add(parent, name, new TinyNode(mode)));
  }

  mkdir(parent: TinyNode, name: string, mode: number): Entry<TinyNode> {
    return this.#entry(this.#add(parent, name, new TinyNode(FileType.DIRECTORY | mode)));
  }

  symlink(parent: TinyNode, name: string, target: string): Entry<TinyNode> {
    const node = new TinyNode(FileType.SYMLINK | 0o777);
    node.target = target;
    return this.#entry(this.#add(parent, name, node));
  }

  link(node: TinyNode, parent: TinyNode, name: string): Entry<TinyNode> {
    this.#add(parent, name, node);
    node.nlink += 1;
    return this.#entry(node);
  }

  unlink(parent: TinyNode, name: string): void {
    const node = this.#child(parent, name);
    if (node.isDirectory) throw FsError.of('EISDIR');
    parent.children.delete(name);
    node.nlink -= 1;
  }

  rmdir(parent: TinyNode, name: string): void {
    const node = this.#child(parent, name);
    if (!node.isDirectory) throw FsError.of('ENOTDIR');
    if (node.children.size > 0) throw FsError.of('ENOTEMPTY');
    parent.children.delete(name);
    node.nlink = 0;
  }

  rename(parent: TinyNode, name: string, newParent: TinyNode, newName: string, flags: number): void {
    const node = this.#child(parent, name);
    this.#directory(newParent);
    const other = newParent.children.get(newName);
    if ((flags & RenameFlags.NOREPLACE) !== 0 && other !== undefined) throw FsError.of('EEXIST');
    if ((flags & ~RenameFlags.NOREPLACE) !== 0) throw FsError.of('EINVAL');
    if (other === node) return;
    if (other !== undefined && other.children.size > 0) throw FsError.of('ENOTEMPTY');
    if (other !== undefined) other.nlink -= 1;
    parent.children.delete(name);
    newParent.children.set(newName, node);
  }

  open(node: TinyNode, flags: number): Opened<TinyFile> {
    if (node.isDirectory) throw FsError.of('EISDIR');
    if ((flags & OpenFlags.TRUNC) !== 0) this.#resize(node, 0);
    return { file: this.#open(node, flags) };
  }

  create(parent: TinyNode, name: string, mode: number, flags: number): Created<TinyNode, TinyFile> {
    this.#directory(parent);
    let node = parent.children.get(name);
    if (node !== undefined && (flags & OpenFlags.EXCL) !== 0) throw FsError.of('EEXIST');
    node ??= this.#add(parent, name, new TinyNode(FileType.REGULAR | mode));
    return { ...this.#entry(node), file: this.#open(node, flags) };
  }

  tmpfile(_parent: TinyNode, mode: number, flags: number): Created<TinyNode, TinyFile> {
    const node = new TinyNode(FileType.REGULAR | mode);
    node.nlink = 0;
    return { ...this.#entry(node), file: this.#open(node, flags) };
  }

  read(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): number {
    this.#check(file);
    if (offset >= node.data.length) return 0;
    const count = Math.min(buffer.length, node.data.length - offset);
    buffer.put(0, node.data, offset, offset + count);
    return count;
  }

  write(node: TinyNode, file: TinyFile, buffer: GuestBuffer, given: number): number {
    this.#check(file);
    const offset = (file.flags & OpenFlags.APPEND) === 0 ? given : node.data.length;
    if (offset + buffer.length > 1 << 24) throw FsError.of('EFBIG');
    if (offset + buffer.length > node.data.length) this.#resize(node, offset + buffer.length);
    buffer.get(0, node.data, offset, offset + buffer.length);
    return buffer.length;
  }

  release(_node: TinyNode, file: TinyFile): void {
    this.#check(file);
    this.openFiles.delete(file);
  }

  readdir(node: TinyNode): Iterable<DirectoryEntry> {
    this.#directory(node);
    return [...node.children].map(([name, child]) => ({ name, type: child.mode & FileType.MASK }));
  }

  statfs(): FsStatistics {
    return { blocks: 1000, blocksFree: 500, files: this.known.size };
  }

  getxattr(node: TinyNode, name: string): Uint8Array | undefined {
    return node.xattrs.get(name);
  }

  listxattr(node: TinyNode): string[] {
    return [...node.xattrs.keys()];
  }

  setxattr(node: TinyNode, name: string, value: Uint8Array): void {
    node.xattrs.set(name, value);
  }

  removexattr(node: TinyNode, name: string): void {
    if (!node.xattrs.delete(name)) throw FsError.of('ENODATA');
  }

  lseek(node: TinyNode, _file: TinyFile, offset: number, whence: 'data' | 'hole'): number {
    if (offset >= node.data.length) throw FsError.of('ENXIO');
    return whence === 'data' ? offset : node.data.length;
  }

  fallocate(node: TinyNode, _file: TinyFile, mode: number, offset: number, length: number): void {
    if (mode !== 0) throw FsError.of('EOPNOTSUPP');
    if (offset + length > 1 << 24) throw FsError.of('EFBIG');
    if (offset + length > node.data.length) this.#resize(node, offset + length);
  }

  copyFileRange(
    node: TinyNode,
    _file: TinyFile,
    offset: number,
    toNode: TinyNode,
    _toFile: TinyFile,
    toOffset: number,
    length: number,
  ): number {
    const part = node.data.slice(offset, offset + length);
    if (toOffset + part.length > 1 << 24) throw FsError.of('EFBIG');
    if (toOffset + part.length > toNode.data.length) this.#resize(toNode, toOffset + part.length);
    toNode.data.set(part, toOffset);
    return part.length;
  }

  #entry(node: TinyNode): Entry<TinyNode> {
    this.all.set(this.key(node), node);
    this.known.add(node);
    return { node, attributes: this.getattr(node) };
  }

  #open(node: TinyNode, flags: number): TinyFile {
    const file = new TinyFile(node, flags);
    this.openFiles.add(file);
    return file;
  }

  #check(file: TinyFile): void {
    if (!this.openFiles.has(file)) throw new Error('a file was used after its release');
  }

  #directory(node: TinyNode): void {
    if (!node.isDirectory) throw FsError.of('ENOTDIR');
  }

  #child(parent: TinyNode, name: string): TinyNode {
    this.#directory(parent);
    const node = parent.children.get(name);
    if (node === undefined) throw FsError.of('ENOENT');
    return node;
  }

  #add(parent: TinyNode, name: string, node: TinyNode): TinyNode {
    this.#directory(parent);
    if (parent.children.has(name)) throw FsError.of('EEXIST');
    parent.children.set(name, node);
    return node;
  }

  #resize(node: TinyNode, size: number): void {
    if (size > 1 << 24) throw FsError.of('EFBIG');
    const data = new Uint8Array(size);
    data.set(node.data.subarray(0, size));
    node.data = data;
  }
}

/** The same file system, but every answer comes in a later turn of the event loop. */
export function asynchronous<B extends Backend>(backend: B): B {
  const immediate = new Set<PropertyKey>(['mount', 'key', 'forget', 'resolve']);
  return new Proxy(backend, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      if (immediate.has(name)) return value.bind(target) as unknown;
      return (...args: unknown[]) =>
        new Promise((resolve, reject) => {
          setImmediate(() => {
            try {
              resolve(Reflect.apply(value, target, args));
            } catch (error) {
              reject(error instanceof Error ? error : new Error(String(error)));
            }
          });
        });
    },
  });
}
