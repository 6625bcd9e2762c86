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
import type { Planted, Planting } from './tree-builder.js';

const NS = 1_000_000_000n;

/** Bytes read at once. */
const PIECE = 1 << 20;

/** Files between two turns of the event loop, for progress and signals. */
const BATCH = 256;

/**
 * Plants what a directory of the host holds: owners, permissions, times, hard links and holes as
 * they are. Extended attributes are not copied (Node cannot read them); an archive made by `tar
 * --xattrs` carries them.
 * @throws what node:fs throws, FsError
 */
export async function loadDirectory(directory: string, planting: Planting, tick: () => void): Promise<void> {
  const buffer = Buffer.allocUnsafe(PIECE);
  /** First name of each file with several. */
  const names = new Map<string, string>();
  const waiting = [''];
  for (let path = waiting.pop(), count = 0; path !== undefined; path = waiting.pop(), count++) {
    const source = Buffer.concat([Buffer.from(directory), Buffer.from('/'), nameBytes(path)]);
    const stats = lstatSync(source, { bigint: true });
    const identity = `${stats.dev}:${stats.ino}`;
    const existing = names.get(identity);
    if (existing !== undefined) planting.link(path, existing);
    else {
      if (stats.nlink > 1n && !stats.isDirectory()) names.set(identity, path);
      plantOne(source, path, stats, planting, buffer, tick);
    }
    if (stats.isDirectory()) {
      const prefix = path === '' ? '' : `${path}/`;
      for (const name of readdirSync(source, { encoding: 'buffer' })) waiting.push(prefix + decodeName(name));
    }
    if (count % BATCH === 0) await setImmediate();
    tick();
  }
}

function plantOne(
  source: Buffer,
  path: string,
  stats: BigIntStats,
  planting: Planting,
  buffer: Buffer,
  tick: () => void,
): void {
  const device = Number(stats.rdev);
  const planted: Planted = {
    mode: Number(stats.mode),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    // Linux `dev_t` as <sys/sysmacros.h> splits it.
    rdev: makeDevice((device >>> 8) & 0xfff, (device & 0xff) | ((device >>> 12) & 0xfff00)),
    mtime: timeOf(stats.mtimeNs),
    atime: timeOf(stats.atimeNs),
    ...(stats.isSymbolicLink() ? { target: decodeName(readlinkSync(source, { encoding: 'buffer' })) } : {}),
  };
  const inode = planting.plant(path, planted);
  if (inode.type !== FileType.REGULAR) return;
  const size = Number(stats.size);
  const sparse = stats.blocks * 512n < stats.size;
  const fd = openSync(source, 'r');
  try {
    for (let at = 0; at < size;) {
      const count = readSync(fd, buffer, 0, Math.min(PIECE, size - at), at);
      if (count === 0) break;
      planting.write(inode, at, buffer.subarray(0, count), sparse);
      at += count;
      tick();
    }
  } finally {
    closeSync(fd);
  }
  planting.resize(inode, size);
}

function timeOf(nanoseconds: bigint): Time {
  const rest = ((nanoseconds % NS) + NS) % NS;
  return { seconds: Number((nanoseconds - rest) / NS), nanoseconds: Number(rest) };
}
