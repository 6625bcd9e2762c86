import assert from 'node:assert/strict';
import { cpSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { InitFlag } from '../../../core/fuse/wire/abi.js';
import { type FuseClient, rejectsWith, ROOT, usualInitFlags } from '../../support/fuse-client.js';
import { loadState, saveState, startQueues, stopQueues } from '../../support/migration.js';
import { host, migrate, warnings } from '../../support/migrating-guests.js';
import { temporaryFolder } from '../../support/vhost-user.js';

const ESTALE = 116;
const limits = { remembered: 100 };

function folder(t: TestContext): string {
  const directory = join(temporaryFolder(t), 'shared');
  mkdirSync(directory);
  return directory;
}

/** The host has to find out anew where the files are that handles lead to. */
function dropNames(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '2');
}

interface Known {
  readonly nodeid: bigint;
  readonly generation: bigint;
}

/**
 * Makes files, and has their kernel forget them. @returns looks for them by their file handles.
 * @param isFoundAgain whether a file is to be found that is forgotten before its directory is
 * known.
 */
async function forgottenFiles(
  fuse: FuseClient,
  isFoundAgain = true,
): Promise<(after: FuseClient) => Promise<void>> {
  await fuse.init(usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT));
  const directory = await fuse.mkdir(ROOT, 'directory');
  const { entry: file, open } = await fuse.create(directory.nodeid, 'file');
  await fuse.write(file.nodeid, open.fh, 0, Buffer.from('content'));
  await fuse.release(file.nodeid, open.fh);
  const gone = await fuse.mkdir(ROOT, 'gone');
  await fuse.rmdir(ROOT, 'gone');
  const moved = await fuse.mkdir(directory.nodeid, 'before');
  await fuse.rename(directory.nodeid, 'before', ROOT, 'moved');
  const below = await fuse.lookup(ROOT, 'below');
  // As Linux does: what is in a directory first.
  for (const { nodeid } of [file, moved, below, gone, directory]) await fuse.forget(nodeid, 1n);
  return async (after) => {
    const found = async ({ nodeid, generation }: Known): Promise<bigint> => {
      const entry = await after.lookup(nodeid, '.');
      assert.deepEqual([entry.nodeid, entry.generation], [nodeid, generation]);
      return nodeid;
    };
    // A file first: the directories above it are not known either.
    const read = async (known: Known): Promise<string> => {
      const nodeid = await found(known);
      const { fh } = await after.open(nodeid, 0);
      const content = Buffer.from(await after.read(nodeid, fh, 0, 99)).toString();
      await after.release(nodeid, fh);
      return content;
    };
    assert.equal(await read(file), 'content');
    if (isFoundAgain) {
      await after.forget(file.nodeid, 1n);
      assert.equal(await read(file), 'content');
    }
    assert.equal(await read(below), 'below');
    assert.equal((await after.lookup(await found(directory), 'file')).nodeid, file.nodeid);
    assert.equal(await found(moved), (await after.lookup(ROOT, 'moved')).nodeid);
    await rejectsWith(after.lookup(gone.nodeid, '.'), ESTALE);
    for (const { nodeid } of [file, moved, directory]) await after.forget(nodeid, 2n);
    await after.forget(below.nodeid, 1n);
  };
}

const BACKENDS: Readonly<Record<string, (t: TestContext, lower: string) => { type: string }>> = {
  memfs: () => ({ type: 'memfs' }),
  'passthrough, by paths': (_, sharedDir) => ({ type: 'passthrough', sharedDir }),
  'passthrough, by paths and handles': (_, sharedDir) => ({
    type: 'passthrough',
    sharedDir,
    migrationVerifyHandles: true,
  }),
  'passthrough, by handles': (_, sharedDir) => ({
    type: 'passthrough',
    sharedDir,
    migrationMode: 'file-handles',
  }),
  'an overlay': (t, lower) => ({
    type: 'overlay',
    lowers: [{ type: 'passthrough', sharedDir: lower }],
    upper: { type: 'passthrough', sharedDir: folder(t) },
  }),
  'an overlay of memfs': (_, lower) => ({
    type: 'overlay',
    lowers: [{ type: 'passthrough', sharedDir: lower }],
    upper: { type: 'memfs' },
  }),
};

