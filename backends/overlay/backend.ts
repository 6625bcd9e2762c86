import {
  type AttributeChanges,
  type Attributes,
  type Awaitable,
  type Backend,
  type BackendHost,
  type CachePolicy,
  type Context,
  type Created,
  type DirectoryEntry,
  type Entry,
  FileType,
  FsError,
  type FsStatistics,
  type GuestBuffer,
  type Health,
  isPromise,
  type IoctlResult,
  type Opened,
  OpenFlags,
  run,
  type Semantics,
  type Steps,
  andThen,
  wait,
} from '../../core/backend/index.js';
import * as changes from './changes.js';
import { copyUp } from './copy-up.js';
import { DAEMON, Layer } from './layer.js';
import { list } from './listing.js';
import { type Marks, marksFor, NameMarks, OverlayfsMarks } from './marks.js';
import type { OverlayFile, OverlayNode } from './node.js';
import { Turnstile } from './turnstile.js';
import { type MarkedLayer, type Seen, Union, type Upper } from './union.js';
import { type FaultPoint, WorkArea } from './work-area.js';

/** How an overlay is put together. */
export interface OverlaySettings {
  /** Absent: the union is read-only. */
  readonly upper: Backend | undefined;
  /** Top first; at least one. */
  readonly lowers: readonly Backend[];
  /** Directories of the upper's backend for the union's root and for the work area. */
  readonly upperPath: readonly string[];
  readonly workPath: readonly string[] | undefined;
  /** Directories of lowers can be renamed; else EXDEV. */
  readonly redirectDir: boolean;
  /** Namespace of overlayfs's extended attributes. */
  readonly xattrs: 'trusted' | 'user';
  readonly marks: 'auto' | 'overlayfs' | 'names';
  /** Told of each step of a change, for crash tests. */
  readonly reached?: FaultPoint;
}

const WRITING = OpenFlags.WRITE_ONLY | OpenFlags.READ_WRITE | OpenFlags.TRUNC | OpenFlags.APPEND;

/** Methods that the overlay has only if its upper has them. */
const FROM_UPPER = [
  'setattr',
  'mknod',
  'mkdir',
  'symlink',
  'link',
  'unlink',
  'rmdir',
  'rename',
  'create',
  'tmpfile',
  'write',
  'fsync',
  'fsyncdir',
  'syncfs',
  'setxattr',
  'removexattr',
  'fallocate',
  'copyFileRange',
] as const;

/** Methods that the overlay has if any layer has them. */
const FROM_ANY = ['readlink', 'statfs', 'getxattr', 'listxattr', 'lseek', 'ioctl'] as const;

/**
 * A writable upper over one or more lowers, with the semantics of Linux overlayfs. Reads go to the topmost layer that has
 * the file; the first change brings it into the upper.
 */
export class Overlay implements Backend<OverlayNode, OverlayFile> {
  readonly cache: Partial<CachePolicy>;
  readonly semantics: Semantics;
  readonly #settings: OverlaySettings;
  readonly #turnstile = new Turnstile();
  #union!: Union;
  #layers: readonly Backend[];

  constructor(settings: OverlaySettings) {
    this.#settings = settings;
    const { upper, lowers } = settings;
    this.#layers = upper === undefined ? lowers : [upper, ...lowers];
    this.cache = upper?.cache ?? lowers[0]!.cache ?? {};
    this.semantics = upper?.semantics ?? lowers[0]!.semantics ?? {};
    for (const name of FROM_UPPER) if (upper?.[name] === undefined) this.#withhold(name);
    for (const name of FROM_ANY) {
      if (this.#layers.every((layer) => layer[name] === undefined)) this.#withhold(name);
    }
  }

  /** Capabilities are the methods present: one that no layer backs is not there. */
  #withhold(name: keyof Backend): void {
    Object.defineProperty(this, name, { value: undefined });
  }

  /** The tree, for tests. */
  get union(): Union {
    return this.#union;
  }

