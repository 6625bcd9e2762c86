import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { FileType, OpenFlags } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/host-buffer.js';
import { readOnly } from '../../../core/backend/index.js';
import { type Complete, outcome, root, type Share, serveDirectory } from './harness.js';
import { host } from './host-calls.js';

/**
 * A directory beside the share, with a secret in it. Nothing that a guest asks for may show or
 * change it.
 */
interface Arena extends Share {
  readonly outside: string;
}

const SECRET = 'the secret';
const asRoot = process.geteuid!() === 0 ? {} : { skip: 'needs root' };

function arena(t: TestContext, given: Record<string, unknown> = {}): Arena {
  const base = fs.mkdtempSync(join(tmpdir(), 'vfk-escape-'));
  const outside = join(base, 'outside');
  fs.mkdirSync(outside);
  fs.writeFileSync(join(outside, 'f'), SECRET);
  fs.mkdirSync(join(base, 'share'));
  const served = serveDirectory(join(base, 'share'), given);
  t.after(() => {
    served.close();
    fs.rmSync(base, { recursive: true, force: true });
  });
  return { ...served, outside };
}

for (const name of ['..', '.', '', 'a/b', '/etc', '../outside', 'd/../../outside']) {
  test(`the name «${name}» is no component, for every operation that takes one`, async (t) => {
    const { backend, node, directory } = arena(t);
    fs.mkdirSync(join(directory, 'd'));
    fs.writeFileSync(join(directory, 'x'), '');
    const x = (await backend.lookup(node, 'x', root))!.node;
    for (const call of [
      () => backend.lookup(node, name, root),
      () => backend.mkdir(node, name, 0o755, root),
      () => backend.mknod(node, name, FileType.REGULAR | 0o644, 0, root),
      () => backend.symlink(node, name, 'x', root),
      () => backend.link(x, node, name, root),
      () => backend.unlink(node, name, root),
      () => backend.rmdir(node, name, root),
      () => backend.rename(node, name, node, 'y', 0, root),
      () => backend.rename(node, 'x', node, name, 0, root),
      () => backend.create(node, name, 0o644, OpenFlags.READ_WRITE, root),
    ]) {
      assert.equal(await outcome(call), 'EINVAL');
    }
  });
}

test('a symbolic link is a node of its own: nothing is looked up, opened or changed through it', async (t) => {
  const { backend, node, directory, outside } = arena(t);
  fs.symlinkSync(outside, join(directory, 'to-directory'));
  fs.symlinkSync(join(outside, 'f'), join(directory, 'to-file'));
  const toDirectory = (await backend.lookup(node, 'to-directory', root))!;
  const toFile = (await backend.lookup(node, 'to-file', root))!;
  assert.equal(toFile.attributes.mode! & FileType.MASK, FileType.SYMLINK);
  assert.equal(await outcome(() => backend.lookup(toDirectory.node, 'f', root)), 'ENOTDIR');
  assert.equal(await outcome(() => backend.create(toDirectory.node, 'n', 0o600, 2, root)), 'ENOTDIR');
  assert.equal(await outcome(() => backend.readdir(toDirectory.node, root)), 'ENOTDIR');
  assert.equal(await outcome(() => backend.unlink(toDirectory.node, 'f', root)), 'ENOTDIR');
  for (const flags of [OpenFlags.READ_ONLY, OpenFlags.READ_WRITE, OpenFlags.WRITE_ONLY | OpenFlags.TRUNC]) {
    assert.equal(await outcome(() => backend.open(toFile.node, flags, root)), 'ENXIO');
  }
  assert.equal(
    await outcome(() => backend.create(node, 'to-file', 0o600, OpenFlags.TRUNC | 2, root)),
    'ENXIO',
  );
  assert.equal(await outcome(() => backend.setattr(toFile.node, { size: 0 }, undefined, root)), 'EINVAL');
  assert.equal(
    await outcome(() => backend.setattr(toFile.node, { mode: 0o777 }, undefined, root)),
    'EOPNOTSUPP',
  );
  await backend.setattr(toFile.node, { atime: { seconds: 1, nanoseconds: 0 } }, undefined, root);
  assert.equal(
    await outcome(() => backend.setxattr(toFile.node, 'user.x', Buffer.from('1'), 0, false, root)),
    'EPERM',
  );
  const stat = fs.statSync(join(outside, 'f'));
  assert.notEqual(stat.atimeMs, 1000);
  assert.equal(stat.mode & 0o777, 0o644);
  assert.equal(fs.readFileSync(join(outside, 'f'), 'utf8'), SECRET);
});

test('magic links below /proc are links: a share of /proc leads nowhere else', async () => {
  const { backend, node, close } = serveDirectory('/proc/self', { inodeFileHandles: 'never' });
  try {
    for (const name of ['root', 'cwd', 'exe']) {
      const found = (await backend.lookup(node, name, root))!;
      assert.equal(found.attributes.mode! & FileType.MASK, FileType.SYMLINK);
      assert.equal(await outcome(() => backend.lookup(found.node, 'etc', root)), 'ENOTDIR');
      assert.equal(await outcome(() => backend.open(found.node, 0, root)), 'ENXIO');
    }
  } finally {
    close();
  }
});

test(
  "the host's devices, fifos and sockets are not opened, and nothing waits for them",
  asRoot,
  async (t) => {
    const { backend, node, directory } = arena(t);
    host.mknod(join(directory, 'zero'), FileType.CHARACTER | 0o666, 0x105);
    host.mknod(join(directory, 'fifo'), FileType.FIFO | 0o666, 0);
    host.mknod(join(directory, 'socket'), FileType.SOCKET | 0o666, 0);
    for (const name of ['zero', 'fifo', 'socket']) {
      const found = (await backend.lookup(node, name, root))!;
      for (const flags of [0, 1, 2]) {
        assert.equal(await outcome(() => backend.open(found.node, flags, root)), 'ENXIO');
        assert.equal(await outcome(() => backend.create(node, name, 0o600, flags, root)), 'ENXIO');
      }
    }
  },
);

