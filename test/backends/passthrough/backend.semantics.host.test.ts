import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import {
  type Context,
  type DirectoryEntry,
  FallocateMode,
  FileType,
  makeDevice,
  OpenFlags,
  RenameFlags,
  WriteFlags,
} from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/host-buffer.js';
import { capabilityNumber, setCapability } from '../../../core/system/calls/credentials.js';
import { withFewDescriptors } from '../../support/descriptor-limit.js';
import { bufferOf, outcome, root, type Share, serve, serveDirectory } from './harness.js';
import { host } from './host-calls.js';
import { entriesOf } from '../../support/listings.js';

const asRoot = process.geteuid!() === 0 ? {} : { skip: 'needs root' };
const user: Context = { ...root, uid: 1234, gid: 2345, umask: 0 };

function share(t: TestContext, given: Record<string, unknown> = {}): Share {
  const served = serve(tmpdir(), given);
  t.after(() => served.close());
  return served;
}

test('new files, directories, links and nodes belong to the caller from the start', asRoot, async (t) => {
  const { backend, node, directory } = share(t);
  const created = await backend.create(node, 'file', 0o640, OpenFlags.READ_WRITE, user);
  await backend.release(created.node, created.file);
  await backend.mkdir(node, 'directory', 0o750, user);
  await backend.symlink(node, 'link', 'file', user);
  await backend.mknod(node, 'fifo', FileType.FIFO | 0o600, 0, user);
  for (const name of ['file', 'directory', 'link', 'fifo']) {
    const { uid, gid } = fs.lstatSync(join(directory, name));
    assert.deepEqual([name, uid, gid], [name, 1234, 2345]);
  }
  await backend.mkdir(node, 'later', 0o700, root);
  assert.equal(fs.statSync(join(directory, 'later')).uid, 0, 'the thread is root again');
});

test('a caller without access on the host may create where the guest let it', asRoot, async (t) => {
  const { backend, node, directory } = share(t);
  fs.mkdirSync(join(directory, 'closed'), { mode: 0o700 });
  const closed = (await backend.lookup(node, 'closed', root))!.node;
  await backend.mkdir(closed, 'inside', 0o755, user);
  assert.equal(fs.statSync(join(directory, 'closed', 'inside')).uid, 1234);
});

test('a failed creation leaves the thread with its own identity', asRoot, async (t) => {
  const { backend, node, directory } = share(t);
  fs.writeFileSync(join(directory, 'there'), '');
  assert.equal(await outcome(() => backend.mkdir(node, 'there', 0o755, user)), 'EEXIST');
  await backend.mkdir(node, 'mine', 0o755, root);
  assert.equal(fs.statSync(join(directory, 'mine')).uid, 0);
  assert.match(fs.readFileSync('/proc/thread-self/status', 'utf8'), /^Uid:\t0\t0\t0\t0$/m);
});

test('in a set-group-id directory the group is inherited, and kept for members only', asRoot, async (t) => {
  const { backend, node, directory } = share(t);
  fs.mkdirSync(join(directory, 'team'));
  fs.chownSync(join(directory, 'team'), 0, 7777);
  fs.chmodSync(join(directory, 'team'), 0o2777);
  const team = (await backend.lookup(node, 'team', root))!.node;
  const make = async (name: string, context: Context): Promise<number> => {
    const { node: made, file } = await backend.create(team, name, 0o2775, OpenFlags.READ_WRITE, context);
    await backend.release(made, file);
    const { gid, mode } = fs.statSync(join(directory, 'team', name));
    assert.equal(gid, 7777);
    return mode & 0o7777;
  };
  assert.equal(await make('stranger', user), 0o775);
  assert.equal(await make('member', { ...user, groups: [7777] }), 0o2775);
  assert.equal(await make('root', root), 0o2755);
});

