import { BenchError, type Load } from './driver.js';
import * as fuse from './fuse.js';
import { BODY, type Lane } from './lane.js';
import {
  FILE_SIZE,
  PREFIX,
  scanEntries,
  type Cookie,
  type Node,
  type OpenNode,
  type WorkArea,
} from './work-area.js';
import { ENOENT } from '../system/calls/negative-errno.js';

const { Opcode } = fuse;
const KIB = 1024;
const MIB = 1024 * KIB;

/** Bytes of small files. */
const SMALL = 4 * KIB;
/** Files that small-file scenarios go through. */
const FILES = 1000;
/** Files that are created, or removed, in one run. */
const CREATED = 4000;
/** Entries of the listed directory, and bytes of each READDIRPLUS: Linux asks for a page. */
const ENTRIES = 8000;
const LISTING = 4096;

/** A scenario that is ready to run. */
export interface Prepared {
  readonly load: Load;
  /** The most operations in one run. */
  readonly limit?: number;
  /** Called before each run and after it; not measured. */
  before?(): void;
  after?(): void;
}

/** One row of the table. */
export interface Scenario {
  /** For `--only` and JSON. */
  readonly key: string;
  readonly title: string;
  /** Operations at a time. */
  readonly depth: number;
  /** Microseconds between an answer and the next request. Default 0. */
  readonly think?: number;
  /** Bytes of data with each request. */
  readonly dataBytes: number;
  /** Bytes that each operation transfers, if the row shows throughput. */
  readonly bytes?: number;
  /** The units that an operation counts for. Default: the operation itself. */
  readonly units?: { readonly name: string; readonly count: number };
  /** Makes the files. Called once for each daemon; the work area removes them in the end. */
  prepare(area: WorkArea): Prepared;
}

/** The rows for a front-end that spins: what a daemon can do at most. */
export const spinningRows: readonly Scenario[] = [
  transfer('read-seq-128k', 'sequential read 128 KiB, depth 8', 8, 128 * KIB, 'read', 'sequential'),
  transfer('write-seq-128k', 'sequential write 128 KiB, depth 8', 8, 128 * KIB, 'write', 'sequential'),
  transfer('read-seq-1m', 'sequential read 1 MiB, depth 4', 4, MIB, 'read', 'sequential'),
  transfer('write-seq-1m', 'sequential write 1 MiB, depth 4', 4, MIB, 'write', 'sequential'),
  transfer('read-rand-4k-d1', 'random read 4 KiB, depth 1', 1, 4 * KIB, 'read', 'random'),
  transfer('read-rand-4k-d32', 'random read 4 KiB, depth 32', 32, 4 * KIB, 'read', 'random'),
  transfer('write-rand-4k-d1', 'random write 4 KiB, depth 1', 1, 4 * KIB, 'write', 'random'),
  transfer('write-rand-4k-d32', 'random write 4 KiB, depth 32', 32, 4 * KIB, 'write', 'random'),
  getattr('getattr-d1', 'GETATTR, depth 1', 1),
  getattr('getattr-d32', 'GETATTR, depth 32', 32),
  lookup('lookup-hit-d1', 'LOOKUP hit, depth 1', 1, true),
  lookup('lookup-hit-d32', 'LOOKUP hit, depth 32', 32, true),
  lookup('lookup-miss-d32', 'LOOKUP miss, depth 32', 32, false),
  createChain('create-d1', 'CREATE + WRITE 4 KiB + RELEASE + FORGET, depth 1', 1),
  createChain('create-d8', 'CREATE + WRITE 4 KiB + RELEASE + FORGET, depth 8', 8),
  smallRead('small-read-d8', 'LOOKUP + OPEN + READ 4 KiB + RELEASE, depth 8', 8),
  listing('readdirplus', `READDIRPLUS, per entry (${ENTRIES} entries)`),
  unlink('unlink-d8', 'UNLINK + FORGET, depth 8', 8),
  rename('rename-d8', 'RENAME, depth 8', 8),
  mixed('mixed-2q', 'mixed 4 KiB reads, writes, GETATTR, LOOKUP on two queues, depth 32', 32),
];

