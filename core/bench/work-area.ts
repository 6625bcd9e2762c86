import { BenchError, type Driver, type Load } from './driver.js';
import * as fuse from './fuse.js';
import { BODY, type RequestSlot, OUT_HEADER } from './request-slot.js';
import { ENOENT } from '../system/calls/negative-errno.js';

const { Opcode } = fuse;

const ROOT: Node = { node: 1, nodeHigh: 0 };

/** Size of the file that is read and written. */
export const FILE_BYTES = 64 * 2 ** 20;
/** Size of each WRITE that makes it. */
const CHUNK_BYTES = 2 ** 17;

/** Requests at a time while files are made and removed. */
const DEPTH = 16;
/** The largest size of small files. */
const SMALL_BYTES = 4096;

/** Prefix of the names of files in a scenario's directory; a number follows. */
export const PREFIX = 'f';

/** A file or directory that the daemon knows, by its node id. */
export interface Node {
  readonly node: number;
  readonly nodeHigh: number;
}

/** An open file or directory: a node and a handle. */
export interface OpenNode extends Node {
  readonly file: number;
  readonly fileHigh: number;
}

/**
 * A new directory in the file system under test, in which scenarios have their files. Making them
 * is not measured. {@link close} removes everything.
 */
export class WorkArea {
  readonly driver: Driver;
  readonly directory: Node;
  readonly #slot: RequestSlot;
  readonly #slots: readonly RequestSlot[];
  readonly #name: string;
  readonly #undo: (() => void)[] = [];
  #directories = 0;
  #file: OpenNode | undefined;
  #fileBytes = 0;

