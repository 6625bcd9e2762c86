/**
 * A request of each opcode, what must be there before it and what it leaves: for tests that end the
 * process which carries it out.
 */
import assert from 'node:assert/strict';
import type { BackendMethod } from '../../core/backend/index.js';
import { Opcode } from '../../core/fuse/wire/abi.js';
import { type FuseClient, RequestBytes, ROOT, rejectsWith } from './fuse-client.js';

/** The file system below the root, as its owner sees it. */
export interface Seen {
  /** Names in the root but {@link BESIDE}, in order, with blanks between. */
  names(): string;
  content(name: string): string;
  target(name: string): string;
  nlink(name: string): number;
  /** Permissions. */
  mode(name: string): number;
  /** What the last IOCTL has set. */
  flags(): number;
}

/** A request, what must be there before it, and what it leaves. */
export interface Case {
  /** The backend's method that carries it out; none where the engine does. */
  readonly method?: BackendMethod;
  prepare?(client: FuseClient): Promise<Known>;
  request(client: FuseClient, known: Known): Promise<unknown>;
  /** What the guest and the file system have in the end. */
  check(client: FuseClient, seen: Seen, known: Known): Promise<void> | void;
}

/** A node and an open file or directory of it. */
export interface Known {
  readonly nodeid: bigint;
  readonly fh: bigint;
}

const file =
  (flags = 2) =>
  async (client: FuseClient): Promise<Known> => {
    const { entry, open } = await client.create(ROOT, 'file', 0o644, flags);
    await client.write(entry.nodeid, open.fh, 0, Buffer.from('old '));
    return { nodeid: entry.nodeid, fh: open.fh };
  };

const closed =
  (name: string) =>
  async (client: FuseClient): Promise<Known> => {
    const { entry, open } = await client.create(ROOT, name, 0o644, 2);
    await client.release(entry.nodeid, open.fh);
    return { nodeid: entry.nodeid, fh: open.fh };
  };

/** What is made by a request that is in flight beside the one that is tried. */
export const BESIDE = 'beside';

/** What is asked for by a client that has no method of its own for it. */
const call = (
  client: FuseClient,
  opcode: number,
  nodeid: bigint,
  args: RequestBytes,
  room = 0,
): Promise<Uint8Array> => client.call(opcode, nodeid, args.bytes(), room);

/** A directory with three files, one of which was listed. */
const directory = async (client: FuseClient): Promise<Known> => {
  for (const name of ['a', 'b', 'file']) await closed(name)(client);
  const { fh } = await client.opendir(ROOT);
  return { nodeid: ROOT, fh };
};

/** Two lookups of a file beside that by which it was made. */
const known = async (client: FuseClient): Promise<Known> => {
  const made = await closed('file')(client);
  for (let i = 0; i < 2; i++) await client.lookup(ROOT, 'file');
  return made;
};

async function attributed(client: FuseClient): Promise<Known> {
  const made = await file()(client);
  await client.setxattr(made.nodeid, 'user.a', Buffer.from('1'));
  return made;
}

const WHOLE = { start: 0n, end: 9n, type: 1, pid: 1 };
const UNLOCK = 2;

/** A file with a lock that the guest's second owner wants. */
const locked = async (client: FuseClient): Promise<Known> => {
  const made = await file()(client);
  await client.setlk(made.nodeid, made.fh, 1n, WHOLE);
  return made;
};

/** fallocate(2). */
export const COLLAPSE_RANGE = 8;

/** What a range that is collapsed must be a multiple of, on ext4. */
const BLOCK = 4096;