  mount(host: BackendHost): Awaitable<OverlayNode> {
    return run(this.#mount(host));
  }

  *#mount(host: BackendHost): Steps<OverlayNode> {
    const { upper, lowers } = this.#settings;
    const lowerLayers: MarkedLayer[] = [];
    for (const [at, backend] of lowers.entries()) {
      const root = yield* wait(backend.mount(host));
      lowerLayers.push({
        layer: new Layer(lowers.length - at, backend, root),
        marks: this.#marks(backend, false),
      });
    }
    let top: Upper | undefined;
    if (upper !== undefined) {
      const root = yield* wait(upper.mount(host));
      const layer = new Layer(0, upper, root);
      const { upperPath, workPath, reached = () => {} } = this.#settings;
      const work = yield* wait(WorkArea.open(layer, upperPath, workPath, reached));
      top = { layer, marks: this.#marks(upper, true), work };
    }
    this.#union = new Union(host, top, lowerLayers, this.#settings.redirectDir, FileType.DIRECTORY);
    if (top !== undefined) {
      this.#union.root.impure = (yield* wait(top.marks.get(top.layer, top.work.root, 'impure'))) === 'y';
    }
    return this.#union.root;
  }

  #marks(backend: Backend, writable: boolean): Marks {
    const { marks, xattrs } = this.#settings;
    if (marks === 'overlayfs') return new OverlayfsMarks(xattrs);
    if (marks === 'names') return new NameMarks();
    return marksFor(backend, xattrs, writable);
  }

  unmount(): Awaitable<void> {
    return run(this.#unmount());
  }

  *#unmount(): Steps<void> {
    for (const layer of this.#layers) yield* wait(layer.unmount?.());
  }

  health(): Awaitable<Health> {
    return run(this.#health());
  }

  *#health(): Steps<Health> {
    for (const layer of this.#layers) {
      const health = yield* wait(layer.health?.());
      if (health?.ok === false) return health;
    }
    return { ok: true };
  }

  key(node: OverlayNode): string {
    return node.identity;
  }

  forget(node: OverlayNode): void {
    this.#union.forget(node);
  }

  lookup(parent: OverlayNode, name: string): Awaitable<Entry<OverlayNode> | undefined> {
    return andThen(this.#union.lookup(parent, name), (seen) => seen && this.#entry(seen));
  }

  /** The guest gets to know a pinned node, which the engine will forget. */
  #entry({ node, attributes }: Seen): Entry<OverlayNode> {
    this.#union.reference(node);
    this.#union.unpin(node);
    return { node, attributes: this.#shown(node, attributes) };
  }

  /** Attributes of the top layer, with the inode number and link count of the union. */
  #shown(node: OverlayNode, attributes: Attributes): Attributes {
    const shown = { ...attributes, ino: node.ino };
    if (node.isDirectory && node.lowers.length > 0) shown.nlink = 1;
    else if (node.linkDelta !== 0) shown.nlink = (attributes.nlink ?? 1) + node.linkDelta;
    return shown;
  }

  /** The topmost layer that has the node, and its object there. */
  #top(node: OverlayNode): { layer: Layer; node: object } {
    if (node.upper !== undefined) return { layer: this.#union.upper!.layer, node: node.upper };
    return node.lowers[0]!;
  }

  getattr(node: OverlayNode, file: OverlayFile | undefined, context: Context): Awaitable<Attributes> {
    const top = this.#top(node);
    const open = file !== undefined && file.node === top.node ? file.file : undefined;
    const attributes = top.layer.backend.getattr(top.node, open, context);
    return isPromise(attributes)
      ? attributes.then((found) => this.#shown(node, found))
      : this.#shown(node, attributes);
  }

  setattr(
    node: OverlayNode,
    attributes: AttributeChanges,
    file: OverlayFile | undefined,
    context: Context,
  ): Awaitable<Attributes> {
    return run(this.#setattr(node, attributes, file, context));
  }

  *#setattr(
    node: OverlayNode,
    attributes: AttributeChanges,
    file: OverlayFile | undefined,
    context: Context,
  ): Steps<Attributes> {
    const upper = yield* this.#copyUp(node, attributes.size !== 0);
    const open = file !== undefined && file.node === upper ? file.file : undefined;
    const { backend } = this.#union.writable().layer;
    return this.#shown(node, yield* wait(backend.setattr!(upper, attributes, open, context)));
  }

  *#copyUp(node: OverlayNode, withData = true): Steps<object> {
    this.#union.writable();
    yield* wait(copyUp(this.#union, node, withData));
    return node.upper!;
  }

  readlink(node: OverlayNode, context: Context): Awaitable<string> {
    const top = this.#top(node);
    if (top.layer.backend.readlink === undefined) throw FsError.of('EINVAL');
    return top.layer.backend.readlink(top.node, context);
  }

  #create<E extends Entry<object>>(
    parent: OverlayNode,
    name: string,
    make: changes.Make<E>,
  ): Awaitable<{ made: E; node: OverlayNode; attributes: Attributes }> {
    return this.#turnstile.pass(() => run(changes.create(this.#union, parent, name, make)));
  }

  mknod(
    parent: OverlayNode,
    name: string,
    mode: number,
    rdev: number,
    context: Context,
  ): Awaitable<Entry<OverlayNode>> {
    const { layer, marks } = this.#union.writable();
    if ((mode & FileType.MASK) === FileType.CHARACTER && rdev === 0 && marks.inPlace) {
      throw FsError.of('EPERM');
    }
    return andThen(
      this.#create(parent, name, (directory, newName) =>
        layer.backend.mknod!(directory, newName, mode, rdev, context),
      ),
      (seen) => this.#entry(seen),
    );
  }

  mkdir(parent: OverlayNode, name: string, mode: number, context: Context): Awaitable<Entry<OverlayNode>> {
    const { backend } = this.#union.writable().layer;
    return andThen(
      this.#create(parent, name, (directory, newName) => backend.mkdir!(directory, newName, mode, context)),
      (seen) => this.#entry(seen),
    );
  }

  symlink(
    parent: OverlayNode,
    name: string,
    target: string,
    context: Context,
  ): Awaitable<Entry<OverlayNode>> {
    const { backend } = this.#union.writable().layer;
    return andThen(
      this.#create(parent, name, (directory, newName) =>
        backend.symlink!(directory, newName, target, context),
      ),
      (seen) => this.#entry(seen),
    );
  }

