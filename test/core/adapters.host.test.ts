import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { createFsFromVolume, Volume } from 'memfs';
import { fromFuseOperations, fromNodeFs, type FuseOperations } from '../../core/adapters/index.js';
import { type Backend, Errno, OpenFlags } from '../../core/backend/index.js';
import { checkBackend } from '../../core/contract/index.js';
import { withGuest } from '../support/engine.js';
import { rejectsWith, ROOT } from '../support/fuse-client.js';
import { keepingLog, temporaryDirectory } from '../support/host-mount.js';

/** Checks that all rules hold, but that these may be broken. */
async function check(create: () => Backend, least: number, ...broken: readonly string[]): Promise<void> {
  const log = keepingLog();
  const { results, passed } = await checkBackend({ create, log });
  const failed = results.filter(({ name, outcome }) => outcome === 'failed' && !broken.includes(name));
  assert.deepEqual(
    failed.map(({ name, reason }) => `${name}: ${reason}`),
    [],
  );
  assert.ok(passed >= least, `${passed} rules`);
}

/** Node takes times as numbers of seconds, which have no nanoseconds. */
const TIMES = 'times are kept to the nanosecond, before 1970 and after 2038, each by itself';

/** What version 4.80 of the package memfs does in another way than Linux. */
const MEMFS_FAULTS = [
  'offsets beyond 4 GiB are not cut to 32 bits',
  'a rename replaces a file, which lives on while it is open',
  'a directory is renamed with all that is in it, and replaces only an empty one',
  'a symbolic link keeps its target, whatever that is',
  TIMES,
  'mode, owner and group change as asked, and nothing else does',
  'random sequences of operations do what they do in a model of a file system',
];

/** Whatever a guest asks of links, it stays in its root. */
async function linksLeadNowhere(form: (root: string) => Backend): Promise<void> {
  await using folder = await temporaryDirectory('/dev/shm');
  const [root, outside] = [join(folder.path, 'root'), join(folder.path, 'outside')];
  fs.mkdirSync(root);
  fs.mkdirSync(outside);
  fs.writeFileSync(join(outside, 'secret'), 'secret', { mode: 0o600 });
  execFileSync('mkfifo', [join(root, 'fifo')]);
  await withGuest(form(root), async (client) => {
    const { nodeid: directory } = await client.symlink(ROOT, 'directory', outside);
    const { nodeid: file } = await client.symlink(ROOT, 'file', join(outside, 'secret'));
    const { nodeid: fifo } = await client.lookup(ROOT, 'fifo');
    await rejectsWith(client.lookup(directory, 'secret'), Errno.ENOTDIR);
    await rejectsWith(client.list(directory), Errno.ENOTDIR);
    await rejectsWith(client.mkdir(directory, 'made'), Errno.ENOTDIR);
    await rejectsWith(client.create(directory, 'made'), Errno.ENOTDIR);
    await rejectsWith(client.unlink(directory, 'secret'), Errno.ENOTDIR);
    await rejectsWith(client.rename(directory, 'secret', ROOT, 'stolen'), Errno.ENOTDIR);
    await rejectsWith(client.open(file, OpenFlags.READ_WRITE), Errno.ELOOP);
    await rejectsWith(client.open(file, OpenFlags.READ_WRITE | OpenFlags.TRUNC), Errno.ELOOP);
    await rejectsWith(client.create(ROOT, 'file'), Errno.ELOOP);
    await rejectsWith(client.setattr(file, { size: 0 }), Errno.EINVAL);
    await rejectsWith(client.setattr(file, { mode: 0o666 }), Errno.EOPNOTSUPP);
    await rejectsWith(client.setattr(directory, { mode: 0o777 }), Errno.EOPNOTSUPP);
    await rejectsWith(client.open(fifo), Errno.ENXIO);
    await rejectsWith(client.setattr(fifo, { size: 0 }), Errno.EINVAL);
    assert.equal(await client.readlink(file), join(outside, 'secret'));
  });
  assert.deepEqual(fs.readdirSync(outside), ['secret']);
  assert.equal(fs.readFileSync(join(outside, 'secret'), 'utf8'), 'secret');
  assert.equal(fs.statSync(join(outside, 'secret')).mode & 0o777, 0o600);
}

describe('a file system in the form of node:fs', { concurrency: true }, () => {
  it('keeps the contract as a volume of the package memfs, as far as that can', async () => {
    const volume = (): Backend => fromNodeFs(createFsFromVolume(new Volume()).promises);
    await check(volume, 40, ...MEMFS_FAULTS);
  });

  it('keeps the contract as a directory of this host', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    await check(() => fromNodeFs(fs.promises, folder.path), 45, TIMES);
  });

  it('lets no guest follow a link out of its root', () =>
    linksLeadNowhere((root) => fromNodeFs(fs.promises, root)));

  it('opens no other file that others have put in the place of one', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const path = join(folder.path, 'file');
    fs.writeFileSync(path, 'old');
    await withGuest(fromNodeFs(fs.promises, folder.path), async (client) => {
      const { nodeid } = await client.lookup(ROOT, 'file');
      fs.writeFileSync(`${path}.new`, 'new');
      fs.renameSync(`${path}.new`, path);
      await rejectsWith(client.open(nodeid), Errno.ESTALE);
    });
  });

  it('asks once for what is at the end of a file', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    fs.writeFileSync(join(folder.path, 'file'), 'short');
    let reads = 0;
    const open = async (path: string, flags: number, mode: number): Promise<fs.promises.FileHandle> => {
      const handle = await fs.promises.open(path, flags, mode);
      const read = handle.read.bind(handle) as (...all: unknown[]) => Promise<never>;
      return Object.assign(handle, { read: (...all: unknown[]) => (reads++, read(...all)) });
    };
    await withGuest(fromNodeFs({ ...fs.promises, open }, folder.path), async (client) => {
      const { nodeid } = await client.lookup(ROOT, 'file');
      const { fh } = await client.open(nodeid);
      assert.equal(Buffer.from(await client.read(nodeid, fh, 0, 4096)).toString(), 'short');
      await client.release(nodeid, fh);
      assert.equal(reads, 1);
    });
  });

  it('makes nothing where it cannot tell what is there', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const lstat = (path: string): Promise<fs.BigIntStats> =>
      path.endsWith('/file')
        ? Promise.reject(Object.assign(new Error('no'), { code: 'EIO' }))
        : fs.promises.lstat(path, { bigint: true });
    const form = { ...fs.promises, lstat } as Parameters<typeof fromNodeFs>[0];
    await withGuest(fromNodeFs(form, folder.path), (client) =>
      rejectsWith(client.create(ROOT, 'file'), Errno.EIO),
    );
    assert.deepEqual(fs.readdirSync(folder.path), []);
  });
});

