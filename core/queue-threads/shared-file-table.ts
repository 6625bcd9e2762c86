import type { Backing } from '../backend/accelerator.js';
import type { Attributes } from '../backend/index.js';
import {
  type Counters,
  type FileTable,
  Opcode,
  type EntryName,
  type EntryNode,
  type FileTableOwner,
  type HandleGeneration,
  type HandleIndex,
  type NodeGeneration,
  type NodeIdHigh,
  type NodeIdLow,
  type Slot,
  type Validities,
  type Validity,
} from '../fuse/index.js';
import { STAT, STATX_FIELD } from '../system/calls/files.js';
import { type Fd, type DescriptorUse, MOST_THREADS, type SharedDescriptors } from '../system/index.js';

/**
 * Numbers of places for open files, for nodes by id, and for nodes by identity (entries). They are
 * powers of two. A hash decides the one place where a file, node or entry can stand: a newcomer
 * replaces what stood there.
 */
const FILES = 2048;
const NODES = 8192;
const ENTRIES = 8192;

/** 32-bit words in the place of a file or node, and in that of an entry. */
const WORDS = 16;
const ENTRY_WORDS = 24;

/** The place of a file or node, which has a descriptor. Its version is odd while it is written. */
const Place = { VERSION: 0, FD: 1, SERIAL: 2, LOW: 3, HIGH: 4 } as const;
const FilePlace = { ...Place, NODE_LOW: 5, NODE_HIGH: 6, READ_FLAGS: 7, WRITES: 8 } as const;
const NodePlace = { ...Place, NAMES: 5, ATTRIBUTES: 6, DIFFERS: 14, SLOT: 15 } as const;

/**
 * The place of an entry. The low bits of its first word count the lookups that threads may still
 * add to the guest's, the high bits are a version. Both are in one word, so that a
 * compare-and-exchange takes a lookup only from the very entry that the thread has read.
 */
const EntryPlace = {
  STATE: 0,
  INO_LOW: 1,
  INO_HIGH: 2,
  /**
   * Seconds and nanoseconds of the time of birth. Without one: a descriptor that keeps the file
   * alive, and minus the descriptor's serial.
   */
  BIRTH: 3,
  MOUNT: 5,
  LOW: 6,
  HIGH: 7,
  GENERATION: 8,
  ATTRIBUTES: 9,
  DIFFERS: 17,
  /**
   * The name under which the guest looked it up last. Another name is passed on: a backend may find
   * the node by the last name that it saw.
   */
  PARENT_LOW: 18,
  PARENT_HIGH: 19,
  NAME: 20,
} as const;
const LOOKUPS = 0xff;
const VERSION = 0x100;

/**
 * Words for the attributes that the guest had from the engine's thread when the place was written:
 * size, seconds and nanoseconds of mtime and of ctime. A thread that is about to reply with others
 * first sets DIFFERS in the place, and only then checks that the place has not changed. So no
 * difference is lost.
 */
const ATTRIBUTES = 8;

/** Where these attributes lie in `struct stat` and `struct statx`, in words. */
const STAT_ATTRIBUTES = attributeWords(STAT.SIZE, STAT.MTIME, STAT.CTIME);
const STATX_ATTRIBUTES = attributeWords(STATX_FIELD.SIZE, STATX_FIELD.MTIME, STATX_FIELD.CTIME);

function attributeWords(size: number, mtime: number, ctime: number): readonly number[] {
  return [size, size + 4, mtime, mtime + 4, mtime + 8, ctime, ctime + 4, ctime + 8].map(
    (offset) => offset >> 2,
  );
}

/** What one thread counts, each in a row of its own: 64-bit floats. */
export const Count = {
  READS: 0,
  WRITES: 1,
  GETATTRS: 2,
  LOOKUPS: 3,
  FAILURES: 4,
  BYTES_READ: 5,
  BYTES_WRITTEN: 6,
} as const;
const COUNTS = 8;

/** Where the parts of the table lie, in words: counts, validities, places. */
const VALIDITIES = COUNTS * MOST_THREADS * 2;
/** Whether threads pass every request on. */
const PASSES_ALL = VALIDITIES + 6;
const FILES_AT = VALIDITIES + 8;
const NODES_AT = FILES_AT + FILES * WORDS;
const ENTRIES_AT = NODES_AT + NODES * WORDS;
const END = ENTRIES_AT + ENTRIES * ENTRY_WORDS;

const HIGH = 2 ** 32;

function filePlace(index: HandleIndex): number {
  return FILES_AT + (index & (FILES - 1)) * WORDS;
}