test('set-id bits are cleared, and kept, as ext4 does for who changes a file', asRoot, async (t) => {
  const { backend, node, directory } = share(t);
  const path = join(directory, 'tool');
  const { node: tool, file } = await backend.create(node, 'tool', 0o755, OpenFlags.READ_WRITE, root);
  const PUNCH = FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE;
  const changes: readonly [string, (context: Context) => unknown][] = [
    ['fallocate', (context) => backend.fallocate(tool, file, 0, 0, 8192, context)],
    ['punch', (context) => backend.fallocate(tool, file, PUNCH, 0, 4096, context)],
    ['copy', (context) => backend.copyFileRange(tool, file, 0, tool, file, 4096, 100, context)],
    ['truncate', ({ uid }) => backend.setattr(tool, { size: 8192, killSuidGid: uid !== 0 }, undefined, root)],
  ];
  // fs/attr.c: set-group-id stays where the group may not execute.
  for (const [before, after] of [
    [0o6755, 0o755],
    [0o4755, 0o755],
    [0o2755, 0o755],
    [0o6666, 0o2666],
    [0o2666, 0o2666],
    [0o755, 0o755],
  ] as const) {
    for (const [name, change] of changes) {
      fs.writeFileSync(path, 'x'.repeat(8192));
      fs.chmodSync(path, before);
      await change(root);
      assert.equal(fs.statSync(path).mode & 0o7777, before, `${name} by root of ${before.toString(8)}`);
      await change(user);
      assert.equal(fs.statSync(path).mode & 0o7777, after, `${name} by a user of ${before.toString(8)}`);
    }
  }
  await backend.release(tool, file);
});

test('a name that is replaced again and again can be opened after one more look-up', async (t) => {
  const { backend, node, directory } = share(t, { inodeFileHandles: 'mandatory' });
  const replace = (content: string): void => {
    fs.writeFileSync(join(directory, 'new'), content);
    fs.renameSync(join(directory, 'new'), join(directory, 'name'));
  };
  replace('first');
  const { node: first } = (await backend.lookup(node, 'name', root))!;
  replace('second');
  // Linux asks once more after this, and only once.
  assert.equal(await outcome(() => backend.open(first, OpenFlags.READ_ONLY, root)), 'ESTALE');
  const { node: second } = (await backend.lookup(node, 'name', root))!;
  replace('third');
  const { file } = await backend.open(second, OpenFlags.READ_ONLY, root);
  assert.equal((await backend.getattr(second, undefined, root)).size, 'second'.length);
  await backend.release(second, file);
});

test('a write that must clear set-id bits does so, and one that need not leaves them', asRoot, async (t) => {
  const { backend, node, directory } = share(t);
  const path = join(directory, 'tool');
  const { node: tool, file } = await backend.create(node, 'tool', 0o755, OpenFlags.READ_WRITE, root);
  const mode = (): number => fs.statSync(path).mode & 0o7777;
  for (const flags of [0, OpenFlags.DSYNC, OpenFlags.APPEND]) {
    const { file: other } = await backend.open(tool, OpenFlags.READ_WRITE | flags, root);
    fs.chmodSync(path, 0o6755);
    await backend.write(tool, other, bufferOf('x'), 0, 0, root);
    assert.equal(mode(), 0o6755);
    await backend.write(tool, other, bufferOf('x'), 0, WriteFlags.KILL_SUIDGID, user);
    assert.equal(mode(), 0o755);
    fs.chmodSync(path, 0o6755);
    await backend.write(tool, other, bufferOf('x'), 0, 0, root);
    assert.equal(mode(), 0o6755);
    await backend.release(tool, other);
  }
  fs.chmodSync(path, 0o6755);
  await backend.setattr(tool, { size: 0 }, file, root);
  assert.equal(mode(), 0o6755);
  await backend.setattr(tool, { size: 1, killSuidGid: true }, undefined, user);
  assert.equal(mode(), 0o755);
  fs.chmodSync(path, 0o6755);
  await backend.setattr(tool, { uid: 5, killSuidGid: true }, undefined, root);
  assert.equal(mode(), 0o755);
  await backend.release(tool, file);
});

test(
  "a directory's default ACL decides instead of the umask; without one the umask does",
  asRoot,
  async (t) => {
    const { backend, node, directory } = share(t);
    fs.mkdirSync(join(directory, 'acl'));
    const acl = (await backend.lookup(node, 'acl', root))!.node;
    // Version 2, then tag, permissions and id of each entry: user::rwx group::rwx other::rwx.
    const entries = [1, 4, 0x20].flatMap((tag) => [tag, 0, 7, 0, 255, 255, 255, 255]);
    const value = Uint8Array.of(2, 0, 0, 0, ...entries);
    const name = 'system.posix_acl_default';
    await backend.setxattr(acl, name, value, 0, false, root);
    assert.deepEqual(Uint8Array.from((await backend.getxattr(acl, name, root))!), value);
    await backend.mkdir(acl, 'd', 0o777, { ...root, umask: 0o077 });
    assert.equal(fs.statSync(join(directory, 'acl', 'd')).mode & 0o777, 0o777);
    await backend.mkdir(node, 'e', 0o777, { ...root, umask: 0o077 });
    assert.equal(fs.statSync(join(directory, 'e')).mode & 0o777, 0o700);
    await backend.removexattr(acl, name, root);
    assert.equal(await backend.getxattr(acl, name, root), undefined);
  },
);

