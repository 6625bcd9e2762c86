import { engineSlot, type StatIdentity } from '../../../core/backend/accelerator.js';
import { Errno, FsError, type Logger } from '../../../core/backend/index.js';
import { O, close, closeLater } from '../../../core/system/calls/files.js';
import { openByHandleAt } from '../../../core/system/calls/file-handles.js';
import { type Fd, closeBacking, descriptorLimit, settleBackings } from '../../../core/system/index.js';
import type { Mounts } from './mounts.js';
import type { OpenFile } from './open-file.js';
import { at, offset, words } from '../calls/call-memory.js';
import {
  NO_BIRTH,
  statBirthNanoseconds,
  statBirthSeconds,
  statInoHigh,
  statInoLow,
  statMount,
} from '../calls/stat.js';

/**
 * A file that a guest knows. The rest of what is known about it lies in the columns of {@link
 * Nodes}, at index `slot`.
 */
export class Node {
  [engineSlot] = -1;
  slot: number;
  /** Its open files, a list linked by `next`. */
  open: OpenFile | undefined = undefined;
  /**
   * Directory in which the file was last seen, and its name there. Recorded under Landlock, and of
   * files without handles: see `NodeFinder.records`.
   */
  parent: Node | undefined = undefined;
  name = '';
  /**
   * Another place where a file without a handle may be: a hard link of it, or where it is after a
   * rename whose end nobody has seen.
   */
  other: { readonly parent: Node; readonly name: string } | undefined = undefined;

  constructor(slot: number) {
    this.slot = slot;
  }
}

const NONE = -1;
const INITIAL_CAPACITY = 1024;
/**
 * Words of a handle that fit its column. Longer handles (overlayfs, some network file systems) go
 * to a map.
 */
const HANDLE_WORDS = 8;
/** Default limit of cached descriptors. Each pins about 1.5 kB of kernel memory. */
const CACHED_DEFAULT_MAX = 16_384;
/**
 * Cached descriptors that nodes may have that were not looked up repeatedly: enough for walking one
 * path after another.
 */
const UNUSED_LIMIT = 512;
/**
 * Look-ups in one epoch. Nodes store the epoch of their last look-up in 16 bits, which must reach
 * back over the whole cache.
 */
const LOOKUPS_PER_EPOCH = 8;

/**
 * Look-ups after a handle turned out stale in which each file that is found keeps a descriptor.
 * Linux asks once more after ESTALE, and the file may be replaced again by then.
 */
const WARY_LOOKUPS = 64;

/** Large files without a name that are closed last on the thread pool, at a time. */
const LEAVING_LIMIT = 64;

/**
 * Most milliseconds by which a birth time may lag behind the clock. File systems take it from the
 * last tick, which is 10 ms ago at most; this is twice that.
 */
const BIRTH_LAG_MS = 20;

/**
 * Types of file handles that contain the inode number and its generation: `FILEID_INO32_GEN` (ext4;
 * tmpfs, with 64 bits), xfs, btrfs.
 */
export const HandleType = { INO32_GEN: 1, XFS_INO64_GEN: 0x81, BTRFS: 0x4d } as const;
const GENERATIONS: ReadonlySet<number> = new Set(Object.values(HandleType));

/** Cached descriptors of all shares of this process together. */
let cachedInAll = 0;

/** How long a node keeps its own descriptor. */
const Keep = {
  /** Until another node needs its place. */
  CACHED: 0,
  /** Until the node is forgotten: it has no handle, or its last name may be gone. */
  HELD: 1,
} as const;

/**
 * The files that guests know. They are identified by file handle, or by an open descriptor where
 * the file system has no handles.
 *
 * A node is *anchored* while a descriptor of it is open here, its own or an open file's. Its inode
 * number cannot be given to another file then, so device and inode number identify it. Together
 * with the birth time they also identify a file that is not anchored, once it was seen some time
 * after its birth: a file that gets the number later is born later. Such nodes are found by a stat
 * alone, others by their handle.
 *
 * A node costs 32 bytes for its handle, 38 in other columns, and about 80 in JavaScript objects.
 */
export class Nodes {
  readonly #mounts: Mounts;
  readonly #log: Logger;
  readonly #nodes: (Node | undefined)[] = [];
  #free = NONE;

