import type { Accelerator, Elsewhere, NodeMigration } from '../../core/backend/accelerator.js';
import type {
  Attributes,
  Awaitable,
  Backend,
  BackendHost,
  CachePolicy,
  Context,
  DirectoryEntry,
  Entry,
  FsStatistics,
  GuestBuffer,
  Health,
  Metric,
  NodeKey,
  Opened,
} from '../../core/backend/index.js';
import { andThen, DAEMON, decodeName, FileType, FsError, OpenFlags } from '../../core/backend/index.js';
import { pause } from '../../core/backend/pauses.js';
import { threadStates } from '../../core/system/confinement/state.js';
import { attributesOf, inodeNumber } from './objects/attributes.js';
import { Deadline } from './client/deadline.js';
import { errnoOf, S3Failure } from './client/failure.js';
import { compileParser } from './client/parser.js';
import { isFull } from './journal/disk-space.js';
import type { OpenFile } from './write/files.js';
import { elsewhereOperations, type MigrationOwner, migrationOperations } from './service/migration.js';
import { MountedBucket } from './service/mounted-bucket.js';
import { pathIn, placeIn, traceOf, Traces } from './tree/last-seen.js';
import { isDirty, pathOf } from './tree/nodes.js';
import type { Directory, FileNode, Known, Node } from './tree/nodes.js';
import type { S3Options } from './options.js';

/** Blocks and files that `statfs` reports: a bucket has no size. */
const BOUNDLESS = 2 ** 40;

/** Names that are listed in one turn of the event loop. */
const NAMES_PER_TURN = 256;

/** The xattr of SELinux's label. */
const SELINUX = 'security.selinux';

/** `Seccomp` in proc_pid_status(5): a filter is in force. */
const FILTERED = 2;

/** Serves a bucket read-only; `WritableBackend` adds the changes. */
export class ReadingBackend implements Backend<Node, OpenFile> {
  readonly cache: Partial<CachePolicy>;
  /** As what is known of a name is reckoned with, `tree/`. */
  readonly nodeBytes = 1024;
  protected readonly options: S3Options;
  #mounted: MountedBucket | undefined;
  #host: BackendHost | undefined;
  /** Paths of nodes whose key differs from their path, from a saved state. */
  #restored = new Map<string, string>();
  /** Traces by key: of nodes in a process that was killed, or of nodes that were forgotten. */
  #given: ReadonlyMap<NodeKey, string> = new Map();
  /** While the nodes of a process that was killed, or has left, are looked for. */
  #traces: Traces | undefined;
  /** Whether another process goes on from here. */
  #isLeft = false;
  /** Look-ups of nodes that a process before had, under way. */
  readonly #searches = new Map<Node, Promise<void>>();

  constructor(options: S3Options) {
    this.options = options;
    // Half of `metadataTtl` is the guest's cache time, the other half is ours.
    const entryTimeout = options.metadataTtl / 2;
    this.cache = {
      entryTimeout,
      attributeTimeout: entryTimeout,
      negativeTimeout: options.negativeTtl / 2,
      data: 'auto',
      writeback: false,
    };
  }

