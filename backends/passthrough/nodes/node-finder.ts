import { readlinkSync } from 'node:fs';
import { engineSlot } from '../../../core/backend/accelerator.js';
import { FileType, FsError } from '../../../core/backend/index.js';
import { MAX_HANDLE_BYTES, nameToHandleAt, openByHandleAt } from '../../../core/system/calls/file-handles.js';
import { AT, O, close, open, openat } from '../../../core/system/calls/files.js';
import { EACCES, ENOENT, EOPNOTSUPP, ESTALE } from '../../../core/system/calls/negative-errno.js';
import { isAtOrBelow, ownMounts, readMounts } from '../../../core/system/calls/own-mounts.js';
import { isRestricted } from '../../../core/system/confinement/landlock.js';
import type { Fd } from '../../../core/system/index.js';
import { at, offset, putDescriptorPath, putName, words } from '../calls/call-memory.js';
import {
  coveredBy,
  isStillNamed,
  statDescriptor,
  statDeviceNumber,
  statInoHigh,
  statInoLow,
  statLinks,
  statMode,
  statMount,
  statName,
} from '../calls/stat.js';
import type { InodeNumbers } from '../maps/inode-numbers.js';
import type { Options } from '../options.js';
import { handleMount, isMountOf, type Mount, type Mounts } from './mounts.js';
import { HandleType, type Node, type Nodes, wasBornBefore } from './nodes.js';

/**
 * No file system uses types above this (Linux `include/linux/exportfs.h`), and a node's description
 * has 8 bits for them.
 */
const MOST_HANDLE_TYPE = 255;
/** Words of a `struct file_handle` with all its room. */
export const HANDLE_WORDS = 2 + MAX_HANDLE_BYTES / 4;

/**
 * Attempts of a look-up before EAGAIN: it starts again when the host renamed or replaced the file
 * between two system calls.
 */
const LOOKUP_ATTEMPTS = 16;

/** What a {@link NodeFinder} works on. */
export interface FinderParts {
  readonly mounts: Mounts;
  readonly nodes: Nodes;
  readonly inodeNumbers: InodeNumbers;
  readonly root: Node;
  readonly submounts: Options['submounts'];
}

/**
 * Finds the node of a file: of a name, of a descriptor, or of a node that has to be opened again.
 * The host may rename, replace and remove files between any two system calls. So what is found is
 * checked by file handle, or by inode number and birth time, before it is believed.
 */
export class NodeFinder {
  readonly #mounts: Mounts;
  readonly #nodes: Nodes;
  readonly #inodeNumbers: InodeNumbers;
  readonly #root: Node;
  readonly #submounts: Options['submounts'];
  readonly #recordsNames = isRestricted();
  /** Whether {@link records} all nodes. */
  recordsAll = this.#recordsNames;
  /** Told of a known node that has another directory or name than before. */
  onMoved: ((node: Node) => void) | undefined;
  /** Asked where a node was last seen by a process that was killed. It sets the node's place. */
  recall: ((node: Node) => void) | undefined;
  /** The directory in which a look-up found a file that was not known, and none that was since. */
  #newIn: Node | undefined;
  /** Whether the last look-up found a file that was not known. */
  #wasNew = false;
  /** When the handle in call memory began to be taken, before the stat; 0 where it was not. */
  #handleTime = 0;

  constructor({ mounts, nodes, inodeNumbers, root, submounts }: FinderParts) {
    this.#mounts = mounts;
    this.#nodes = nodes;
    this.#inodeNumbers = inodeNumbers;
    this.#root = root;
    this.#submounts = submounts;
  }

  /**
   * Stats a name for {@link found}, which must be called next. Where the file is likely to be a new
   * one, its handle is taken first. A file that was there before that has this handle if it has its
   * inode number, so that no second stat is needed to be sure of it.
   * @returns 0 or minus the errno.
   */
  statName(parent: Node, fd: Fd, name: number): number {
    if (this.#newIn === parent && this.#takesHandles(parent)) {
      const time = Date.now();
      const code = takeHandle(fd, name, 0);
      if (code === ENOENT) return code;
      if (code >= 0) this.#handleTime = time;
    }
    return statName(fd, name);
  }

