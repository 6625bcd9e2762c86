import type { Fd } from '../../core/system/index.js';
import { engineSlot } from '../../core/backend/accelerator.js';
import { readlinkSync } from 'node:fs';
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
  type SecurityContext,
  UsageError,
} from '../../core/backend/index.js';
import { AT, O, STAT, chmod, close, open, openat } from '../../core/system/calls/files.js';
import { isAtOrBelow, ownMounts, readMounts } from '../../core/system/calls/own-mounts.js';
import { removexattr, setxattr } from '../../core/system/calls/xattrs.js';
import { isRestricted } from '../../core/system/confinement/landlock.js';
import { MAX_HANDLE_BYTES, nameToHandleAt, openByHandleAt } from '../../core/system/calls/file-handles.js';
import { impersonate, prepare } from './calls/impersonation.js';
import { IdMap } from './maps/id-map.js';
import { InodeNumbers } from './maps/inode-numbers.js';
import { handleMount, isMountOf, type Mount, Mounts } from './nodes/mounts.js';
import { HandleType, type Node, Nodes } from './nodes/nodes.js';
import type { Options } from './options.js';
import {
  at,
  bytes,
  offset,
  putDescriptorPath,
  putName,
  putTarget,
  putText,
  words,
} from './calls/call-memory.js';
import { XattrMap } from './maps/xattr-map.js';
import {
  coveredBy,
  fillAttributes,
  fillFromDescriptor,
  type OwnAttributes,
  isStillNamed,
  statDescriptor,
  statDeviceNumber,
  statInoHigh,
  statInoLow,
  statMode,
  statMount,
  statName,
} from './calls/stat.js';
import { EACCES, ENOENT, ESTALE } from '../../core/system/calls/negative-errno.js';

const ACL_PREFIX = 'system.posix_acl_';
/** Attributes that the kernel gives to CAP_SYS_ADMIN alone, xattr(7). */
const TRUSTED_PREFIX = 'trusted.';
const CAPABILITY = 'security.capability';

/**
 * Attempts of a look-up before EAGAIN: it starts again when the host renamed or replaced the file
 * between two system calls.
 */