  /** Starts the FUSE session and makes the directory. */
  constructor(driver: Driver, name: string) {
    this.driver = driver;
    this.#slot = driver.openSlots(1, CHUNK_BYTES)[0]!;
    this.#slots = driver.openSlots(DEPTH, SMALL_BYTES);
    this.#name = name;
    fuse.init(this.#slot);
    driver.call(this.#slot);
    const major = this.#slot.reply[BODY];
    if (major !== 7) throw new BenchError(`the daemon speaks FUSE ${major}, not 7`);
    this.directory = this.#makeDirectory(ROOT, name);
  }

  /** Registers a function that removes a scenario's files. {@link close} calls the last first. */
  onClose(undo: () => void): void {
    this.#undo.push(undo);
  }

  /** Removes everything. @throws BenchError if the daemon fails a removal. */
  close(): void {
    for (const undo of this.#undo.splice(0).toReversed()) undo();
    this.#removeDirectory(ROOT, this.#name, this.directory);
    this.driver.closeSlots([this.#slot, ...this.#slots]);
  }

  /** A directory in this one, for a scenario. Another one has another name. */
  subdirectory(key: string): Node {
    const name = `${key}-${this.#directories++}`;
    const directory = this.#makeDirectory(this.directory, name);
    this.onClose(() => this.#removeDirectory(this.directory, name, directory));
    return directory;
  }

  /**
   * An open file, the same one for all scenarios: `f0` of {@link directory}.
   * @param minBytes its size at least, a multiple of {@link FILE_BYTES}.
   */
  file(minBytes = FILE_BYTES): OpenNode {
    if (this.#file === undefined) {
      this.onClose(() => this.remove(this.directory, [0]));
      this.#file = this.#makeFile();
      this.onClose(() => this.dropFile());
    }
    if (minBytes > this.#fileBytes) {
      Object.assign(this.#slot, this.#file);
      this.#write(this.#fileBytes, minBytes);
      this.#fileBytes = minBytes;
    }
    return this.#file;
  }

  /** Opens a file to append to it, until {@link close}. */
  openToAppend({ node, nodeHigh }: Node): OpenNode {
    const slot = this.#slot;
    fuse.open(slot, node, nodeHigh, true);
    this.driver.call(slot);
    fuse.keepFile(slot);
    const opened = { node, nodeHigh, file: slot.file, fileHigh: slot.fileHigh };
    this.onClose(() => {
      Object.assign(slot, opened);
      fuse.release(slot, Opcode.RELEASE);
      this.driver.call(slot);
    });
    return opened;
  }

  /** Removes the file, if there is one. {@link renewFile} makes it again. */
  dropFile(): void {
    const file = this.#file;
    if (file === undefined) return;
    const slot = this.#slot;
    Object.assign(slot, file);
    fuse.release(slot, Opcode.RELEASE);
    this.driver.call(slot);
    fuse.remove(slot, Opcode.UNLINK, this.directory.node, this.directory.nodeHigh, PREFIX, 0);
    this.driver.call(slot);
    this.forget([file]);
  }

  /** Makes the file again after {@link dropFile}, in the object that {@link file} has returned. */
  renewFile(): void {
    if (this.#file !== undefined) Object.assign(this.#file, this.#makeFile());
  }

  #makeFile(): OpenNode {
    const slot = this.#slot;
    fuse.create(slot, this.directory.node, this.directory.nodeHigh, PREFIX, 0);
    this.driver.call(slot);
    fuse.keepNode(slot);
    fuse.keepFile(slot, fuse.ENTRY_OUT);
    this.#write(0, this.#fileBytes);
    const { node, nodeHigh, file, fileHigh } = slot;
    return { node, nodeHigh, file, fileHigh };
  }

  /** Writes a part of the slot's open file, from one offset to another. */
  #write(from: number, to: number): void {
    const slot = this.#slot;
    for (let at = from; at < to; at += CHUNK_BYTES) {
      for (let i = 0; i < CHUNK_BYTES / 4; i += 128) slot.dataWords[i] = Math.random() * 2 ** 32;
      fuse.write(slot, at, CHUNK_BYTES);
      this.driver.call(slot);
    }
  }

  /**
   * Makes files `f0`, `f1` and so on.
   * @param bytes their size, 4096 at most.
   * @returns their nodes, each looked up once.
   */
  fill(directory: Node, count: number, bytes: number): Node[] {
    const nodes: Node[] = [];
    let number = 0;
    const begin = (slot: RequestSlot) => {
      slot.step = 0;
      fuse.create(slot, directory.node, directory.nodeHigh, PREFIX, number++);
    };
    const next = (slot: RequestSlot) => {
      slot.step += 1;
      if (slot.step === 1) {
        fuse.keepNode(slot);
        fuse.keepFile(slot, fuse.ENTRY_OUT);
        nodes.push({ node: slot.node, nodeHigh: slot.nodeHigh });
        if (bytes === 0) slot.step = 2;
        else fuse.write(slot, 0, bytes);
      }
      if (slot.step === 2) fuse.release(slot, Opcode.RELEASE);
      return slot.step < 3;
    };
    this.#run({ begin, next }, count);
    return nodes;
  }

  /** Removes those of the files `f0`, `f1` and so on that exist, by their numbers. */
  remove(directory: Node, numbers: readonly number[]): void {
    let position = 0;
    const begin = (slot: RequestSlot) => {
      slot.step = 0;
      slot.number = numbers[position++]!;
      fuse.lookup(slot, directory.node, directory.nodeHigh, PREFIX, slot.number);
    };
    const next = (slot: RequestSlot) => {
      if (slot.errno === -ENOENT) return false;
      slot.step += 1;
      if (slot.step === 1) {
        fuse.keepNode(slot);
        fuse.remove(slot, Opcode.UNLINK, directory.node, directory.nodeHigh, PREFIX, slot.number);
      } else if (slot.step === 2) fuse.forget(slot, slot.node, slot.nodeHigh);
      return slot.step < 3;
    };
    this.#run({ begin, next, tolerates: -ENOENT }, numbers.length);
  }

  /** Forgets `count` lookups of each node, or as many as it says itself. */
  forget(nodes: readonly (Node & { readonly count?: number })[], count = 1): void {
    let position = 0;
    const begin = (slot: RequestSlot) => {
      const one = nodes[position++]!;
      fuse.forget(slot, one.node, one.nodeHigh, one.count ?? count);
    };
    this.#run({ begin, next: () => false }, nodes.length);
  }

  /** Lists a directory. @returns the nodes of its entries. Each has been looked up once more. */
  list(directory: Node): Node[] {
    const slot = this.#slot;
    const nodes: Node[] = [];
    fuse.opendir(slot, directory.node, directory.nodeHigh);
    this.driver.call(slot);
    Object.assign(slot, directory);
    fuse.keepFile(slot);
    const cookie: Cookie = { low: 0, high: 0 };
    do {
      fuse.readdirplus(slot, cookie.low, cookie.high, 4096);
      this.driver.call(slot);
    } while (
      scanEntries(slot, cookie, (node, nodeHigh) => {
        if (node !== 0 || nodeHigh !== 0) nodes.push({ node, nodeHigh });
      })
    );
    fuse.release(slot, Opcode.RELEASEDIR);
    this.driver.call(slot);
    return nodes;
  }

  #run(load: Load, count: number): void {
    this.driver.run(load, this.#slots, { operations: count });
  }

  #makeDirectory(parent: Node, name: string): Node {
    const slot = this.#slot;
    fuse.mkdir(slot, parent.node, parent.nodeHigh, name);
    this.driver.call(slot);
    fuse.keepNode(slot);
    return { node: slot.node, nodeHigh: slot.nodeHigh };
  }

  #removeDirectory(parent: Node, name: string, directory: Node): void {
    fuse.remove(this.#slot, Opcode.RMDIR, parent.node, parent.nodeHigh, name);
    this.driver.call(this.#slot);
    this.forget([directory]);
  }
}

/** The position where a directory is read on: its halves of 32 bits. */
export interface Cookie {
  low: number;
  high: number;
}

/**
 * Goes through a READDIRPLUS reply: `struct fuse_direntplus`, each an entry of 128 bytes, 24 of
 * `fuse_dirent` and a name, padded to 8 bytes.
 * @param cookie is set to that of the last entry.
 * @param visit is called for each entry with its node id: 0 where it was not looked up, as `.`.
 * @returns whether there were entries.
 */
export function scanEntries(
  slot: RequestSlot,
  cookie: Cookie,
  visit?: (node: number, nodeHigh: number) => void,
): boolean {
  const words = slot.dataWords;
  const end = (slot.replyBytes - OUT_HEADER) >> 2;
  for (let at = 0; at + 38 <= end;) {
    visit?.(words[at]!, words[at + 1]!);
    cookie.low = words[at + 34]!;
    cookie.high = words[at + 35]!;
    at += 38 + (((words[at + 36]! + 7) & ~7) >> 2);
  }
  return end > 0;
}
