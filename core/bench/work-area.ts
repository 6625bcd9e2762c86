import { BenchError, type Driver } from './driver.js';
import * as fuse from './fuse.js';
import { BODY, type Lane, OUT_HEADER } from './lane.js';

const { Opcode } = fuse;

const ROOT = 1;
/** Data of one WRITE while files are made. */
const CHUNK = 2 ** 17;

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
 * A directory of its own on the mounted file system, where scenarios find their files. What is made here is not measured.
 * Everything is removed by {@link close}.
 */
export class WorkArea {
  readonly driver: Driver;
  readonly #lane: Lane;
  readonly #name: string;
  readonly #undo: (() => void)[] = [];
  #directory: Node = { node: ROOT, nodeHigh: 0 };

  /** Starts the FUSE session and makes the directory. */
  constructor(driver: Driver, name: string) {
    this.driver = driver;
    this.#lane = driver.openLanes(1, CHUNK)[0]!;
    this.#name = name;
    fuse.init(this.#lane);
    driver.call(this.#lane);
    const major = this.#lane.reply[BODY];
    if (major !== 7) throw new BenchError(`the daemon speaks FUSE ${major}, not 7`);
    this.#directory = this.makeDirectory({ node: ROOT, nodeHigh: 0 }, name);
  }

  get directory(): Node {
    return this.#directory;
  }

  /** Registers what removes a scenario's files; called in reverse order. */
  onClose(undo: () => void): void {
    this.#undo.push(undo);
  }

  close(): void {
    for (const undo of this.#undo.splice(0).toReversed()) undo();
    this.removeDirectory({ node: ROOT, nodeHigh: 0 }, this.#name, this.#directory);
    this.driver.closeLanes([this.#lane]);
  }

  makeDirectory(parent: Node, name: string): Node {
    fuse.mkdir(this.#lane, parent.node, parent.nodeHigh, name);
    return this.#entry();
  }

  removeDirectory(parent: Node, name: string, directory: Node): void {
    fuse.remove(this.#lane, Opcode.RMDIR, parent.node, parent.nodeHigh, name);
    this.driver.call(this.#lane);
    this.forget(directory);
  }

  /** A file of `size` random bytes, still open. */
  create(parent: Node, prefix: string, number: number, size: number): OpenNode {
    const lane = this.#lane;
    fuse.create(lane, parent.node, parent.nodeHigh, prefix, number);
    this.driver.call(lane);
    fuse.keepNode(lane);
    fuse.keepFile(lane, fuse.ENTRY_OUT);
    for (let at = 0; at < size; at += CHUNK) {
      for (let i = 0; i < CHUNK / 4; i += 128) lane.dataWords[i] = Math.random() * 2 ** 32;
      fuse.write(lane, at, Math.min(CHUNK, size - at));
      this.driver.call(lane);
    }
    return { node: lane.node, nodeHigh: lane.nodeHigh, file: lane.file, fileHigh: lane.fileHigh };
  }

  lookup(parent: Node, prefix: string, number: number): Node {
    fuse.lookup(this.#lane, parent.node, parent.nodeHigh, prefix, number);
    return this.#entry();
  }

  open(node: Node): OpenNode {
    fuse.open(this.#lane, node.node, node.nodeHigh);
    return this.#opened(node);
  }

  openDirectory(node: Node): OpenNode {
    fuse.opendir(this.#lane, node.node, node.nodeHigh);
    return this.#opened(node);
  }

  release(open: OpenNode, opcode: 18 | 29 = Opcode.RELEASE): void {
    Object.assign(this.#lane, open);
    fuse.release(this.#lane, opcode);
    this.driver.call(this.#lane);
  }

  unlink(parent: Node, prefix: string, number: number): void {
    fuse.remove(this.#lane, Opcode.UNLINK, parent.node, parent.nodeHigh, prefix, number);
    this.driver.call(this.#lane);
  }

  forget(node: Node, count = 1): void {
    fuse.forget(this.#lane, node.node, node.nodeHigh, count);
    this.driver.call(this.#lane);
  }

  /** Node ids of the names of a directory, each with one lookup more. */
  list(directory: Node): Node[] {
    const open = this.openDirectory(directory);
    const nodes: Node[] = [];
    const lane = this.#lane;
    Object.assign(lane, open);
    const cookie: Cookie = { low: 0, high: 0 };
    do {
      fuse.readdirplus(lane, cookie.low, cookie.high, 4096);
      this.driver.call(lane);
    } while (
      scanEntries(lane, cookie, (node, nodeHigh) => {
        if (node !== 0 || nodeHigh !== 0) nodes.push({ node, nodeHigh });
      })
    );
    this.release(open, Opcode.RELEASEDIR);
    return nodes;
  }

  #entry(): Node {
    this.driver.call(this.#lane);
    fuse.keepNode(this.#lane);
    return { node: this.#lane.node, nodeHigh: this.#lane.nodeHigh };
  }

  #opened({ node, nodeHigh }: Node): OpenNode {
    this.driver.call(this.#lane);
    fuse.keepFile(this.#lane);
    return { node, nodeHigh, file: this.#lane.file, fileHigh: this.#lane.fileHigh };
  }
}

/** Where to read a directory on from. */
export interface Cookie {
  low: number;
  high: number;
}

/**
 * Goes through a READDIRPLUS reply: `struct fuse_direntplus`, each an entry of 128 bytes, 24 of `fuse_dirent` and a name,
 * padded to 8 bytes.
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
