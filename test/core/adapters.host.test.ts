import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { describe, it } from 'node:test';
import { createFsFromVolume, Volume } from 'memfs';
import { fromFuseOperations, fromNodeFs, type FuseOperations } from '../../core/adapters/index.js';
import type { Backend } from '../../core/backend/index.js';
import { checkBackend } from '../../core/contract/index.js';
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

describe('a file system in the form of node:fs', { concurrency: true }, () => {
  it('keeps the contract as a volume of the package memfs, as far as that can', async () => {
    const volume = (): Backend => fromNodeFs(createFsFromVolume(new Volume()).promises);
    await check(volume, 40, ...MEMFS_FAULTS);
  });

  it('keeps the contract as a directory of this host', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    await check(() => fromNodeFs(fs.promises, folder.path), 45, TIMES);
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

  it('need no method but getattr', async () => {
    const getattr: FuseOperations['getattr'] = (path, done) =>
      path === '/' ? done(0, { mode: 0o40555 }) : done(-2);
    await check(() => fromFuseOperations({ getattr }), 1);
  });
});