/** Every request that must not be carried out twice. */
export const cases: Readonly<Record<string, Case>> = {
  MKDIR: {
    method: 'mkdir',
    request: (client) => client.mkdir(ROOT, 'new'),
    check: (_, seen) => assert.equal(seen.names(), 'new'),
  },
  MKNOD: {
    method: 'mknod',
    request: (client) => client.mknod(ROOT, 'new', 0o010600),
    check: (_, seen) => assert.equal(seen.names(), 'new'),
  },
  SYMLINK: {
    method: 'symlink',
    request: (client) => client.symlink(ROOT, 'new', 'target'),
    check: (_, seen) => assert.equal(seen.target('new'), 'target'),
  },
  CREATE: {
    method: 'create',
    request: (client) => client.create(ROOT, 'new', 0o644, 0o302),
    async check(client, seen) {
      assert.equal(seen.names(), 'new');
      await rejectsWith(client.create(ROOT, 'new', 0o644, 0o302), 17);
    },
  },
  LINK: {
    method: 'link',
    prepare: file(),
    request: (client, { nodeid }) => client.link(nodeid, ROOT, 'new'),
    check: (_, seen) => assert.equal(seen.nlink('file'), 2),
  },
  UNLINK: {
    method: 'unlink',
    prepare: file(),
    request: (client) => client.unlink(ROOT, 'file'),
    check: (_, seen) => assert.equal(seen.names(), ''),
  },
  'UNLINK of a closed file': {
    method: 'unlink',
    prepare: closed('file'),
    request: (client) => client.unlink(ROOT, 'file'),
    check: (_, seen) => assert.equal(seen.names(), ''),
  },
  RMDIR: {
    method: 'rmdir',
    async prepare(client) {
      return { nodeid: (await client.mkdir(ROOT, 'directory')).nodeid, fh: 0n };
    },
    request: (client) => client.rmdir(ROOT, 'directory'),
    check: (_, seen) => assert.equal(seen.names(), ''),
  },
  RENAME: {
    method: 'rename',
    prepare: file(),
    request: (client) => client.rename(ROOT, 'file', ROOT, 'new'),
    check: (_, seen) => assert.equal(seen.names(), 'new'),
  },
  RENAME2: {
    method: 'rename',
    prepare: file(),
    request: (client) => client.rename(ROOT, 'file', ROOT, 'new', 1),
    check: (_, seen) => assert.equal(seen.names(), 'new'),
  },
  'RENAME over another': {
    method: 'rename',
    async prepare(client) {
      await closed('new')(client);
      return closed('file')(client);
    },
    request: (client) => client.rename(ROOT, 'file', ROOT, 'new'),
    async check(client, seen, { nodeid }) {
      assert.equal(seen.names(), 'new');
      assert.equal((await client.lookup(ROOT, 'new')).nodeid, nodeid);
    },
  },
  'SETXATTR with XATTR_CREATE': {
    method: 'setxattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setxattr(nodeid, 'user.a', Buffer.from('1'), 1),
    check: (client, _, { nodeid }) => hasAttributes(client, nodeid, 1),
  },
  REMOVEXATTR: {
    method: 'removexattr',
    prepare: attributed,
    request: (client, { nodeid }) => client.removexattr(nodeid, 'user.a'),
    check: (client, _, { nodeid }) => hasAttributes(client, nodeid, 0),
  },
  'WRITE at the end': {
    method: 'write',
    prepare: file(0o2002),
    request: (client, { nodeid, fh }) => client.write(nodeid, fh, 4, Buffer.from('new ')),
    check: (_, seen) => assert.equal(seen.content('file'), 'old new '),
  },
  'FALLOCATE that moves what follows': {
    method: 'fallocate',
    async prepare(client) {
      const made = await file()(client);
      await client.write(made.nodeid, made.fh, BLOCK, Buffer.from('behind'));
      return made;
    },
    request: (client, { nodeid, fh }) => client.fallocate(nodeid, fh, COLLAPSE_RANGE, 0, BLOCK),
    check: (_, seen) => assert.equal(seen.content('file'), 'behind'),
  },
};

