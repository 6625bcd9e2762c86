import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startDaemon } from '../../../support/daemons.js';
import { type FuseClient, ROOT, rejectsWith } from '../../../support/fuse-client.js';
import { connectKept, keeping } from '../../../support/keepers.js';

const plugin = fileURLToPath(new URL('../../../support/fatal-backend.js', import.meta.url));

/**
 * What the engine ends after, and how often. An overlay does some of it under other names in its
 * upper.
 */
const kinds = {
  passthrough: 19,
  memfs: 19,
  overlay: 19,
  'an overlay of memfs': 19,
  'the upper of an overlay': 14,
  'memfs as the upper of an overlay': 14,
} as const;

/** Files of the overlay's lower, which the steps find or have there already, or hide. */
const LOWER = ['replaced', 'other', 'attributed', 'linked', '!unlink', '!rename', '!open'];

/** A request after which the engine is killed. Names that begin with `!` end it once. */
type Step = (fuse: FuseClient, seen: Seen) => Promise<void>;

/** What has become of a file, as its number, mode and names, its content, or its target. */
interface Seen {
  stat(name: string): Promise<{ ino: bigint; mode: number; nlink: number }>;
  content(name: string): Promise<string>;
  target(name: string): Promise<string>;
  /** Whether nothing is there, or the whiteout of an overlay. */
  isGone(name: string): Promise<boolean>;
}

/** As the host has it. */
function onHost(share: string): Seen {
  const at = (name: string): string => join(share, name);
  return {
    stat: async (name) => {
      const { ino, mode, nlink } = lstatSync(at(name));
      return { ino: BigInt(ino), mode, nlink };
    },
    content: async (name) => readFileSync(at(name), 'utf8'),
    target: async (name) => readlinkSync(at(name)),
    isGone: async (name) => lstatSync(at(name), { throwIfNoEntry: false })?.isCharacterDevice() !== false,
  };
}

/** As a guest finds it. */
function byGuest(fuse: FuseClient): Seen {
  return {
    stat: async (name) => (await fuse.lookup(ROOT, name)).attr,
    async content(name) {
      const { nodeid } = await fuse.lookup(ROOT, name);
      const { fh } = await fuse.open(nodeid, 0);
      const bytes = await fuse.read(nodeid, fh, 0, 1000);
      await fuse.release(nodeid, fh);
      return Buffer.from(bytes).toString();
    },
    target: async (name) => fuse.readlink((await fuse.lookup(ROOT, name)).nodeid),
    isGone: (name) =>
      fuse.lookup(ROOT, name).then(
        () => false,
        () => true,
      ),
  };
}

