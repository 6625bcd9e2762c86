import { BenchError, type Load } from './driver.js';
import * as fuse from './fuse.js';
import { BODY, type RequestSlot } from './request-slot.js';
import {
  FILE_BYTES,
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

/** Size of small files, and of small reads and writes. */
const SMALL_BYTES = 4 * KIB;
const APPENDED_BYTES = 64;
/** Files that scenarios look up and read. */
const FILES = 1000;
/** The most files that one run creates, or removes. */
const CREATED = 4000;
/** Entries of the directory that is listed. */
const ENTRIES = 8000;
/** Size of each READDIRPLUS. Linux asks for a page. */
const LISTING_BYTES = 4096;

/** A scenario that is ready to run. */
export interface Prepared {
  readonly load: Load;
  /** The most operations in one run. */
  readonly limit?: number;
  /** Called before each run. What it does is not measured. */
  before?(): void;
  /** Called after each run. What it does is not measured. */
  after?(): void;
}

/** What is measured for one row of the table. */
export interface Scenario {
  /** Name for `--only` and JSON. */
  readonly key: string;
  /** Name in tables. */
  readonly title: string;
  /** Operations at a time. */
  readonly depth: number;
  /** Time between a reply and the next request. Default 0. */
  readonly thinkTimeUs?: number;
  /** The most data of one request, or of its reply. */
  readonly dataBytes: number;
  /** Data that each operation transfers, if the row shows throughput. */
  readonly bytes?: number;
  /** The units that one operation counts for. Default: the operation itself. */
  readonly units?: { readonly name: string; readonly count: number };
  /** Makes the files. Called once for each daemon; the work area removes them in the end. */
  prepare(area: WorkArea): Prepared;
}

/** Rows for a front-end that spins: what a daemon can do at most. */
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

/** Rows for a front-end that sleeps: what a daemon costs beside a guest. */
export const sleepingRows: readonly Scenario[] = [
  ...[GETATTR_D1, READ_D1, LOOKUP_D1, MIXED_D1].flatMap((row) => [
    row,
    withThinkTime(row, 20),
    withThinkTime(row, 200),
  ]),
  withThinkTime(WRITE_D1, 20),
  ...[CREATE_D1, SMALL_READ_D1].flatMap((row) => [row, withThinkTime(row, 20)]),
  ...[4, 32, 128].flatMap((depth) => [
    getattr(`getattr-d${depth}`, `GETATTR, depth ${depth}`, depth),
    transfer(`read-rand-4k-d${depth}`, `random read 4 KiB, depth ${depth}`, depth, 4 * KIB, 'read', 'random'),
    lookup(`lookup-hit-d${depth}`, `LOOKUP hit, depth ${depth}`, depth, true),
  ]),
  createChain('create-d8', 'CREATE + WRITE 4 KiB + RELEASE + FORGET, depth 8', 8),
  transfer('write-seq-128k', 'sequential write 128 KiB, depth 8', 8, 128 * KIB, 'write', 'sequential'),
  transfer('read-seq-1m', 'sequential read 1 MiB, depth 4', 4, MIB, 'read', 'sequential'),
];

/** Further rows of names and appends, which are measured when they are asked for. */
const namingRows: readonly Scenario[] = [
  lookup('lookup-miss-d1', 'LOOKUP miss, depth 1', 1, false),
  ...[1, 8].flatMap((depth) => [
    createChain(
      `create-new-d${depth}`,
      `LOOKUP + CREATE + WRITE 4 KiB + RELEASE + FORGET, depth ${depth}`,
      depth,
      true,
    ),
    append(`append-d${depth}`, `append 64 bytes, depth ${depth}`, depth),
  ]),
  unlink('unlink-d1', 'UNLINK + FORGET, depth 1', 1),
  rename('rename-d1', 'RENAME, depth 1', 1),
];

/** All rows, each key once. */
export const scenarios: readonly Scenario[] = [
  ...new Map([...spinningRows, ...sleepingRows, ...namingRows].map((row) => [row.key, row])).values(),
];

/** The same row with time between its requests. */
function withThinkTime(row: Scenario, thinkTimeUs: number): Scenario {
  const title = `${row.title}, ${thinkTimeUs} µs between requests`;
  return { ...row, key: `${row.key}-${thinkTimeUs}us`, title, thinkTimeUs };
}

/**
 * READs or WRITEs of one size in one file.
 * @param extentBytes only the beginning of the file is used, of this size: at most {@link
 * FILE_BYTES}, or a multiple of it.
 */
export function transfer(
  key: string,
  title: string,
  depth: number,
  bytes: number,
  direction: 'read' | 'write',
  order: 'sequential' | 'random',
  extentBytes = FILE_BYTES,
): Scenario {
  const blocks = extentBytes / bytes;
  const prepare = (area: WorkArea): Prepared => {
    const file = area.file(Math.max(extentBytes, FILE_BYTES));
    let position = 0;
    const begin = (slot: RequestSlot) => {
      position = order === 'sequential' ? (position + 1) % blocks : Math.floor(Math.random() * blocks);
      aim(slot, file);
      if (direction === 'read') fuse.read(slot, position * bytes, bytes);
      else fuse.write(slot, position * bytes, bytes);
    };
    return { load: { begin, next: isOver } };
  };
  return { key, title, depth, dataBytes: bytes, bytes, prepare };
}

/** WRITEs at the end of one file. */
function append(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    area.onClose(() => area.remove(directory, [0]));
    const [node] = area.fill(directory, 1, 0);
    area.onClose(() => area.forget([node!]));
    const file = area.openToAppend(node!);
    const begin = (slot: RequestSlot) => {
      aim(slot, file);
      fuse.write(slot, 0, APPENDED_BYTES);
    };
    return { load: { begin, next: isOver } };
  };
  return { key, title, depth, dataBytes: APPENDED_BYTES, prepare };
}