function nodePlace(low: NodeIdLow, high: NodeIdHigh): number {
  return NODES_AT + (mix(low, high) & (NODES - 1)) * WORDS;
}

function entryPlace(inoLow: number, inoHigh: number): number {
  return ENTRIES_AT + (mix(inoLow, inoHigh) & (ENTRIES - 1)) * ENTRY_WORDS;
}

function mix(low: number, high: number): number {
  const mixed = Math.imul(low, 0x9e3779b1) ^ Math.imul(high, 0x85ebca77);
  return mixed ^ (mixed >>> 15);
}

/**
 * One session's file table, in shared memory: nodes and open files that a thread once had to pass a
 * request on for. The engine's thread writes and the threads read. Nobody waits: a place that is
 * just being written counts as empty. A thread writes only in two ways: it takes one of an entry's
 * lookups, or marks that it replied with other attributes than the place has.
 */
export class SharedFileTable implements FileTable {
  readonly memory = new SharedArrayBuffer(END * 4);
  readonly #words = new Int32Array(this.memory);
  readonly #descriptors: SharedDescriptors;
  /** For entries: the place of a node's slot, and the slot of a place. */
  readonly #placeOf = new Map<Slot, number>();
  readonly #slotAt = new Map<number, Slot>();
  #owner: FileTableOwner | undefined;
  /** What {@link addTo} has added, by {@link Count}. */
  readonly #added = new Float64Array(COUNTS);

  constructor(descriptors: SharedDescriptors) {
    this.#descriptors = descriptors;
  }

  begin({ entry, negative, attributes }: Validities, owner: FileTableOwner): void {
    this.#owner = owner;
    for (const [i, { seconds, nanoseconds }] of [entry, negative, attributes].entries()) {
      this.#put(VALIDITIES + 2 * i, seconds);
      this.#put(VALIDITIES + 2 * i + 1, nanoseconds);
    }
  }

  passAll(isAll: boolean): void {
    this.#put(PASSES_ALL, isAll ? 1 : 0);
  }