const READ_D1 = transfer('read-rand-4k-d1', 'random read 4 KiB, depth 1', 1, 4 * KIB, 'read', 'random');
const WRITE_D1 = transfer('write-rand-4k-d1', 'random write 4 KiB, depth 1', 1, 4 * KIB, 'write', 'random');
const GETATTR_D1 = getattr('getattr-d1', 'GETATTR, depth 1', 1);
const LOOKUP_D1 = lookup('lookup-hit-d1', 'LOOKUP hit, depth 1', 1, true);
const MIXED_D1 = mixed('mixed-d1', 'mixed 4 KiB reads, writes, GETATTR, LOOKUP, depth 1', 1);
const CREATE_D1 = createChain('create-d1', 'CREATE + WRITE 4 KiB + RELEASE + FORGET, depth 1', 1);
const SMALL_READ_D1 = smallRead('small-read-d1', 'LOOKUP + OPEN + READ 4 KiB + RELEASE, depth 1', 1);

/** The rows for a front-end that sleeps: what a daemon costs beside a guest. */
export const sleepingRows: readonly Scenario[] = [
  ...[GETATTR_D1, READ_D1, LOOKUP_D1, MIXED_D1].flatMap((row) => [
    row,
    withThink(row, 20),
    withThink(row, 200),
  ]),
  withThink(WRITE_D1, 20),
  ...[CREATE_D1, SMALL_READ_D1].flatMap((row) => [row, withThink(row, 20)]),
  ...[4, 32, 128].flatMap((depth) => [
    getattr(`getattr-d${depth}`, `GETATTR, depth ${depth}`, depth),
    transfer(`read-rand-4k-d${depth}`, `random read 4 KiB, depth ${depth}`, depth, 4 * KIB, 'read', 'random'),
    lookup(`lookup-hit-d${depth}`, `LOOKUP hit, depth ${depth}`, depth, true),
  ]),
  createChain('create-d8', 'CREATE + WRITE 4 KiB + RELEASE + FORGET, depth 8', 8),
  transfer('write-seq-128k', 'sequential write 128 KiB, depth 8', 8, 128 * KIB, 'write', 'sequential'),
  transfer('read-seq-1m', 'sequential read 1 MiB, depth 4', 4, MIB, 'read', 'sequential'),
];

/** All rows there are, each key once. */
export const scenarios: readonly Scenario[] = [
  ...new Map([...spinningRows, ...sleepingRows].map((row) => [row.key, row])).values(),
];

/** The same row with time between its requests. */
function withThink(row: Scenario, think: number): Scenario {
  return { ...row, key: `${row.key}-${think}us`, title: `${row.title}, ${think} µs between requests`, think };
}

/**
 * READ or WRITE of one size, all over one file, or over its first `extent` bytes: at most {@link
 * FILE_SIZE}, or a multiple of it.
 */
export function transfer(
  key: string,
  title: string,
  depth: number,
  bytes: number,
  direction: 'read' | 'write',
  order: 'sequential' | 'random',
  extent = FILE_SIZE,
): Scenario {
  const blocks = extent / bytes;
  const prepare = (area: WorkArea): Prepared => {
    const file = area.file(Math.max(extent, FILE_SIZE));
    let position = 0;
    const begin = (lane: Lane) => {
      position = order === 'sequential' ? (position + 1) % blocks : Math.floor(Math.random() * blocks);
      aim(lane, file);
      if (direction === 'read') fuse.read(lane, position * bytes, bytes);
      else fuse.write(lane, position * bytes, bytes);
    };
    return { load: { begin, next: isOver } };
  };
  return { key, title, depth, dataBytes: bytes, bytes, prepare };
}

export function getattr(key: string, title: string, depth: number): Scenario {
  return { key, title, depth, dataBytes: 0, prepare: prepareGetattr };
}

function prepareGetattr(area: WorkArea): Prepared {
  const file = area.file();
  return { load: { begin: (lane) => fuse.getattr(lane, file.node, file.nodeHigh), next: isOver } };
}