  link(
    node: OverlayNode,
    parent: OverlayNode,
    name: string,
    context: Context,
  ): Awaitable<Entry<OverlayNode>> {
    return andThen(
      this.#turnstile.pass(() => run(changes.link(this.#union, node, parent, name, context))),
      (seen) => this.#entry(seen),
    );
  }

  unlink(parent: OverlayNode, name: string): Awaitable<void> {
    return this.#turnstile.pass(() => run(changes.unlink(this.#union, parent, name)));
  }

  rmdir(parent: OverlayNode, name: string): Awaitable<void> {
    return this.#turnstile.pass(() => run(changes.rmdir(this.#union, parent, name)));
  }

  rename(
    parent: OverlayNode,
    name: string,
    newParent: OverlayNode,
    newName: string,
    flags: number,
  ): Awaitable<void> {
    return this.#turnstile.pass(() =>
      run(changes.rename(this.#union, parent, name, newParent, newName, flags)),
    );
  }

  open(node: OverlayNode, flags: number, context: Context): Awaitable<Opened<OverlayFile>> {
    if ((flags & WRITING) !== 0 && node.upper === undefined) {
      return andThen(run(this.#copyUp(node, (flags & OpenFlags.TRUNC) === 0)), () =>
        this.#open(node, flags, context),
      );
    }
    return this.#open(node, flags, context);
  }

  #open(node: OverlayNode, flags: number, context: Context): Awaitable<Opened<OverlayFile>> {
    const top = this.#top(node);
    const { backend } = top.layer;
    const wrap = (opened: Opened<unknown>): Opened<OverlayFile> => ({
      ...opened,
      file: { layer: top.layer, node: top.node, file: opened.file, flags },
    });
    if (backend.open === undefined) return wrap({ file: undefined });
    return andThen(backend.open(top.node, flags, context), wrap);
  }

  create(
    parent: OverlayNode,
    name: string,
    mode: number,
    flags: number,
    context: Context,
  ): Awaitable<Created<OverlayNode, OverlayFile>> {
    return run(this.#createFile(parent, name, mode, flags, context));
  }

  *#createFile(
    parent: OverlayNode,
    name: string,
    mode: number,
    flags: number,
    context: Context,
  ): Steps<Created<OverlayNode, OverlayFile>> {
    const { backend } = this.#union.writable().layer;
    if ((flags & OpenFlags.EXCL) === 0) {
      const seen = yield* this.#union.find(parent, name);
      if (seen !== undefined) {
        const entry = this.#entry(seen);
        const opened = yield* wait(this.open(seen.node, flags & ~OpenFlags.CREAT, context));
        return { ...opened, ...entry };
      }
    }
    const seen = yield* wait(
      this.#create(parent, name, (directory, newName) =>
        backend.create!(directory, newName, mode, flags | OpenFlags.EXCL, context),
      ),
    );
    return this.#created(seen, flags);
  }