test('owners are translated in both directions, and forbidden ones refused', asRoot, async (t) => {
  const { backend, node, directory } = share(t, {
    translateUid: ['map:1000:50000:1000', 'forbid-guest:3000:1'],
    translateGid: ['squash-guest:0:60000:4294967295', 'squash-host:60000:0:1'],
  });
  assert.equal(backend.semantics.posixAcl, false);
  const { attributes } = await backend.mkdir(node, 'd', 0o755, { ...root, uid: 1234, gid: 99 });
  assert.deepEqual([attributes.uid, attributes.gid], [1234, 0]);
  const { uid, gid } = fs.statSync(join(directory, 'd'));
  assert.deepEqual([uid, gid], [50234, 60000]);
  const d = (await backend.lookup(node, 'd', root))!.node;
  assert.equal((await backend.setattr(d, { uid: 1001 }, undefined, root)).uid, 1001);
  assert.equal(fs.statSync(join(directory, 'd')).uid, 50001);
  assert.equal(await outcome(() => backend.setattr(d, { uid: 3000 }, undefined, root)), 'EPERM');
  assert.equal(await outcome(() => backend.mkdir(node, 'e', 0o755, { ...root, uid: 3000 })), 'EPERM');
  assert.equal(await outcome(() => backend.getxattr(d, 'system.posix_acl_access', root)), 'EOPNOTSUPP');
});

test('names of extended attributes are mapped, and file capabilities under a mapped name end with a write', async (t) => {
  const { backend, node, directory } = share(t, { xattrmap: ':map::user.virtiofs.:' });
  const { node: tool, file } = await backend.create(node, 'tool', 0o755, OpenFlags.READ_WRITE, root);
  const set = async (name: string): Promise<void> =>
    backend.setxattr(tool, name, Buffer.from('v'), 0, false, root);
  await set('security.selinux');
  await set('security.capability');
  assert.deepEqual([...(await backend.listxattr(tool, root))].sort(), [
    'security.capability',
    'security.selinux',
  ]);
  assert.equal(host.xattrSize(join(directory, 'tool'), 'user.virtiofs.security.selinux'), 1);
  await backend.write(tool, file, bufferOf('x'), 0, 0, root);
  assert.deepEqual(await backend.listxattr(tool, root), ['security.selinux']);
  await backend.release(tool, file);
});

const securityContext = { name: 'security.test', value: Buffer.from('label') };

test('a security context is on whatever is made', asRoot, async (t) => {
  const { backend, node, directory } = share(t, { securityLabel: true });
  const context = { ...root, securityContext };
  const labelSize = (name: string): number => host.xattrSize(join(directory, name), securityContext.name);
  await backend.mkdir(node, 'd', 0o755, context);
  await backend.symlink(node, 'l', 'f', context);
  await backend.mknod(node, 'fifo', FileType.FIFO | 0o600, 0, context);
  await backend.mknod(node, 'node', FileType.REGULAR | 0o640, 0, context);
  const { node: made, file } = await backend.create(node, 'f', 0o444, OpenFlags.READ_WRITE, context);
  await backend.write(made, file, bufferOf('content'), 0, 0, root);
  await backend.release(made, file);
  for (const name of ['d', 'fifo', 'node', 'f']) assert.equal(labelSize(name), 5, name);
  // Of a symbolic link, not of what it leads to.
  const link = (await backend.lookup(node, 'l', root))!.node;
  assert.equal(Buffer.from((await backend.getxattr(link, securityContext.name, root))!).toString(), 'label');
  assert.equal(fs.readFileSync(join(directory, 'f'), 'utf8'), 'content');
  assert.equal(fs.statSync(join(directory, 'f')).mode & 0o777, 0o444);
  assert.equal(fs.statSync(join(directory, 'node')).mode & 0o777, 0o640);

  const nameless = await backend.tmpfile(node, 0o600, OpenFlags.READ_WRITE, { ...user, securityContext });
  await backend.link(nameless.node, node, 'named', root);
  await backend.release(nameless.node, nameless.file);
  assert.equal(labelSize('named'), 5);
  assert.equal(fs.statSync(join(directory, 'named')).uid, 1234);
  assert.doesNotMatch(Buffer.from((await backend.save()) as Uint8Array).toString('latin1'), /deleted/);
});

