import { BenchError, type Driver, type Load } from './driver.js';
import * as fuse from './fuse.js';
import { BODY, type Lane, OUT_HEADER } from './lane.js';
import { ENOENT } from '../system/calls/negative-errno.js';

const { Opcode } = fuse;

const ROOT: Node = { node: 1, nodeHigh: 0 };

/** Bytes of the file that is read and written, and of each WRITE that makes it. */
export const FILE_SIZE = 64 * 2 ** 20;
const CHUNK = 2 ** 17;

/** Requests at a time while files are made and removed, and data of each small file at most. */
const DEPTH = 16;
const SMALL = 4096;

/** Prefix of the names of files in a scenario's directory; a number follows. */
export const PREFIX = 'f';

/** A file or directory that the daemon knows, by its node id. */
export interface Node {
  readonly node: number;
  readonly nodeHigh: number;
}

/** A node that is open. */
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
  readonly #lane: Lane;
  readonly #lanes: readonly Lane[];
  readonly #name: string;
  readonly #undo: (() => void)[] = [];
  #file: OpenNode | undefined;
  #fileSize = 0;

  /** Starts the FUSE session and makes the directory. */
  constructor(driver: Driver, name: string) {
    this.driver = driver;
    this.#lane = driver.openLanes(1, CHUNK)[0]!;
    this.#lanes = driver.openLanes(DEPTH, SMALL);
    this.#name = name;
    fuse.init(this.#lane);
    driver.call(this.#lane);
    const major = this.#lane.reply[BODY];
    if (major !== 7) throw new BenchError(`the daemon speaks FUSE ${major}, not 7`);
    this.directory = this.#makeDirectory(ROOT, name);
  }

  /** Registers a function that removes a scenario's files. They are called in reverse order. */
  onClose(undo: () => void): void {
    this.#undo.push(undo);
  }

  close(): void {
    for (const undo of this.#undo.splice(0).toReversed()) undo();
    this.#removeDirectory(ROOT, this.#name, this.directory);
    this.driver.closeLanes([this.#lane, ...this.#lanes]);
  }

  /** A directory in this one, for a scenario. */
  subdirectory(name: string): Node {
    const directory = this.#makeDirectory(this.directory, name);
    this.onClose(() => this.#removeDirectory(this.directory, name, directory));
    return directory;
  }

  /**
   * An open file, the same for all scenarios: `f0` of {@link directory}.
   * @param size its least size in bytes, a multiple of {@link FILE_SIZE}.
   */
  file(size = FILE_SIZE): OpenNode {
    if (this.#file === undefined) {
      this.onClose(() => this.remove(this.directory, [0]));
      this.#file = this.#makeFile();
      this.onClose(() => this.dropFile());
    }
    if (size > this.#fileSize) {
      Object.assign(this.#lane, this.#file);
      this.#write(this.#fileSize, size);
      this.#fileSize = size;
    }
    return this.#file;
  }

  /** Removes the file, if there is one, until {@link renewFile}. */
  dropFile(): void {
    const file = this.#file;
    if (file === undefined) return;
    const lane = this.#lane;
    Object.assign(lane, file);
    fuse.release(lane, Opcode.RELEASE);
    this.driver.call(lane);
    fuse.remove(lane, Opcode.UNLINK, this.directory.node, this.directory.nodeHigh, PREFIX, 0);
    this.driver.call(lane);
    this.forget([file]);
  }

  /** Makes the dropped file again. The object that {@link file} has returned stands for it. */
  renewFile(): void {
    if (this.#file !== undefined) Object.assign(this.#file, this.#makeFile());
  }

  #makeFile(): OpenNode {
    const lane = this.#lane;
    fuse.create(lane, this.directory.node, this.directory.nodeHigh, PREFIX, 0);
    this.driver.call(lane);
    fuse.keepNode(lane);
    fuse.keepFile(lane, fuse.ENTRY_OUT);
    this.#write(0, this.#fileSize);
    const { node, nodeHigh, file, fileHigh } = lane;
    return { node, nodeHigh, file, fileHigh };
  }

  /** Writes a part of the file to which the lane points. */
  #write(from: number, to: number): void {
    const lane = this.#lane;
    for (let at = from; at < to; at += CHUNK) {
      for (let i = 0; i < CHUNK / 4; i += 128) lane.dataWords[i] = Math.random() * 2 ** 32;
      fuse.write(lane, at, CHUNK);
      this.driver.call(lane);
    }
  }

  /**
   * Makes files `f0`, `f1` and so on of `size` bytes, at most 4096.
   * @returns their nodes, each looked up once.
   */
  fill(directory: Node, count: number, size: number): Node[] {
    const nodes: Node[] = [];
    let number = 0;
    const begin = (lane: Lane) => {
      lane.step = 0;
      fuse.create(lane, directory.node, directory.nodeHigh, PREFIX, number++);
    };
    const next = (lane: Lane) => {
      lane.step += 1;
      if (lane.step === 1) {
        fuse.keepNode(lane);
        fuse.keepFile(lane, fuse.ENTRY_OUT);
        nodes.push({ node: lane.node, nodeHigh: lane.nodeHigh });
        if (size === 0) lane.step = 2;
        else fuse.write(lane, 0, size);
      }
      if (lane.step === 2) fuse.release(lane, Opcode.RELEASE);
      return lane.step < 3;
    };
    this.#run({ begin, next }, count);
    return nodes;
  }

  /** Removes the files with these numbers, if they exist. */
  remove(directory: Node, numbers: readonly number[]): void {
    let position = 0;
    const begin = (lane: Lane) => {
      lane.step = 0;
      lane.number = numbers[position++]!;
      fuse.lookup(lane, directory.node, directory.nodeHigh, PREFIX, lane.number);
    };
    const next = (lane: Lane) => {
      if (lane.errno === -ENOENT) return false;
      lane.step += 1;
      if (lane.step === 1) {
        fuse.keepNode(lane);
        fuse.remove(lane, Opcode.UNLINK, directory.node, directory.nodeHigh, PREFIX, lane.number);
      } else if (lane.step === 2) fuse.forget(lane, lane.node, lane.nodeHigh);
      return lane.step < 3;
    };
    this.#run({ begin, next, tolerates: -ENOENT }, numbers.length);
  }

  /** Forgets `count` lookups of each node. */
  forget(nodes: readonly (Node & { readonly count?: number })[], count = 1): void {
    let position = 0;
    const begin = (lane: Lane) => {
      const one = nodes[position++]!;
      fuse.forget(lane, one.node, one.nodeHigh, one.count ?? count);
    };
    this.#run({ begin, next: () => false }, nodes.length);
  }

  /** Lists a directory. @returns the nodes of its names, each looked up once more. */
  list(directory: Node): Node[] {
    const lane = this.#lane;
    const nodes: Node[] = [];
    fuse.opendir(lane, directory.node, directory.nodeHigh);
    this.driver.call(lane);
    Object.assign(lane, directory);
    fuse.keepFile(lane);
    const cookie: Cookie = { low: 0, high: 0 };
    do {
      fuse.readdirplus(lane, cookie.low, cookie.high, 4096);
      this.driver.call(lane);
    } while (
      scanEntries(lane, cookie, (node, nodeHigh) => {
        if (node !== 0 || nodeHigh !== 0) nodes.push({ node, nodeHigh });
      })
    );
    fuse.release(lane, Opcode.RELEASEDIR);
    this.driver.call(lane);
    return nodes;
  }

  #run(load: Load, count: number): void {
    this.driver.run(load, this.#lanes, { operations: count });
  }

  #makeDirectory(parent: Node, name: string): Node {
    const lane = this.#lane;
    fuse.mkdir(lane, parent.node, parent.nodeHigh, name);
    this.driver.call(lane);
    fuse.keepNode(lane);
    return { node: lane.node, nodeHigh: lane.nodeHigh };
  }

  #removeDirectory(parent: Node, name: string, directory: Node): void {
    fuse.remove(this.#lane, Opcode.RMDIR, parent.node, parent.nodeHigh, name);
    this.driver.call(this.#lane);
    this.forget([directory]);
  }
}

/** The position from which a directory is read further. */
export interface Cookie {
  low: number;
  high: number;
}

/**
 * Goes through a READDIRPLUS reply: `struct fuse_direntplus`, each an entry of 128 bytes, 24 of
 * `fuse_dirent` and a name, padded to 8 bytes.
 * @returns whether there were entries; `cookie` is that of the last one then.
 */
export function scanEntries(
  lane: Lane,
  cookie: Cookie,
  visit?: (node: number, nodeHigh: number) => void,
): boolean {
  const words = lane.dataWords;
  const end = (lane.replyLength - OUT_HEADER) >> 2;
  for (let at = 0; at + 38 <= end;) {
    visit?.(words[at]!, words[at + 1]!);
    cookie.low = words[at + 34]!;
    cookie.high = words[at + 35]!;
    at += 38 + (((words[at + 36]! + 7) & ~7) >> 2);
  }
  return end > 0;
}
