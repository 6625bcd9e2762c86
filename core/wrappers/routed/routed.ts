import {
  andThen,
  type Awaitable,
  type Backend,
  type BackendHost,
  backendMethods,
  type CachePolicy,
  type Context,
  DAEMON,
  type DirectoryEntry,
  type Entry,
  FileType,
  FsError,
  type Health,
  type LockHold,
  type Metric,
  nodeBytesOf,
  type NodeKey,
  OpenFlags,
  run,
  type Semantics,
  type Steps,
  UsageError,
  wait,
  wrap,
} from '../../backend/index.js';
import type { NodesInUse } from '../nodes-in-use.js';
import { type Mount, type PathRule, type Point, pointsOf, type Redirect } from './points.js';
import {
  keyOf,
  LEADING,
  leadingEntry,
  pathOf,
  type Place,
  readKey,
  type RoutedNode,
  RoutedTree,
  unnumbered,
} from './tree.js';

export type { PathRule, RoutedNode };

/** What {@link routed} puts together. */
export interface RoutedOptions {
  /**
   * Backends by the path where their root is: `{ '/': base, '/data': bucket }`. Each once. Without
   * one at `/` the root is a directory of the mounts alone. Directories that lead to a mount need
   * not be there.
   */
  readonly mounts: Readonly<Record<string, Backend>>;
  /** What guests may do at paths of the whole tree, and below. */
  readonly rules?: readonly PathRule[];
}

/**
 * A tree of several backends. Paths of mounts and rules stand for what is there: nobody can rename
 * or remove them (EBUSY), and a name that is hidden cannot be made (EACCES). Nothing is renamed,
 * linked or copied from one backend to another, nor renamed or linked to what is seen by a redirect
 * (EXDEV): programs copy by themselves.
 *
 * A rule is about a path. A file that has another name elsewhere can be reached by that one, as a
 * file of its own with another inode number.
 * @throws UsageError for paths that are none or are given twice.
 */
export function routed({ mounts: byPath, rules = [] }: RoutedOptions): Backend<RoutedNode> {
  const { root, mounts, redirects } = pointsOf(byPath, rules);
  const backends = mounts.map(({ backend }) => backend);
  const all = new Routed(root, mounts, redirects);
  const without = backendMethods.filter(
    (method) =>
      !KEPT.has(method) &&
      (NEEDED_OF_ALL.has(method)
        ? backends.some((backend) => backend[method] === undefined)
        : backends.every((backend) => backend[method] === undefined)),
  );
  return wrap<RoutedNode, unknown>(all, {}, { without });
}

/** What is kept of a node of the whole tree, in bytes. */
const NODE_BYTES = 384;

/** Methods that there are always. */
const KEPT: ReadonlySet<string> = new Set(['mount', 'unmount', 'forget', 'lookup', 'getattr', 'readdir']);

/** Methods that say something of every node. */
const NEEDED_OF_ALL: ReadonlySet<string> = new Set(['key', 'resolve', 'parent', 'claim']);

/** Methods with which a backend changes something. */
const CHANGING = ['setattr', 'mknod', 'mkdir', 'create', 'write', 'unlink', 'rename'] as const;

/** Every method that any backend may have. */
class Routed implements Backend<RoutedNode> {
  readonly #root: Point;
  readonly #mounts: readonly Mount[];
  readonly #redirects: readonly Redirect[];
  readonly #tree: RoutedTree;

  constructor(root: Point, mounts: readonly Mount[], redirects: readonly Redirect[]) {
    this.#root = root;
    this.#mounts = mounts;
    this.#redirects = redirects;
    this.#tree = new RoutedTree(mounts);
  }

  get cache(): Partial<CachePolicy> {
    const policies = this.#mounts.map(({ backend }) => backend.cache ?? {});
    const least = (of: (policy: Partial<CachePolicy>) => number): number => Math.min(...policies.map(of));
    const data = (['never', 'auto', 'always'] as const).find((kind) =>
      policies.some((policy) => (policy.data ?? 'auto') === kind),
    );
    return {
      entryTimeout: least(({ entryTimeout = 1 }) => entryTimeout),
      negativeTimeout: least(({ negativeTimeout = 0 }) => negativeTimeout),
      attributeTimeout: least(({ attributeTimeout = 1 }) => attributeTimeout),
      data: data ?? 'auto',
      writeback: policies.every(({ writeback = false }) => writeback),
    };
  }