test(
  'a file that is there is opened as it is, and a refused label leaves nothing behind',
  asRoot,
  async (t) => {
    const { backend, node, directory } = share(t, {
      securityLabel: true,
      xattrmap: '/bad/client/security.no// /ok/all///',
    });
    const context = { ...user, securityContext };
    fs.writeFileSync(join(directory, 'there'), 'as it is');
    const there = await backend.create(node, 'there', 0o600, OpenFlags.READ_WRITE, context);
    assert.equal(await backend.read(there.node, there.file, hostBuffer(16), 0, root), 8);
    await backend.release(there.node, there.file);
    assert.equal(host.xattrSize(join(directory, 'there'), securityContext.name), -61, 'ENODATA');
    const exclusive = OpenFlags.READ_WRITE | OpenFlags.EXCL;
    assert.equal(await outcome(() => backend.create(node, 'there', 0o600, exclusive, context)), 'EEXIST');
    const refused = { ...user, securityContext: { ...securityContext, name: 'security.no' } };
    const attempts = [
      () => backend.create(node, 'x', 0o600, OpenFlags.READ_WRITE, refused),
      () => backend.tmpfile(node, 0o600, OpenFlags.READ_WRITE, refused),
      () => backend.mknod(node, 'x', FileType.REGULAR | 0o600, 0, refused),
      () => backend.mkdir(node, 'x', 0o700, refused),
      () => backend.symlink(node, 'x', 'there', refused),
    ];
    for (const attempt of attempts) assert.equal(await outcome(attempt), 'EPERM');
    assert.deepEqual(fs.readdirSync(directory), ['there']);
  },
);

test(
  'without privilege a read-only file gets its security context, under a mapped name',
  asRoot,
  async (t) => {
    const { backend, node, directory } = share(t, { securityLabel: true, xattrmap: ':map::user.guest.:' });
    const context = { ...root, securityContext };
    assert.equal(setCapability(capabilityNumber('dac_override'), false), 0);
    try {
      const { node: made, file } = await backend.create(node, 'f', 0o444, OpenFlags.READ_ONLY, context);
      await backend.release(made, file);
      await backend.mkdir(node, 'd', 0o555, context);
    } finally {
      setCapability(capabilityNumber('dac_override'), true);
    }
    for (const [name, mode] of Object.entries({ f: 0o444, d: 0o555 })) {
      assert.equal(host.xattrSize(join(directory, name), `user.guest.${securityContext.name}`), 5);
      assert.equal(fs.statSync(join(directory, name)).mode & 0o777, mode);
    }
  },
);

test("the host's own processes see no new file without its security context", asRoot, async (t) => {
  const { backend, node, directory } = share(t, { securityLabel: true });
  const count = 300;
  const looker = spawn(process.execPath, [
    join(import.meta.dirname, 'first-label.js'),
    directory,
    securityContext.name,
    `${count}`,
  ]);
  t.after(() => looker.kill());
  const lines = createInterface(looker.stdout)[Symbol.asyncIterator]();
  assert.equal((await lines.next()).value, 'looking');
  for (let i = 0; i < count; i++) {
    const context = { ...root, securityContext };
    const { node: made, file } = await backend.create(node, `${i}`, 0o644, OpenFlags.READ_ONLY, context);
    await backend.release(made, file);
    // The other process needs a processor now and then.
    if (i % 10 === 0) await sleep(1);
  }
  assert.equal((await lines.next()).value, '0');
});