/** LOOKUP of names in a directory of `files`. What is found is forgotten after the run. */
export function lookup(key: string, title: string, depth: number, hit: boolean, files = FILES): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = filledDirectory(area, key, files);
    const found = new Map<number, { readonly nodeHigh: number; count: number }>();
    const begin = (lane: Lane) => {
      fuse.lookup(
        lane,
        directory.node,
        directory.nodeHigh,
        hit ? PREFIX : 'none',
        Math.floor(Math.random() * files),
      );
    };
    const next = (lane: Lane) => {
      const node = lane.errno === 0 ? lane.reply[BODY]! : 0;
      if (node === 0) return false;
      const known = found.get(node);
      if (known === undefined) found.set(node, { nodeHigh: lane.reply[BODY + 1]!, count: 1 });
      else known.count += 1;
      return false;
    };
    const after = () => {
      area.forget(Array.from(found, ([node, { nodeHigh, count }]) => ({ node, nodeHigh, count })));
      found.clear();
    };
    return { load: { begin, next, ...(hit ? {} : { tolerates: -ENOENT }) }, after };
  };
  return { key, title, depth, dataBytes: 0, prepare };
}

/** The requests after CREATE, when a small file is written. */
function writeOn(lane: Lane): boolean {
  lane.step += 1;
  if (lane.step === 1) {
    fuse.keepNode(lane);
    fuse.keepFile(lane, fuse.ENTRY_OUT);
    fuse.write(lane, 0, SMALL);
  } else if (lane.step === 2) fuse.release(lane, Opcode.RELEASE);
  else if (lane.step === 3) fuse.forget(lane, lane.node, lane.nodeHigh);
  else return false;
  return true;
}

/**
 * Makes a file, writes it once and closes it, as `tar -x` and compilers do. The files are removed
 * after the run.
 */
function createChain(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    let created = 0;
    const begin = (lane: Lane) => {
      lane.step = 0;
      fuse.create(lane, directory.node, directory.nodeHigh, PREFIX, created++);
    };
    const after = () => {
      area.remove(directory, range(0, created));
      created = 0;
    };
    return { load: { begin, next: writeOn }, limit: CREATED, after };
  };
  return { key, title, depth, dataBytes: SMALL, prepare };
}

/** The requests after LOOKUP, when a small file is read. */
function readOn(lane: Lane): boolean {
  lane.step += 1;
  if (lane.step === 1) {
    fuse.keepNode(lane);
    fuse.open(lane, lane.node, lane.nodeHigh);
  } else if (lane.step === 2) {
    fuse.keepFile(lane);
    fuse.read(lane, 0, SMALL);
  } else if (lane.step === 3) fuse.release(lane, Opcode.RELEASE);
  else if (lane.step === 4) fuse.forget(lane, lane.node, lane.nodeHigh);
  else return false;
  return true;
}

function smallRead(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = filledDirectory(area, key);
    const begin = (lane: Lane) => {
      lane.step = 0;
      fuse.lookup(lane, directory.node, directory.nodeHigh, PREFIX, Math.floor(Math.random() * FILES));
    };
    return { load: { begin, next: readOn } };
  };
  return { key, title, depth, dataBytes: SMALL, prepare };
}

/** Lists a whole directory, from OPENDIR to RELEASEDIR. */
function listing(key: string, title: string): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = filledDirectory(area, key, ENTRIES, 0);
    const nodes = area.list(directory);
    if (nodes.length !== ENTRIES) throw new BenchError(`${nodes.length} entries are listed, not ${ENTRIES}`);
    const cookie: Cookie = { low: 0, high: 0 };
    let passes = 0;
    const begin = (lane: Lane) => {
      lane.step = 0;
      fuse.opendir(lane, directory.node, directory.nodeHigh);
    };
    const next = (lane: Lane) => {
      if (lane.step === 2) {
        passes += 1;
        return false;
      }
      if (lane.step === 0) {
        aim(lane, directory);
        fuse.keepFile(lane);
        cookie.low = 0;
        cookie.high = 0;
        lane.step = 1;
      } else if (!scanEntries(lane, cookie)) {
        lane.step = 2;
        fuse.release(lane, Opcode.RELEASEDIR);
        return true;
      }
      fuse.readdirplus(lane, cookie.low, cookie.high, LISTING);
      return true;
    };
    area.onClose(() => {
      area.forget(nodes, passes + 1);
    });
    return { load: { begin, next } };
  };
  return { key, title, depth: 1, dataBytes: LISTING, units: { name: 'entry', count: ENTRIES }, prepare };
}

