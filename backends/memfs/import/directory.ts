import {
  type BigIntStats,
  closeSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
} from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { decodeName, FileType, makeDevice, nameBytes, type Time } from '../../../core/backend/index.js';
import type { NewFile, TreeBuilder } from './tree-builder.js';

const NS = 1_000_000_000n;

/** Bytes read at once. */
const PIECE_BYTES = 1 << 20;

/**
 * Files between two turns of the event loop, in which progress is logged and signals are handled.
 */
const FILES_PER_TURN = 256;

/**
 * Copies a directory of the host into a tree: owners, permissions, times, hard links and holes.
 * Extended attributes are left out, since Node cannot read them; an archive made by `tar --xattrs`
 * has them.
 * @throws what node:fs throws, FsError
 */
export async function loadDirectory(
  directory: string,
  builder: TreeBuilder,
  tick: () => void,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  /** First name of each file with several. */
  const names = new Map<string, string>();
  const waiting = [''];
  for (let path = waiting.pop(), count = 0; path !== undefined; path = waiting.pop(), count++) {
    const source = Buffer.concat([Buffer.from(directory), Buffer.from('/'), nameBytes(path)]);
    const stats = lstatSync(source, { bigint: true });
    const identity = `${stats.dev}:${stats.ino}`;
    const existing = names.get(identity);
    if (existing !== undefined) builder.link(path, existing);
    else {
      if (stats.nlink > 1n && !stats.isDirectory()) names.set(identity, path);
      addFile(source, path, stats, builder, buffer, tick);
    }
    if (stats.isDirectory()) {
      const prefix = path === '' ? '' : `${path}/`;
      for (const name of readdirSync(source, { encoding: 'buffer' })) waiting.push(prefix + decodeName(name));
    }
    if (count % FILES_PER_TURN === 0) await setImmediate();
    tick();
  }
}

function addFile(
  source: Buffer,
  path: string,
  stats: BigIntStats,
  builder: TreeBuilder,
  buffer: Buffer,
  tick: () => void,
): void {
  const device = Number(stats.rdev);
  const file: NewFile = {
    mode: Number(stats.mode),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    // Linux `dev_t` as <sys/sysmacros.h> splits it.
    rdev: makeDevice((device >>> 8) & 0xfff, (device & 0xff) | ((device >>> 12) & 0xfff00)),
    mtime: timeOf(stats.mtimeNs),
    atime: timeOf(stats.atimeNs),
    ...(stats.isSymbolicLink() ? { target: decodeName(readlinkSync(source, { encoding: 'buffer' })) } : {}),
  };
  const inode = builder.add(path, file);
  if (inode.type !== FileType.REGULAR) return;
  const size = Number(stats.size);
  const sparse = stats.blocks * 512n < stats.size;
  const fd = openSync(source, 'r');
  try {
    for (let at = 0; at < size;) {
      const count = readSync(fd, buffer, 0, Math.min(PIECE_BYTES, size - at), at);
      if (count === 0) break;
      builder.write(inode, at, buffer.subarray(0, count), sparse);
      at += count;
      tick();
    }
  } finally {
    closeSync(fd);
  }
  builder.resize(inode, size);
}

function timeOf(nanoseconds: bigint): Time {
  const rest = ((nanoseconds % NS) + NS) % NS;
  return { seconds: Number((nanoseconds - rest) / NS), nanoseconds: Number(rest) };
}