  publishNode(
    slot: Slot,
    low: NodeIdLow,
    high: NodeIdHigh,
    backing: Backing,
    attributes: Attributes | undefined,
  ): void {
    const serial = this.#descriptors.publish(backing.fd as Fd);
    if (serial === 0) return;
    const at = nodePlace(low, high);
    if (attributes === undefined && this.#isNode(at, low, high, backing.fd as Fd, serial)) return;
    this.#begin(at, backing.fd as Fd, serial, low, high);
    this.#takeDifference(at);
    this.#put(at + NodePlace.SLOT, slot);
    this.#put(at + NodePlace.NAMES, backing.names ? 1 : 0);
    this.#putAttributes(at + NodePlace.ATTRIBUTES, attributes);
    this.#end(at);
  }

  publishFile(
    index: HandleIndex,
    generation: HandleGeneration,
    nodeLow: NodeIdLow,
    nodeHigh: NodeIdHigh,
    backing: Backing,
  ): void {
    const serial = this.#descriptors.publish(backing.fd as Fd);
    if (serial === 0) return;
    const at = filePlace(index);
    this.#begin(at, backing.fd as Fd, serial, index, generation);
    this.#put(at + FilePlace.NODE_LOW, nodeLow);
    this.#put(at + FilePlace.NODE_HIGH, nodeHigh);
    this.#put(at + FilePlace.READ_FLAGS, backing.readFlags);
    this.#put(at + FilePlace.WRITES, backing.writes ? 1 : 0);
    this.#end(at);
  }

  publishEntry(
    name: EntryName,
    slot: Slot,
    node: EntryNode,
    { fd, identity }: Backing,
    attributes: Attributes,
  ): number {
    const { inoLow, inoHigh, birth, mount } = identity!;
    const serial = birth === undefined ? this.#descriptors.publish(fd as Fd) : 0;
    if (birth === undefined && serial === 0) return 0;
    const at = entryPlace(inoLow | 0, inoHigh | 0);
    const former = this.#slotAt.get(at);
    if (former !== undefined) this.withdrawEntry(former);
    this.withdrawEntry(slot);
    // The place has no lookups now, so no thread takes one while it is written.
    this.#put(at + EntryPlace.INO_LOW, inoLow);
    this.#put(at + EntryPlace.INO_HIGH, inoHigh);
    this.#put(at + EntryPlace.BIRTH, birth?.seconds ?? fd);
    this.#put(at + EntryPlace.BIRTH + 1, birth?.nanoseconds ?? -serial);
    this.#put(at + EntryPlace.MOUNT, mount);
    this.#put(at + EntryPlace.LOW, node.low);
    this.#put(at + EntryPlace.HIGH, node.high);
    this.#put(at + EntryPlace.GENERATION, node.generation);
    this.#put(at + EntryPlace.PARENT_LOW, name.low);
    this.#put(at + EntryPlace.PARENT_HIGH, name.high);
    this.#put(at + EntryPlace.NAME, name.hash);
    this.#putAttributes(at + EntryPlace.ATTRIBUTES, attributes);
    Atomics.add(this.#words, at, LOOKUPS);
    this.#placeOf.set(slot, at);
    this.#slotAt.set(at, slot);
    return LOOKUPS;
  }

  withdrawEntry(slot: Slot): void {
    const at = this.#placeOf.get(slot);
    if (at === undefined) return;
    this.#placeOf.delete(slot);
    this.#slotAt.delete(at);
    const words = this.#words;
    for (let state = Atomics.load(words, at); ;) {
      const seen = Atomics.compareExchange(words, at, state, (state & ~LOOKUPS) + VERSION);
      if (seen === state) {
        if (Atomics.exchange(words, at + EntryPlace.DIFFERS, 0) === 1) this.#owner?.attributesDiffer(slot);
        this.#owner?.returnLookups(slot, state & LOOKUPS);
        return;
      }
      state = seen;
    }
  }

  reportDifferences(slot: Slot, low: NodeIdLow, high: NodeIdHigh): void {
    const words = this.#words;
    const entry = this.#placeOf.get(slot);
    // After the withdrawal the next LOOKUP is passed on, and the engine's thread answers it.
    if (entry !== undefined && Atomics.load(words, entry + EntryPlace.DIFFERS) === 1)
      this.withdrawEntry(slot);
    const node = nodePlace(low, high);
    if (Atomics.load(words, node + NodePlace.DIFFERS) === 1) this.withdrawNode(low, high);
  }

  withdrawNode(low: NodeIdLow, high: NodeIdHigh): void {
    const at = nodePlace(low, high);
    if (this.#words[at + Place.LOW] !== low || this.#words[at + Place.HIGH] !== high) return;
    this.#hide(at);
    this.#takeDifference(at);
  }

  withdrawFile(index: HandleIndex): void {
    const at = filePlace(index);
    if (this.#words[at + Place.LOW] === index) this.#hide(at);
  }

  clear(): void {
    for (let at = FILES_AT; at < ENTRIES_AT; at += WORDS) {
      if (this.#words[at + Place.SERIAL] === 0) continue;
      this.#hide(at);
      if (at >= NODES_AT) this.#takeDifference(at);
    }
    for (const slot of this.#placeOf.keys()) this.withdrawEntry(slot);
  }

  addTo(counters: Counters): void {
    const { requests } = counters;
    const add = (opcode: number, which: number): void => {
      requests[opcode] = requests[opcode]! + this.#served(which);
    };
    add(Opcode.READ, Count.READS);
    add(Opcode.WRITE, Count.WRITES);
    add(Opcode.GETATTR, Count.GETATTRS);
    add(Opcode.LOOKUP, Count.LOOKUPS);
    counters.threadFailures += this.#served(Count.FAILURES);
    counters.bytesRead += this.#served(Count.BYTES_READ);
    counters.bytesWritten += this.#served(Count.BYTES_WRITTEN);
  }

  /** What all threads have counted since this was last asked. */
  #served(which: number): number {
    const all = new Float64Array(this.memory, 0, COUNTS * MOST_THREADS);
    let total = 0;
    for (let thread = 0; thread < MOST_THREADS; thread++) total += all[thread * COUNTS + which]!;
    const before = this.#added[which]!;
    this.#added[which] = total;
    return total - before;
  }

  /** Whether a place already has this node with this descriptor. */
  #isNode(at: number, low: NodeIdLow, high: NodeIdHigh, fd: Fd, serial: number): boolean {
    const words = this.#words;
    return (
      words[at + Place.LOW] === low &&
      words[at + Place.HIGH] === high &&
      words[at + Place.FD] === fd &&
      words[at + Place.SERIAL] === serial
    );
  }

  #begin(at: number, fd: Fd, serial: number, low: number, high: number): void {
    Atomics.add(this.#words, at + Place.VERSION, 1);
    this.#put(at + Place.FD, fd);
    this.#put(at + Place.SERIAL, serial);
    this.#put(at + Place.LOW, low);
    this.#put(at + Place.HIGH, high);
  }

  #end(at: number): void {
    Atomics.add(this.#words, at + Place.VERSION, 1);
  }

  #hide(at: number): void {
    this.#begin(at, 0 as Fd, 0, 0, 0);
    this.#end(at);
  }

  /**
   * Reports a difference marked in a node's place, and removes the mark. The place's version must
   * have changed just before, so that no thread relies on a mark that it sets from here on.
   */
  #takeDifference(at: number): void {
    const words = this.#words;
    if (Atomics.exchange(words, at + NodePlace.DIFFERS, 0) === 1)
      this.#owner?.attributesDiffer(words[at + NodePlace.SLOT] as Slot);
  }

  /**
   * Without attributes, or without a size in them, the place gets a size of -1. No file has that,
   * so each reply of a thread counts as different.
   */
  #putAttributes(at: number, attributes: Attributes | undefined): void {
    const { size = -1, mtime = 0, mtimeNsec = 0, ctime = 0, ctimeNsec = 0 } = attributes ?? {};
    this.#putLong(at, size);
    this.#putLong(at + 2, mtime);
    this.#put(at + 4, mtimeNsec);
    this.#putLong(at + 5, ctime);
    this.#put(at + 7, ctimeNsec);
  }

  #putLong(at: number, value: number): void {
    this.#put(at, value % HIGH);
    this.#put(at + 1, Math.floor(value / HIGH));
  }