const LOOKUP_ATTEMPTS = 16;

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
  readonly uids: IdMap;
  readonly gids: IdMap;
  readonly inodeNumbers: InodeNumbers;
  readonly xattrMap: XattrMap | undefined;
  readonly #onClose: (() => void)[] = [];
  /** Descriptors of claimed directories. Each holds an exclusive flock(2). */
  readonly claims: Fd[] = [];
  /** Whether owners are translated. */
  readonly translates: boolean;
  readonly #refusesPrivileged: boolean;
  readonly #mappedCapability: string | undefined;
  readonly #recordsNames = isRestricted();

  /** @throws UsageError if the directory cannot be shared. */
  constructor(options: Options, log: Logger) {
    this.options = options;
    this.log = log;
    prepare();
    this.uids = new IdMap(options.translateUid, 'translate-uid');
    this.gids = new IdMap(options.translateGid, 'translate-gid');
    this.xattrMap = options.xattrmap === undefined ? undefined : new XattrMap(options.xattrmap);
    this.translates = this.uids.active || this.gids.active;
    this.#refusesPrivileged =
      (options.privilegedFiles ?? (this.translates ? 'refuse' : 'allow')) === 'refuse';
    this.#mappedCapability = mappedCapability(this.xattrMap);
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
    for (let attempt = 1; ; attempt++) {
      if (code === ENOENT) return undefined;
      if (code < 0) throw FsError.of(-code);
      const mount = this.#statMountOf(parent, fd, name);
      const node = mount && (this.#known(mount) ?? this.#identify(mount, fd, name));
      if (mount !== undefined && node !== undefined && this.#holds(node)) {
        if (this.#recordsNames) {
          node.parent = parent;
          node.name = text;
        }
        return this.entry(node, mount.index !== this.nodes.mountIndex(parent), into);
      }
      if (attempt === LOOKUP_ATTEMPTS) throw FsError.of('EAGAIN');
      code = statName(fd, name);
    }
  }

  /**
   * The node and attributes of a file that was just created and is open as `fd`. `text` is its
   * name, or empty if it has none.
   */
  adopt(parent: Node, fd: Fd, text: string): Entry<Node> {
    const code = statDescriptor(fd);
    if (code < 0) throw FsError.of(-code);
    const mount = this.mountOf(parent);
    const node = this.#known(mount) ?? this.#identifyDescriptor(mount, fd, -1 as Fd);
    if (this.#recordsNames && text !== '') {
      node.parent = parent;
      node.name = text;
    }
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
    if (this.#refusesPrivileged && !(type === FileType.CHARACTER && rdev === 0)) throw FsError.of('EPERM');
  }

  /**
   * Name on the host of an extended attribute that a guest sets or removes.
   * @throws FsError EPERM, EOPNOTSUPP for one that it may not have.
   */
  hostXattrToChange(name: string): string {
    const hostName = this.hostXattr(name);
    if (this.hidesXattr(hostName)) throw FsError.of('EPERM');
    return hostName;
  }

  /**
   * Whether a guest has no attribute of this name on the host, although the daemon may have it: the
   * capability is the daemon's, for another of its exports perhaps.
   */
  hidesXattr(hostName: string): boolean {
    return this.options.trustedXattrs === 'refuse' && hostName.startsWith(TRUSTED_PREFIX);
  }

  /**
   * Name on the host of an extended attribute that a guest reads.
   * @throws FsError EPERM, EOPNOTSUPP for one that it may not have.
   */
  hostXattr(name: string): string {
    // Access control lists name users: see `usesAcls`.
    if (this.translates && name.startsWith(ACL_PREFIX)) throw FsError.of('EOPNOTSUPP');
    return this.xattrMap === undefined ? name : this.xattrMap.toHost(name);
  }

  /**
   * Name on the host of an extended attribute that a guest sets.
   * @throws FsError as {@link hostXattr}; EPERM for a file's capabilities, where guests are not to
   * make what is privileged on the host.
   */
  hostXattrToSet(name: string): string {
    const hostName = this.hostXattrToChange(name);
    if (this.#refusesPrivileged && hostName === CAPABILITY) throw FsError.of('EPERM');
    return hostName;
  }

  /**
   * Sets the security context of a new file, before any guest can have seen the file.
   * @returns 0 or minus the errno.
   */
  label(fd: Fd, context: SecurityContext): number {
    let name: string;
    try {
      name = this.hostXattrToSet(context.name);
    } catch (error) {
      if (error instanceof FsError) return -error.errno;
      throw error;
    }
    bytes.set(context.value, offset.xattr);
    const { length } = context.value;
    const code = setxattr(putDescriptorPath(fd), putText(name), at.xattr, length, 0);
    if (code !== EACCES || statDescriptor(fd) < 0) return code;
    // Mapped to `user.`, it needs leave to write the file, xattr(7): one who has no privilege gives
    // it to himself.
    const mode = statMode() & 0o7777;
    if (chmod(putDescriptorPath(fd), mode | 0o200) < 0) return code;
    const again = setxattr(putDescriptorPath(fd), putText(name), at.xattr, length, 0);
    chmod(putDescriptorPath(fd), mode);
    return again;
  }

  /**
   * Removes a file's capabilities, as every change of content or owner must. The host's kernel does
   * it itself unless an xattr map stores them under another name.
   */
  dropCapabilities(fd: Fd): void {
    if (this.#mappedCapability !== undefined)
      removexattr(putDescriptorPath(fd), putText(this.#mappedCapability));
  }

  /**
   * Whether the xattr map stores file capabilities under another name, so that {@link
   * dropCapabilities} has work to do.
   */
  get hasMappedCapability(): boolean {
    return this.#mappedCapability !== undefined;
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
   * Opens a node by its handle. Landlock refuses (EACCES) a file whose directory the kernel does
   * not have in memory: it cannot tell that the file lies in the share. The file is then looked up
   * once by its last known name, which brings the directory into memory, and opened again.
   * @returns a descriptor or minus the errno.
   */
  reopen(node: Node, flags: number): Fd {
    const fd = this.nodes.openByHandle(node, flags);
    if (fd !== EACCES || !this.#recordsNames) return fd;
    return this.reconnect(node) ? this.nodes.openByHandle(node, flags) : (ESTALE as Fd);
  }

  /**
   * Stats a node that has no descriptor, into call memory. Takes one call if the node's last known
   * name still belongs to it; otherwise the node is opened by its handle first.
   * @throws FsError
   */
  statUnanchored(node: Node): void {
    const parent = this.lastSeenParent(node);
    if (parent !== undefined) {
      const fd = this.nodes.descriptor(parent);
      if (fd >= 0 && statName(fd, putName(node.name)) >= 0 && this.isStatOf(node)) return;
    }
    const code = statDescriptor(this.descriptor(node));
    if (code < 0) throw FsError.of(-code);
    this.nodes.identifyByBirth(node, Date.now());
  }

  /**
   * The directory in which a node was last seen, if a stat of its name there can prove that it is
   * still the same file: see {@link isStatOf}. Otherwise undefined.
   */
  lastSeenParent(node: Node): Node | undefined {
    const { parent } = node;
    if (!this.#recordsNames || parent === undefined) return undefined;
    return this.nodes.hasBirth(node) && this.nodes.has(parent) ? parent : undefined;
  }

  /**
   * Whether the stat result in call memory belongs to this node. It comes from a stat of the node's
   * last known name.
   */
  isStatOf(node: Node): boolean {
    if (!this.nodes.isStatOf(node)) return false;
    this.nodes.noteLookup(node);
    return true;
  }

  /**
   * Looks a node up by its last known name, so that the kernel knows its directory: see {@link
   * reopen}. @returns whether the name still belongs to the node.
   */
  reconnect(node: Node): boolean {
    const { parent, name } = node;
    if (!this.#recordsNames || parent === undefined || !this.nodes.has(parent)) return false;
    const fd = this.nodes.descriptor(parent);
    if (fd < 0 || takeHandle(fd, putName(name), 0) < 0 || !this.nodes.hasHandleInCallMemory(node))
      return false;
    this.nodes.closeCached(node);
    return true;
  }

  /** The known node that a name stands for, if the mount has file handles. */
  known(parent: Node, fd: Fd, name: number): Node | undefined {
    const mount = this.mountOf(parent);
    if (mount.fd < 0 || takeHandle(fd, name, 0) < 0 || !isMountOf(handleMount(), mount.id)) return undefined;
    return this.nodes.findByHandle(mount.index);
  }

  /** Records the new name of a node after a rename. */
  moved(node: Node | undefined, parent: Node, name: string): void {
    if (!this.#recordsNames || node === undefined) return;
    node.parent = parent;
    node.name = name;
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
    return into;
  }

  /** Opens the file handle in call memory. @returns an O_PATH descriptor or minus the errno. */
  openHandle(mount: Mount): Fd {
    return openByHandleAt(mount.fd, at.handle, O.PATH | O.NOFOLLOW);
  }

  /**
   * Registers all file systems that are mounted below the share now. Restored nodes may lie on them
   * before any guest has walked there.
   */
  discoverMounts(): void {
    if (this.options.submounts === 'refuse') return;
    const root = readlinkSync(`/proc/self/fd/${this.descriptor(this.root)}`);
    for (const { directory: path } of readMounts()) {
      if (path === root || !isAtOrBelow(path, root) || ownMounts.above(path) !== undefined) continue;
      const fd = open(path, O.PATH | O.NOFOLLOW);
      if (fd < 0) continue;
      if (statDescriptor(fd) === 0 && this.mounts.find(statMount()) === undefined) {
        this.#addMount(statMount(), fd, isDirectory(statMode()), path.slice(root.length));
      }
      close(fd);
    }
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

  /**
   * Keeps a descriptor of a file that was just looked up, if files have turned out to be replaced
   * under their names. @returns whether the file is still there.
   */
  #holds(node: Node): boolean {
    if (!this.nodes.isWary || this.nodes.hold(node)) return true;
    // The engine has not seen it yet, and will not.
    if (node[engineSlot] < 0) this.nodes.forget(node);
    return false;
  }

  /**
   * The mount of the file that was just stat'ed as `name`; undefined if the host replaced the file
   * since.
   */
  #statMountOf(parent: Node, fd: Fd, name: number): Mount | undefined {
    const own = this.mountOf(parent);
    const id = statMount();
    if (id === own.id) return own;
    if (this.options.submounts === 'refuse') throw FsError.of('EXDEV');
    const known = this.mounts.find(id);
    if (known !== undefined) return known;
    const directory = isDirectory(statMode());
    const found = openat(fd, name, O.PATH | O.NOFOLLOW, 0);
    if (found < 0) return undefined;
    try {
      if (statDescriptor(found) < 0 || statMount() !== id) return undefined;
      const path = readlinkSync(`/proc/self/fd/${found}`);
      const root = readlinkSync(`/proc/self/fd/${this.descriptor(this.root)}`);
      return this.#addMount(id, found, directory, path.slice(root.length));
    } finally {
      close(found);
    }
  }

  /** Enters a mount, and its device, of which the stat result is in call memory. */
  #addMount(id: number, fd: Fd, directory: boolean, path: string): Mount {
    const device = statDeviceNumber();
    const mount = this.mounts.add(id, fd, directory, path);
    this.inodeNumbers.enter(device, [mount.fsid, mount.fsidHigh, mount.tag]);
    return mount;
  }

  /**
   * The known node with the stat result in call memory, if device, inode number and birth time
   * suffice to tell.
   */
  #known(mount: Mount): Node | undefined {
    return this.nodes.findByStat(mount.index, statInoLow(), statInoHigh());
  }

  /**
   * The node, known or new, of the file that was just stat'ed as `name`. Undefined if the name
   * stands for another file by now.
   */
  #identify(mount: Mount, fd: Fd, name: number): Node | undefined {
    if (mount.fd >= 0) {
      const time = Date.now();
      const code = takeHandle(fd, name, 0);
      if (code < 0) {
        if (code === ENOENT) return undefined;
      } else if (!isMountOf(handleMount(), mount.id)) {
        if (coveredBy(fd, name) < 0) return undefined;
      } else {
        const known = this.nodes.findByHandle(mount.index);
        const named = handleNames(statInoLow(), statInoHigh());
        if (known !== undefined && this.nodes.hasIno(known, statInoLow(), statInoHigh())) {
          if (named) this.nodes.identifyByBirth(known, time);
          this.nodes.noteLookup(known);
          return known;
        }
        if (known === undefined && named) {
          // The host may have replaced the file between stat and handle, by one that has the same
          // inode number again. A second stat with the same birth time and type excludes that.
          if (!isStillNamed(fd, name)) return undefined;
          const node = this.nodes.addByHandle(mount.index, statMode(), statInoLow(), statInoHigh());
          this.nodes.identifyByBirth(node, time);
          return node;
        }
      }
    }
    const covered = coveredBy(fd, name);
    const found =
      covered >= 0 ? openat(covered, at.here, O.PATH, 0) : openat(fd, name, O.PATH | O.NOFOLLOW, 0);
    if (found < 0) return undefined;
    if (statDescriptor(found) < 0 || statMount() !== mount.id) {
      close(found);
      return undefined;
    }
    const known = this.#known(mount);
    if (known !== undefined) {
      close(found);
      return known;
    }
    return this.#identifyDescriptor(mount, found, found);
  }

  /**
   * The node, known or new, of the file open as `fd`, whose stat result is in call memory.
   * @param own an O_PATH descriptor of the file that this call keeps or closes, or -1 if there is
   * none.
   */
  #identifyDescriptor(mount: Mount, fd: Fd, own: Fd): Node {
    if (mount.fd >= 0 && takeHandle(fd, at.empty, AT.EMPTY_PATH) >= 0) {
      if (own >= 0) close(own);
      return (
        this.nodes.findByHandle(mount.index) ??
        this.nodes.addByHandle(mount.index, statMode(), statInoLow(), statInoHigh())
      );
    }
    const kept = own >= 0 ? own : openat(AT.FDCWD, putDescriptorPath(fd), O.PATH, 0);
    if (kept < 0) throw FsError.of(-kept);
    return this.nodes.addByDescriptor(mount.index, statMode(), statInoLow(), statInoHigh(), kept);
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

/**
 * The host's name of the file capabilities attribute if the xattr map gives it another one;
 * otherwise undefined.
 */
function mappedCapability(map: XattrMap | undefined): string | undefined {
  try {
    const name = map?.toHost(CAPABILITY);
    return name === CAPABILITY ? undefined : name;
  } catch {
    return undefined;
  }
}

function isDirectory(mode: number): boolean {
  return (mode & FileType.MASK) === FileType.DIRECTORY;
}

/** Reads a file's handle into call memory, name_to_handle_at(2). @returns 0 or minus the errno. */
export function takeHandle(fd: Fd, name: number, flags: number): number {
  words[offset.handle >>> 2] = MAX_HANDLE_BYTES;
  const code = nameToHandleAt(fd, name, at.handle, at.mountId, flags);
  // No file system uses types above 255 (Linux `include/linux/exportfs.h`), and a node's
  // description has 8 bits for them.
  return code >= 0 && words[(offset.handle >>> 2) + 1]! > 255 ? -95 : code;
}

/**
 * Whether the handle in call memory contains the inode number that was stat'ed. Stat and handle
 * come from two calls, and the host may have renamed another file to the name between them.
 */
function handleNames(inoLow: number, inoHigh: number): boolean {
  const from = (offset.handle >>> 2) + 2;
  const count = words[offset.handle >>> 2]! >>> 2;
  switch (words[(offset.handle >>> 2) + 1]) {
    case HandleType.INO32_GEN:
      if (count === 2) return words[from] === inoLow && inoHigh === 0;
      return count === 3 && words[from + 1] === inoLow && words[from + 2] === inoHigh;
    case HandleType.XFS_INO64_GEN:
    case HandleType.BTRFS:
      return words[from] === inoLow && words[from + 1] === inoHigh;
    default:
      return false;
  }
}