test(
  'attributes are those of the host, and the time of birth is among them where it is asked for',
  asRoot,
  async (t) => {
    const { backend, node, directory } = share(t);
    fs.writeFileSync(join(directory, 'file'), Buffer.alloc(10_000), { mode: 0o640 });
    fs.chownSync(join(directory, 'file'), 1234, 2345);
    fs.utimesSync(join(directory, 'file'), -1.5, 4_294_967_297.25);
    await backend.mknod(node, 'null', FileType.CHARACTER | 0o600, makeDevice(1, 3), root);
    for (const name of ['file', 'null']) {
      const known = (await backend.lookup(node, name, root))!.node;
      const fromHost = fs.lstatSync(join(directory, name), { bigint: true });
      for (const birth of [true, false]) {
        const shown = await backend.getattr(known, undefined, { ...root, birth });
        const told = [shown.mode, shown.ino, shown.size, shown.blocks, shown.nlink, shown.uid, shown.gid];
        const there = [fromHost.mode, fromHost.ino, fromHost.size, fromHost.blocks, fromHost.nlink];
        assert.deepEqual(told.map(Number), [...there, fromHost.uid, fromHost.gid].map(Number));
        assert.equal(shown.rdev, name === 'null' ? makeDevice(1, 3) : 0);
        const nanoseconds = (seconds = 0, part = 0) => BigInt(seconds) * 1_000_000_000n + BigInt(part);
        assert.equal(nanoseconds(shown.atime, shown.atimeNsec), fromHost.atimeNs);
        assert.equal(nanoseconds(shown.mtime, shown.mtimeNsec), fromHost.mtimeNs);
        assert.equal(nanoseconds(shown.ctime, shown.ctimeNsec), fromHost.ctimeNs);
        if (birth) assert.equal(nanoseconds(shown.btime, shown.btimeNsec), fromHost.birthtimeNs);
        else assert.equal(shown.btime, undefined);
      }
    }
  },
);

test('a file without a name is made, written, and given one', async (t) => {
  const { backend, node, directory } = share(t);
  const { node: made, file, attributes } = await backend.tmpfile(node, 0o600, OpenFlags.READ_WRITE, root);
  assert.equal(attributes.nlink, 0);
  await backend.write(made, file, bufferOf('content'), 0, 0, root);
  const linked = await backend.link(made, node, 'named', root);
  assert.equal(linked.node, made);
  assert.equal(fs.readFileSync(join(directory, 'named'), 'utf8'), 'content');
  await backend.release(made, file);
  const exclusive = await backend.tmpfile(node, 0o600, OpenFlags.READ_WRITE | OpenFlags.EXCL, root);
  assert.equal(await outcome(() => backend.link(exclusive.node, node, 'no', root)), 'ENOENT');
  await backend.release(exclusive.node, exclusive.file);
});

test('appending writers write at the end, and pages of a mapping where they belong', async (t) => {
  const { backend, node, directory } = share(t);
  const flags = OpenFlags.WRITE_ONLY | OpenFlags.APPEND;
  const { node: log, file } = await backend.create(node, 'log', 0o600, flags, root);
  await backend.write(log, file, bufferOf('one'), 0, 0, root);
  fs.appendFileSync(join(directory, 'log'), '-');
  await backend.write(log, file, bufferOf('two'), 3, 0, root);
  assert.equal(fs.readFileSync(join(directory, 'log'), 'utf8'), 'one-two');
  await backend.write(log, file, bufferOf('ONE'), 0, WriteFlags.CACHE, root);
  assert.equal(fs.readFileSync(join(directory, 'log'), 'utf8'), 'ONE-two');
  await backend.release(log, file);
});

test('a whiteout is left where the rename asks for one', asRoot, async (t) => {
  const { backend, node, directory } = share(t);
  fs.writeFileSync(join(directory, 'a'), '');
  await backend.rename(node, 'a', node, 'b', RenameFlags.WHITEOUT, root);
  const stat = fs.lstatSync(join(directory, 'a'));
  assert.ok(stat.isCharacterDevice());
  assert.equal(stat.rdev, 0);
});

test('a removed directory, and a file removed while it is open, live on while a guest knows them', async (t) => {
  for (const inodeFileHandles of ['prefer', 'never']) {
    const { backend, node, directory } = share(t, { inodeFileHandles, cachedDescriptors: 16 });
    fs.writeFileSync(join(directory, 'f'), 'kept');
    fs.mkdirSync(join(directory, 'd'));
    fs.writeFileSync(join(directory, 'g'), 'over');
    const f = (await backend.lookup(node, 'f', root))!.node;
    const d = (await backend.lookup(node, 'd', root))!.node;
    const { file } = await backend.open(f, OpenFlags.READ_WRITE, root);
    await backend.rename(node, 'g', node, 'f', 0, root);
    await backend.unlink(node, 'f', root);
    await backend.rmdir(node, 'd', root);
    // Other files push it out of any cache.
    for (let i = 0; i < 50; i++) {
      fs.writeFileSync(join(directory, `other${i}`), '');
      await backend.getattr((await backend.lookup(node, `other${i}`, root))!.node, undefined, root);
    }
    assert.equal((await backend.getattr(f, undefined, root)).nlink, 0);
    assert.equal((await backend.getattr(d, undefined, root)).nlink, 0);
    const again = await backend.open(f, OpenFlags.READ_ONLY, root);
    await backend.release(f, file);
    const buffer = hostBuffer(16);
    assert.equal(await backend.read(f, again.file, buffer, 0, root), 4);
    await backend.setattr(f, { size: 2 }, undefined, root);
    assert.equal((await backend.getattr(f, undefined, root)).size, 2);
    await backend.release(f, again.file);
    backend.forget(f);
    backend.forget(d);
  }
});