/** GETATTR of one file, again and again. */
export function getattr(key: string, title: string, depth: number): Scenario {
  return { key, title, depth, dataBytes: 0, prepare: prepareGetattr };
}

function prepareGetattr(area: WorkArea): Prepared {
  const file = area.file();
  return { load: { begin: (slot) => fuse.getattr(slot, file.node, file.nodeHigh), next: isOver } };
}

/**
 * LOOKUPs of random names in a directory of `files` files. After the run, the guest forgets what it
 * has found.
 * @param hit whether the names exist.
 */
export function lookup(key: string, title: string, depth: number, hit: boolean, files = FILES): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = filledDirectory(area, key, files);
    const found = new Map<number, { readonly nodeHigh: number; count: number }>();
    const begin = (slot: RequestSlot) => {
      fuse.lookup(
        slot,
        directory.node,
        directory.nodeHigh,
        hit ? PREFIX : 'none',
        Math.floor(Math.random() * files),
      );
    };
    const next = (slot: RequestSlot) => {
      const node = slot.errno === 0 ? slot.reply[BODY]! : 0;
      if (node === 0) return false;
      const known = found.get(node);
      if (known === undefined) found.set(node, { nodeHigh: slot.reply[BODY + 1]!, count: 1 });
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

/** What follows the CREATE of a small file: WRITE, RELEASE, FORGET. */
function afterCreate(slot: RequestSlot): boolean {
  slot.step += 1;
  if (slot.step === 1) {
    fuse.keepNode(slot);
    fuse.keepFile(slot, fuse.ENTRY_OUT);
    fuse.write(slot, 0, SMALL_BYTES);
  } else if (slot.step === 2) fuse.release(slot, Opcode.RELEASE);
  else if (slot.step === 3) fuse.forget(slot, slot.node, slot.nodeHigh);
  else return false;
  return true;
}

/**
 * Makes a file, writes it once and closes it, as `tar -x` and compilers do. The files are removed
 * after the run.
 * @param isLookedUp whether its name is looked up before, as Linux does.
 */
function createChain(key: string, title: string, depth: number, isLookedUp = false): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    let created = 0;
    const create = (slot: RequestSlot) => {
      slot.step = 0;
      fuse.create(slot, directory.node, directory.nodeHigh, PREFIX, slot.number);
    };
    const begin = (slot: RequestSlot) => {
      slot.number = created++;
      if (!isLookedUp) return create(slot);
      slot.step = -1;
      fuse.lookup(slot, directory.node, directory.nodeHigh, PREFIX, slot.number);
    };
    const next = (slot: RequestSlot) => {
      if (slot.step >= 0) return afterCreate(slot);
      create(slot);
      return true;
    };
    const after = () => {
      area.remove(directory, range(0, created));
      created = 0;
    };
    const load = { begin, next, ...(isLookedUp ? { tolerates: -ENOENT } : {}) };
    return { load, limit: CREATED, after };
  };
  return { key, title, depth, dataBytes: SMALL_BYTES, prepare };
}

/** What follows the LOOKUP of a small file: OPEN, READ, RELEASE, FORGET. */
function afterLookup(slot: RequestSlot): boolean {
  slot.step += 1;
  if (slot.step === 1) {
    fuse.keepNode(slot);
    fuse.open(slot, slot.node, slot.nodeHigh);
  } else if (slot.step === 2) {
    fuse.keepFile(slot);
    fuse.read(slot, 0, SMALL_BYTES);
  } else if (slot.step === 3) fuse.release(slot, Opcode.RELEASE);
  else if (slot.step === 4) fuse.forget(slot, slot.node, slot.nodeHigh);
  else return false;
  return true;
}

/** Looks a random small file up, reads and closes it. */
function smallRead(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = filledDirectory(area, key);
    const begin = (slot: RequestSlot) => {
      slot.step = 0;
      fuse.lookup(slot, directory.node, directory.nodeHigh, PREFIX, Math.floor(Math.random() * FILES));
    };
    return { load: { begin, next: afterLookup } };
  };
  return { key, title, depth, dataBytes: SMALL_BYTES, prepare };
}