describe('file handles of a guest that migrates twice lead to files that it had forgotten', () => {
  for (const [name, serve] of Object.entries(BACKENDS))
    test(name, async (t) => {
      const lower = folder(t);
      writeFileSync(join(lower, 'below'), 'below');
      let at = await host(t, { backend: serve(t, lower), limits });
      if (name === 'memfs') {
        await at.fuse.init();
        const { entry, open } = await at.fuse.create(ROOT, 'below');
        await at.fuse.write(entry.nodeid, open.fh, 0, Buffer.from('below'));
        await at.fuse.release(entry.nodeid, open.fh);
      }
      const check = await forgottenFiles(at.fuse);
      await check(at.fuse);
      for (let moves = 0; moves < 3; moves++) {
        dropNames();
        const to = await host(t, { backend: serve(t, lower), limits });
        assert.equal(await migrate(at, to), true, JSON.stringify(warnings(to)));
        assert.deepEqual(warnings(to), []);
        // Once they are looked for on the way, and once not.
        for (let times = moves === 1 ? 0 : 2; times > 0; times--) await check(to.fuse);
        at = to;
      }
    });

  test('passthrough without handles', async (t) => {
    const sharedDir = folder(t);
    writeFileSync(join(sharedDir, 'below'), 'below');
    const backend = { type: 'passthrough', sharedDir, inodeFileHandles: 'never' };
    const [from, to] = [await host(t, { backend, limits }), await host(t, { backend, limits })];
    const check = await forgottenFiles(from.fuse, false);
    assert.equal(await migrate(from, to), true);
    await check(to.fuse);
  });

  test('passthrough, in a copy of its directory', async (t) => {
    const [there, here] = [folder(t), folder(t)];
    writeFileSync(join(there, 'below'), 'below');
    const from = await host(t, { backend: { type: 'passthrough', sharedDir: there }, limits });
    const check = await forgottenFiles(from.fuse);
    rmSync(here, { recursive: true });
    cpSync(there, here, { recursive: true });
    const to = await host(t, { backend: { type: 'passthrough', sharedDir: here }, limits });
    assert.equal(await migrate(from, to), true);
    await check(to.fuse);
  });
});

test('a file handle of another host leads nowhere where its file is gone, or another is in its place', async (t) => {
  for (const migrationVerifyHandles of [false, true]) {
    const sharedDir = folder(t);
    for (const name of ['gone', 'other']) writeFileSync(join(sharedDir, name), name);
    const backend = { type: 'passthrough', sharedDir, migrationVerifyHandles };
    const [from, to] = [await host(t, { backend, limits }), await host(t, { backend, limits })];
    await from.fuse.init(usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT));
    const known: Known[] = [];
    for (const name of ['gone', 'other']) {
      known.push(await from.fuse.lookup(ROOT, name));
      await from.fuse.forget(known.at(-1)!.nodeid, 1n);
    }
    assert.equal(await migrate(from, to), true);
    rmSync(join(sharedDir, 'gone'));
    writeFileSync(join(sharedDir, 'new'), 'new');
    renameSync(join(sharedDir, 'new'), join(sharedDir, 'other'));
    await rejectsWith(to.fuse.lookup(known[0]!.nodeid, '.'), ESTALE);
    if (migrationVerifyHandles) await rejectsWith(to.fuse.lookup(known[1]!.nodeid, '.'), ESTALE);
    else assert.equal((await to.fuse.lookup(known[1]!.nodeid, '.')).attr.size, 3);
  }
});

/** A directory with a file, whose name has as many bytes as `..`. */
async function inDirectory(fuse: FuseClient): Promise<bigint> {
  await fuse.init(usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT));
  const directory = await fuse.mkdir(ROOT, 'zz');
  const { entry, open } = await fuse.create(directory.nodeid, 'secret');
  await fuse.release(entry.nodeid, open.fh);
  return entry.nodeid;
}

describe('a host that sends a guest gets no file beside what is shared', () => {
  const names = ['passthrough, by paths', 'passthrough, by handles', 'an overlay', 'an overlay of memfs'];
  for (const isForgotten of [false, true])
    for (const name of names)
      test(`${name}: ${isForgotten ? 'by a file handle' : 'of a file that it knows'}`, async (t) => {
        const lower = folder(t);
        writeFileSync(join(lower, '../secret'), 'not shared');
        const settings = { limits, migrationOnError: 'guest-error' } as const;
        const from = await host(t, { backend: BACKENDS[name]!(t, lower), ...settings });
        const nodeid = await inDirectory(from.fuse);
        if (isForgotten) await from.fuse.forget(nodeid, 1n);
        await stopQueues(from.frontEnd);
        const state = (await saveState(from.frontEnd))!;
        const text = state.toString('latin1').replaceAll('zz', '..');
        assert.notEqual(text, state.toString('latin1'));
        rmSync(join(lower, 'zz'), { recursive: true, force: true });
        const to = await host(t, { backend: BACKENDS[name]!(t, lower), ...settings });
        const bases = await stopQueues(to.frontEnd);
        await loadState(to.frontEnd, Buffer.from(text, 'latin1'));
        await startQueues(to.frontEnd, bases);
        await to.fuse.init(usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT)).catch(() => undefined);
        await rejectsWith(isForgotten ? to.fuse.lookup(nodeid, '.') : to.fuse.getattr(nodeid), ESTALE);
      });
});