test('descriptors that are kept for speed make room for files that a guest opens', async (t) => {
  const { backend, node, directory } = share(t, { cachedDescriptors: 200 });
  const known: (typeof node)[] = [];
  for (let i = 0; i < 120; i++) {
    fs.writeFileSync(join(directory, `f${i}`), `content of ${i}`);
    known.push((await backend.lookup(node, `f${i}`, root))!.node);
  }
  for (let turns = 0; turns < 3; turns++)
    for (const one of known) await backend.getattr(one, undefined, root);
  const before = fs.readdirSync('/proc/self/fd').length;
  await withFewDescriptors(10, async () => {
    const open = [];
    for (const [i, one] of known.entries()) {
      if (i % 2 === 0) open.push([one, (await backend.open(one, OpenFlags.READ_ONLY, root)).file] as const);
      else {
        const made = await backend.create(
          node,
          `new${i}`,
          0o600,
          OpenFlags.READ_WRITE | OpenFlags.EXCL,
          root,
        );
        open.push([made.node, made.file] as const);
      }
      if (open.length > 40) {
        const [oldest, file] = open.shift()!;
        await backend.release(oldest, file);
      }
    }
    const [last, file] = open.at(-2)!;
    const buffer = hostBuffer(32);
    const count = await backend.read(last, file, buffer, 0, root);
    assert.equal(Buffer.from(buffer.segments[0]!).toString('latin1', 0, count), 'content of 118');
    for (const [one, handle] of open) await backend.release(one, handle);
  });
  assert.ok(before > 120, 'there was something to close');
  assert.equal((await backend.getattr(known[0]!, undefined, root)).size, 12);
});

test('a creation that fails leaves nothing of what it has found', async (t) => {
  const { backend, node, directory } = share(t);
  const kept = (): number => backend.metrics!().find(({ name }) => name === 'node_descriptors')!.value;
  const create = (name: string, flags = 0): Promise<string> =>
    outcome(() => backend.create(node, name, 0o644, OpenFlags.READ_WRITE | flags, root));
  const before = kept();
  for (let i = 0; i < 20; i++) {
    fs.mkdirSync(join(directory, `directory${i}`));
    fs.symlinkSync('nowhere', join(directory, `link${i}`));
    assert.equal(await create(`directory${i}`), 'EISDIR');
    assert.equal(await create(`link${i}`), 'ENXIO');
    assert.equal(await create(`link${i}`, OpenFlags.EXCL), 'EEXIST');
  }
  assert.equal(kept(), before);
  // What somebody knows stays.
  const known = (await backend.lookup(node, 'directory0', root))!;
  const { ino } = known.attributes;
  assert.equal(await create('directory0'), 'EISDIR');
  assert.equal((await backend.getattr(known.node, undefined, root)).ino, ino);
  assert.equal(kept(), before + 1);
});

test('shares of one process leave it half of its descriptors', async (t) => {
  await withFewDescriptors(3000, async () => {
    const open = (): number => fs.readdirSync('/proc/self/fd').length;
    const before = open();
    for (let shares = 0; shares < 2; shares++) {
      const { backend, node, directory } = share(t);
      const known: (typeof node)[] = [];
      for (let i = 0; i < 1200; i++) {
        fs.writeFileSync(join(directory, `f${i}`), '');
        known.push((await backend.lookup(node, `f${i}`, root))!.node);
      }
      for (let turns = 0; turns < 3; turns++)
        for (const one of known) await backend.getattr(one, undefined, root);
      const now = open() - before;
      // The first share has a descriptor for each file. The second has what is left of half of the
      // limit, and 512 at least.
      if (shares === 0) assert.ok(now >= 1200 && now < 1300, `${now} descriptors of one share`);
      else assert.ok(now > 1500 && now < 1800, `${now} descriptors of both`);
    }
  });
});