  #put(at: number, value: number): void {
    Atomics.store(this.#words, at, value);
  }
}

/**
 * A thread's view of {@link SharedFileTable}. A descriptor that it finds may be used until the
 * thread's turn of {@link DescriptorUse} ends.
 */
export class FileTableView {
  /** The descriptor of the file or node found last. */
  fd = -1 as Fd;
  readFlags = 0;
  /** Whether the file found last may be written. */
  writes = false;
  /** Whether the node found last is a directory in which a thread may look up names. */
  names = false;
  /** Id and generation of the entry found last. */
  nodeLow = 0 as NodeIdLow;
  nodeHigh = 0 as NodeIdHigh;
  generation = 0 as NodeGeneration;
  /** This thread's row of counts, indexed by {@link Count}. */
  readonly counts: Float64Array;
  readonly entryValid: Validity;
  readonly negativeValid: Validity;
  readonly attributesValid: Validity;
  readonly #words: Int32Array;
  readonly #use: DescriptorUse;
  /** Place and version of the node found last, place and state of the entry found last. */
  #node = 0;
  #version = 0;
  #entry = 0;
  #state = 0;

  constructor(memory: SharedArrayBuffer, use: DescriptorUse) {
    this.#words = new Int32Array(memory);
    this.#use = use;
    this.counts = new Float64Array(memory, use.thread * COUNTS * 8, COUNTS);
    const validity = (index: number): Validity => ({
      seconds: this.#get(VALIDITIES + 2 * index) >>> 0,
      nanoseconds: this.#get(VALIDITIES + 2 * index + 1),
    });
    this.entryValid = validity(0);
    this.negativeValid = validity(1);
    this.attributesValid = validity(2);
  }

  /** Whether every request is to be passed on. */
  get passesAll(): boolean {
    return this.#get(PASSES_ALL) !== 0;
  }

  /** Finds an open file by its `fh` and its node id, in halves. */
  findFile(low: HandleIndex, high: HandleGeneration, nodeLow: NodeIdLow, nodeHigh: NodeIdHigh): boolean {
    const at = filePlace(low);
    const version = this.#get(at + Place.VERSION);
    const isIt =
      this.#get(at + Place.LOW) === low &&
      this.#get(at + Place.HIGH) === high &&
      this.#get(at + FilePlace.NODE_LOW) === nodeLow &&
      this.#get(at + FilePlace.NODE_HIGH) === nodeHigh;
    this.readFlags = this.#get(at + FilePlace.READ_FLAGS);
    this.writes = this.#get(at + FilePlace.WRITES) === 1;
    return isIt && this.#take(at, version);
  }

  /** Finds a node by its id, in halves. */
  findNode(low: NodeIdLow, high: NodeIdHigh): boolean {
    const at = nodePlace(low, high);
    const version = this.#get(at + Place.VERSION);
    const isIt = this.#get(at + Place.LOW) === low && this.#get(at + Place.HIGH) === high;
    this.names = this.#get(at + NodePlace.NAMES) === 1;
    this.#node = at;
    this.#version = version;
    return isIt && this.#take(at, version);
  }

