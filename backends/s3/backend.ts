import type {
  Attributes,
  Backend,
  BackendHost,
  CachePolicy,
  Context,
  DirectoryEntry,
  Entry,
  FsStatistics,
  GuestBuffer,
  Health,
  Opened,
} from '../../core/backend/index.js';
import { decodeName, FileType, FsError, OpenFlags } from '../../core/backend/index.js';
import { attributesOf } from './attributes.js';
import { Deadline } from './deadline.js';
import { errnoOf, S3Failure } from './failure.js';
import type { OpenFile } from './files.js';
import { Mounted } from './mounted.js';
import { isDirty } from './nodes.js';
import type { Directory, FileNode, Node } from './nodes.js';
import type { S3Options } from './options.js';

/** What `statfs` says of a bucket, which has no size: 2^40 blocks and files. */
const BOUNDLESS = 2 ** 40;

/** Serves a bucket to readers; `WritableBackend` adds what changes it. */
export class ReadingBackend implements Backend<Node, OpenFile> {
  readonly cache: Partial<CachePolicy>;
  protected readonly options: S3Options;
  #mounted: Mounted | undefined;
  /** Keys of nodes whose path differs, from a snapshot. */
  #restored = new Map<string, string>();

  constructor(options: S3Options) {
    this.options = options;
    // Half of the time for which news are believed is the guest's, the other half ours.
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
  get mounted(): Mounted {
    if (this.#mounted === undefined) throw new Error('not mounted');
    return this.#mounted;
  }

  async mount(host: BackendHost): Promise<Node> {
    this.#mounted = await Mounted.start(this.options, host.log);
    return this.#mounted.tree.root;
  }

  async unmount(): Promise<void> {
    await this.#mounted?.stop();
  }

  health(): Health {
    const { files, services } = this.mounted;
    const dirty = files.writeback.files.length;
    const { conflicts } = services.metrics;
    const detail = `${dirty} files to upload, ${files.writeback.bytes} bytes in the journal, ${conflicts} lost races`;
    return { ok: conflicts === 0, detail };
  }

  /** Counters for monitoring. */
  metrics(): Record<string, number> {
    return this.mounted.services.metrics.snapshot();
  }

  /** The engine asks for the key of each node that it takes into use. */
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
      const path = this.#restored.get(key) ?? key;
      if (path.includes('\0')) throw FsError.of('ESTALE');
      let node: Node = tree.root;
      for (const name of path.split('/')) {
        if (node.kind !== 'directory') throw FsError.of('ESTALE');
        const next: Node | undefined = await this.find(node, name, this.ttl, this.deadline());
        if (next === undefined) throw FsError.of('ESTALE');
        node = next;
      }
      return node;
    });
  }

  save(): Uint8Array {
    return Buffer.from(JSON.stringify([...this.mounted.tree.renamed()]));
  }

  restore(state: Uint8Array): void {
    this.#restored = new Map(JSON.parse(Buffer.from(state).toString()) as [string, string][]);
  }

  forget(node: Node): void {
    this.mounted.tree.forget(node);
  }

  /** Milliseconds for which we believe news before we ask again. */
  protected get ttl(): number {
    return this.options.metadataTtl * 500;
  }

  protected deadline(context?: Context): Deadline {
    return Deadline.after(this.options.operationTimeout, context?.signal);
  }

  /** For what takes as long as uploads take: each of their requests has its own deadline. */
  protected patient(context: Context): Deadline {
    return Deadline.after(Number.POSITIVE_INFINITY, context.signal);
  }

  /** Runs an operation; failed requests become errnos, and those that an operator can mend are said. */
  protected async guard<T>(operation: () => Promise<T>): Promise<T> {
    try {
      return await operation();
    } catch (error) {
      if (!(error instanceof S3Failure)) throw error;
      const { log } = this.mounted.services;
      const fields = { code: error.code, status: error.status };
      if (error.kind === 'archived') log.warn(fields, 'object is archived: restore it before it can be read');
      else if (error.kind === 'no-bucket') log.error(fields, 'the bucket is gone');
      else if (error.kind === 'denied') log.warn(fields, 'access denied by the bucket');
      throw errnoOf(error);
    }
  }

  /** The node under a name, or nothing. What is staged here counts before what the bucket says. */
  protected async find(
    parent: Directory,
    name: string,
    maxAge: number,
    deadline: Deadline,
  ): Promise<Node | undefined> {
    const { tree, names } = this.mounted;
    const child = parent.children.get(name);
    if (child?.kind === 'file' && child.staged !== undefined) return child;
    const known = await names.find(parent, name, maxAge, true, deadline);
    if (known !== undefined) return tree.node(parent, name, known);
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
    return attributesOf(node.posix, node.kind === 'file' ? node.size : 0, node.removed);
  }

  async lookup(parent: Node, name: string, context: Context): Promise<Entry<Node> | undefined> {
    return this.guard(async () => {
      const node = await this.find(this.directory(parent), name, this.ttl, this.deadline(context));
      return node === undefined ? undefined : this.entry(node);
    });
  }

  /** Asks again if what we know is too old. Nodes without a name, or with data of ours, are known to us alone. */
  protected async refresh(node: Node, maxAge: number, deadline: Deadline): Promise<void> {
    if (node.parent === undefined || node.removed) return;
    if (node.kind === 'file' && node.staged !== undefined) return;
    if (performance.now() - node.checked <= maxAge) return;
    const found = await this.find(node.parent, node.name, maxAge, deadline);
    if (found === node || node.removed === false) return;
    if (node.kind === 'file' && node.opens > 0) return;
    throw FsError.of('ESTALE');
  }

  async getattr(node: Node, file: OpenFile | undefined, context: Context): Promise<Attributes> {
    return this.guard(async () => {
      if (node.kind === 'directory' || file === undefined || file.version === node.version) {
        await this.refresh(node, this.ttl, this.deadline(context));
      }
      return this.attributes(node);
    });
  }

  async readlink(node: Node, context: Context): Promise<string> {
    return this.guard(async () => {
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

  async open(node: Node, flags: number, context: Context): Promise<Opened<OpenFile>> {
    return this.guard(async () => {
      const file = this.file(node);
      await this.refresh(file, Math.min(this.options.openTtl * 1000, this.ttl), this.deadline(context));
      return { file: this.mounted.files.open(file, (flags & OpenFlags.APPEND) !== 0) };
    });
  }

  async read(
    _node: Node,
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    context: Context,
  ): Promise<number> {
    return this.guard(() => this.mounted.files.read(file, buffer, offset, this.deadline(context)));
  }

  async release(_node: Node, file: OpenFile): Promise<void> {
    const { files, tree } = this.mounted;
    const { node } = file;
    node.opens -= 1;
    if (node.opens > 0) return;
    if (node.removed) await this.guard(() => files.discard(node));
    else if (node.staged !== undefined) files.writeback.schedule(node, this.options.writebackDelay);
    tree.release(node);
  }

  async readdir(node: Node, context: Context): Promise<Iterable<DirectoryEntry>> {
    return this.guard(async () => {
      const { names } = this.mounted;
      const directory = this.directory(node);
      const age = directory.listed === undefined ? Infinity : performance.now() - directory.listed;
      if (age > this.ttl) await names.list(directory, this.deadline(context));
      const types = new Map<string, number>();
      for (const [name, known] of directory.names) {
        if (known.kind !== 'absent') types.set(name, names.typeOf(known));
      }
      for (const [name, child] of directory.children) {
        const decided = child.kind === 'directory' && types.has(name);
        if (!decided && isDirty(child)) types.set(name, child.posix.mode & FileType.MASK);
      }
      return [...types].map(([name, type]): DirectoryEntry => ({ name, type }));
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

  async getxattr(node: Node, name: string): Promise<Uint8Array | undefined> {
    if (name.startsWith('system.')) throw FsError.of('EOPNOTSUPP');
    return node.posix.xattrs.get(name);
  }

  async listxattr(node: Node): Promise<readonly string[]> {
    return [...node.posix.xattrs.keys()];
  }
}