/**
 * Removes files that the guest has looked up, as Linux does before a removal. The guest forgets
 * each file after its removal. A daemon that keeps looked-up files open frees them only then.
 */
function unlink(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    let nodes: Node[] = [];
    let removed = 0;
    const before = () => {
      nodes = [];
      removed = 0;
      nodes = area.fill(directory, CREATED, 0);
    };
    const begin = (lane: Lane) => {
      lane.step = 0;
      lane.number = removed++;
      fuse.remove(lane, Opcode.UNLINK, directory.node, directory.nodeHigh, PREFIX, lane.number);
    };
    const next = (lane: Lane) => {
      lane.step += 1;
      const { node, nodeHigh } = nodes[lane.number]!;
      if (lane.step === 1) fuse.forget(lane, node, nodeHigh);
      return lane.step === 1;
    };
    const after = () => {
      area.forget(nodes.slice(removed));
      area.remove(directory, range(removed, CREATED));
    };
    return { load: { begin, next }, limit: CREATED, before, after };
  };
  return { key, title, depth, dataBytes: 0, prepare };
}

/** Each lane renames a file of its own back and forth. */
function rename(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    /** The number in each file's name now. */
    const numbers = range(0, depth);
    area.onClose(() => area.remove(directory, range(0, 2 * depth)));
    const files = area.fill(directory, depth, 0);
    area.onClose(() => area.forget(files));
    const begin = (lane: Lane) => {
      const from = numbers[lane.index]!;
      const to = from < depth ? from + depth : from - depth;
      numbers[lane.index] = to;
      fuse.rename(lane, directory.node, directory.nodeHigh, PREFIX, from, to);
    };
    return { load: { begin, next: isOver } };
  };
  return { key, title, depth, dataBytes: 0, prepare };
}

/**
 * Half reads, the rest writes, GETATTR and LOOKUP; lanes spread over two queues where the daemon
 * has them.
 */
function mixed(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const file = area.file();
    const queues = Math.min(2, area.driver.requestQueues);
    let lookups = 0;
    const begin = (lane: Lane) => {
      const kind = Math.floor(Math.random() * 8);
      const offset = Math.floor((Math.random() * FILE_SIZE) / SMALL) * SMALL;
      aim(lane, file);
      if (kind < 4) fuse.read(lane, offset, SMALL);
      else if (kind < 6) fuse.write(lane, offset, SMALL);
      else if (kind < 7) fuse.getattr(lane, file.node, file.nodeHigh);
      else {
        lookups += 1;
        fuse.lookup(lane, area.directory.node, area.directory.nodeHigh, PREFIX, 0);
      }
      lane.queue = 1 + (lane.index % queues);
    };
    const after = () => {
      area.forget([file], lookups);
      lookups = 0;
    };
    return { load: { begin, next: isOver }, after };
  };
  return { key, title, depth, dataBytes: SMALL, prepare };
}

/** The `next` of operations that have one request. */
function isOver(): boolean {
  return false;
}

/** Points a lane at an open file. */
function aim(lane: Lane, { node, nodeHigh, file, fileHigh }: Node & Partial<OpenNode>): void {
  lane.node = node;
  lane.nodeHigh = nodeHigh;
  if (file !== undefined) lane.file = file;
  if (fileHigh !== undefined) lane.fileHigh = fileHigh;
}

/**
 * A directory with files `f0`, `f1` and so on, none of them known to the daemon's tables
 * afterwards.
 */
function filledDirectory(area: WorkArea, key: string, count = FILES, size = SMALL): Node {
  const directory = area.subdirectory(key);
  area.onClose(() => area.remove(directory, range(0, count)));
  area.forget(area.fill(directory, count, size));
  return directory;
}

/** The numbers from `start` up to `end`. */
function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