test('where guests cache writes, they can still send the times of a file whose last name went, and take it as one piece', async (t) => {
  const { backend, node, directory } = share(t, { writeback: true, cachedDescriptors: 16 });
  const known = async (name: string) => (await backend.lookup(node, name, root))!.node;
  for (const name of ['removed', 'replaced', 'linked', 'other']) fs.writeFileSync(join(directory, name), '');
  fs.linkSync(join(directory, 'linked'), join(directory, 'link'));
  const nodes = [await known('removed'), await known('replaced'), await known('linked')];
  await backend.unlink(node, 'removed', root);
  await backend.rename(node, 'other', node, 'replaced', 0, root);
  await backend.unlink(node, 'linked', root);
  // Other files push them out of any cache.
  for (let i = 0; i < 50; i++) {
    fs.writeFileSync(join(directory, `${i}`), '');
    await backend.getattr(await known(`${i}`), undefined, root);
  }
  for (const [index, one] of nodes.entries()) {
    const { nlink, mtime } = await backend.setattr(
      one,
      { mtime: { seconds: 1000, nanoseconds: 0 } },
      undefined,
      root,
    );
    assert.deepEqual([nlink, mtime], [index === 2 ? 1 : 0, 1000]);
    backend.forget(one);
  }
});

for (const { age, title } of [
  { age: 0, title: 'an inode number used anew is another node' },
  {
    age: 30,
    title: 'an inode number used anew is another node where files are known by their time of birth',
  },
]) {
  test(title, async (t) => {
    const { backend, node, directory } = share(t);
    const path = join(directory, 'x');
    const seen = new Map<number, object>();
    for (let i = 0; i < 50; i++) {
      fs.writeFileSync(path, '');
      // A file that is older than a tick of the file system's clock when it is first seen.
      await sleep(age);
      const { node: found, attributes } = (await backend.lookup(node, 'x', root))!;
      assert.equal((await backend.lookup(node, 'x', root))!.node, found);
      const former = seen.get(Number(attributes.ino));
      assert.notEqual(former, found);
      seen.set(Number(attributes.ino), found);
      fs.unlinkSync(path);
    }
  });
}

test('hard links are one node, whichever name leads to it', async (t) => {
  const { backend, node, directory } = share(t);
  fs.mkdirSync(join(directory, 'd'));
  fs.writeFileSync(join(directory, 'a'), '');
  fs.linkSync(join(directory, 'a'), join(directory, 'd', 'b'));
  const a = (await backend.lookup(node, 'a', root))!.node;
  const d = (await backend.lookup(node, 'd', root))!.node;
  assert.equal((await backend.lookup(d, 'b', root))!.node, a);
  assert.equal((await backend.getattr(a, undefined, root)).nlink, 2);
});

test('a directory of 3,000 names lists each once, and an early end closes its descriptor', async (t) => {
  const { backend, node, directory } = share(t);
  for (let i = 0; i < 3000; i++) fs.writeFileSync(join(directory, `entry-${i}`), '');
  const listing = entriesOf(await backend.readdir(node, root));
  assert.equal(new Set(listing.map(({ name }) => name)).size, 3000);
  const before = fs.readdirSync('/proc/self/fd').length;
  for (const _ of (await backend.readdir(node, root)) as Iterable<DirectoryEntry>) break;
  assert.equal(fs.readdirSync('/proc/self/fd').length, before);
});

test('files are found again by their keys after a restart, and gone ones are stale', async (t) => {
  const first = serve(tmpdir());
  t.after(() => first.close());
  const { directory, backend } = first;
  fs.mkdirSync(join(directory, 'd'));
  fs.writeFileSync(join(directory, 'd', 'f'), 'content');
  fs.writeFileSync(join(directory, 'gone'), '');
  const d = (await backend.lookup(first.node, 'd', root))!.node;
  const f = (await backend.lookup(d, 'f', root))!.node;
  const gone = (await backend.lookup(first.node, 'gone', root))!.node;
  const keys = [first.node, d, f, gone].map((node) => backend.key(node));
  const state = await backend.save();
  fs.unlinkSync(join(directory, 'gone'));
  const second = serveDirectory(directory);
  t.after(() => second.close());
  await second.backend.restore(state);
  const [rootKey, dKey, fKey, goneKey] = keys;
  assert.equal(await second.backend.resolve(rootKey!), second.node);
  const found = await second.backend.resolve(fKey!);
  assert.equal((await second.backend.getattr(found, undefined, root)).size, 7);
  assert.deepEqual(second.backend.key(found), fKey);
  const again = (await second.backend.lookup(await second.backend.resolve(dKey!), 'f', root))!.node;
  assert.equal(again, found);
  assert.equal(await outcome(() => second.backend.resolve(goneKey!)), 'ESTALE');
});