  #created(
    seen: Seen & { made: Created<object, unknown> },
    flags: number,
  ): Created<OverlayNode, OverlayFile> {
    const { layer } = this.#union.upper!;
    const { made, node } = seen;
    return {
      ...made,
      ...this.#entry(seen),
      file: { layer, node: node.upper!, file: made.file, flags },
    };
  }

  tmpfile(
    parent: OverlayNode,
    mode: number,
    flags: number,
    context: Context,
  ): Awaitable<Created<OverlayNode, OverlayFile>> {
    return andThen(
      this.#turnstile.pass(() => run(changes.tmpfile(this.#union, parent, mode, flags, context))),
      (seen) => this.#created(seen, flags),
    );
  }

  /** A file that was opened before its copy-up goes on in the upper. */
  #current(node: OverlayNode, file: OverlayFile): Awaitable<OverlayFile> {
    return node.upper === undefined || file.node === node.upper ? file : run(this.#reopen(node, file));
  }

  *#reopen(node: OverlayNode, file: OverlayFile): Steps<OverlayFile> {
    const { layer } = this.#union.writable();
    const flags = file.flags & ~(OpenFlags.TRUNC | OpenFlags.CREAT | OpenFlags.EXCL);
    const opened =
      layer.backend.open === undefined
        ? { file: undefined }
        : yield* wait(layer.backend.open(node.upper!, flags, DAEMON));
    const before = { ...file };
    file.layer = layer;
    file.node = node.upper!;
    file.file = opened.file;
    if (before.layer.backend.release !== undefined) {
      yield* wait(before.layer.backend.release(before.node, before.file));
    }
    return file;
  }

  read(
    node: OverlayNode,
    file: OverlayFile,
    buffer: GuestBuffer,
    offset: number,
    context: Context,
  ): Awaitable<number> {
    const current = this.#current(node, file);
    if (isPromise(current)) return current.then((open) => this.#read(open, buffer, offset, context));
    return this.#read(current, buffer, offset, context);
  }

  #read(file: OverlayFile, buffer: GuestBuffer, offset: number, context: Context): Awaitable<number> {
    const { backend } = file.layer;
    if (backend.read === undefined) throw FsError.of('EIO');
    return backend.read(file.node, file.file, buffer, offset, context);
  }

  write(
    _node: OverlayNode,
    file: OverlayFile,
    buffer: GuestBuffer,
    offset: number,
    flags: number,
    context: Context,
  ): Awaitable<number> {
    const { backend } = file.layer;
    if (backend.write === undefined || file.layer.number !== 0) throw FsError.of('EBADF');
    return backend.write(file.node, file.file, buffer, offset, flags, context);
  }

  flush(_node: OverlayNode, file: OverlayFile, context: Context): Awaitable<void> {
    return file.layer.backend.flush?.(file.node, file.file, context);
  }

  release(_node: OverlayNode, file: OverlayFile): Awaitable<void> {
    return file.layer.backend.release?.(file.node, file.file);
  }

  fsync(node: OverlayNode, file: OverlayFile, dataOnly: boolean, context: Context): Awaitable<void> {
    return andThen(this.#current(node, file), (open) =>
      open.layer.number === 0
        ? open.layer.backend.fsync?.(open.node, open.file, dataOnly, context)
        : undefined,
    );
  }

  readdir(node: OverlayNode): Awaitable<Iterable<DirectoryEntry>> {
    return run(list(this.#union, node));
  }

  fsyncdir(node: OverlayNode, dataOnly: boolean, context: Context): Awaitable<void> {
    if (node.upper === undefined) return undefined;
    return this.#union.writable().layer.backend.fsyncdir!(node.upper, dataOnly, context);
  }

  statfs(node: OverlayNode, context: Context): Awaitable<FsStatistics> {
    const { upper } = this.#union;
    if (upper !== undefined) return upper.layer.backend.statfs?.(upper.work.root, context) ?? {};
    const top = this.#top(node);
    return top.layer.backend.statfs?.(top.node, context) ?? {};
  }

  syncfs(context: Context): Awaitable<void> {
    return this.#union.writable().layer.backend.syncfs!(context);
  }

  /** The name under which a layer stores a guest's attribute. */
  #stored(layer: Layer, name: string): string {
    const marks = this.#marksOf(layer);
    return marks instanceof OverlayfsMarks ? marks.escape(name) : name;
  }

  #marksOf(layer: Layer): Marks {
    const { upper, lowers } = this.#union;
    return upper?.layer === layer ? upper.marks : lowers.find((lower) => lower.layer === layer)!.marks;
  }

  getxattr(node: OverlayNode, name: string, context: Context): Awaitable<Uint8Array | undefined> {
    const { layer, node: inLayer } = this.#top(node);
    if (layer.backend.getxattr === undefined) throw FsError.of('EOPNOTSUPP');
    return layer.backend.getxattr(inLayer, this.#stored(layer, name), context);
  }

  listxattr(node: OverlayNode, context: Context): Awaitable<readonly string[]> {
    const { layer, node: inLayer } = this.#top(node);
    if (layer.backend.listxattr === undefined) return [];
    const marks = this.#marksOf(layer);
    return andThen(layer.backend.listxattr(inLayer, context), (names) =>
      marks instanceof OverlayfsMarks ? names.flatMap((name) => marks.unescape(name) ?? []) : names,
    );
  }

  setxattr(
    node: OverlayNode,
    name: string,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
    context: Context,
  ): Awaitable<void> {
    return andThen(run(this.#copyUp(node)), (upper) => {
      const { layer } = this.#union.writable();
      return layer.backend.setxattr!(upper, this.#stored(layer, name), value, flags, killSgid, context);
    });
  }

  removexattr(node: OverlayNode, name: string, context: Context): Awaitable<void> {
    return andThen(run(this.#copyUp(node)), (upper) => {
      const { layer } = this.#union.writable();
      return layer.backend.removexattr!(upper, this.#stored(layer, name), context);
    });
  }

  fallocate(
    _node: OverlayNode,
    file: OverlayFile,
    mode: number,
    offset: number,
    length: number,
    context: Context,
  ): Awaitable<void> {
    const { backend } = file.layer;
    if (backend.fallocate === undefined || file.layer.number !== 0) throw FsError.of('EBADF');
    return backend.fallocate(file.node, file.file, mode, offset, length, context);
  }

  lseek(
    node: OverlayNode,
    file: OverlayFile,
    offset: number,
    whence: 'data' | 'hole',
    context: Context,
  ): Awaitable<number> {
    return andThen(this.#current(node, file), (open) => {
      const { backend } = open.layer;
      if (backend.lseek !== undefined) return backend.lseek(open.node, open.file, offset, whence, context);
      return andThen(backend.getattr(open.node, open.file, context), ({ size = 0 }) => {
        if (offset >= size) throw FsError.of('ENXIO');
        return whence === 'data' ? offset : size;
      });
    });
  }

  copyFileRange(
    node: OverlayNode,
    file: OverlayFile,
    offset: number,
    _toNode: OverlayNode,
    toFile: OverlayFile,
    toOffset: number,
    length: number,
    context: Context,
  ): Awaitable<number> {
    return andThen(this.#current(node, file), (open) => {
      if (open.layer !== toFile.layer) throw FsError.of('EXDEV');
      const { backend } = open.layer;
      if (backend.copyFileRange === undefined) throw FsError.of('EOPNOTSUPP');
      return backend.copyFileRange(
        open.node,
        open.file,
        offset,
        toFile.node,
        toFile.file,
        toOffset,
        length,
        context,
      );
    });
  }

  ioctl(
    node: OverlayNode,
    file: OverlayFile,
    command: number,
    input: Uint8Array,
    outputSize: number,
    context: Context,
  ): Awaitable<IoctlResult> {
    return andThen(this.#current(node, file), (open) => {
      const { backend } = open.layer;
      if (backend.ioctl === undefined) throw FsError.of('ENOTTY');
      return backend.ioctl(open.node, open.file, command, input, outputSize, context);
    });
  }
}