/** Lists a whole directory, from OPENDIR to RELEASEDIR. */
function listing(key: string, title: string): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = filledDirectory(area, key, ENTRIES, 0);
    const nodes = area.list(directory);
    if (nodes.length !== ENTRIES) throw new BenchError(`${nodes.length} entries are listed, not ${ENTRIES}`);
    const cookie: Cookie = { low: 0, high: 0 };
    let passes = 0;
    const begin = (slot: RequestSlot) => {
      slot.step = 0;
      fuse.opendir(slot, directory.node, directory.nodeHigh);
    };
    const next = (slot: RequestSlot) => {
      if (slot.step === 2) {
        passes += 1;
        return false;
      }
      if (slot.step === 0) {
        aim(slot, directory);
        fuse.keepFile(slot);
        cookie.low = 0;
        cookie.high = 0;
        slot.step = 1;
      } else if (!scanEntries(slot, cookie)) {
        slot.step = 2;
        fuse.release(slot, Opcode.RELEASEDIR);
        return true;
      }
      fuse.readdirplus(slot, cookie.low, cookie.high, LISTING_BYTES);
      return true;
    };
    area.onClose(() => {
      area.forget(nodes, passes + 1);
    });
    return { load: { begin, next } };
  };
  return {
    key,
    title,
    depth: 1,
    dataBytes: LISTING_BYTES,
    units: { name: 'entry', count: ENTRIES },
    prepare,
  };
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
    const begin = (slot: RequestSlot) => {
      slot.step = 0;
      slot.number = removed++;
      fuse.remove(slot, Opcode.UNLINK, directory.node, directory.nodeHigh, PREFIX, slot.number);
    };
    const next = (slot: RequestSlot) => {
      slot.step += 1;
      const { node, nodeHigh } = nodes[slot.number]!;
      if (slot.step === 1) fuse.forget(slot, node, nodeHigh);
      return slot.step === 1;
    };
    const after = () => {
      area.forget(nodes.slice(removed));
      area.remove(directory, range(removed, CREATED));
    };
    return { load: { begin, next }, limit: CREATED, before, after };
  };
  return { key, title, depth, dataBytes: 0, prepare };
}

/** Each slot renames a file of its own back and forth. */
function rename(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    /** The number in each file's name now. */
    const numbers = range(0, depth);
    area.onClose(() => area.remove(directory, range(0, 2 * depth)));
    const files = area.fill(directory, depth, 0);
    area.onClose(() => area.forget(files));
    const begin = (slot: RequestSlot) => {
      const from = numbers[slot.index]!;
      const to = from < depth ? from + depth : from - depth;
      numbers[slot.index] = to;
      fuse.rename(slot, directory.node, directory.nodeHigh, PREFIX, from, to);
    };
    return { load: { begin, next: isOver } };
  };
  return { key, title, depth, dataBytes: 0, prepare };
}

/**
 * Half of the requests are READs, the others WRITEs, GETATTRs and LOOKUPs. The slots spread over
 * two queues where the daemon has them.
 */
function mixed(key: string, title: string, depth: number): Scenario {
  const prepare = (area: WorkArea): Prepared => {
    const file = area.file();
    const queues = Math.min(2, area.driver.requestQueues);
    let lookups = 0;
    const begin = (slot: RequestSlot) => {
      const kind = Math.floor(Math.random() * 8);
      const offset = Math.floor((Math.random() * FILE_BYTES) / SMALL_BYTES) * SMALL_BYTES;
      aim(slot, file);
      if (kind < 4) fuse.read(slot, offset, SMALL_BYTES);
      else if (kind < 6) fuse.write(slot, offset, SMALL_BYTES);
      else if (kind < 7) fuse.getattr(slot, file.node, file.nodeHigh);
      else {
        lookups += 1;
        fuse.lookup(slot, area.directory.node, area.directory.nodeHigh, PREFIX, 0);
      }
      slot.queue = 1 + (slot.index % queues);
    };
    const after = () => {
      area.forget([file], lookups);
      lookups = 0;
    };
    return { load: { begin, next: isOver }, after };
  };
  return { key, title, depth, dataBytes: SMALL_BYTES, prepare };
}

/** The `next` of operations that have one request. */
function isOver(): boolean {
  return false;
}

/** Makes an open file the one that a slot works on. */
function aim(slot: RequestSlot, { node, nodeHigh, file, fileHigh }: Node & Partial<OpenNode>): void {
  slot.node = node;
  slot.nodeHigh = nodeHigh;
  if (file !== undefined) slot.file = file;
  if (fileHigh !== undefined) slot.fileHigh = fileHigh;
}

/**
 * Makes a directory with files `f0`, `f1` and so on. The guest has forgotten them, so that the
 * daemon need not know them.
 */
function filledDirectory(area: WorkArea, key: string, count = FILES, size = SMALL_BYTES): Node {
  const directory = area.subdirectory(key);
  area.onClose(() => area.remove(directory, range(0, count)));
  area.forget(area.fill(directory, count, size));
  return directory;
}

/** The whole numbers from `start` up to, but not including, `end`. */
function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