test('a key of a file outside the share finds nothing, whichever file of the host it names', async (t) => {
  const { backend, node, outside, directory } = arena(t);
  const neighbour = serveDirectory(outside);
  t.after(() => neighbour.close());
  const secret = (await neighbour.backend.lookup(neighbour.node, 'f', root))!.node;
  const key = neighbour.backend.key(secret);
  assert.equal(await neighbour.backend.resolve(key), secret);
  assert.equal(await outcome(() => backend.resolve(key)), 'ESTALE');
  fs.mkdirSync(join(outside, 'd'));
  const d = (await neighbour.backend.lookup(neighbour.node, 'd', root))!.node;
  assert.equal(await outcome(() => backend.resolve(neighbour.backend.key(d))), 'ESTALE');
  fs.writeFileSync(join(directory, 'mine'), '');
  const mine = (await backend.lookup(node, 'mine', root))!.node;
  assert.equal(await backend.resolve(backend.key(mine)), mine);
});

test('damaged keys are stale, not dangerous', async (t) => {
  const { backend, node, directory } = arena(t);
  fs.writeFileSync(join(directory, 'f'), '');
  const key = backend.key((await backend.lookup(node, 'f', root))!.node) as Uint8Array;
  for (let i = 0; i < key.length * 8; i++) {
    const damaged = key.slice();
    damaged[i >>> 3]! ^= 1 << (i & 7);
    assert.equal(await outcome(() => backend.resolve(damaged)), 'ESTALE');
  }
  for (const length of [0, 1, 4, 15, 16, 20, 1000, 4096]) {
    assert.equal(await outcome(() => backend.resolve(new Uint8Array(length))), 'ESTALE');
  }
  for (const other of ['x', 7]) assert.equal(await outcome(() => backend.resolve(other)), 'ESTALE');
});

test('saved state that is damaged is refused or ignored', async (t) => {
  const { backend, outside } = arena(t);
  const text = Buffer.from(`../${outside}/f`);
  const state = Buffer.concat([Buffer.from([4, 0, text.length, 0, 1, 2, 3, 4]), text]);
  await backend.restore(state);
  assert.equal(await outcome(() => backend.resolve(Uint8Array.of(1, 2, 3, 4))), 'ESTALE');
  assert.equal(await outcome(() => backend.restore(state.subarray(0, 9))), 'EINVAL');
});

test('while the host exchanges a directory and a link to the outside, a guest never sees the outside', async (t) => {
  const { backend, node, directory, outside } = arena(t);
  fs.mkdirSync(join(directory, 'd'));
  fs.writeFileSync(join(directory, 'd', 'f'), 'harmless');
  fs.symlinkSync(outside, join(directory, 'link'));
  const racer = spawn(process.execPath, [join(import.meta.dirname, 'exchange.js'), directory, 'd', 'link']);
  const ended = once(racer, 'exit');
  await once(racer.stdout, 'data');
  const seen = { directory: 0, link: 0 };
  try {
    for (let i = 0; i < 20_000; i++) {
      const content = await readThrough(backend, node);
      assert.notEqual(content, SECRET);
      if (content === 'harmless') seen.directory += 1;
      else seen.link += 1;
      // The other process needs a processor now and then.
      if (i % 100 === 0) await new Promise((turn) => setTimeout(turn, 1));
    }
  } finally {
    racer.kill();
    await ended;
  }
  assert.ok(seen.directory > 0 && seen.link > 0, JSON.stringify(seen));
  assert.equal(fs.readFileSync(join(outside, 'f'), 'utf8'), SECRET);
});

/** Reads `d/f` as a guest does, or gives the errno. */
async function readThrough(backend: Complete, top: Share['node']): Promise<string> {
  let content = 'nothing';
  const result = await outcome(async () => {
    const d = await backend.lookup(top, 'd', root);
    if (d === undefined) return;
    const f = await backend.lookup(d.node, 'f', root);
    if (f === undefined) return;
    const { file } = await backend.open(f.node, OpenFlags.READ_WRITE, root);
    const buffer = hostBuffer(64);
    const count = await backend.read(f.node, file, buffer, 0, root);
    content = Buffer.from(buffer.bytes.subarray(0, count)).toString();
    buffer.close();
    await backend.release(f.node, file);
  });
  return result === 'ok' ? content : result;
}

test('a read-only share refuses every change with EROFS, or has no method for it', async (t) => {
  const { backend: full, node, directory } = arena(t);
  fs.writeFileSync(join(directory, 'f'), 'content');
  const backend = readOnly(full);
  const { node: f } = (await backend.lookup(node, 'f', root))!;
  for (const flags of [OpenFlags.WRITE_ONLY, OpenFlags.READ_WRITE, OpenFlags.TRUNC]) {
    assert.equal(await outcome(() => backend.open!(f as never, flags, root)), 'EROFS');
  }
  const changing = [
    'setattr',
    'mknod',
    'mkdir',
    'symlink',
    'link',
    'unlink',
    'rmdir',
    'rename',
    'create',
    'tmpfile',
    'write',
    'setxattr',
    'removexattr',
    'fallocate',
    'copyFileRange',
  ] as const;
  for (const name of changing) assert.equal(backend[name], undefined, name);
  const { file } = await backend.open!(f as never, OpenFlags.READ_ONLY, root);
  assert.equal(await backend.read!(f as never, file, hostBuffer(16), 0, root), 7);
  await backend.release!(f as never, file);
});