test(
  'a mount below the share is announced, crossed or refused, and never confused with the share',
  asRoot,
  async (t) => {
    const directory = fs.mkdtempSync(join(tmpdir(), 'vfk-mounts-'));
    const below = join(directory, 'below');
    fs.mkdirSync(below);
    if (host.mountTmpfs(below) < 0) {
      t.skip('nothing can be mounted here');
      return;
    }
    t.after(() => {
      host.unmount(below);
      fs.rmSync(directory, { recursive: true });
    });
    fs.writeFileSync(join(below, 'f'), 'in the submount');
    for (const submounts of ['announce', 'cross', 'refuse']) {
      const { backend, node, close } = serveDirectory(directory, { submounts });
      try {
        if (submounts === 'refuse') {
          assert.equal(await outcome(() => backend.lookup(node, 'below', root)), 'EXDEV');
          continue;
        }
        const found = (await backend.lookup(node, 'below', root))!;
        assert.equal(found.attributes.submount, submounts === 'announce');
        assert.notEqual(found.node, node);
        const f = (await backend.lookup(found.node, 'f', root))!;
        assert.equal(f.attributes.submount, false);
        const { file } = await backend.open(f.node, OpenFlags.READ_ONLY, root);
        assert.equal(await backend.read(f.node, file, hostBuffer(64), 0, root), 15);
        await backend.release(f.node, file);
        const other = serveDirectory(directory, { submounts });
        const again = await other.backend.resolve(backend.key(f.node));
        assert.equal((await other.backend.getattr(again, undefined, root)).size, 15);
        other.close();
      } finally {
        close();
      }
    }
  },
);

test(
  'a mount below the share is busy only while guests know files on it, and is found anew then',
  asRoot,
  async (t) => {
    const directory = fs.mkdtempSync(join(tmpdir(), 'vfk-mounts-'));
    const [one, other] = ['one', 'other'].map((name) => join(directory, name)) as [string, string];
    const mount = (): boolean => [one, other].every((path) => host.mountTmpfs(path) >= 0);
    for (const path of [one, other]) fs.mkdirSync(path);
    t.after(() => {
      for (const path of [one, other]) host.unmount(path);
      fs.rmSync(directory, { recursive: true });
    });
    if (!mount()) {
      t.skip('nothing can be mounted here');
      return;
    }
    const { backend, node, log, close } = serveDirectory(directory);
    t.after(close);
    for (const content of ['first', 'second']) {
      fs.writeFileSync(join(one, 'f'), content);
      const found = (await backend.lookup(node, 'one', root))!.node;
      const f = (await backend.lookup(found, 'f', root))!.node;
      await backend.syncfs(root);
      await turn();
      assert.equal(host.unmountIdle(one), -16, 'EBUSY');
      assert.equal((await backend.getattr(f, undefined, root)).size, content.length);
      const key = backend.key(f)!;
      backend.forget(f);
      backend.forget(found);
      // The mounts that this opens to find a file are left again, too.
      const again = await backend.resolve(key);
      assert.equal((await backend.getattr(again, undefined, root)).size, content.length);
      backend.forget(again);
      await turn();
      assert.equal(host.unmountIdle(one), 0);
      assert.equal(host.unmountIdle(other), 0);
      const below = (await backend.lookup(node, 'one', root))!;
      assert.equal(below.attributes.submount, false);
      assert.deepEqual(fs.readdirSync(one), []);
      backend.forget(below.node);
      assert.ok(mount());
    }
    assert.deepEqual(log.lines, []);
  },
);

test('reads of pages that are not in memory give the same bytes, later', async (t) => {
  const { backend, node, directory } = share(t);
  const content = Buffer.alloc(300_000, 'abcdefgh');
  fs.writeFileSync(join(directory, 'cold'), content);
  const { node: cold } = (await backend.lookup(node, 'cold', root))!;
  const { file } = await backend.open(cold, OpenFlags.READ_ONLY, root);
  host.dropPages(file.fd);
  const buffer = hostBuffer(200_000);
  assert.equal(await backend.read(cold, file, buffer, 150_000, root), 150_000);
  assert.deepEqual(Buffer.from(buffer.bytes.subarray(0, 150_000)), content.subarray(150_000));
  await backend.release(cold, file);
});