/** What the guest sees, and what the host has then. */
const steps: Readonly<Record<string, Step>> = {
  async MKDIR(fuse, seen) {
    const { nodeid, attr } = await fuse.mkdir(ROOT, '!mkdir', 0o750);
    assert.equal(attr.mode, 0o040750);
    assert.equal((await fuse.getattr(nodeid)).ino, (await seen.stat('!mkdir')).ino);
    await rejectsWith(fuse.mkdir(ROOT, '!mkdir'), 17);
  },
  async 'MKDIR of a name that is there'(fuse) {
    await fuse.mkdir(ROOT, 'there');
    await rejectsWith(fuse.mkdir(ROOT, 'there'), 17);
  },
  async MKNOD(fuse, seen) {
    const { attr } = await fuse.mknod(ROOT, '!mknod', 0o010600);
    assert.equal(attr.mode, 0o010600);
    assert.equal((await seen.stat('!mknod')).mode & 0o170000, 0o010000);
  },
  async SYMLINK(fuse, seen) {
    const { nodeid } = await fuse.symlink(ROOT, '!symlink', 'target');
    assert.equal(await fuse.readlink(nodeid), 'target');
    assert.equal(await seen.target('!symlink'), 'target');
  },
  async 'CREATE with O_EXCL'(fuse, seen) {
    const { entry, open } = await fuse.create(ROOT, '!create', 0o640, 0o302);
    await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
    assert.equal(await seen.content('!create'), 'content');
    assert.equal((await seen.stat('!create')).mode & 0o777, 0o640);
    await rejectsWith(fuse.create(ROOT, '!create', 0o640, 0o302), 17);
  },
  async LINK(fuse, seen) {
    const { entry } = await fuse.create(ROOT, 'linked');
    const { nodeid, attr } = await fuse.link(entry.nodeid, ROOT, '!link');
    assert.equal(nodeid, entry.nodeid);
    assert.equal(attr.nlink, 2);
    assert.equal((await seen.stat('linked')).nlink, 2);
  },
  async UNLINK(fuse, seen) {
    await fuse.create(ROOT, '!unlink');
    await fuse.unlink(ROOT, '!unlink');
    assert.equal(await seen.isGone('!unlink'), true);
    await rejectsWith(fuse.unlink(ROOT, '!unlink'), 2);
  },
  async 'UNLINK of an open file'(fuse) {
    const { entry, open } = await fuse.create(ROOT, '!open');
    await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
    await fuse.unlink(ROOT, '!open');
    assert.equal(Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 9)).toString(), 'content');
  },
  async RMDIR(fuse, seen) {
    await fuse.mkdir(ROOT, '!rmdir');
    await fuse.rmdir(ROOT, '!rmdir');
    assert.equal(await seen.isGone('!rmdir'), true);
  },
  async RENAME(fuse, seen) {
    const { entry } = await fuse.create(ROOT, '!rename');
    await fuse.create(ROOT, 'replaced');
    await fuse.rename(ROOT, '!rename', ROOT, 'replaced');
    assert.equal((await fuse.lookup(ROOT, 'replaced')).nodeid, entry.nodeid);
    assert.equal(await seen.isGone('!rename'), true);
  },
  async 'RENAME with RENAME_EXCHANGE'(fuse) {
    const { entry } = await fuse.create(ROOT, '!exchange');
    const { entry: other } = await fuse.create(ROOT, 'other');
    await fuse.rename(ROOT, '!exchange', ROOT, 'other', 2);
    assert.equal((await fuse.lookup(ROOT, 'other')).nodeid, entry.nodeid);
    assert.equal((await fuse.lookup(ROOT, '!exchange')).nodeid, other.nodeid);
  },
  async 'SETXATTR with XATTR_CREATE'(fuse) {
    const { entry } = await fuse.create(ROOT, 'attributed');
    await fuse.setxattr(entry.nodeid, 'user.a', Buffer.from('!value'), 1);
    await rejectsWith(fuse.setxattr(entry.nodeid, 'user.a', Buffer.from('2'), 1), 17);
  },
  async REMOVEXATTR(fuse) {
    const { nodeid } = await fuse.lookup(ROOT, 'attributed');
    await fuse.setxattr(nodeid, 'user.!b', Buffer.from('1'));
    await fuse.removexattr(nodeid, 'user.!b');
    await rejectsWith(fuse.removexattr(nodeid, 'user.!b'), 61);
  },
  async 'WRITE at the end'(fuse, seen) {
    const { entry, open } = await fuse.create(ROOT, 'log', 0o644, 0o2002);
    await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('one\n'));
    assert.equal(await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('!two\n')), 5);
    assert.equal(await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('!half of it\n')), 12);
    await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('three\n'));
    assert.equal(await seen.content('log'), 'one\n!two\n!half of it\nthree\n');
  },
};

/** Kinds of which others are made; VIRTIOFS_KIT_ALL_KINDS is set to try these too. */
const LONG = ['an overlay of memfs', 'memfs as the upper of an overlay'];
const hasAll = process.env['VIRTIOFS_KIT_ALL_KINDS'] !== undefined;

describe('a request after which the engine is killed is carried out once', { concurrency: true }, () => {
  for (const [kind, kills] of Object.entries(kinds)) {
    const skip = LONG.includes(kind) && !hasAll;
    test(`on ${kind}: ${Object.keys(steps).join(', ')}`, { skip }, async (t) => {
      const isMemory = kind.includes('memfs');
      const running = startDaemon(t, {
        ...keeping([]),
        command: (directory, socket) => {
          mkdirSync(`${directory}.marks`);
          const backend = ['--backend', plugin, '--marks', `${directory}.marks`];
          if (!isMemory) backend.push('--share', directory);
          if (kind !== 'passthrough' && kind !== 'memfs') {
            mkdirSync(`${directory}.lower`);
            for (const name of LOWER) writeFileSync(join(`${directory}.lower`, name), '');
            backend.push('--lower', `${directory}.lower`);
            if (kind.includes('the upper')) backend.push('--within');
          }
          return keeping(backend, '--confine', 'none').command(directory, socket);
        },
      });
      const { fuse } = await connectKept(t, running);
      await fuse.init();
      for (const [name, step] of Object.entries(steps)) {
        await step(fuse, isMemory ? byGuest(fuse) : onHost(running.directory));
        t.diagnostic(name);
        // The keeper waits before it follows up engines that end at once, again and again.
        await sleep(600);
      }
      assert.equal(readdirSync(`${running.directory}.marks`).length, kills);
    });
  }
});