  // Columns, indexed by slot.
  #handles = new Uint32Array(INITIAL_CAPACITY * HANDLE_WORDS);
  /**
   * From the top: handle type 8 bits, handle words 8, file type 4, mount index 12. In a free slot:
   * the next free slot, plus 1.
   */
  #info = new Uint32Array(INITIAL_CAPACITY);
  #inoLow = new Uint32Array(INITIAL_CAPACITY);
  #inoHigh = new Uint32Array(INITIAL_CAPACITY);
  /** Birth time, or {@link NO_BIRTH} where it is no part of the node's identity. */
  #birthSeconds = new Uint32Array(INITIAL_CAPACITY);
  #birthNanoseconds = new Uint32Array(INITIAL_CAPACITY);
  #nextByHandle = new Int32Array(INITIAL_CAPACITY);
  #nextByIno = new Int32Array(INITIAL_CAPACITY);
  #descriptor = new Int32Array(INITIAL_CAPACITY).fill(NONE);
  /** Epoch of the last look-up that needed the handle, modulo 2^16. */
  #lookupEpoch = new Uint16Array(INITIAL_CAPACITY);
  readonly #longHandles = new Map<number, Uint32Array>();

  // Heads of the hash chains.
  #byHandle = new Int32Array(INITIAL_CAPACITY).fill(NONE);
  #byIno = new Int32Array(INITIAL_CAPACITY).fill(NONE);

  // The nodes' own descriptors, by place. CACHED ones form a list in order of use, the latest
  // first.
  readonly #fd: Int32Array;
  readonly #slotOf: Int32Array;
  readonly #keep: Uint8Array;
  readonly #newer: Int32Array;
  readonly #older: Int32Array;
  #newest = NONE;
  #oldest = NONE;
  #freePlace = 0;
  #lookups = 0;
  #cached = 0;
  #held = 0;
  readonly #cacheLimit: number;
  /** Most cached descriptors when one is opened for a node that was not looked up recently. */
  readonly #unusedLimit: number;
  /**
   * Above `#unusedLimit`, a new cached descriptor replaces the oldest one when all shares together
   * have this many.
   */
  readonly #limitOfAll: number;
  /**
   * A node that is looked up again within this many epochs gets a cached descriptor, so that
   * further look-ups need one system call. A guest that walks more files than the cache has room
   * for gets none: they would only push each other out.
   */
  readonly #recentEpochs: number;
  readonly #heldLimit: number;
  #loggedFull = false;