  /** The parts, once mounted. */
  get mounted(): MountedBucket {
    if (this.#mounted === undefined) throw new Error('not mounted');
    return this.#mounted;
  }

  async mount(host: BackendHost): Promise<Node> {
    this.#host = host;
    // The flags that this sets hold for the whole process, which may be another program's.
    if (threadStates().some(({ seccomp }) => seccomp === FILTERED)) await compileParser();
    this.#mounted = await MountedBucket.start(this.options, host.log, this.#traces);
    this.#mounted.watches.mounted(host);
    return this.#mounted.tree.root;
  }

  watch(directory: Node): (() => void) | undefined {
    return this.mounted.watches.watch(this.directory(directory));
  }

  async unmount(): Promise<void> {
    // What is in the journal need not be uploaded while guests wait.
    if (this.#isLeft) await this.#mounted?.abandon();
    else await this.#mounted?.stop();
  }

  health(): Health {
    const { files, services } = this.mounted;
    const dirty = files.writeback.files.length;
    const { asides } = files.losses;
    void files.losses.count();
    const { conflicts } = services.metrics;
    const detail = `${dirty} files to upload, ${files.writeback.bytes} bytes in the journal, ${conflicts} lost races, ${asides} kept aside`;
    const lost = this.mounted.leases?.counts.lost ?? 0;
    const ofLeases = lost === 0 ? '' : `, the lease of ${lost} locked files lost`;
    return { ok: asides === 0 && lost === 0, detail: `${detail}${ofLeases}` };
  }

  metrics(): Metric[] {
    return this.mounted.metrics();
  }

  /** The engine asks for the key of each node that it gets. */
  key(node: Node): string {
    this.mounted.tree.hold(node);
    return node.id;
  }

  async resolve(key: string | number | Uint8Array): Promise<Node> {
    return this.guard(async () => {
      if (typeof key !== 'string') throw FsError.of('ESTALE');
      const { tree } = this.mounted;
      const known = tree.byId(key);
      if (known !== undefined) {
        tree.hold(known);
        return known;
      }
      return this.#walk(this.#restored.get(key) ?? key);
    });
  }

  async #walk(path: string): Promise<Node> {
    if (path.includes('\0')) throw FsError.of('ESTALE');
    let node: Node = this.mounted.tree.root;
    for (const name of path.split('/')) {
      if (node.kind !== 'directory') throw FsError.of('ESTALE');
      const next: Node | undefined = await this.find(node, name, this.ttl, () => this.deadline());
      if (next === undefined) throw FsError.of('ESTALE');
      node = next;
    }
    return node;
  }

  /** For guests that outlive a process that was killed, see `Accelerator`. */
  get recovery(): Pick<
    Accelerator<Node, OpenFile>,
    'recover' | 'trace' | 'watchTraces' | 'retrace' | 'recovered' | 'descriptor' | 'leave'
  > {
    return {
      recover: (key) => this.guard(() => this.#recover(key)),
      trace: traceOf,
      watchTraces: (changed) => {
        this.mounted.tree.changed = changed;
      },
      retrace: (traces) => {
        this.#given = traces;
        if (this.#mounted === undefined) this.#traces = new Traces(traces);
      },
      recovered: () => {
        const traces = this.#traces;
        this.#traces = undefined;
        if (traces !== undefined) this.mounted.leases?.settle();
        traces?.end(this.mounted).catch((error: unknown) => {
          const { log } = this.mounted.services;
          log.warn({ error: String(error) }, 'content of removed files is dropped by the next start only');
        });
      },
      descriptor: () => undefined,
      leave: () => {
        this.#isLeft = true;
      },
    };
  }

  /** For guests that go to another host, see `Accelerator`. */
  get migration(): { readonly migration: NodeMigration<Node>; readonly elsewhere: Elsewhere<Node> } {
    const owner: MigrationOwner = {
      mounted: () => this.mounted,
      readOnly: this.options.readOnly,
      withBuffer: async (bytes, use) => {
        const buffer = this.#host!.createBuffer(bytes);
        try {
          return await use(buffer);
        } finally {
          buffer.close();
        }
      },
      find: async (path) => {
        const { tree } = this.mounted;
        const node = path === '' ? tree.root : await this.#walk(path);
        tree.hold(node);
        return node;
      },
      guard: (operation) => this.guard(operation),
    };
    return {
      migration: migrationOperations(owner),
      elsewhere: elsewhereOperations(owner, (key) => this.#placeOf(key)),
    };
  }

  #placeOf(key: NodeKey): { kind: Node['kind']; path: string } | undefined {
    if (typeof key !== 'string') return undefined;
    const known = this.mounted.tree.byId(key);
    if (known === undefined) return placeIn(key, this.#given.get(key));
    return known.removed ? undefined : { kind: known.kind, path: pathOf(known) };
  }

  async #recover(key: NodeKey): Promise<Node> {
    const { tree } = this.mounted;
    const traces = this.#traces;
    if (typeof key !== 'string') throw FsError.of('ESTALE');
    const known = tree.byId(key) ?? traces?.adopt(this.mounted, key);
    const path = (): string => traces?.path(key) ?? pathIn(this.#given.get(key)) ?? key;
    const node = known ?? traces?.assume(this.mounted, key) ?? (await this.#walk(path()));
    // Another file may have come to its place.
    const kind = traces?.kind(key) ?? node.kind;
    if (node.id !== key || node.kind !== kind) throw FsError.of('ESTALE');
    tree.hold(node);
    return node;
  }

  save(): Uint8Array {
    return Buffer.from(JSON.stringify([...this.mounted.tree.renamed()]));
  }

  restore(state: Uint8Array): void {
    this.#restored = new Map(JSON.parse(Buffer.from(state).toString()) as [string, string][]);
  }

  forget(node: Node): void {
    const { files, services, tree } = this.mounted;
    tree.forget(node);
    const isUnused = node.kind === 'file' && node.removed && node.opens === 0 && !this.#isLeft;
    if (!isUnused || node.staged === undefined) return;
    // It came from another host, and nobody has opened it.
    files.discard(node).then(
      () => tree.release(node),
      (error: unknown) => services.log.warn({ error: String(error) }, 'a removed file is not dropped yet'),
    );
  }

  /** Milliseconds for which answers of the bucket are valid here. */
  protected get ttl(): number {
    return Math.min(this.options.metadataTtl * 500, performance.now() - this.mounted.refreshedAt);
  }

  protected deadline(context?: Context): Deadline {
    return Deadline.after(this.options.operationTimeout, context?.signal);
  }

  /** A deadline for what takes as long as uploads take: only their requests have limits. */
  protected patient(context: Context): Deadline {
    return Deadline.after(Number.POSITIVE_INFINITY, context.signal);
  }

  /**
   * Runs an operation. Failed requests become errnos; failures that an operator can mend are
   * logged.
   * @throws Error where the bucket does not answer while it is found out what a process that was
   * killed has done: the next one asks again, so that nothing is taken for not done.
   */
  protected async guard<T>(operation: () => Promise<T>): Promise<T> {
    try {
      return await operation();
    } catch (error) {
      const isTransient =
        error instanceof S3Failure ? error.transient : error instanceof FsError && error.code === 'ETIMEDOUT';
      if (isTransient && this.#traces !== undefined)
        throw new Error('the bucket does not answer', { cause: error });
      if (isFull(error)) throw FsError.of('ENOSPC');
      if (!(error instanceof S3Failure)) throw error;
      const { log } = this.mounted.services;
      const fields = { code: error.code, status: error.status };
      if (error.kind === 'archived') log.warn(fields, 'object is archived: restore it before it can be read');
      else if (error.kind === 'no-bucket') log.error(fields, 'the bucket is gone');
      else if (error.kind === 'untrusted') log.error(fields, "the server's certificate is not trusted");
      else if (error.kind === 'denied') log.warn(fields, 'access denied by the bucket');
      throw errnoOf(error);
    }
  }

  /**
   * The node at a name, or undefined. Staged files take precedence over the bucket. A promise is
   * returned only if the bucket must be asked.
   */
  protected find(
    parent: Directory,
    name: string,
    maxAge: number,
    deadline: () => Deadline,
  ): Awaitable<Node | undefined> {
    const { nameLookup } = this.mounted;
    const child = parent.children.get(name);
    if (child?.kind === 'file' && child.staged !== undefined) return child;
    const known = nameLookup.fresh(parent, name, maxAge);
    if (known !== undefined) return this.#placed(parent, name, known);
    return nameLookup
      .find(parent, name, maxAge, deadline())
      .then((found) => this.#placed(parent, name, found));
  }

  #placed(parent: Directory, name: string, known: Known): Node | undefined {
    const { tree } = this.mounted;
    if (known.kind !== 'absent') return tree.node(parent, name, known);
    const present = parent.children.get(name);
    if (present === undefined) return undefined;
    if (isDirty(present)) return present;
    tree.detach(present);
    return undefined;
  }

  protected directory(node: Node): Directory {
    if (node.kind !== 'directory') throw FsError.of('ENOTDIR');
    return node;
  }

  protected file(node: Node): FileNode {
    if (node.kind !== 'file') throw FsError.of('EISDIR');
    return node;
  }

  protected entry<N extends Node>(node: N): Entry<N> {
    return { node, attributes: this.attributes(node) };
  }

  protected attributes(node: Node): Attributes {
    return attributesOf(node.id, node.posix, node.kind === 'file' ? node.size : 0, node.removed);
  }

  /**
   * Asks the bucket for a node that a process before had, and that nobody has used since.
   * @throws ESTALE if it is gone.
   */
  protected present(node: Node, context: Context): Awaitable<void> {
    if (!node.isAssumed) return;
    let search = this.#searches.get(node);
    if (search === undefined) {
      search = this.#search(node).finally(() => this.#searches.delete(node));
      this.#searches.set(node, search);
    }
    const searched = search;
    return this.guard(() => this.deadline(context).wait(searched));
  }

  async #search(node: Node): Promise<void> {
    while (node.isAssumed) {
      const { name, parent, removed } = node;
      if (parent === undefined || removed) throw FsError.of('ESTALE');
      const path = pathOf(node);
      await this.find(parent, name, this.ttl, () => this.deadline());
      // Unless it has got another place meanwhile, it is not there.
      if (node.isAssumed && pathOf(node) === path) throw FsError.of('ESTALE');
    }
  }

  lookup(parent: Node, name: string, context: Context): Awaitable<Entry<Node> | undefined> {
    if (parent.isAssumed)
      return andThen(this.present(parent, context), () => this.lookup(parent, name, context));
    const found = this.find(this.directory(parent), name, this.ttl, () => this.deadline(context));
    const entry = (node: Node | undefined): Entry<Node> | undefined =>
      node === undefined ? undefined : this.entry(node);
    return found instanceof Promise ? this.guard(async () => entry(await found)) : entry(found);
  }

  parent({ parent, removed }: Node): Directory {
    if (parent === undefined || removed) throw FsError.of('ENOENT');
    this.mounted.tree.hold(parent);
    return parent;
  }

  /**
   * Asks the bucket again if what is known of a node is too old. Nodes without a name or with
   * staged data are known here only.
   */
  protected refresh(node: Node, maxAge: number, context: Context): Awaitable<void> {
    if (node.isAssumed) return this.present(node, context);
    const { parent, name } = node;
    if (parent === undefined || node.removed) return;
    if (node.kind === 'file' && node.staged !== undefined) return;
    if (performance.now() - node.checked <= maxAge) return;
    return this.guard(async () => {
      const found = await this.find(parent, name, maxAge, () => this.deadline(context));
      this.#confirmed(node, found);
    });
  }

  #confirmed(node: Node, found: Node | undefined): void {
    if (found === node || node.removed === false) return;
    if (node.kind === 'file' && node.opens > 0) return;
    throw FsError.of('ESTALE');
  }

  getattr(node: Node, file: OpenFile | undefined, context: Context): Awaitable<Attributes> {
    const pinned = node.kind === 'file' && file !== undefined && file.version !== node.version;
    const fresh = pinned ? undefined : this.refresh(node, this.ttl, context);
    return andThen(fresh, () => this.attributes(node));
  }

  async readlink(node: Node, context: Context): Promise<string> {
    return this.guard(async () => {
      if (node.isAssumed) await this.present(node, context);
      const file = this.file(node);
      if ((file.posix.mode & FileType.MASK) !== FileType.SYMLINK) throw FsError.of('EINVAL');
      const { object } = file.version;
      if (file.posix.target !== undefined || object === undefined) return file.posix.target ?? '';
      const length = Math.min(object.size, 4095);
      const target = Buffer.alloc(length);
      if (length > 0) {
        const deadline = this.deadline(context);
        await this.mounted.services.reader.read(object, 0, length, undefined, deadline, (at, bytes) =>
          target.set(bytes, at),
        );
      }
      return decodeName(target);
    });
  }

  open(node: Node, flags: number, context: Context): Awaitable<Opened<OpenFile>> {
    const file = this.file(node);
    const isAppending = (flags & OpenFlags.APPEND) !== 0;
    // A handle from a process before stays what it is: of the version in which it was opened.
    if (file.isAssumed && context === DAEMON) return this.#opened(file, isAppending);
    const fresh = this.refresh(file, Math.min(this.options.openTtl * 1000, this.ttl), context);
    return andThen(fresh, () => {
      if (file.leaving === undefined || file.opens > 0) return this.#opened(file, isAppending);
      // What removes the name has found that nobody has it open, and does not keep the content.
      return file.changes.run(async () => this.#opened(file, isAppending));
    });
  }

  /** @throws ESTALE: the kernel looks the name up again. */
  #opened(file: FileNode, isAppending: boolean): Opened<OpenFile> {
    if (file.isDropped) throw FsError.of('ESTALE');
    return { file: this.mounted.files.open(file, isAppending) };
  }

  async read(
    _node: Node,
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    context: Context,
  ): Promise<number> {
    return this.guard(async () => {
      const { node } = file;
      if (node.isAssumed && file.version.object === undefined) await this.present(node, context);
      return this.mounted.files.read(file, buffer, offset, this.deadline(context));
    });
  }

  release(_node: Node, file: OpenFile): Awaitable<void> {
    const { files, tree } = this.mounted;
    const { node } = file;
    if (this.#isLeft) return;
    files.closed(file);
    if (node.opens > 0) return;
    if (node.removed) return this.guard(() => files.discard(node)).then(() => tree.release(node));
    if (node.staged !== undefined) files.writeback.schedule(node, this.options.writebackDelay);
    tree.release(node);
  }

  async readdir(node: Node, context: Context): Promise<Iterable<DirectoryEntry>> {
    return this.guard(async () => {
      const { nameLookup, tree } = this.mounted;
      const directory = this.directory(node);
      if (directory.isAssumed) await this.present(directory, context);
      nameLookup.walk(directory, this.ttl);
      const age = directory.listed === undefined ? Infinity : performance.now() - directory.listed;
      if (age > this.ttl) await nameLookup.list(directory, this.deadline(context));
      const entries = new Map<string, DirectoryEntry>();
      let count = 0;
      for (const [name, known] of directory.names) {
        if (++count % NAMES_PER_TURN === 0) await pause();
        if (known.kind === 'absent') continue;
        const lookupLater = !nameLookup.isComplete(known);
        const ino = tree.inodeOf(directory, name);
        entries.set(name, { name, type: nameLookup.typeOf(known), ino, lookupLater });
      }
      for (const [name, child] of directory.children) {
        if (++count % NAMES_PER_TURN === 0) await pause();
        const decided = child.kind === 'directory' && entries.has(name);
        const ino = inodeNumber(child.id);
        if (!decided && isDirty(child))
          entries.set(name, { name, type: child.posix.mode & FileType.MASK, ino });
      }
      const dots = [
        { name: '.', type: FileType.DIRECTORY, ino: inodeNumber(directory.id) },
        { name: '..', type: FileType.DIRECTORY, ino: inodeNumber((directory.parent ?? directory).id) },
      ];
      return [...dots, ...entries.values()];
    });
  }

  statfs(): FsStatistics {
    return {
      blockSize: 4096,
      blocks: BOUNDLESS,
      blocksFree: BOUNDLESS,
      files: BOUNDLESS,
      filesFree: BOUNDLESS,
      nameMax: 255,
    };
  }

  /**
   * Refuses xattrs that are not kept here: ACLs, and SELinux's labels unless the option is on.
   * After EOPNOTSUPP `ls` does not ask again for the next file; after ENODATA it would.
   */
  protected checkXattr(name: string): void {
    if (name.startsWith('system.') || (name === SELINUX && !this.options.selinux))
      throw FsError.of('EOPNOTSUPP');
  }

  getxattr(node: Node, name: string, context: Context): Awaitable<Uint8Array | undefined> {
    this.checkXattr(name);
    return andThen(this.present(node, context), () => node.posix.xattrs.get(name));
  }

  listxattr(node: Node, context: Context): Awaitable<readonly string[]> {
    const isShown = (name: string): boolean => this.options.selinux || name !== SELINUX;
    return andThen(this.present(node, context), () => [...node.posix.xattrs.keys()].filter(isShown));
  }
}