/** Requests that may be carried out again, and what they leave. */
export const repeatable: Readonly<Record<string, Case>> = {
  LOOKUP: {
    method: 'lookup',
    prepare: closed('file'),
    request: (client) => client.lookup(ROOT, 'file'),
    check: (client, _, { nodeid }) => isKnownTimes(client, nodeid, 2),
  },
  FORGET: {
    prepare: known,
    request: (client, { nodeid }) => client.forget(nodeid),
    check: (client, _, { nodeid }) => isKnownTimes(client, nodeid, 2),
  },
  BATCH_FORGET: {
    prepare: known,
    request: (client, { nodeid }) => client.batchForget([[nodeid, 2n]]),
    check: (client, _, { nodeid }) => isKnownTimes(client, nodeid, 1),
  },
  GETATTR: {
    method: 'getattr',
    prepare: file(),
    request: (client, { nodeid }) => client.getattr(nodeid),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  STATX: {
    method: 'getattr',
    prepare: file(),
    request: (client, { nodeid }) =>
      call(client, Opcode.STATX, nodeid, new RequestBytes().u32(0).u32(0).u64(0).u32(0).u32(0x7ff), 288),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  SETATTR: {
    method: 'setattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setattr(nodeid, { mode: 0o100600 }),
    check: (_, seen) => assert.equal(seen.mode('file'), 0o600),
  },
  'SETATTR of a size': {
    method: 'setattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setattr(nodeid, { size: 2 }),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 2),
  },
  READLINK: {
    method: 'readlink',
    async prepare(client) {
      return { nodeid: (await client.symlink(ROOT, 'link', 'target')).nodeid, fh: 0n };
    },
    request: (client, { nodeid }) => client.readlink(nodeid),
    check: async (client, _, { nodeid }) => assert.equal(await client.readlink(nodeid), 'target'),
  },
  OPEN: {
    method: 'open',
    prepare: file(),
    request: (client, { nodeid }) => client.open(nodeid, 2),
    check: async (client, _, { nodeid, fh }) =>
      assert.equal(Buffer.from(await client.read(nodeid, fh, 0, 9)).toString(), 'old '),
  },
  TMPFILE: {
    method: 'tmpfile',
    request: (client) =>
      call(client, Opcode.TMPFILE, ROOT, new RequestBytes().u32(2).u32(0o600).u32(0).u32(0).name('/'), 144),
    check: (_, seen) => assert.equal(seen.names(), ''),
  },
  READ: {
    method: 'read',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.read(nodeid, fh, 0, 9),
    check: (_, seen) => assert.equal(seen.content('file'), 'old '),
  },
  'WRITE at an offset': {
    method: 'write',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.write(nodeid, fh, 4, Buffer.from('new ')),
    check: (_, seen) => assert.equal(seen.content('file'), 'old new '),
  },
  STATFS: {
    method: 'statfs',
    request: (client) => client.statfs(),
    check: async (client) => assert.ok((await client.statfs()).blocks > 0),
  },
  RELEASE: {
    method: 'release',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.release(nodeid, fh),
    check: (client, _, { nodeid, fh }) => rejectsWith(client.read(nodeid, fh, 0, 9), 9),
  },
  FSYNC: {
    method: 'fsync',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.fsync(nodeid, fh),
    check: (_, seen) => assert.equal(seen.content('file'), 'old '),
  },
  FLUSH: {
    method: 'flush',
    prepare: locked,
    request: (client, { nodeid, fh }) => client.flush(nodeid, fh, 1n),
    check: (client, _, { nodeid, fh }) => client.setlk(nodeid, fh, 2n, WHOLE),
  },
  SYNCFS: {
    method: 'syncfs',
    prepare: file(),
    request: (client) => call(client, Opcode.SYNCFS, ROOT, new RequestBytes().u64(0)),
    check: (_, seen) => assert.equal(seen.content('file'), 'old '),
  },
  SETXATTR: {
    method: 'setxattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setxattr(nodeid, 'user.a', Buffer.from('1')),
    check: (client, _, { nodeid }) => hasAttributes(client, nodeid, 1),
  },
  GETXATTR: {
    method: 'getxattr',
    prepare: attributed,
    request: (client, { nodeid }) => client.getxattr(nodeid, 'user.a'),
    check: (client, _, { nodeid }) => hasAttributes(client, nodeid, 1),
  },
  LISTXATTR: {
    method: 'listxattr',
    prepare: attributed,
    request: (client, { nodeid }) => client.listxattr(nodeid),
    check: (client, _, { nodeid }) => hasAttributes(client, nodeid, 1),
  },
  OPENDIR: {
    prepare: directory,
    request: (client) => client.opendir(ROOT),
    check: goesOnListing,
  },
  READDIR: {
    method: 'readdir',
    prepare: directory,
    request: (client, { fh }) => client.readdir(ROOT, fh, 0n, 60),
    check: goesOnListing,
  },
  READDIRPLUS: {
    method: 'readdir',
    prepare: directory,
    request: (client, { fh }) => client.readdirplus(ROOT, fh, 0n, 400),
    check: goesOnListing,
  },
  RELEASEDIR: {
    prepare: directory,
    request: (client, { fh }) => client.releasedir(ROOT, fh),
    check: (client, _, { fh }) => rejectsWith(client.readdir(ROOT, fh), 9),
  },
  FSYNCDIR: {
    method: 'fsyncdir',
    prepare: directory,
    request: (client, { fh }) =>
      call(client, Opcode.FSYNCDIR, ROOT, new RequestBytes().u64(fh).u32(0).u32(0)),
    check: goesOnListing,
  },
  GETLK: {
    prepare: locked,
    request: (client, { nodeid, fh }) => client.getlk(nodeid, fh, 2n, WHOLE),
    check: async (client, _, { nodeid, fh }) =>
      assert.equal((await client.getlk(nodeid, fh, 2n, WHOLE)).type, WHOLE.type),
  },
  SETLK: {
    prepare: file(),
    request: (client, { nodeid, fh }) => client.setlk(nodeid, fh, 1n, WHOLE),
    check: (client, _, { nodeid, fh }) => rejectsWith(client.setlk(nodeid, fh, 2n, WHOLE), 11),
  },
  'SETLK that unlocks': {
    prepare: locked,
    request: (client, { nodeid, fh }) => client.setlk(nodeid, fh, 1n, { ...WHOLE, type: UNLOCK }),
    check: (client, _, { nodeid, fh }) => client.setlk(nodeid, fh, 2n, WHOLE),
  },
  SETLKW: {
    prepare: file(),
    request: (client, { nodeid, fh }) => client.setlk(nodeid, fh, 1n, WHOLE, true),
    check: (client, _, { nodeid, fh }) => rejectsWith(client.setlk(nodeid, fh, 2n, WHOLE), 11),
  },
  INTERRUPT: {
    prepare: file(),
    request: (client) => client.interrupt(2n),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  INIT: {
    request: (client) => client.init(),
    check: async (client) => assert.equal((await client.getattr(ROOT)).mode & 0o777, 0o755),
  },
  DESTROY: {
    prepare: file(),
    request: (client) => client.destroy(),
    check: async (client, _, { nodeid }) => {
      await client.init();
      await rejectsWith(client.getattr(nodeid), 116);
    },
  },
  IOCTL: {
    method: 'ioctl',
    prepare: file(),
    request: (client, { nodeid, fh }) =>
      call(
        client,
        Opcode.IOCTL,
        nodeid,
        new RequestBytes()
          .u64(fh)
          .u32(0)
          .u32(7)
          .u64(0)
          .u32(1)
          .u32(1)
          .raw(Buffer.from([5])),
        17,
      ),
    check: (_, seen) => assert.equal(seen.flags(), 5),
  },
  FALLOCATE: {
    method: 'fallocate',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.fallocate(nodeid, fh, 0, 4, 4),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 8),
  },
  LSEEK: {
    method: 'lseek',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.lseek(nodeid, fh, 0, 4),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  COPY_FILE_RANGE: {
    method: 'copyFileRange',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.copyFileRange([nodeid, fh, 0], [nodeid, fh, 4], 4),
    check: (_, seen) => assert.equal(seen.content('file'), 'old old '),
  },
  COPY_FILE_RANGE_64: {
    method: 'copyFileRange',
    prepare: file(),
    request: (client, { nodeid, fh }) =>
      call(
        client,
        Opcode.COPY_FILE_RANGE_64,
        nodeid,
        new RequestBytes().u64(fh).u64(0).u64(nodeid).u64(fh).u64(4).u64(4).u64(0),
        8,
      ),
    check: (_, seen) => assert.equal(seen.content('file'), 'old old '),
  },
};

/** Opcodes that are refused, or whose request means nothing. */
export const WITHOUT_EFFECT = ['ACCESS', 'BMAP', 'POLL', 'NOTIFY_REPLY', 'SETUPMAPPING', 'REMOVEMAPPING'];

/** Whether the guest has looked a node up so many times. It is forgotten by that. */
async function isKnownTimes(client: FuseClient, nodeid: bigint, times: number): Promise<void> {
  for (let left = times; left > 1; left--) await client.forget(nodeid);
  await client.getattr(nodeid);
  await client.forget(nodeid);
  await rejectsWith(client.getattr(nodeid), 116);
}

async function hasAttributes(client: FuseClient, nodeid: bigint, count: number): Promise<void> {
  assert.equal((await client.listxattr(nodeid)).length, count);
}

async function hasSize(client: FuseClient, nodeid: bigint, size: number): Promise<void> {
  assert.equal((await client.getattr(nodeid)).size, size);
}

async function goesOnListing(client: FuseClient, _: Seen, { fh }: Known): Promise<void> {
  const seen: string[] = [];
  for (let offset = 0n; ;) {
    const entries = await client.readdir(ROOT, fh, offset, 60);
    if (entries.length === 0) break;
    seen.push(...entries.map(({ name }) => name));
    offset = entries.at(-1)!.off;
  }
  const listed = seen.filter((name) => name !== '.' && name !== '..' && name !== BESIDE);
  assert.deepEqual(listed.sort(), ['a', 'b', 'file']);
}