  /**
   * @param cached descriptors kept for speed, at least 16. Default: half of those that the process
   * may open, at most 16,384.
   * @param heldLimit descriptors kept for files that can be reached in no other way.
   */
  constructor(mounts: Mounts, cached: number | undefined, heldLimit: number, log: Logger) {
    this.#mounts = mounts;
    this.#log = log;
    this.#limitOfAll = descriptorLimit() >>> 1;
    const cacheLimit = cached ?? Math.min(Math.max(this.#limitOfAll, 16), CACHED_DEFAULT_MAX);
    this.#cacheLimit = cacheLimit;
    this.#unusedLimit = Math.min(cacheLimit, UNUSED_LIMIT);
    this.#recentEpochs = Math.max(cacheLimit, 256) / LOOKUPS_PER_EPOCH;
    this.#heldLimit = heldLimit;
    const places = cacheLimit + heldLimit;
    this.#fd = new Int32Array(places).fill(NONE);
    this.#slotOf = new Int32Array(places);
    this.#keep = new Uint8Array(places);
    this.#newer = new Int32Array(places);
    this.#older = Int32Array.from({ length: places }, (_, place) => (place + 1 < places ? place + 1 : NONE));
  }

  readonly #leaving = new Map<Node, Fd>();

  /** Look-ups that are left in which files keep a descriptor: see {@link hold}. */
  #wary = 0;

  /** Number of known nodes. */
  size = 0;

  /** Called before a node's descriptor is closed. */
  beforeClose: () => void = () => {};

  /** Descriptors kept for nodes; those of open files are not counted. */
  get descriptors(): number {
    return this.#cached + this.#held;
  }

  /** The S_IFMT bits of the file, which never change. */
  fileType(node: Node): number {
    return ((this.#info[node.slot]! >>> 12) & 15) << 12;
  }

  /** Index of the node's mount. */
  mountIndex(node: Node): number {
    return this.#info[node.slot]! & 0xfff;
  }

  /**
   * The node that the stat result in call memory identifies, if it is anchored or its birth time is
   * known.
   */
  findByStat(mountIndex: number, inoLow: number, inoHigh: number): Node | undefined {
    let slot = this.#byIno[inoHash(mountIndex, inoLow) & (this.#byIno.length - 1)]!;
    for (; slot !== NONE; slot = this.#nextByIno[slot]!) {
      if (
        this.#inoLow[slot] === inoLow &&
        this.#inoHigh[slot] === inoHigh &&
        (this.#info[slot]! & 0xfff) === mountIndex
      ) {
        const node = this.#nodes[slot]!;
        if (this.isAnchored(node) || this.#isBorn(slot)) return node;
      }
    }
    return undefined;
  }

  /**
   * Makes the birth time in call memory part of the node's identity, if that is safe.
   * @param time milliseconds since 1970, read before the node was last identified by its handle. A
   * file that is not older than one tick of the file system's clock may be deleted, and another
   * file get its number with the same birth time.
   */
  identifyByBirth(node: Node, time: number): void {
    const { slot } = node;
    const mark = statBirthNanoseconds();
    const seconds = statBirthSeconds();
    if (!GENERATIONS.has(this.#info[slot]! >>> 24)) return;
    if (this.#birthNanoseconds[slot] !== NO_BIRTH || !wasBornBefore(time)) return;
    if (!this.isAnchored(node)) this.#enterIno(slot);
    this.#birthSeconds[slot] = seconds;
    this.#birthNanoseconds[slot] = mark;
  }

  /** Whether the node's birth time is known, so that {@link isStatOf} can be true. */
  hasBirth(node: Node): boolean {
    return this.#birthNanoseconds[node.slot] !== NO_BIRTH;
  }

  /** Whether the stat result in call memory is certainly this node's. */
  isStatOf(node: Node): boolean {
    const { slot } = node;
    return (
      this.#inoLow[slot] === statInoLow() &&
      this.#inoHigh[slot] === statInoHigh() &&
      this.#isBorn(slot) &&
      this.#mounts.all[this.#info[slot]! & 0xfff]!.id === statMount()
    );
  }

  /**
   * The stat fields that only this node has: for ever if its birth time is known, otherwise while
   * it {@link isAnchored}.
   * @param mount the mount's id.
   */
  statIdentity(node: Node, mount: number): StatIdentity | undefined {
    const { slot } = node;
    const mark = this.#birthNanoseconds[slot]!;
    if (mark === NO_BIRTH && !this.isAnchored(node)) return undefined;
    return {
      mount,
      inoLow: this.#inoLow[slot]!,
      inoHigh: this.#inoHigh[slot]!,
      birth:
        mark === NO_BIRTH
          ? undefined
          : { seconds: this.#birthSeconds[slot]!, nanoseconds: mark & 0x7fffffff },
    };
  }

  #isBorn(slot: number): boolean {
    const mark = this.#birthNanoseconds[slot]!;
    return (
      mark !== NO_BIRTH && mark === statBirthNanoseconds() && this.#birthSeconds[slot] === statBirthSeconds()
    );
  }

  /** The node with the handle in call memory. */
  findByHandle(mountIndex: number): Node | undefined {
    const type = handleType();
    const count = handleWords();
    let slot = this.#byHandle[callMemoryHash(mountIndex) & (this.#byHandle.length - 1)]!;
    for (; slot !== NONE; slot = this.#nextByHandle[slot]!) {
      const info = this.#info[slot]!;
      if (info >>> 24 !== type || ((info >>> 16) & 0xff) !== count || (info & 0xfff) !== mountIndex) continue;
      if (this.#sameHandle(slot, count)) return this.#nodes[slot];
    }
    return undefined;
  }

  /** Whether a node has this inode number. */
  hasIno(node: Node, inoLow: number, inoHigh: number): boolean {
    return this.#inoLow[node.slot] === inoLow && this.#inoHigh[node.slot] === inoHigh;
  }

  /** The node's inode number as text. */
  inoText({ slot }: Node): string {
    return inoText(this.#inoLow[slot]!, this.#inoHigh[slot]!);
  }

  /** The node's mount and inode number as text. */
  placeText(node: Node): string {
    const { slot } = node;
    return `${this.#info[slot]! & 0xfff}:${this.inoText(node)}`;
  }

  /** Adds a node that is identified by the handle in call memory. */
  addByHandle(mountIndex: number, mode: number, inoLow: number, inoHigh: number): Node {
    const count = handleWords();
    const node = this.#enter(mountIndex, mode, inoLow, inoHigh, handleType(), count);
    const from = (offset.handle >>> 2) + 2;
    if (count <= HANDLE_WORDS) {
      const to = node.slot * HANDLE_WORDS;
      for (let i = 0; i < count; i++) this.#handles[to + i] = words[from + i]!;
    } else this.#longHandles.set(node.slot, words.slice(from, from + count));
    this.#link(node.slot);
    return node;
  }

  /**
   * Adds a node that is identified by an open descriptor, which it takes over.
   * @throws FsError ENFILE if no more descriptors can be held; the descriptor is closed.
   */
  addByDescriptor(mountIndex: number, mode: number, inoLow: number, inoHigh: number, fd: Fd): Node {
    if (this.#held >= this.#heldLimit) {
      close(fd);
      this.#logFull();
      throw FsError.of('ENFILE');
    }
    const node = this.#enter(mountIndex, mode, inoLow, inoHigh, 0, 0);
    this.#place(node, fd, Keep.HELD);
    return node;
  }

  /** Whether a descriptor of the node is open here, its own or an open file's. */
  isAnchored(node: Node): boolean {
    return node.open !== undefined || this.#descriptor[node.slot] !== NONE;
  }

  /**
   * Records a look-up of a node. One that is looked up again and again gets a cached descriptor.
   */
  noteLookup(node: Node): void {
    if (!this.isAnchored(node) && this.#noteLookup(node)) this.#reopen(node, this.#cacheLimit);
  }

  /** Whether {@link hold} is to be called for what a look-up finds. */
  get isWary(): boolean {
    return this.#wary > 0;
  }

  /**
   * Keeps a descriptor of a file that was just looked up, while files are being replaced: what the
   * guest asks of it next finds it, whatever happens to its name meanwhile.
   * @returns whether the file is still there.
   */
  hold(node: Node): boolean {
    this.#wary -= 1;
    return this.isAnchored(node) || this.#reopen(node, this.#cacheLimit) !== -Errno.ESTALE;
  }

  #noteLookup(node: Node): boolean {
    this.#lookups += 1;
    const now = (this.#lookups / LOOKUPS_PER_EPOCH) & 0xffff;
    const age = (now - this.#lookupEpoch[node.slot]!) & 0xffff;
    this.#lookupEpoch[node.slot] = now;
    return age <= this.#recentEpochs;
  }

  /**
   * A descriptor of the node for the current call: an open file's, or an O_PATH descriptor.
   * Negative: minus the errno.
   */
  descriptor(node: Node): Fd {
    if (node.open !== undefined) return node.open.fd;
    const place = this.#descriptor[node.slot]!;
    if (place === NONE)
      return this.#reopen(node, this.#noteLookup(node) ? this.#cacheLimit : this.#unusedLimit);
    if (place !== this.#newest && this.#keep[place] === Keep.CACHED) {
      this.#unlist(place);
      this.#list(place);
    }
    return this.#fd[place] as Fd;
  }

  /** Whether the node is known, that is, has not been forgotten. */
  has(node: Node): boolean {
    return this.#nodes[node.slot] === node;
  }

  /** Closes the node's cached descriptor. The next use opens a new one. */
  closeCached(node: Node): void {
    const place = this.#descriptor[node.slot]!;
    if (place !== NONE && this.#keep[place] === Keep.CACHED) this.#drop(place);
  }

  /** Whether the node's handle equals the one in call memory. */
  hasHandleInCallMemory(node: Node): boolean {
    const info = this.#info[node.slot]!;
    const count = handleWords();
    return (
      info >>> 24 === handleType() && ((info >>> 16) & 0xff) === count && this.#sameHandle(node.slot, count)
    );
  }

  /**
   * Opens the node by its handle.
   * @returns a descriptor or minus the errno; ESTALE if the node has no handle.
   */
  openByHandle(node: Node, flags: number): Fd {
    const info = this.#info[node.slot]!;
    if (((info >>> 16) & 0xff) === 0) return -Errno.ESTALE as Fd;
    this.putHandle(node);
    const mount = this.#mounts.all[info & 0xfff]!.fd;
    const fd = openByHandleAt(mount, at.handle, flags);
    if (fd === -Errno.ESTALE) this.#wary = WARY_LOOKUPS;
    return this.freeDescriptors(fd) ? openByHandleAt(mount, at.handle, flags) : fd;
  }

  /**
   * Closes half of the cached descriptors, the least recently used ones, if an open failed with
   * EMFILE. The one used last stays.
   * @param code the result of that open. Any other result changes nothing.
   * @returns whether the open is worth another attempt.
   */
  freeDescriptors(code: number): boolean {
    if (code !== -Errno.EMFILE) return false;
    const count = this.#cached >>> 1;
    for (let i = 0; i < count; i++) this.#drop(this.#oldest);
    return settleBackings() || count > 0;
  }

  hasHandle(node: Node): boolean {
    return ((this.#info[node.slot]! >>> 16) & 0xff) !== 0;
  }

  /** Writes the node's handle into call memory. */
  putHandle(node: Node): void {
    const slot = node.slot;
    const info = this.#info[slot]!;
    const count = (info >>> 16) & 0xff;
    words[offset.handle >>> 2] = count * 4;
    words[(offset.handle >>> 2) + 1] = info >>> 24;
    const to = (offset.handle >>> 2) + 2;
    const long = count > HANDLE_WORDS ? this.#longHandles.get(slot) : undefined;
    if (long !== undefined) words.set(long, to);
    else for (let i = 0; i < count; i++) words[to + i] = this.#handles[slot * HANDLE_WORDS + i]!;
  }

  /**
   * Keeps a descriptor of the node until it is forgotten, so that the file stays reachable when its
   * last name goes. Does nothing once `heldLimit` is reached.
   * @returns whether there is one.
   */
  pin(node: Node): boolean {
    if (this.descriptor(node) < 0 || this.#descriptor[node.slot] === NONE) {
      if (node.open === undefined) return false;
      // The node is anchored by open files only. It needs a descriptor of its own for the time
      // after they are closed.
      if (this.#reopen(node, this.#cacheLimit) < 0) return false;
    }
    const place = this.#descriptor[node.slot]!;
    if (this.#keep[place] === Keep.HELD) return true;
    if (this.#held >= this.#heldLimit) return false;
    this.#unlist(place);
    this.#addToCachedCount(-1);
    this.#keep[place] = Keep.HELD;
    this.#held += 1;
    return true;
  }

  /** Called when the node gets its first open file. */
  opened(node: Node): void {
    if (this.#descriptor[node.slot] === NONE) this.#anchor(node.slot);
  }

  /** Called when the node's last open file is closed. */
  closed(node: Node): void {
    if (this.#descriptor[node.slot] === NONE) this.#release(node.slot);
  }

  /**
   * Keeps a descriptor of a large file without a name until the node is forgotten. The kernel frees
   * the file's room when its last descriptor is closed: that one is, on the thread pool.
   * @returns false if there are too many.
   */
  closeLast(node: Node, fd: Fd): boolean {
    if (this.#leaving.size >= LEAVING_LIMIT || this.#leaving.has(node)) return false;
    this.#leaving.set(node, fd);
    return true;
  }

  /** Removes a node that no guest knows any more. */
  forget(node: Node): void {
    const slot = node.slot;
    if (this.#nodes[slot] !== node) return;
    const place = this.#descriptor[slot]!;
    if (place !== NONE) this.#drop(place);
    if (this.#birthNanoseconds[slot] !== NO_BIRTH) this.#leaveIno(slot);
    if (this.hasHandle(node)) this.#unlink(slot);
    this.#longHandles.delete(slot);
    this.#nodes[slot] = undefined;
    this.#mounts.unuse(this.#info[slot]! & 0xfff);
    this.#info[slot] = this.#free + 1;
    this.#free = slot;
    this.size -= 1;
    const last = this.#leaving.size === 0 ? undefined : this.#leaving.get(node);
    if (last === undefined) return;
    this.#leaving.delete(node);
    void closeLater(last);
  }

  /** Closes every descriptor. */
  close(): void {
    for (let place = 0; place < this.#fd.length; place++) if (this.#fd[place]! >= 0) this.#drop(place);
    for (const fd of this.#leaving.values()) void closeLater(fd);
    this.#leaving.clear();
  }

  /** All nodes, for a snapshot. */
  *[Symbol.iterator](): Iterator<Node> {
    for (const node of this.#nodes) if (node !== undefined) yield node;
  }

  #enter(
    mountIndex: number,
    mode: number,
    inoLow: number,
    inoHigh: number,
    type: number,
    count: number,
  ): Node {
    let slot = this.#free;
    if (slot === NONE) {
      slot = this.#nodes.length;
      if (slot === this.#info.length) this.#grow();
    } else this.#free = this.#info[slot]! - 1;
    const node = new Node(slot);
    this.#mounts.use(mountIndex);
    this.#nodes[slot] = node;
    this.#info[slot] = ((type << 24) | (count << 16) | (mode & 0xf000) | mountIndex) >>> 0;
    this.#inoLow[slot] = inoLow;
    this.#inoHigh[slot] = inoHigh;
    this.#birthNanoseconds[slot] = NO_BIRTH;
    this.#descriptor[slot] = NONE;
    this.#lookupEpoch[slot] = (this.#lookups / LOOKUPS_PER_EPOCH + 0x8000) & 0xffff;
    this.size += 1;
    return node;
  }

  /** @param limit most cached descriptors, this one included. */
  #reopen(node: Node, limit: number): Fd {
    const fd = this.openByHandle(node, O.PATH | O.NOFOLLOW);
    if (fd < 0) return fd;
    const isShort = cachedInAll >= this.#limitOfAll && this.#cached >= this.#unusedLimit;
    if (isShort || this.#cached >= limit) this.#drop(this.#oldest);
    this.#place(node, fd, Keep.CACHED);
    return fd;
  }

  /** Gives a node its own descriptor. */
  #place(node: Node, fd: Fd, keep: number): void {
    const place = this.#freePlace;
    this.#freePlace = this.#older[place]!;
    this.#fd[place] = fd;
    this.#slotOf[place] = node.slot;
    this.#keep[place] = keep;
    if (keep === Keep.CACHED) {
      this.#list(place);
      this.#addToCachedCount(1);
    } else this.#held += 1;
    this.#descriptor[node.slot] = place;
    if (node.open === undefined) this.#anchor(node.slot);
  }

  #drop(place: number): void {
    this.beforeClose();
    const slot = this.#slotOf[place]!;
    closeBacking(this.#fd[place]!);
    this.#fd[place] = NONE;
    if (this.#keep[place] === Keep.CACHED) {
      this.#unlist(place);
      this.#addToCachedCount(-1);
    } else this.#held -= 1;
    this.#older[place] = this.#freePlace;
    this.#freePlace = place;
    this.#descriptor[slot] = NONE;
    if (this.#nodes[slot]?.open === undefined) this.#release(slot);
  }

  #addToCachedCount(change: number): void {
    this.#cached += change;
    cachedInAll += change;
  }

  #list(place: number): void {
    this.#older[place] = this.#newest;
    this.#newer[place] = NONE;
    if (this.#newest === NONE) this.#oldest = place;
    else this.#newer[this.#newest] = place;
    this.#newest = place;
  }

  #unlist(place: number): void {
    const newer = this.#newer[place]!;
    const older = this.#older[place]!;
    if (newer === NONE) this.#newest = older;
    else this.#older[newer] = older;
    if (older === NONE) this.#oldest = newer;
    else this.#newer[older] = newer;
  }

  #anchor(slot: number): void {
    if (this.#birthNanoseconds[slot] === NO_BIRTH) this.#enterIno(slot);
  }

  #release(slot: number): void {
    if (this.#birthNanoseconds[slot] === NO_BIRTH) this.#leaveIno(slot);
  }

  #enterIno(slot: number): void {
    const head = inoHash(this.#info[slot]! & 0xfff, this.#inoLow[slot]!) & (this.#byIno.length - 1);
    this.#nextByIno[slot] = this.#byIno[head]!;
    this.#byIno[head] = slot;
  }

  #leaveIno(slot: number): void {
    const head = inoHash(this.#info[slot]! & 0xfff, this.#inoLow[slot]!) & (this.#byIno.length - 1);
    remove(this.#byIno, this.#nextByIno, head, slot);
  }

  #link(slot: number): void {
    const head = this.#handleHash(slot) & (this.#byHandle.length - 1);
    this.#nextByHandle[slot] = this.#byHandle[head]!;
    this.#byHandle[head] = slot;
  }

  #unlink(slot: number): void {
    remove(this.#byHandle, this.#nextByHandle, this.#handleHash(slot) & (this.#byHandle.length - 1), slot);
  }

  #handleHash(slot: number): number {
    const info = this.#info[slot]!;
    const count = (info >>> 16) & 0xff;
    const long = count > HANDLE_WORDS ? this.#longHandles.get(slot) : undefined;
    if (long !== undefined) return hash(long, 0, count, info & 0xfff);
    return hash(this.#handles, slot * HANDLE_WORDS, count, info & 0xfff);
  }

  #sameHandle(slot: number, count: number): boolean {
    const long = count > HANDLE_WORDS ? this.#longHandles.get(slot) : undefined;
    const known = long ?? this.#handles;
    const from = long === undefined ? slot * HANDLE_WORDS : 0;
    const given = (offset.handle >>> 2) + 2;
    for (let i = 0; i < count; i++) if (known[from + i] !== words[given + i]) return false;
    return true;
  }

  #grow(): void {
    const capacity = this.#info.length * 2;
    this.#handles = widen(this.#handles, new Uint32Array(capacity * HANDLE_WORDS));
    this.#info = widen(this.#info, new Uint32Array(capacity));
    this.#inoLow = widen(this.#inoLow, new Uint32Array(capacity));
    this.#inoHigh = widen(this.#inoHigh, new Uint32Array(capacity));
    this.#birthSeconds = widen(this.#birthSeconds, new Uint32Array(capacity));
    this.#birthNanoseconds = widen(this.#birthNanoseconds, new Uint32Array(capacity));
    this.#nextByIno = widen(this.#nextByIno, new Int32Array(capacity));
    this.#nextByHandle = widen(this.#nextByHandle, new Int32Array(capacity));
    this.#descriptor = widen(this.#descriptor, new Int32Array(capacity).fill(NONE));
    this.#lookupEpoch = widen(this.#lookupEpoch, new Uint16Array(capacity));
    this.#byHandle = new Int32Array(capacity).fill(NONE);
    this.#byIno = new Int32Array(capacity).fill(NONE);
    for (const node of this) {
      if (this.hasHandle(node)) this.#link(node.slot);
      if (this.isAnchored(node) || this.#birthNanoseconds[node.slot] !== NO_BIRTH) this.#enterIno(node.slot);
    }
  }

  #logFull(): void {
    if (this.#loggedFull) return;
    this.#loggedFull = true;
    this.#log.error(
      { descriptors: this.#held },
      'no more files can be kept open: guests get ENFILE for new ones until they forget others',
    );
  }
}

/**
 * Whether the file whose stat result is in call memory was certainly there at a time, in
 * milliseconds since 1970.
 */
export function wasBornBefore(time: number): boolean {
  const mark = statBirthNanoseconds();
  return mark !== NO_BIRTH && statBirthSeconds() * 1000 + (mark & 0x3fffffff) / 1e6 + BIRTH_LAG_MS < time;
}

function handleType(): number {
  return words[(offset.handle >>> 2) + 1]!;
}

function handleWords(): number {
  return words[offset.handle >>> 2]! >>> 2;
}

function callMemoryHash(mountIndex: number): number {
  return hash(words, (offset.handle >>> 2) + 2, handleWords(), mountIndex);
}

function hash(source: Uint32Array, from: number, count: number, seed: number): number {
  let h = seed;
  for (let i = 0; i < count; i++) {
    h = Math.imul(h ^ source[from + i]!, 0x9e3779b1);
    h ^= h >>> 15;
  }
  h = Math.imul(h, 0x85ebca6b);
  return h ^ (h >>> 13);
}

function inoHash(mountIndex: number, inoLow: number): number {
  const h = Math.imul(inoLow ^ (mountIndex << 20), 0x9e3779b1);
  return h ^ (h >>> 15);
}

/** Takes a slot out of its chain. */
function remove(heads: Int32Array, next: Int32Array, head: number, slot: number): void {
  if (heads[head] === slot) {
    heads[head] = next[slot]!;
    return;
  }
  let before = heads[head]!;
  while (before !== NONE && next[before] !== slot) before = next[before]!;
  if (before === NONE) throw new Error('a node is not in its chain');
  next[before] = next[slot]!;
}

function widen<T extends Uint16Array | Uint32Array | Int32Array>(column: T, wider: T): T {
  wider.set(column);
  return wider;
}

/** An inode number as text. */
export function inoText(low: number, high: number): string {
  return `${high >>> 0}:${low >>> 0}`;
}