  /**
   * Asks whether the guest may be given the attributes of the node found last, which a `struct
   * stat` has from word `from` on. If they differ from those in the place, the place is marked.
   * @returns false if the node was withdrawn meanwhile: the request must be passed on.
   */
  confirmNode(stat: Int32Array, from: number): boolean {
    const at = this.#node;
    if (!this.#hasAttributes(at + NodePlace.ATTRIBUTES, STAT_ATTRIBUTES, stat, from))
      Atomics.store(this.#words, at + NodePlace.DIFFERS, 1);
    return this.#get(at + Place.VERSION) === this.#version;
  }

  /**
   * Finds the entry whose identity a `struct statx` has from word `from` on, if the guest looked it
   * up under this name before. `name` is the name's hash.
   */
  findEntry(
    parentLow: NodeIdLow,
    parentHigh: NodeIdHigh,
    name: number,
    statx: Int32Array,
    from: number,
  ): boolean {
    const inoLow = statx[from + (STATX_FIELD.INO >> 2)]!;
    const inoHigh = statx[from + (STATX_FIELD.INO >> 2) + 1]!;
    const at = entryPlace(inoLow, inoHigh);
    this.#entry = at;
    this.#state = this.#get(at + EntryPlace.STATE);
    this.nodeLow = this.#get(at + EntryPlace.LOW) as NodeIdLow;
    this.nodeHigh = this.#get(at + EntryPlace.HIGH) as NodeIdHigh;
    this.generation = this.#get(at + EntryPlace.GENERATION) as NodeGeneration;
    return (
      (this.#state & LOOKUPS) !== 0 &&
      this.#get(at + EntryPlace.PARENT_LOW) === parentLow &&
      this.#get(at + EntryPlace.PARENT_HIGH) === parentHigh &&
      this.#get(at + EntryPlace.NAME) === name &&
      this.#get(at + EntryPlace.INO_LOW) === inoLow &&
      this.#get(at + EntryPlace.INO_HIGH) === inoHigh &&
      this.#isBorn(at + EntryPlace.BIRTH, statx, from) &&
      this.#get(at + EntryPlace.MOUNT) === statx[from + (STATX_FIELD.MOUNT_ID >> 2)]! &&
      statx[from + (STATX_FIELD.MOUNT_ID >> 2) + 1] === 0
    );
  }

  /** As {@link confirmNode}, of the entry found last: takes one of its lookups. */
  confirmEntry(statx: Int32Array, from: number): boolean {
    const words = this.#words;
    const at = this.#entry;
    if (!this.#hasAttributes(at + EntryPlace.ATTRIBUTES, STATX_ATTRIBUTES, statx, from))
      Atomics.store(words, at + EntryPlace.DIFFERS, 1);
    for (let state = this.#state; ;) {
      const seen = Atomics.compareExchange(words, at, state, state - 1);
      if (seen === state) return true;
      // Another thread took a lookup of the same entry: try again.
      if ((seen & ~LOOKUPS) !== (state & ~LOOKUPS) || (seen & LOOKUPS) === 0) return false;
      state = seen;
    }
  }

  #isBorn(at: number, statx: Int32Array, from: number): boolean {
    const seconds = this.#get(at);
    const nanoseconds = this.#get(at + 1);
    // The two words belong together only if the engine's thread has not replaced the entry since.
    if (((this.#get(this.#entry) ^ this.#state) & ~LOOKUPS) !== 0) return false;
    return nanoseconds < 0
      ? this.#use.isCurrent(seconds as Fd, -nanoseconds)
      : seconds === statx[from + (STATX_FIELD.BTIME >> 2)]! &&
          nanoseconds === statx[from + (STATX_FIELD.BTIME >> 2) + 2]!;
  }

  #hasAttributes(at: number, fields: readonly number[], stat: Int32Array, from: number): boolean {
    for (let i = 0; i < ATTRIBUTES; i++) if (this.#get(at + i) !== stat[from + fields[i]!]) return false;
    return true;
  }

  #take(at: number, version: number): boolean {
    const fd = this.#get(at + Place.FD) as Fd;
    const serial = this.#get(at + Place.SERIAL);
    this.fd = fd;
    return (
      serial !== 0 &&
      (version & 1) === 0 &&
      this.#get(at + Place.VERSION) === version &&
      this.#use.isCurrent(fd, serial)
    );
  }

  #get(at: number): number {
    return Atomics.load(this.#words, at);
  }
}