/** A program's operations for `fuse-native`, over a directory. */
function operations(folder: string): FuseOperations {
  type End = (code: number, result?: never) => void;
  const at = (path: string): string => `${folder}${path}`;
  const end = (done: End) => (error: NodeJS.ErrnoException | null, result?: unknown) =>
    done(error === null ? 0 : (error.errno ?? -5), result as never);
  const counted = (done: End) => (error: NodeJS.ErrnoException | null, count: number) =>
    done(error === null ? count : (error.errno ?? -5));
  return {
    getattr: (path, done) => fs.lstat(at(path), end(done)),
    fgetattr: (_path, fd, done) => fs.fstat(fd, end(done)),
    readdir: (path, done) => fs.readdir(at(path), end(done)),
    open: (path, flags, done) => fs.open(at(path), flags, end(done)),
    create: (path, mode, done) => fs.open(at(path), 'wx+', mode, end(done)),
    read: (_path, fd, into, length, position, done) => fs.read(fd, into, 0, length, position, counted(done)),
    write: (_path, fd, bytes, length, position, done) =>
      fs.write(fd, bytes, 0, length, position, counted(done)),
    ftruncate: (_path, fd, size, done) => fs.ftruncate(fd, size, end(done)),
    fsync: (_path, _dataOnly, fd, done) => fs.fsync(fd, end(done)),
    release: (_path, fd, done) => fs.close(fd, end(done)),
    readlink: (path, done) => fs.readlink(at(path), end(done)),
    symlink: (target, path, done) => fs.symlink(target, at(path), end(done)),
    mkdir: (path, mode, done) => fs.mkdir(at(path), mode, end(done)),
    unlink: (path, done) => fs.unlink(at(path), end(done)),
    rmdir: (path, done) => fs.rmdir(at(path), end(done)),
    rename: (path, newPath, done) => fs.rename(at(path), at(newPath), end(done)),
    chmod: (path, mode, done) => fs.chmod(at(path), mode, end(done)),
    chown: (path, uid, gid, done) => fs.lchown(at(path), uid, gid, end(done)),
    utimens: (path, atime, mtime, done) => fs.lutimes(at(path), atime / 1000, mtime / 1000, end(done)),
    truncate: (path, size, done) => fs.truncate(at(path), size, end(done)),
  };
}

describe('operations for fuse-native', { concurrency: true }, () => {
  it('keep the contract, but for hard links', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    await check(() => fromFuseOperations(operations(folder.path)), 40, TIMES);
  });

  it('lets no guest follow a link out of its root', () =>
    linksLeadNowhere((root) => fromFuseOperations(operations(root))));

  it('may answer with what is no errno, which guests see as EIO', async () => {
    for (const code of [-5000, -1.5, -Infinity])
      await withGuest(
        fromFuseOperations({
          getattr: (path, done) =>
            setImmediate(() => (path === '/' ? done(0, { mode: 0o40555 }) : done(code))),
        }),
        (client) => rejectsWith(client.lookup(ROOT, 'file'), Errno.EIO),
      );
  });

  it('may have no way to make files, or to empty one but by its descriptor', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    fs.writeFileSync(join(folder.path, 'file'), 'content');
    const { create: _create, truncate: _truncate, ...some } = operations(folder.path);
    await withGuest(fromFuseOperations(some), async (client) => {
      await rejectsWith(client.create(ROOT, 'made'), Errno.EPERM);
      const { nodeid } = await client.lookup(ROOT, 'file');
      const { fh } = await client.open(nodeid, OpenFlags.READ_WRITE | OpenFlags.TRUNC);
      assert.equal((await client.getattr(nodeid)).size, 0);
      await client.release(nodeid, fh);
    });
    const { ftruncate: _ftruncate, ...fewer } = some;
    await withGuest(fromFuseOperations(fewer), async (client) => {
      const { nodeid } = await client.lookup(ROOT, 'file');
      await rejectsWith(client.open(nodeid, OpenFlags.READ_WRITE | OpenFlags.TRUNC), Errno.EPERM);
    });
  });

  it('need no method but getattr', async () => {
    const getattr: FuseOperations['getattr'] = (path, done) =>
      path === '/' ? done(0, { mode: 0o40555 }) : done(-2);
    await check(() => fromFuseOperations({ getattr }), 1);
  });
});