  get nodeBytes(): number {
    return NODE_BYTES + Math.max(...this.#mounts.map(({ backend }) => nodeBytesOf(backend)));
  }

  get semantics(): Semantics {
    const every = (of: (semantics: Semantics) => boolean | undefined): boolean =>
      this.#mounts.every(({ backend }) => of(backend.semantics ?? {}) === true);
    return {
      posixAcl: every(({ posixAcl }) => posixAcl),
      killPriv: every(({ killPriv }) => killPriv),
      securityContext: every(({ securityContext }) => securityContext),
      submounts: every(({ submounts }) => submounts),
      required: this.#mounts.flatMap(({ backend }) => backend.semantics?.required ?? []),
    };
  }

  async mount(host: BackendHost): Promise<RoutedNode> {
    // At once: one that is far away takes its time.
    const mounted = await Promise.allSettled(
      this.#mounts.map(async (mount) => ({
        mount,
        root: await mount.backend.mount(this.#telling(mount, host)),
      })),
    );
    const failed = mounted.find(({ status }) => status === 'rejected');
    const roots = new Map<Mount, object>();
    for (const one of mounted) if (one.status === 'fulfilled') roots.set(one.value.mount, one.value.root);
    if (failed !== undefined) {
      await Promise.allSettled([...roots.keys()].map(async ({ backend }) => backend.unmount?.()));
      throw (failed as PromiseRejectedResult).reason;
    }
    return this.#keep(this.#root, false, roots);
  }

  /** Has changes told of the nodes that guests know. */
  #telling(mount: Mount, host: BackendHost): BackendHost {
    return {
      ...host,
      changed: (inner, change) => {
        const root = this.#tree.lasting(this.#root.at(mount.path));
        if (root?.inner === inner) host.changed?.(root, change);
        for (const node of this.#tree.seenOf(mount).get(inner) ?? []) host.changed?.(node, change);
      },
    };
  }

  /** Makes the nodes of mounts and of what leads to them. */
  #keep(point: Point, isInherited: boolean, roots: ReadonlyMap<Mount, object>): RoutedNode {
    const isReadOnly = isInherited || point.isReadOnly;
    const { mount } = point;
    for (const child of point.children.values()) this.#keep(child, isReadOnly, roots);
    if (mount !== undefined)
      return this.#tree.keep(point, { mount, inner: roots.get(mount)!, isReadOnly, via: undefined, point });
    const leading: RoutedNode = { mount: undefined, inner: point, isReadOnly: true, via: undefined, point };
    return point === this.#root || point.leadsToMount ? this.#tree.keep(point, leading) : leading;
  }

  async unmount(): Promise<void> {
    const ends = await Promise.allSettled(this.#mounts.map(async ({ backend }) => backend.unmount?.()));
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  }

  async save(): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for (const { backend } of this.#mounts) {
      const state = await backend.save?.();
      const head = Buffer.alloc(9);
      head.writeUInt8(state === undefined ? 0 : 1);
      head.writeDoubleLE(state?.length ?? 0, 1);
      parts.push(head, state ?? new Uint8Array(0));
    }
    return Buffer.concat(parts);
  }

  async restore(state: Uint8Array): Promise<void> {
    const view = Buffer.from(state.buffer, state.byteOffset, state.length);
    let at = 0;
    for (const { backend, path } of this.#mounts) {
      const has = view.readUInt8(at) === 1;
      const length = view.readDoubleLE(at + 1);
      const part = state.subarray(at + 9, at + 9 + length);
      if (has !== (backend.restore !== undefined) || part.length !== length)
        throw new UsageError(`saved state: not of the backend at ${path}`);
      if (has) await backend.restore?.(part);
      at += 9 + length;
    }
  }

  async health(): Promise<Health> {
    for (const { backend, path } of this.#mounts) {
      const health = await backend.health?.();
      if (health?.ok === false) return { ...health, detail: `${path}: ${health.detail ?? 'not well'}` };
    }
    return { ok: true };
  }

  metrics(): readonly Metric[] {
    return this.#mounts.flatMap(({ backend, path }) =>
      (backend.metrics?.() ?? []).map((metric) => ({ ...metric, labels: { ...metric.labels, mount: path } })),
    );
  }

  key(node: RoutedNode): NodeKey {
    return keyOf(node);
  }

  resolve(key: NodeKey): Awaitable<RoutedNode> {
    const read = readKey(key);
    if (read === undefined) throw FsError.of('ESTALE');
    if ('path' in read) return this.#walk(read.path);
    const mount = this.#mounts[read.mount];
    const via = read.via === undefined ? undefined : this.#redirects[read.via];
    if (mount === undefined || (read.via !== undefined && via === undefined)) throw FsError.of('ESTALE');
    const place = { isReadOnly: read.isReadOnly, via, point: undefined };
    return this.#found(mount, () => mount.backend.resolve!(read.key), place);
  }

  async #walk(path: string): Promise<RoutedNode> {
    let node = this.#tree.lasting(this.#root)!;
    for (const name of path.split('/').filter((part) => part !== '')) {
      const found = await this.lookup(node, name, DAEMON);
      if (found === undefined) throw FsError.of('ESTALE');
      node = found.node;
    }
    return node;
  }

  forget(node: RoutedNode): void {
    this.#tree.forget(node);
  }

  watch({ mount, inner }: RoutedNode): (() => void) | undefined {
    return mount?.backend.watch?.(inner);
  }

  lookup(parent: RoutedNode, name: string, context: Context): Awaitable<Entry<RoutedNode> | undefined> {
    const point = parent.point?.children.get(name);
    if (point?.isHidden === true) return undefined;
    if (point?.isDenied === true) throw FsError.of('EACCES');
    if (point?.redirect !== undefined) return this.#redirected(point.redirect, parent.isReadOnly, context);
    const lasting = point && this.#tree.lasting(point);
    if (lasting?.mount !== undefined)
      return andThen(this.getattr(lasting, undefined, context), (attributes) => ({
        node: lasting,
        attributes,
      }));
    const { mount } = parent;
    if (mount === undefined) return lasting && leadingEntry(lasting);
    const found = this.#entry(mount, placeIn(parent, point), () =>
      mount.backend.lookup(parent.inner, name, context),
    );
    if (lasting === undefined) return found;
    return andThen(found, (entry) => {
      if (entry !== undefined && (entry.attributes.mode & FileType.MASK) === FileType.DIRECTORY) return entry;
      if (entry !== undefined) this.#tree.forget(entry.node);
      return leadingEntry(lasting);
    });
  }

  /** Looks up what is seen at a path that is redirected. */
  #redirected(
    { mount, names, isReadOnly, from, to }: Redirect,
    isAboveReadOnly: boolean,
    context: Context,
  ): Awaitable<Entry<RoutedNode> | undefined> {
    const via = from.redirect;
    const place = { isReadOnly: isReadOnly || isAboveReadOnly || from.isReadOnly, via, point: to };
    return this.#entry(mount, place, () => run(this.#follow(mount, names, context)));
  }

  /** Looks a path up in a backend, without rules. To be called by `giving`. */
  *#follow(mount: Mount, names: readonly string[], context: Context): Steps<Entry<object> | undefined> {
    const seen = this.#tree.seenOf(mount);
    const root = this.#rootOf(mount).inner;
    let entry: Entry<object> | undefined;
    for (const name of names) {
      if (entry !== undefined && (entry.attributes.mode & FileType.MASK) !== FileType.DIRECTORY)
        return undefined;
      entry = yield* wait(mount.backend.lookup(entry?.node ?? root, name, context));
      if (entry === undefined) return undefined;
      // Nobody refers to it, which is told when the call of `giving` has ended.
      seen.hold(entry.node, () => []);
      seen.letGo(entry.node);
    }
    return entry;
  }

  parent(directory: RoutedNode, context: Context): Awaitable<RoutedNode> {
    const { mount, point, via } = directory;
    if (point !== undefined) {
      const path = pathOf(via, point);
      return this.#walk(path.slice(0, path.lastIndexOf('/')));
    }
    if (mount === undefined) throw FsError.of('ENOENT');
    const root = this.#rootOf(mount);
    let found: RoutedNode | undefined;
    const take = ({ inner, ...place }: Place & { readonly inner: object }): void => {
      found = inner === root.inner ? root : this.#tree.take(mount, inner, place);
    };
    const steps = this.#tree.seenOf(mount).giving(() => run(this.#above(mount, directory, context)), take);
    return andThen(run(steps), () => found!);
  }

  /** The directory above one in which no rule begins. To be called by `giving`. */
  *#above(
    mount: Mount,
    { inner: directory, isReadOnly, via }: RoutedNode,
    context: Context,
  ): Steps<Place & { readonly inner: object }> {
    const inner = yield* wait(mount.backend.parent!(directory, context));
    const known = this.#tree
      .seenOf(mount)
      .get(inner)
      ?.find((node) => node.isReadOnly === isReadOnly && node.via === via);
    if (known !== undefined) return known;
    // Rules may begin there, although it was forgotten where it is.
    for (const { point, names } of this.#root.at(mount.path).below()) {
      const entry = yield* this.#follow(mount, names, context);
      if (entry?.node === inner) return { inner, isReadOnly, via, point };
    }
    return { inner, isReadOnly, via, point: undefined };
  }

  #rootOf(mount: Mount): RoutedNode {
    return this.#tree.lasting(this.#root.at(mount.path))!;
  }

  /** Makes a call that gives a node. */
  #found(mount: Mount, call: () => Awaitable<object>, place: Place): Awaitable<RoutedNode> {
    let node: RoutedNode | undefined;
    const take = (inner: object): void => void (node = this.#tree.take(mount, inner, place));
    return andThen(run(this.#tree.seenOf(mount).giving(call, take)), () => node!);
  }

  /** Makes a call that gives an entry of a directory. */
  #entry<E extends Entry<object> | undefined>(
    mount: Mount,
    place: Place,
    call: () => Awaitable<E>,
  ): Awaitable<E extends undefined ? undefined : Exclude<E, undefined> & Entry<RoutedNode>> {
    type Result = E extends undefined ? undefined : Exclude<E, undefined> & Entry<RoutedNode>;
    let node: RoutedNode | undefined;
    const take = (entry: E): void => {
      if (entry !== undefined) node = this.#tree.take(mount, entry.node, place);
    };
    return andThen(run(this.#tree.seenOf(mount).giving(call, take)), (entry) => {
      if (entry === undefined) return undefined as Result;
      return { ...entry, node, attributes: unnumbered(entry.attributes) } as unknown as Result;
    });
  }

  getattr(node: RoutedNode, file: unknown, context: Context): ReturnType<Backend['getattr']> {
    if (node.mount === undefined) return LEADING;
    return andThen(node.mount.backend.getattr(node.inner, file, context), unnumbered);
  }

  setattr: NonNullable<Backend<RoutedNode>['setattr']> = (node, changes, file, context) => {
    const { backend } = writable(node);
    return andThen(offered(backend, 'setattr')(node.inner, changes, file, context), unnumbered);
  };

  readlink: NonNullable<Backend<RoutedNode>['readlink']> = ({ mount, inner }, context) => {
    if (mount?.backend.readlink === undefined) throw FsError.of('EINVAL');
    return mount.backend.readlink(inner, context);
  };

  /** Where a name may be made. */
  #place(parent: RoutedNode, name: string): { readonly mount: Mount; readonly point: Point | undefined } {
    const mount = writable(parent);
    const point = parent.point?.children.get(name);
    if (point?.isHidden === true || point?.isDenied === true || point?.redirect !== undefined)
      throw FsError.of('EACCES');
    if (point !== undefined && this.#tree.lasting(point) !== undefined) throw FsError.of('EEXIST');
    if (point?.isReadOnly === true) throw FsError.of('EROFS');
    return { mount, point };
  }

  /** The backend in which a name may be removed or replaced. */
  #removable(parent: RoutedNode, name: string): Mount {
    const point = parent.point?.children.get(name);
    if (point?.isHidden === true) throw FsError.of('ENOENT');
    if (point?.isDenied === true) throw FsError.of('EACCES');
    if (point !== undefined) throw FsError.of('EBUSY');
    return writable(parent);
  }

  mknod: NonNullable<Backend<RoutedNode>['mknod']> = (parent, name, mode, rdev, context) => {
    const { mount, point } = this.#place(parent, name);
    const { backend } = mount;
    return this.#entry(mount, placeIn(parent, point), () =>
      offered(backend, 'mknod')(parent.inner, name, mode, rdev, context),
    );
  };

  mkdir: NonNullable<Backend<RoutedNode>['mkdir']> = (parent, name, mode, context) => {
    const { mount, point } = this.#place(parent, name);
    const { backend } = mount;
    return this.#entry(mount, placeIn(parent, point), () =>
      offered(backend, 'mkdir')(parent.inner, name, mode, context),
    );
  };

  symlink: NonNullable<Backend<RoutedNode>['symlink']> = (parent, name, target, context) => {
    const { mount, point } = this.#place(parent, name);
    const { backend } = mount;
    return this.#entry(mount, placeIn(parent, point), () =>
      offered(backend, 'symlink')(parent.inner, name, target, context),
    );
  };

  link: NonNullable<Backend<RoutedNode>['link']> = (node, parent, name, context) => {
    const { mount, point } = this.#place(parent, name);
    if (node.mount !== mount || node.isReadOnly || node.via !== parent.via) throw FsError.of('EXDEV');
    const { backend } = mount;
    return this.#entry(mount, placeIn(parent, point), () =>
      offered(backend, 'link')(node.inner, parent.inner, name, context),
    );
  };

  unlink: NonNullable<Backend<RoutedNode>['unlink']> = (parent, name, context) => {
    const { backend } = this.#removable(parent, name);
    return offered(backend, 'unlink')(parent.inner, name, context);
  };

  rmdir: NonNullable<Backend<RoutedNode>['rmdir']> = (parent, name, context) => {
    const { backend } = this.#removable(parent, name);
    return offered(backend, 'rmdir')(parent.inner, name, context);
  };

  rename: NonNullable<Backend<RoutedNode>['rename']> = (parent, name, newParent, newName, flags, context) => {
    const mount = this.#removable(parent, name);
    if (this.#removable(newParent, newName) !== mount || parent.via !== newParent.via)
      throw FsError.of('EXDEV');
    const { backend } = mount;
    return offered(backend, 'rename')(parent.inner, name, newParent.inner, newName, flags, context);
  };

  open: NonNullable<Backend<RoutedNode>['open']> = (node, flags, context) => {
    const changes =
      (flags & OpenFlags.ACCESS_MODE) !== OpenFlags.READ_ONLY || (flags & OpenFlags.TRUNC) !== 0;
    const { backend } = changes ? writable(node) : mountOf(node);
    if (changes && backend.write === undefined) throw refusal(backend);
    return backend.open?.(node.inner, flags, context) ?? { file: undefined };
  };

  create: NonNullable<Backend<RoutedNode>['create']> = (parent, name, mode, flags, context) => {
    const { mount, point } = this.#place(parent, name);
    const { backend } = mount;
    return this.#entry(mount, placeIn(parent, point), () =>
      backend.create === undefined
        ? run(makeAndOpen(this.#tree.seenOf(mount), backend, parent.inner, name, mode, flags, context))
        : backend.create(parent.inner, name, mode, flags, context),
    );
  };

  tmpfile: NonNullable<Backend<RoutedNode>['tmpfile']> = (parent, mode, flags, context) => {
    const mount = writable(parent);
    const { backend } = mount;
    return this.#entry(mount, placeIn(parent, undefined), () =>
      offered(backend, 'tmpfile', 'EOPNOTSUPP')(parent.inner, mode, flags, context),
    );
  };

  read: NonNullable<Backend<RoutedNode>['read']> = ({ mount, inner }, file, buffer, offset, context) => {
    if (mount?.backend.read === undefined) throw FsError.of('EINVAL');
    return mount.backend.read(inner, file, buffer, offset, context);
  };

  write: NonNullable<Backend<RoutedNode>['write']> = (node, file, buffer, offset, flags, context) =>
    offered(writable(node).backend, 'write')(node.inner, file, buffer, offset, flags, context);

  flush({ mount, inner }: RoutedNode, file: unknown, context: Context): Awaitable<void> {
    return mount?.backend.flush?.(inner, file, context);
  }

  release({ mount, inner }: RoutedNode, file: unknown): Awaitable<void> {
    return mount?.backend.release?.(inner, file);
  }

  lock(
    { mount, inner }: RoutedNode,
    hold: LockHold,
    isWaiting: boolean,
    context: Context | undefined,
  ): Awaitable<void> {
    return mount?.backend.lock?.(inner, hold, isWaiting, context);
  }

  fsync({ mount, inner }: RoutedNode, file: unknown, dataOnly: boolean, context: Context): Awaitable<void> {
    return mount?.backend.fsync?.(inner, file, dataOnly, context);
  }

  fsyncdir({ mount, inner }: RoutedNode, dataOnly: boolean, context: Context): Awaitable<void> {
    return mount?.backend.fsyncdir?.(inner, dataOnly, context);
  }

  readdir: NonNullable<Backend<RoutedNode>['readdir']> = ({ mount, inner, point }, context) => {
    const lasting = [...(point?.children ?? [])].flatMap(([name, child]) =>
      !child.isHidden && this.#tree.lasting(child) !== undefined ? [name] : [],
    );
    const own: DirectoryEntry[] = lasting.map((name) => ({ name, type: FileType.DIRECTORY }));
    if (mount === undefined) return own;
    if (mount.backend.readdir === undefined) throw FsError.of('EACCES');
    const isShown = (name: string): boolean => {
      const child = point?.children.get(name);
      const isOwn = child?.isHidden === true || child?.redirect !== undefined || lasting.includes(name);
      return name !== '.' && name !== '..' && !isOwn;
    };
    return andThen(run(this.#redirectsIn(point, context)), (redirects) =>
      andThen(mount.backend.readdir!(inner, context), (listing) =>
        Symbol.asyncIterator in listing
          ? shownAsync([...own, ...redirects], listing, isShown)
          : shownSync([...own, ...redirects], listing, isShown),
      ),
    );
  };

  /** The names in a directory that are redirected to something that is there. */
  *#redirectsIn(point: Point | undefined, context: Context): Steps<DirectoryEntry[]> {
    const found: DirectoryEntry[] = [];
    for (const [name, { redirect, isHidden, isDenied }] of point?.children ?? []) {
      if (redirect === undefined || isHidden || isDenied) continue;
      const { mount, names } = redirect;
      yield* this.#tree.seenOf(mount).giving(
        () => run(this.#follow(mount, names, context)),
        (entry) => {
          if (entry !== undefined) found.push({ name, type: entry.attributes.mode & FileType.MASK });
        },
      );
    }
    return found;
  }

  statfs({ mount, inner }: RoutedNode, context: Context): ReturnType<NonNullable<Backend['statfs']>> {
    return mount?.backend.statfs?.(inner, context) ?? {};
  }

  async syncfs(context: Context): Promise<void> {
    await Promise.all(this.#mounts.map(async ({ backend }) => backend.syncfs?.(context)));
  }

  getxattr: NonNullable<Backend<RoutedNode>['getxattr']> = ({ mount, inner }, name, context) => {
    if (mount === undefined) return undefined;
    return offered(mount.backend, 'getxattr', 'EOPNOTSUPP')(inner, name, context);
  };

  listxattr: NonNullable<Backend<RoutedNode>['listxattr']> = ({ mount, inner }, context) => {
    if (mount === undefined) return [];
    return offered(mount.backend, 'listxattr', 'EOPNOTSUPP')(inner, context);
  };

  setxattr: NonNullable<Backend<RoutedNode>['setxattr']> = (node, name, value, flags, killSgid, context) =>
    offered(writable(node).backend, 'setxattr', 'EOPNOTSUPP')(
      node.inner,
      name,
      value,
      flags,
      killSgid,
      context,
    );

  removexattr: NonNullable<Backend<RoutedNode>['removexattr']> = (node, name, context) =>
    offered(writable(node).backend, 'removexattr', 'EOPNOTSUPP')(node.inner, name, context);

  fallocate: NonNullable<Backend<RoutedNode>['fallocate']> = (node, file, mode, offset, length, context) =>
    offered(writable(node).backend, 'fallocate', 'EOPNOTSUPP')(
      node.inner,
      file,
      mode,
      offset,
      length,
      context,
    );

  lseek: NonNullable<Backend<RoutedNode>['lseek']> = (node, file, offset, whence, context) => {
    const { backend } = mountOf(node);
    if (backend.lseek !== undefined) return backend.lseek(node.inner, file, offset, whence, context);
    // Without it a file is one piece of data.
    return andThen(backend.getattr(node.inner, file, context), ({ size = 0 }) => {
      if (offset >= size) throw FsError.of('ENXIO');
      return whence === 'data' ? offset : size;
    });
  };

  copyFileRange: NonNullable<Backend<RoutedNode>['copyFileRange']> = (
    node,
    file,
    offset,
    toNode,
    toFile,
    toOffset,
    length,
    context,
  ) => {
    const { backend } = writable(toNode);
    if (node.mount !== toNode.mount) throw FsError.of('EXDEV');
    return offered(backend, 'copyFileRange', 'EOPNOTSUPP')(
      node.inner,
      file,
      offset,
      toNode.inner,
      toFile,
      toOffset,
      length,
      context,
    );
  };

  ioctl: NonNullable<Backend<RoutedNode>['ioctl']> = (node, file, command, input, outputSize, context) =>
    offered(writable(node).backend, 'ioctl', 'ENOTTY')(node.inner, file, command, input, outputSize, context);
}

type Named = Exclude<(typeof backendMethods)[number], 'mount' | 'lookup' | 'getattr'>;

/** A backend's method. @throws what guests get where it has none. */
function offered<Name extends Named>(
  backend: Backend,
  name: Name,
  error?: 'EOPNOTSUPP' | 'ENOTTY',
): NonNullable<Backend[Name]> {
  const method = backend[name];
  if (method === undefined) throw error === undefined ? refusal(backend) : FsError.of(error);
  return method.bind(backend) as NonNullable<Backend[Name]>;
}

/** What the engine answers for a backend without a method that changes something. */
function refusal(backend: Backend): FsError {
  return FsError.of(CHANGING.some((method) => backend[method] !== undefined) ? 'EPERM' : 'EROFS');
}

function mountOf({ mount }: RoutedNode): Mount {
  if (mount === undefined) throw FsError.of('EISDIR');
  return mount;
}

/** Where a name in a directory is seen. */
function placeIn(parent: RoutedNode, point: Point | undefined): Place {
  return { isReadOnly: parent.isReadOnly || point?.isReadOnly === true, via: parent.via, point };
}

/** @throws EROFS where nothing may be changed. */
function writable({ mount, isReadOnly }: RoutedNode): Mount {
  if (mount === undefined || isReadOnly) throw FsError.of('EROFS');
  return mount;
}

/** What guests do where a backend has no `create`. To be called by `giving`. */
function* makeAndOpen(
  seen: NodesInUse<object, RoutedNode[]>,
  backend: Backend,
  parent: object,
  name: string,
  mode: number,
  flags: number,
  context: Context,
): Steps<Entry<object> & { readonly file: unknown }> {
  let entry = yield* wait(backend.lookup(parent, name, context));
  const isThere = entry !== undefined;
  entry ??= yield* wait(offered(backend, 'mknod')(parent, name, FileType.REGULAR | mode, 0, context));
  const { node } = entry;
  const attributes = { ...entry.attributes };
  // Nobody refers to it where the rest fails, which is told when the call of `giving` has ended.
  seen.hold(node, () => []);
  seen.letGo(node);
  if (isThere && (flags & OpenFlags.EXCL) !== 0) throw FsError.of('EEXIST');
  const opened = yield* wait(
    backend.open?.(node, flags & ~(OpenFlags.CREAT | OpenFlags.EXCL), context) ?? { file: undefined },
  );
  return { node, attributes, ...opened };
}

/** The listing comes first: a generator that ends before it has begun that would leave it open. */
function* shownSync(
  own: readonly DirectoryEntry[],
  listing: Iterable<DirectoryEntry>,
  isShown: (name: string) => boolean,
): Generator<DirectoryEntry> {
  for (const { name, type } of listing) if (isShown(name)) yield { name, type };
  yield* own;
}

async function* shownAsync(
  own: readonly DirectoryEntry[],
  listing: AsyncIterable<DirectoryEntry>,
  isShown: (name: string) => boolean,
): AsyncGenerator<DirectoryEntry> {
  for await (const { name, type } of listing) if (isShown(name)) yield { name, type };
  yield* own;
}
