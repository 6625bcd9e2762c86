import { resolve } from 'node:path';
import {
  type Attributes,
  type Context,
  type Entry,
  Errno,
  FileType,
  FsError,
  type Logger,
  nameLength,
  newAttributes,
  UsageError,
} from '../../core/backend/index.js';
import { AT, O, STAT, close, openat } from '../../core/system/calls/files.js';
import { type Fd, ownMounts } from '../../core/system/index.js';
import { offset, putTarget, words } from './calls/call-memory.js';
import { impersonate, prepare } from './calls/impersonation.js';
import {
  fillAttributes,
  fillFromDescriptor,
  type OwnAttributes,
  statDescriptor,
  statDeviceNumber,
  statInoHigh,
  statInoLow,
  statMode,
  statMount,
  statName,
} from './calls/stat.js';
import { HostXattrs } from './maps/host-xattrs.js';
import { IdMap } from './maps/id-map.js';
import { InodeNumbers } from './maps/inode-numbers.js';
import { type Mount, Mounts } from './nodes/mounts.js';
import { NodeFinder } from './nodes/node-finder.js';
import { type Node, Nodes } from './nodes/nodes.js';
import type { Options } from './options.js';

/** Linux's PATH_MAX, with the terminating zero. */
const PATH_MAX_BYTES = 4096;

/** An answer object that is refilled by every look-up or creation. */
export interface OwnEntry extends Entry<Node> {
  node: Node;
  readonly attributes: OwnAttributes;
}

export function newEntry(): OwnEntry {
  return { node: undefined as never, attributes: newAttributes() };
}

const entry = newEntry();
/** The answer object of getattr, refilled by every call. */
const { attributes } = entry;

/** A shared directory: the state and steps that its operations have in common. */
export class Share {
  readonly options: Options;
  readonly log: Logger;
  readonly mounts: Mounts;
  readonly nodes: Nodes;
  readonly root: Node;
  readonly finder: NodeFinder;
  readonly uids: IdMap;
  readonly gids: IdMap;
  readonly inodeNumbers: InodeNumbers;
  readonly xattrs: HostXattrs;
  readonly #onClose: (() => void)[] = [];
  /** Nodes that no answer has given yet: what they were found for takes time. */
  readonly #ungiven = new Set<Node>();
  /** Descriptors of claimed directories. Each holds an exclusive flock(2). */
  readonly claims: Fd[] = [];
  /** Whether owners are translated. */
  readonly translates: boolean;
  /** Whether guests are not to make what is privileged on the host. */
  readonly refusesPrivileged: boolean;

  /** @throws UsageError if the directory cannot be shared. */
  constructor(options: Options, log: Logger) {
    this.options = options;
    this.log = log;
    prepare();
    this.uids = new IdMap(options.translateUid, 'translate-uid');
    this.gids = new IdMap(options.translateGid, 'translate-gid');
    this.translates = this.uids.active || this.gids.active;
    this.refusesPrivileged = (options.privilegedFiles ?? (this.translates ? 'refuse' : 'allow')) === 'refuse';
    this.xattrs = new HostXattrs(options, this.translates, this.refusesPrivileged);
    const own = ownMounts.above(resolve(options.sharedDir));
    if (own !== undefined) {
      throw new UsageError(
        `--shared-dir ${options.sharedDir}: lies in ${own}, which this process serves; share it from a process of its own`,
      );
    }
    const fd = openShared(options.sharedDir);
    if (fd < 0) throw refusal(options.sharedDir, FsError.of(-fd));
    this.mounts = new Mounts(options.inodeFileHandles !== 'never', log);
    const code = statDescriptor(fd);
    if (code < 0) throw refusal(options.sharedDir, FsError.of(-code));
    const mode = statMode();
    const low = statInoLow();
    const high = statInoHigh();
    this.inodeNumbers = new InodeNumbers(statDeviceNumber());
    const mount = this.mounts.add(statMount(), fd, true, '');
    if (options.inodeFileHandles === 'mandatory' && mount.fd < 0) {
      close(fd);
      throw new UsageError(
        `--inode-file-handles mandatory: ${options.sharedDir} gives no file handles; use prefer`,
      );
    }
    const budget = mount.fd < 0 ? options.descriptors : Math.max(64, options.descriptors >>> 1);
    this.nodes = new Nodes(this.mounts, options.cachedDescriptors, budget, log);
    this.root = this.nodes.addByDescriptor(mount.index, mode, low, high, fd);
    const { mounts, nodes, inodeNumbers, root } = this;
    this.finder = new NodeFinder({ mounts, nodes, inodeNumbers, root, submounts: options.submounts });
  }

  /** The mount that a node lies on. */
  mountOf(node: Node): Mount {
    return this.mounts.all[this.nodes.mountIndex(node)]!;
  }

  /**
   * A descriptor of a node, for the current call: the next one may close it. @throws FsError ESTALE
   * if the file is gone.
   */
  descriptor(node: Node): Fd {
    const fd = this.nodes.descriptor(node);
    if (fd < 0) throw FsError.of(-fd);
    return fd;
  }

  /**
   * Looks up a name. @returns the node and its attributes, or undefined if there is no such name.
   * @param parent the directory, of which `fd` is a descriptor
   * @param name address of the name in native memory; `text` is the same name as a string
   * @throws FsError
   */
  find(parent: Node, fd: Fd, name: number, text: string): Entry<Node> | undefined {
    return this.found(statName(fd, name), parent, fd, name, text, entry);
  }

