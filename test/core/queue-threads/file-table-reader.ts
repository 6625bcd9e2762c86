import * as fs from 'node:fs';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import type { Attributes } from '../../../core/backend/index.js';
import { STAT, STATX_FIELD } from '../../../core/system/calls/files.js';
import { DescriptorUse, type DescriptorUser } from '../../../core/system/index.js';
import { FileTableView } from '../../../core/queue-threads/shared-file-table.js';
import { withPlainNumbers } from '../../support/plain-numbers.js';

/** Where the structures of {@link stat} and {@link statx} begin, in words. */
export const FROM = 7;

/** The name under which entries are published. */
export const NAME = { low: 1, high: -1, hash: -99 } as const;

/** The fields of statx(2) that say which file it is. */
export interface Identity {
  readonly ino: bigint;
  readonly mount: number;
  readonly birth?: { readonly seconds: number; readonly nanoseconds: number };
}

/** Words that both threads share. */
export const Progress = { STOP: 0, TURNS: 1 } as const;

/** An entry, and whether threads always give the attributes with which it is published. */
export interface TakersEntry {
  readonly identity: Identity;
  readonly isSame: boolean;
}

export interface TakerData {
  readonly program: 'take';
  readonly fileTable: SharedArrayBuffer;
  readonly user: DescriptorUser;
  /** The entries, by slot. Their nodes have the ids 1000 + slot. */
  readonly entries: readonly TakersEntry[];
  readonly attributes: Attributes;
  readonly progress: SharedArrayBuffer;
  /** How many lookups were taken, and whether other attributes were given, by generation. */
  readonly taken: SharedArrayBuffer;
  readonly attributesDiffer: SharedArrayBuffer;
}

export interface NodesData {
  readonly program: 'read';
  readonly fileTable: SharedArrayBuffer;
  readonly user: DescriptorUser;
  /** Files of one byte each: nodes, and then open files of these. */
  readonly nodes: readonly { readonly low: number; readonly high: number }[];
  readonly files: readonly { readonly index: number; readonly generation: number }[];
  readonly attributes: Attributes;
  readonly progress: SharedArrayBuffer;
  /** By node: how often it was confirmed with other attributes. */
  readonly confirmed: SharedArrayBuffer;
}

export interface ReaderReport {
  readonly wrong: readonly string[];
  /** How often something was found. */
  readonly found: number;
}

/** A `struct stat` of the attributes. */
export function stat(attributes: Attributes): Int32Array {
  const words = new Int32Array(FROM + 144 / 4);
  const view = new DataView(words.buffer, FROM * 4);
  putLong(view, STAT.SIZE, attributes.size);
  putLong(view, STAT.MTIME, attributes.mtime);
  putLong(view, STAT.MTIME + 8, attributes.mtimeNsec);
  putLong(view, STAT.CTIME, attributes.ctime);
  putLong(view, STAT.CTIME + 8, attributes.ctimeNsec);
  return words;
}

/** A `struct statx` of a file with the attributes. */
export function statx({ ino, mount, birth }: Identity, attributes: Attributes): Int32Array {
  const words = new Int32Array(FROM + 256 / 4);
  const view = new DataView(words.buffer, FROM * 4);
  view.setBigUint64(STATX_FIELD.INO, ino, true);
  putLong(view, STATX_FIELD.MOUNT_ID, mount);
  putLong(view, STATX_FIELD.BTIME, birth?.seconds);
  view.setUint32(STATX_FIELD.BTIME + 8, birth?.nanoseconds ?? 0, true);
  putLong(view, STATX_FIELD.SIZE, attributes.size);
  putLong(view, STATX_FIELD.MTIME, attributes.mtime);
  view.setUint32(STATX_FIELD.MTIME + 8, attributes.mtimeNsec ?? 0, true);
  putLong(view, STATX_FIELD.CTIME, attributes.ctime);
  view.setUint32(STATX_FIELD.CTIME + 8, attributes.ctimeNsec ?? 0, true);
  return words;
}

function putLong(view: DataView, at: number, value = 0): void {
  view.setBigInt64(at, BigInt(value), true);
}

/** Finds and confirms entries, over and over, as a thread that answers LOOKUPs does. */
function take(data: TakerData): ReaderReport {
  const use = new DescriptorUse(data.user);
  const view = withPlainNumbers(new FileTableView(data.fileTable, use));
  const progress = new Int32Array(data.progress);
  const taken = new Int32Array(data.taken);
  const attributesDiffer = new Int32Array(data.attributesDiffer);
  const { attributes } = data;
  const same = data.entries.map(({ identity }) => statx(identity, attributes));
  const other = data.entries.map(({ identity }) => statx(identity, { ...attributes, size: 1 }));
  const wrong: string[] = [];
  let found = 0;
  for (let turn = 0; Atomics.load(progress, Progress.STOP) === 0 && wrong.length < 10; turn++) {
    const slot = turn % same.length;
    const isSame = data.entries[slot]!.isSame || turn % 7 !== 0;
    const from = isSame ? same[slot]! : other[slot]!;
    use.enter();
    if (view.findEntry(NAME.low, NAME.high, NAME.hash, from, FROM) && view.confirmEntry(from, FROM)) {
      found += 1;
      if (view.nodeLow !== 1000 + slot) wrong.push(`node ${view.nodeLow} for entry ${slot}`);
      Atomics.add(taken, view.generation, 1);
      if (!isSame) Atomics.store(attributesDiffer, view.generation, 1);
    }
    use.leave();
    Atomics.add(progress, Progress.TURNS, 1);
  }
  return { wrong, found };
}

/** Finds nodes and files, reads them, and confirms nodes, over and over. */
function read(data: NodesData): ReaderReport {
  const { nodes, files, attributes } = data;
  const use = new DescriptorUse(data.user);
  const view = withPlainNumbers(new FileTableView(data.fileTable, use));
  const progress = new Int32Array(data.progress);
  const confirmed = new Int32Array(data.confirmed);
  const same = stat(attributes);
  const other = stat({ ...attributes, mtimeNsec: 1 });
  const wrong: string[] = [];
  const byte = new Uint8Array(1);
  let found = 0;

  function check(fd: number, id: number): void {
    found += 1;
    try {
      const count = fs.readSync(fd, byte, 0, 1, 0);
      if (count !== 1 || byte[0] !== id) wrong.push(`${count} bytes, file ${byte[0]} instead of ${id}`);
    } catch (error) {
      wrong.push(String(error));
    }
  }

  for (let turn = 0; Atomics.load(progress, Progress.STOP) === 0 && wrong.length < 10; turn++) {
    use.enter();
    for (const [i, { low, high }] of nodes.entries()) {
      if (!view.findNode(low, high)) continue;
      check(view.fd, i);
      const isSame = turn % 3 !== 0;
      if (view.confirmNode(isSame ? same : other, FROM) && !isSame) Atomics.add(confirmed, i, 1);
    }
    for (const [i, { index, generation }] of files.entries()) {
      if (view.findFile(index, generation, nodes[i]!.low, nodes[i]!.high)) check(view.fd, nodes.length + i);
    }
    use.leave();
    Atomics.add(progress, Progress.TURNS, 1);
  }
  return { wrong, found };
}

if (!isMainThread) {
  const data = workerData as TakerData | NodesData;
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
  parentPort!.postMessage(data.program === 'take' ? take(data) : read(data));
}