  /**
   * Whether names of a directory that are looked up together are likely to be new ones, so that
   * their handles are worth taking before their stats: see {@link statName}. Listings come from one
   * directory after another, of which mostly all files are known or none.
   */
  expectsNew(parent: Node): boolean {
    return (this.#wasNew || this.#newIn === parent) && this.#takesHandles(parent);
  }

  /**
   * The handle in call memory was taken before the stat that {@link found} is told of next.
   * @param time milliseconds since 1970, read before the handle was taken.
   */
  handleWasTaken(time: number): void {
    this.#handleTime = time;
  }

  #takesHandles(parent: Node): boolean {
    return !ownMounts.any && this.#mountOf(parent).fd >= 0;
  }

  /**
   * The node of a name whose stat has been made: `code` is its result, and the attributes are in
   * call memory. They are those of the node afterwards.
   * @param parent the directory, of which `fd` is a descriptor
   * @param name address of the name in native memory; `text` is the same name as a string
   * @returns undefined if there is no such name.
   * @throws FsError
   */
  found(code: number, parent: Node, fd: Fd, name: number, text: string): Node | undefined {
    const time = this.#handleTime;
    this.#handleTime = 0;
    for (let attempt = 1; ; attempt++) {
      if (code === ENOENT) return undefined;
      if (code < 0) throw FsError.of(-code);
      const mount = this.#statMountOf(parent, fd, name);
      const { size } = this.#nodes;
      const known = mount && this.#known(mount);
      let node = known;
      if (mount !== undefined && node === undefined) {
        if (time > 0 && attempt === 1 && mount === this.#mountOf(parent))
          node = this.#identifyByTaken(mount, time);
        node ??= this.#identify(mount, fd, name);
      }
      this.#wasNew = known === undefined;
      if (known === undefined) this.#newIn = parent;
      else if (this.#newIn === parent) this.#newIn = undefined;
      const isNew = this.#nodes.size > size;
      if (mount !== undefined && node !== undefined && this.#holds(node, isNew)) {
        if (this.records(node)) {
          if (node.parent !== parent || node.name !== text) this.#keepsOther(node);
          this.#seen(node, parent, text);
        }
        return node;
      }
      if (attempt === LOOKUP_ATTEMPTS) throw FsError.of('EAGAIN');
      code = statName(fd, name);
    }
  }

  /**
   * The node of a file that was just created, is open as `fd`, and whose stat result is in call
   * memory. `text` is its name, or empty if it has none.
   */
  adopted(parent: Node, fd: Fd, text: string): Node {
    const mount = this.#mountOf(parent);
    const node = this.#known(mount) ?? this.#identifyDescriptor(mount, fd, -1 as Fd);
    if (text !== '' && this.records(node)) this.#seen(node, parent, text);
    return node;
  }

  /**
   * Whether it is recorded where a node was seen last: {@link reopen} needs that under Landlock,
   * who follows this process, if it is killed, to find files without handles, and another host to
   * find any.
   */
  records(node: Node): boolean {
    return this.recordsAll || !this.#nodes.hasHandle(node);
  }

  /** Where a file with several names was seen before it may be found, too. */
  #keepsOther(node: Node): void {
    const { parent, name } = node;
    if (parent === undefined || this.#nodes.hasHandle(node) || isDirectory(statMode())) return;
    if (statLinks() > 1) node.other = { parent, name };
  }

  #seen(node: Node, parent: Node, name: string): void {
    if (node.parent === parent && node.name === name) return;
    node.parent = parent;
    node.name = name;
    if (node[engineSlot] >= 0) this.onMoved?.(node);
  }

  /**
   * Opens a node by its handle. Landlock refuses (EACCES) a file whose directory the kernel does
   * not have in memory: it cannot tell that the file lies in the share. The file is then looked up
   * once by its last known name, which brings the directory into memory, and opened again.
   * @returns a descriptor or minus the errno.
   */
  reopen(node: Node, flags: number): Fd {
    const fd = this.#nodes.openByHandle(node, flags);
    if (fd !== EACCES || !this.#recordsNames) return fd;
    return this.whileNamed(node, () => this.#nodes.openByHandle(node, flags)) ?? (ESTALE as Fd);
  }

  /**
   * Stats a node that has no descriptor, into call memory. Takes one call if the node's last known
   * name still belongs to it; otherwise the node is opened by its handle first.
   * @throws FsError
   */
  statUnanchored(node: Node): void {
    const parent = this.lastSeenParent(node);
    if (parent !== undefined) {
      const fd = this.#nodes.descriptor(parent);
      if (fd >= 0 && statName(fd, putName(node.name)) >= 0 && this.isStatOf(node)) return;
    }
    const code = statDescriptor(this.#descriptor(node));
    if (code < 0) throw FsError.of(-code);
    this.#nodes.identifyByBirth(node, Date.now());
  }

  /**
   * The directory in which a node was last seen, if a stat of its name there can prove that it is
   * still the same file: see {@link isStatOf}. Otherwise undefined.
   */
  lastSeenParent(node: Node): Node | undefined {
    const { parent } = node;
    if (!this.#recordsNames || parent === undefined) return undefined;
    return this.#nodes.hasBirth(node) && this.#nodes.has(parent) ? parent : undefined;
  }

  /**
   * Whether the stat result in call memory belongs to this node. It comes from a stat of the node's
   * last known name.
   */
  isStatOf(node: Node): boolean {
    if (!this.#nodes.isStatOf(node)) return false;
    this.#nodes.noteLookup(node);
    return true;
  }

  /**
   * Does something while a node is open by its last known name, so that the kernel knows its
   * directory (see {@link reopen}) and does not forget it meanwhile.
   * @param use gets an O_PATH descriptor of the node.
   * @returns undefined if the name does not belong to the node any more.
   */
  whileNamed<T>(node: Node, use: (fd: Fd) => T): T | undefined {
    if (this.#recordsNames && node.parent === undefined) this.recall?.(node);
    const { parent, name } = node;
    if (!this.#recordsNames || parent === undefined || !this.#nodes.has(parent)) return undefined;
    const directory = this.#nodes.descriptor(parent);
    const fd = directory < 0 ? directory : openat(directory, putName(name), O.PATH | O.NOFOLLOW, 0);
    if (fd < 0) return undefined;
    try {
      const isIts = takeHandle(fd, at.empty, AT.EMPTY_PATH) >= 0 && this.#nodes.hasHandleInCallMemory(node);
      if (!isIts) return undefined;
      this.#nodes.closeCached(node);
      return use(fd);
    } finally {
      close(fd);
    }
  }

  /** The known node that a name stands for, if that is certain, on its directory's mount. */
  known(parent: Node, fd: Fd, name: number): Node | undefined {
    const mount = this.#mountOf(parent);
    if (mount.fd < 0)
      return statName(fd, name) < 0 || statMount() !== mount.id ? undefined : this.#known(mount);
    if (takeHandle(fd, name, 0) < 0 || !isMountOf(handleMount(), mount.id)) return undefined;
    return this.#nodes.findByHandle(mount.index);
  }

  /** Records where a node without a handle is about to get a name, to be found there or here. */
  moves(node: Node | undefined, parent: Node, name: string): void {
    if (node === undefined || this.#nodes.hasHandle(node)) return;
    node.other = { parent, name };
    if (node[engineSlot] >= 0) this.onMoved?.(node);
  }

  /** Records the new name of a node after a rename. */
  moved(node: Node | undefined, parent: Node, name: string): void {
    if (node === undefined) return;
    node.other = undefined;
    if (this.records(node)) this.#seen(node, parent, name);
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
    if (this.#submounts === 'refuse') return;
    const root = readlinkSync(`/proc/self/fd/${this.#descriptor(this.#root)}`);
    for (const { directory: path } of readMounts()) {
      if (path === root || !isAtOrBelow(path, root) || ownMounts.above(path) !== undefined) continue;
      const fd = open(path, O.PATH | O.NOFOLLOW);
      if (fd < 0) continue;
      if (statDescriptor(fd) === 0 && this.#mounts.find(statMount()) === undefined) {
        this.#addMount(statMount(), fd, isDirectory(statMode()), path.slice(root.length));
      }
      close(fd);
    }
  }

  /**
   * Keeps a descriptor of a file that was just looked up, if files have turned out to be replaced
   * under their names. @returns whether the file is still there.
   */
  #holds(node: Node, isNew: boolean): boolean {
    if (!this.#nodes.isWary || this.#nodes.hold(node)) return true;
    // Nobody has seen it yet, and nobody will.
    if (isNew) this.#nodes.forget(node);
    return false;
  }

  /**
   * The mount of the file that was just stat'ed as `name`; undefined if the host replaced the file
   * since.
   */
  #statMountOf(parent: Node, fd: Fd, name: number): Mount | undefined {
    const own = this.#mountOf(parent);
    const id = statMount();
    if (id === own.id) return own;
    if (this.#submounts === 'refuse') throw FsError.of('EXDEV');
    const known = this.#mounts.find(id);
    if (known !== undefined) return known;
    const directory = isDirectory(statMode());
    const found = openat(fd, name, O.PATH | O.NOFOLLOW, 0);
    if (found < 0) return undefined;
    try {
      if (statDescriptor(found) < 0 || statMount() !== id) return undefined;
      const path = readlinkSync(`/proc/self/fd/${found}`);
      const root = readlinkSync(`/proc/self/fd/${this.#descriptor(this.#root)}`);
      return this.#addMount(id, found, directory, path.slice(root.length));
    } finally {
      close(found);
    }
  }

  /** Enters a mount, and its device, of which the stat result is in call memory. */
  #addMount(id: number, fd: Fd, directory: boolean, path: string): Mount {
    const device = statDeviceNumber();
    const mount = this.#mounts.add(id, fd, directory, path);
    this.#inodeNumbers.enter(device, [mount.fsid, mount.fsidHigh, mount.tag]);
    return mount;
  }

  /**
   * The known node with the stat result in call memory, if device, inode number and birth time
   * suffice to tell.
   */
  #known(mount: Mount): Node | undefined {
    return this.#nodes.findByStat(mount.index, statInoLow(), statInoHigh());
  }

  /**
   * The node, known or new, of the file that was just stat'ed, by the handle that was taken before
   * that. Undefined if it may be the handle of another file, which had the same inode number.
   * @param time milliseconds since 1970, read before the handle was taken.
   */
  #identifyByTaken(mount: Mount, time: number): Node | undefined {
    if (!isMountOf(handleMount(), mount.id) || !handleNames(statInoLow(), statInoHigh())) return undefined;
    if (!wasBornBefore(time)) return undefined;
    const known = this.#nodes.findByHandle(mount.index);
    const node = known ?? this.#nodes.addByHandle(mount.index, statMode(), statInoLow(), statInoHigh());
    this.#nodes.identifyByBirth(node, time);
    if (known !== undefined) this.#nodes.noteLookup(known);
    return node;
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
        const known = this.#nodes.findByHandle(mount.index);
        const named = handleNames(statInoLow(), statInoHigh());
        if (known !== undefined && this.#nodes.hasIno(known, statInoLow(), statInoHigh())) {
          if (named) this.#nodes.identifyByBirth(known, time);
          this.#nodes.noteLookup(known);
          return known;
        }
        if (known === undefined && named) {
          // The host may have replaced the file between stat and handle, by one that has the same
          // inode number again. A second stat with the same birth time and type excludes that.
          if (!isStillNamed(fd, name)) return undefined;
          const node = this.#nodes.addByHandle(mount.index, statMode(), statInoLow(), statInoHigh());
          this.#nodes.identifyByBirth(node, time);
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
        this.#nodes.findByHandle(mount.index) ??
        this.#nodes.addByHandle(mount.index, statMode(), statInoLow(), statInoHigh())
      );
    }
    const kept = own >= 0 ? own : openat(AT.FDCWD, putDescriptorPath(fd), O.PATH, 0);
    if (kept < 0) throw FsError.of(-kept);
    return this.#nodes.addByDescriptor(mount.index, statMode(), statInoLow(), statInoHigh(), kept);
  }

  #mountOf(node: Node): Mount {
    return this.#mounts.all[this.#nodes.mountIndex(node)]!;
  }

  /** @throws FsError ESTALE if the file is gone. */
  #descriptor(node: Node): Fd {
    const fd = this.#nodes.descriptor(node);
    if (fd < 0) throw FsError.of(-fd);
    return fd;
  }
}

function isDirectory(mode: number): boolean {
  return (mode & FileType.MASK) === FileType.DIRECTORY;
}

/** Reads a file's handle into call memory, name_to_handle_at(2). @returns 0 or minus the errno. */
export function takeHandle(fd: Fd, name: number, flags: number): number {
  words[offset.handle >>> 2] = MAX_HANDLE_BYTES;
  const code = nameToHandleAt(fd, name, at.handle, at.mountId, flags);
  return code >= 0 && words[(offset.handle >>> 2) + 1]! > MOST_HANDLE_TYPE ? EOPNOTSUPP : code;
}

/**
 * Copies a file handle, its mount's id behind it, into call memory.
 * @param start index of the first word of a `struct file_handle` that the kernel has filled.
 * @returns false for a type that is not served.
 */
export function putHandle(from: Uint32Array, start: number): boolean {
  if (from[start + 1]! > MOST_HANDLE_TYPE) return false;
  const to = offset.handle >>> 2;
  const count = 2 + ((from[start]! + 3) >>> 2);
  for (let i = 0; i < count; i++) words[to + i] = from[start + i]!;
  words[offset.mountId >>> 2] = from[start + HANDLE_WORDS]!;
  return true;
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