  /**
   * Looks a name up that must be there, for `use`. A node that was not known before is forgotten if
   * that fails: nobody gets it then, unless another answer has given it meanwhile.
   * @throws FsError ENOENT, and what `use` throws.
   */
  findFor<T>(parent: Node, fd: Fd, name: number, text: string, use: (found: Entry<Node>) => T): T {
    const { size } = this.nodes;
    const found = this.find(parent, fd, name, text);
    if (found === undefined) throw FsError.of('ENOENT');
    const { node } = found;
    if (this.nodes.size === size) return use(found);
    let used: T;
    try {
      used = use(found);
    } catch (error) {
      this.nodes.forget(node);
      throw error;
    }
    return used instanceof Promise ? (this.#useLater(node, used) as T) : used;
  }

  async #useLater<T>(node: Node, using: Promise<T>): Promise<T> {
    this.#ungiven.add(node);
    try {
      return await using;
    } catch (error) {
      if (this.#ungiven.has(node)) this.nodes.forget(node);
      throw error;
    } finally {
      this.#ungiven.delete(node);
    }
  }

  /** {@link find} for a name that this process has not just made. */
  lookUp(parent: Node, fd: Fd, name: number, text: string): Entry<Node> | undefined {
    return this.found(this.finder.statName(parent, fd, name), parent, fd, name, text, entry);
  }

  /**
   * {@link find} for a name whose stat has been made already: `code` is its result, and the
   * attributes are in call memory.
   * @param into the answer object to fill and return.
   */
  found(
    code: number,
    parent: Node,
    fd: Fd,
    name: number,
    text: string,
    into: OwnEntry,
  ): Entry<Node> | undefined {
    const node = this.finder.found(code, parent, fd, name, text);
    if (node === undefined) return undefined;
    return this.entry(node, this.nodes.mountIndex(node) !== this.nodes.mountIndex(parent), into);
  }

  /**
   * The node and attributes of a file that was just created and is open as `fd`. `text` is its
   * name, or empty if it has none.
   */
  adopt(parent: Node, fd: Fd, text: string): Entry<Node> {
    const code = statDescriptor(fd);
    if (code < 0) throw FsError.of(-code);
    const node = this.finder.adopted(parent, fd, text);
    return this.entry(node, false);
  }

  /**
   * Begins to create as the guest's caller. `endImpersonation` ends it, in a `finally`.
   * @throws FsError EPERM if the ids may not be used (see `forbid-guest`).
   */
  impersonate(context: Context): void {
    impersonate(this.uids.toHost(context.uid), this.gids.toHost(context.gid), context);
  }

  /**
   * Refuses a device node, where guests are not to make what is privileged on the host. A whiteout
   * (device 0:0) is none: Linux lets everyone make it.
   * @throws FsError EPERM
   */
  checkDevice(mode: number, rdev: number): void {
    const type = mode & FileType.MASK;
    if (type !== FileType.CHARACTER && type !== FileType.BLOCK) return;
    if (this.refusesPrivileged && !(type === FileType.CHARACTER && rdev === 0)) throw FsError.of('EPERM');
  }

  /** The attributes of the stat result in call memory, as guests see them. */
  attributes(into: OwnAttributes = attributes): Attributes {
    fillAttributes(into);
    return this.translated(into, statDeviceNumber());
  }

  /**
   * Attributes of an open descriptor, as guests see them. The birth time is missing.
   * @throws FsError
   */
  attributesOf(fd: Fd): Attributes {
    const code = fillFromDescriptor(fd, attributes);
    if (code < 0) throw FsError.of(-code);
    return this.translated(attributes, words[(offset.stat + STAT.DEV) >>> 2]!);
  }

  /**
   * Translates attributes that were just filled from the host to the guest: owner and inode number.
   * @param device that holds the file.
   */
  translated(filled: OwnAttributes, device: number): Attributes {
    if (!this.inodeNumbers.isOwn(device)) filled.ino = this.inodeNumbers.shown(device, filled.ino!);
    filled.uid = this.uids.toGuest(filled.uid);
    filled.gid = this.gids.toGuest(filled.gid);
    return filled;
  }

  /**
   * The answer for a node whose stat result is in call memory. @param submount whether the node is
   * the root of a mount below its parent.
   */
  entry(node: Node, submount: boolean, into = entry): Entry<Node> {
    const filled = into.attributes;
    this.attributes(filled);
    filled.submount = submount && this.options.submounts === 'announce' && isDirectory(filled.mode);
    into.node = node;
    if (this.#ungiven.size > 0) this.#ungiven.delete(node);
    return into;
  }

  /** Registers an action for {@link close}. */
  onClose(action: () => void): void {
    this.#onClose.push(action);
  }

  close(): void {
    for (const action of this.#onClose.splice(0)) action();
    for (const fd of this.claims.splice(0)) close(fd);
    this.nodes.close();
    this.mounts.close();
  }
}

/**
 * Opens the shared directory, whose path may have any bytes.
 * @returns minus the errno if it fails.
 */
function openShared(directory: string): Fd {
  if (nameLength(directory) >= PATH_MAX_BYTES) return -Errno.ENAMETOOLONG as Fd;
  return openat(AT.FDCWD, putTarget(directory), O.PATH | O.DIRECTORY, 0);
}

function refusal(directory: string, error: FsError): UsageError {
  if (error.code === 'ENOENT') return new UsageError(`--shared-dir ${directory}: no such directory`);
  if (error.code === 'ENOTDIR') return new UsageError(`--shared-dir ${directory}: not a directory`);
  return new UsageError(`--shared-dir ${directory}: cannot be opened (${error.code})`);
}

function isDirectory(mode: number): boolean {
  return (mode & FileType.MASK) === FileType.DIRECTORY;
}
