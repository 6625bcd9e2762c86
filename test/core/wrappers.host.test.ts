import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, test } from 'node:test';
import { acceleratorOf } from '../../core/backend/accelerator.js';
import {
  type Backend,
  type BackendHost,
  type Entry,
  Errno,
  FallocateMode,
  FileType,
  FsError,
  OpenFlags,
  RenameFlags,
  wrap,
  wrapEach,
} from '../../core/backend/index.js';
import { BackendRegistry } from '../../core/plugins/index.js';
import {
  cached,
  encrypted,
  encryptionKeyFrom,
  logged,
  newEncryptionKey,
  type PathRule,
  quota,
  readEncryptionKey,
  readOnly,
  routed,
  throttled,
} from '../../core/wrappers/index.js';
import { MemfsVolume } from '../../backends/memfs/index.js';
import { engine, MemoryLog } from '../support/engine.js';
import { type FuseClient, rejectsWith, ROOT } from '../support/fuse-client.js';
import { temporaryDirectory } from '../support/host-mount.js';
import { Random, repetitions, withSeed } from '../support/random.js';

const registry = new BackendRegistry();
const KEY = Buffer.alloc(32, 'key');

function memory(): Promise<Backend> {
  return registry.create({ type: 'memfs' }, { log: new MemoryLog() });
}

function directory(sharedDir: string): Promise<Backend> {
  return registry.create({ type: 'passthrough', sharedDir }, { log: new MemoryLog() });
}

/** A guest of a backend. */
async function guestOf(backend: Backend): Promise<{
  readonly client: FuseClient;
  readonly log: MemoryLog;
  end(): Promise<void>;
}> {
  const running = await engine(backend);
  const { client, session } = running.guest();
  await client.init();
  return {
    client,
    log: running.log,
    async end() {
      await session.close();
      await running.export.close();
    },
  };
}

async function make(client: FuseClient, name: string, content: Uint8Array | string): Promise<bigint> {
  const { entry, open } = await client.create(ROOT, name);
  const bytes = Buffer.from(content);
  for (let at = 0; at < bytes.length; at += 2 ** 17)
    await client.write(entry.nodeid, open.fh, at, bytes.subarray(at, at + 2 ** 17));
  await client.release(entry.nodeid, open.fh);
  return entry.nodeid;
}

async function contentOf(client: FuseClient, nodeid: bigint, size = 2 ** 17): Promise<Buffer> {
  const { fh } = await client.open(nodeid);
  try {
    return Buffer.from(await client.read(nodeid, fh, 0, size));
  } finally {
    await client.release(nodeid, fh);
  }
}

/** Counts the requests that reach a backend. */
function counting(inner: Backend, counts: Map<string, number>): Backend {
  return wrapEach(inner, (method, next) => {
    counts.set(method, (counts.get(method) ?? 0) + 1);
    return next();
  });
}

test('no wrapper leaves an accelerator a way past what it does', async () => {
  await using host = await temporaryDirectory('/dev/shm');
  const inner = await directory(host.path);
  const own = Object.keys(acceleratorOf(inner) ?? {});
  assert.ok(own.includes('gatherRead') && own.includes('backing'));
  const past = [
    'gatherRead',
    'gatherWrite',
    'gatherLookup',
    'gatherGetattr',
    'submit',
    'backing',
    'adoptFile',
  ];
  for (const [name, wrapped] of Object.entries<Backend>({
    logged: logged(inner, new MemoryLog()),
    throttled: throttled(inner, { bytesPerSecond: 1 }),
    'throttled by requests': throttled(inner, { operationsPerSecond: 1 }),
    quota: quota(inner, {}),
    cached: cached(inner, {}),
    encrypted: encrypted(inner, { key: KEY }) as Backend,
    routed: routed({ mounts: { '/': inner } }) as Backend,
  })) {
    const parts = Object.entries(acceleratorOf(wrapped) ?? {}).flatMap(([part, is]) => (is ? [part] : []));
    assert.deepEqual(
      parts.filter((part) => past.includes(part)),
      [],
      name,
    );
  }
});

test('logged writes a line for each call, with its names and its error', async () => {
  const log = new MemoryLog();
  const { client, end } = await guestOf(
    logged(await memory(), log, { methods: ['lookup', 'unlink'], level: 'info' }),
  );
  await make(client, 'file', 'content');
  await client.lookup(ROOT, 'file');
  await rejectsWith(client.unlink(ROOT, 'missing'), Errno.ENOENT);
  await end();
  assert.deepEqual(
    log.lines.map(({ level, message, fields }) => [level, message, (fields as { names?: unknown }).names]),
    [
      ['info', 'lookup', ['file']],
      ['info', 'unlink', ['missing']],
    ],
  );
  assert.equal((log.lines[1]!.fields as { err?: unknown }).err, FsError.of('ENOENT'));
  assert.throws(() => logged({} as Backend, log, { methods: ['nothing' as never] }), /no method nothing/);
});

describe('throttled', () => {
  it('lets requests wait, and those that are given up end', async () => {
    const { client, end } = await guestOf(throttled(await memory(), { bytesPerSecond: 2 ** 20 }));
    const { entry, open } = await client.create(ROOT, 'file');
    await client.write(entry.nodeid, open.fh, 0, Buffer.alloc(2 ** 17));
    // The next one waits for an eighth of a second.
    const waiting = client.read(entry.nodeid, open.fh, 0, 2 ** 17);
    await client.interrupt(client.unique);
    await rejectsWith(waiting, Errno.EINTR);
    assert.equal((await client.read(entry.nodeid, open.fh, 0, 4096)).length, 4096);
    await end();
  });

  it('refuses a limit of nothing', async () => {
    assert.throws(() => throttled({} as Backend, { bytesPerSecond: 0 }), /bytesPerSecond 0: must be more/);
  });
});

describe('quota', () => {
  const LIMIT = 1_000_000;

  it('gets back what was written while sizes could not be told, when the file goes', async () => {
    let fails = false;
    const flaky = wrap(await memory(), {
      getattr(next, ...args) {
        if (fails) throw FsError.of('EIO');
        return next(...args);
      },
    });
    const { client, end } = await guestOf(quota(flaky, { bytes: LIMIT }));
    const { entry, open } = await client.create(ROOT, 'file');
    fails = true;
    for (let i = 0; i < 9; i++)
      assert.equal(await client.write(entry.nodeid, open.fh, 0, Buffer.alloc(100_000)), 100_000);
    fails = false;
    await client.write(entry.nodeid, open.fh, 0, Buffer.alloc(1));
    await make(client, 'beside', Buffer.alloc(900_000));
    await rejectsWith(client.write(entry.nodeid, open.fh, 100_000, Buffer.alloc(1)), Errno.ENOSPC);
    await client.unlink(ROOT, 'file');
    await client.release(entry.nodeid, open.fh);
    await client.forget(entry.nodeid);
    await make(client, 'after', Buffer.alloc(100_000));
    await end();
  });

  it('holds no more than its bytes, whichever way a guest adds some', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    writeFileSync(join(host.path, 'before'), Buffer.alloc(100_000));
    const { client, end } = await guestOf(quota(await directory(host.path), { bytes: LIMIT }));
    const held = (): number =>
      readdirSync(host.path).reduce((sum, name) => sum + statSync(join(host.path, name)).size, 0);
    const full = await make(client, 'full', Buffer.alloc(800_000));
    const { entry, open } = await client.create(ROOT, 'more', 0o644, 2 | OpenFlags.APPEND);
    const { nodeid } = entry;
    assert.equal(await client.write(nodeid, open.fh, 0, Buffer.alloc(100_000)), 100_000);
    assert.equal(held(), LIMIT);
    const refused: readonly (readonly [string, () => Promise<unknown>])[] = [
      ['a write at the end', () => client.write(nodeid, open.fh, 100_000, Buffer.alloc(1))],
      ['one that is appended', () => client.write(nodeid, open.fh, 0, Buffer.alloc(1))],
      ['a larger size', () => client.setattr(nodeid, { size: 100_001 })],
      ['space that is set aside', () => client.fallocate(nodeid, open.fh, 0, 0, 100_001)],
      ['a file that is made, and written', async () => make(client, 'another', 'x')],
    ];
    for (const [what, go] of refused) {
      await rejectsWith(go(), Errno.ENOSPC);
      assert.equal(held(), LIMIT, what);
    }
    await rejectsWith(
      client.fallocate(nodeid, open.fh, FallocateMode.KEEP_SIZE, 0, 2 ** 30),
      Errno.EOPNOTSUPP,
    );
    // What an open file holds counts until it is closed.
    await client.unlink(ROOT, 'more');
    await rejectsWith(make(client, 'another', 'x'), Errno.ENOSPC);
    await client.release(nodeid, open.fh);
    await client.forget(nodeid, 1n);
    await make(client, 'third', Buffer.alloc(100_000));
    assert.equal(held(), LIMIT);
    await client.setattr(full, { size: 0 });
    assert.equal((await client.statfs()).bfree, Math.floor(800_000 / 4096));
    await end();
  });

  it('counts what it did by sizes that are there, after a random day', (t) =>
    withSeed(t, 1, async (seed) => {
      await using host = await temporaryDirectory('/dev/shm');
      const { client, end } = await guestOf(quota(await directory(host.path), { bytes: 10_000_000 }));
      const random = new Random(seed);
      const pick = (below: number): number => random.below(below);
      for (let step = 0; step < repetitions(2000); step++) {
        const name = `file ${pick(6)}`;
        const other = `file ${pick(6)}`;
        const ways: readonly (() => Promise<unknown>)[] = [
          () => make(client, name, Buffer.alloc(pick(9000))),
          async () => client.setattr((await client.lookup(ROOT, name)).nodeid, { size: pick(20_000) }),
          () => client.unlink(ROOT, name),
          () => client.rename(ROOT, name, ROOT, other),
          () => client.rename(ROOT, name, ROOT, other, RenameFlags.EXCHANGE),
          async () => client.link((await client.lookup(ROOT, name)).nodeid, ROOT, other),
          async () => {
            const { nodeid } = await client.lookup(ROOT, name);
            await client.forget(nodeid, 1n);
          },
        ];
        await ways[pick(ways.length)]!().catch(() => undefined);
      }
      await end();
      const again = await guestOf(quota(await directory(host.path), { bytes: 10_000_000 }));
      const counted = await again.client.statfs();
      await again.end();
      const files = new Map(
        readdirSync(host.path).map((name) => {
          const { ino, size } = statSync(join(host.path, name));
          return [ino, size] as const;
        }),
      );
      const sum = [...files.values()].reduce((a, b) => a + b, 0);
      assert.equal(counted.bfree, Math.floor((10_000_000 - sum) / 4096));
    }));

  it('has no more names than its inodes', async () => {
    const { client, end } = await guestOf(quota(await memory(), { inodes: 3 }));
    const file = await make(client, 'file', '');
    const { nodeid } = await client.mkdir(ROOT, 'directory');
    await client.link(file, ROOT, 'link');
    for (const go of [
      () => client.mkdir(ROOT, 'more'),
      () => client.symlink(ROOT, 'more', 'target'),
      () => client.link(file, ROOT, 'more'),
      () => client.mknod(ROOT, 'more', FileType.FIFO),
      () => client.create(ROOT, 'more'),
    ])
      await rejectsWith(go(), Errno.ENOSPC);
    // What is there can be opened and replaced.
    await client.create(ROOT, 'file');
    await client.rename(ROOT, 'link', ROOT, 'renamed');
    await client.rmdir(ROOT, 'directory');
    await client.forget(nodeid, 1n);
    await client.mkdir(ROOT, 'more');
    assert.deepEqual([(await client.statfs()).files, (await client.statfs()).ffree], [3, 0]);
    await end();
  });

  it('limits the extended attributes of a node', async () => {
    const { client, end } = await guestOf(quota(await memory(), { xattrBytes: 100 }));
    const file = await make(client, 'file', '');
    await client.setxattr(file, 'user.a', Buffer.alloc(50));
    await rejectsWith(client.setxattr(file, 'user.b', Buffer.alloc(50)), Errno.ENOSPC);
    await client.setxattr(file, 'user.a', Buffer.alloc(90));
    await end();
  });

  it('sets attributes of one node at a time, while others are set, and names change', async () => {
    const asked: (() => void)[] = [];
    const answer = async (): Promise<void> => {
      while (asked.length === 0) await new Promise(setImmediate);
      asked.pop()!();
    };
    let slow: object | undefined;
    const inner = wrap(await memory(), {
      async listxattr(next, node, context) {
        if (node === slow) await new Promise<void>((resolve) => asked.push(resolve));
        return next(node, context);
      },
      async lookup(next, parent, name, context) {
        const found = await next(parent, name, context);
        if (name === 'slow') slow = found?.node;
        return found;
      },
    });
    const { client, end } = await guestOf(quota(inner, { xattrBytes: 100 }));
    const [node, other] = [await make(client, 'slow', ''), await make(client, 'other', '')];
    await client.lookup(ROOT, 'slow');
    const both = [
      client.setxattr(node, 'user.a', Buffer.alloc(60)),
      rejectsWith(client.setxattr(node, 'user.b', Buffer.alloc(60)), Errno.ENOSPC),
    ];
    await client.setxattr(other, 'user.a', Buffer.alloc(60));
    await client.mkdir(ROOT, 'directory');
    await client.unlink(ROOT, 'other');
    assert.equal(asked.length, 1);
    await answer();
    await both[0];
    await answer();
    await both[1];
    await end();
  });
});

describe('cached', () => {
  it('asks the inner backend once, for all guests, and again when something changed', async () => {
    const counts = new Map<string, number>();
    const running = await engine(
      cached(counting(await memory(), counts), { names: Infinity, attributes: Infinity }),
    );
    const content = Buffer.alloc(300_000, 'content ');
    const look = async (): Promise<void> => {
      const { client, session } = running.guest();
      await client.init();
      const { nodeid, attr } = await client.lookup(ROOT, 'file');
      assert.equal(attr.size, content.length);
      const { fh } = await client.open(nodeid);
      for (let at = 0; at < content.length; at += 50_000)
        assert.deepEqual(
          Buffer.from(await client.read(nodeid, fh, at, 50_000)),
          content.subarray(at, at + 50_000),
        );
      assert.deepEqual(await client.list(ROOT), ['file']);
      await client.release(nodeid, fh);
      await session.close();
    };
    const first = running.guest();
    await first.client.init();
    await make(first.client, 'file', content);
    await look();
    const before = new Map(counts);
    await look();
    await look();
    for (const method of ['lookup', 'getattr', 'read', 'readdir'])
      assert.equal(counts.get(method), before.get(method), method);
    content.write('changed');
    await make(first.client, 'file', content);
    await look();
    await first.session.close();
    await running.export.close();
  });

  it('keeps a removed file no longer than it is used', async () => {
    const inner = await memory();
    let forgotten = 0;
    const forget = inner.forget!.bind(inner);
    inner.forget = (node) => {
      forgotten += 1;
      forget(node);
    };
    const { client, end } = await guestOf(cached(inner, { names: Infinity, attributes: Infinity }));
    const file = await make(client, 'file', 'content');
    await client.forget(file, 1n);
    assert.equal(forgotten, 0);
    await client.unlink(ROOT, 'file');
    assert.equal(forgotten, 1);
    await end();
  });

  it('keeps no removed file whose name it did not know, or that was looked up meanwhile', async () => {
    const forgotten = new Set<object>();
    let given: BackendHost | undefined;
    let opened: Promise<void> | undefined;
    const root: { node?: object } = {};
    const inner = wrap(MemfsVolume.fromJSON({ '/file': '', '/late': '' }).backend as Backend, {
      mount(next, host) {
        given = host;
        return (root.node = next(host) as object);
      },
      lookup(next, ...args) {
        const found = next(...args);
        const kept = found && { ...(found as Entry<object>) };
        return opened === undefined ? kept : opened.then(() => kept);
      },
      forget(next, node) {
        forgotten.add(node);
        next(node);
      },
    });
    const { client, end } = await guestOf(cached(inner, { names: Infinity, attributes: Infinity }));
    const { nodeid: file } = await client.lookup(ROOT, 'file');
    await client.forget(file, 1n);
    assert.equal(forgotten.size, 0);
    given!.changed!(root.node!, { kind: 'attributes', name: 'file' });
    await client.unlink(ROOT, 'file');
    assert.equal(forgotten.size, 1);

    let open = (): void => undefined;
    opened = new Promise((resolve) => (open = resolve));
    const late = client.lookup(ROOT, 'late');
    await client.mknod(ROOT, 'other', 0o100644);
    open();
    await client.forget((await late).nodeid, 1n);
    assert.equal(forgotten.size, 2);
    await end();
  });

  it('keeps no removed file that got its name while another was removed', async () => {
    const forgotten = new Set<object>();
    let opened: Promise<void> | undefined;
    const inner = wrap(MemfsVolume.fromJSON({ '/first': '', '/second': '' }).backend as Backend, {
      unlink: (next, ...args) => (opened === undefined ? next(...args) : opened.then(() => next(...args))),
      forget(next, node) {
        forgotten.add(node);
        next(node);
      },
    });
    const { client, end } = await guestOf(cached(inner, { names: Infinity, attributes: Infinity }));
    for (const name of ['first', 'second']) await client.forget((await client.lookup(ROOT, name)).nodeid, 1n);
    assert.equal(forgotten.size, 0);
    let open = (): void => undefined;
    opened = new Promise((resolve) => (open = resolve));
    const removed = client.unlink(ROOT, 'first');
    await client.rename(ROOT, 'second', ROOT, 'first');
    const { nodeid } = await client.lookup(ROOT, 'first');
    forgotten.clear();
    await client.forget(nodeid, 1n);
    assert.equal(forgotten.size, 0);
    open();
    await removed;
    assert.deepEqual(await client.list(ROOT), []);
    assert.equal(forgotten.size, 1);
    await end();
  });

  it('keeps nothing below a directory that is not kept itself', async () => {
    const forgotten = new Set<object>();
    const inner = wrap(MemfsVolume.fromJSON({ '/directory/file': '', '/other': '' }).backend as Backend, {
      forget(next, node) {
        forgotten.add(node);
        next(node);
      },
    });
    const { client, end } = await guestOf(cached(inner, { names: Infinity, attributes: Infinity }));
    const { nodeid: directory } = await client.lookup(ROOT, 'directory');
    const { nodeid: file } = await client.lookup(directory, 'file');
    await client.forget(file, 1n);
    await client.forget(directory, 1n);
    assert.equal(forgotten.size, 0);
    // What is not known by its name any more is not kept.
    await client.rename(ROOT, 'directory', ROOT, 'moved');
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    assert.equal(forgotten.size, 2);
    await end();
  });

  it('keeps no more than its bytes, whatever a guest asks for', async () => {
    const backend = cached(await memory(), { bytes: 100_000, missing: Infinity, blockBytes: 4096 });
    const { client, end } = await guestOf(backend);
    const figure = (): number => backend.metrics!().find(({ name }) => name === 'cache_bytes')!.value;
    const file = await make(client, 'file', Buffer.alloc(2 ** 20));
    for (let i = 0; i < 2000; i++) await client.lookup(ROOT, `missing ${i}`).catch(() => undefined);
    assert.ok(figure() <= 100_000, `${figure()} bytes for names`);
    const { fh } = await client.open(file);
    for (let at = 0; at < 2 ** 20; at += 2 ** 17) await client.read(file, fh, at, 2 ** 17);
    assert.ok(figure() <= 100_000, `${figure()} bytes for content`);
    await end();
  });
});

describe('encrypted', () => {
  const SECRET = 'a secret that is easy to find ';

  it('shows nothing of content, names, targets and attributes in the inner backend', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    const { client, end } = await guestOf(encrypted(await directory(host.path), { key: KEY }) as Backend);
    const file = await make(client, 'secret name', SECRET.repeat(10_000));
    await client.symlink(ROOT, 'link', 'secret target');
    await client.setxattr(file, 'user.secret', Buffer.from(SECRET));
    assert.equal((await client.getattr(file)).size, SECRET.length * 10_000);
    assert.equal(Buffer.from(await client.getxattr(file, 'user.secret')).toString(), SECRET);
    await end();
    const files = readdirSync(host.path, { recursive: true }).map(String);
    assert.equal(files.length, 3);
    for (const name of files) {
      assert.ok(!name.includes('secret') && !name.includes('link'), name);
      const path = join(host.path, name);
      if (!statSync(path, { throwIfNoEntry: false })?.isFile()) continue;
      const { size } = statSync(path);
      assert.ok(!readFileSync(path, 'latin1').includes('secret that'), `${name}, ${size} bytes`);
    }
  });

  it('lets others have their turn in the midst of a long read or write', async () => {
    const running = await engine(encrypted(await memory(), { key: KEY }) as Backend);
    const [{ client }, other] = [running.guest(), running.guest()];
    await client.init();
    await other.client.init();
    const { entry, open } = await client.create(ROOT, 'long');
    const content = new Random(1).bytes(2 ** 20);
    const ended: string[] = [];
    const during = async (name: string, request: Promise<unknown>): Promise<void> => {
      await Promise.all([
        request.then(() => ended.push(name)),
        other.client.getattr(ROOT).then(() => ended.push('other')),
      ]);
    };
    await during('write', client.write(entry.nodeid, open.fh, 0, content));
    let read: Uint8Array | undefined;
    await during(
      'read',
      client.read(entry.nodeid, open.fh, 0, content.length).then((bytes) => (read = bytes)),
    );
    assert.deepEqual(ended, ['other', 'write', 'other', 'read']);
    assert.ok(Buffer.from(read!).equals(content));
    await running.export.close();
  });

  it('refers to no node once no guest does, also where entries of the inner backend are used again', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    const long = Array.from({ length: 8 }, (_, i) => `${i}`.padEnd(200, 'long '));
    const maker = await guestOf(encrypted(await directory(host.path), { key: KEY }) as Backend);
    for (const name of ['full', 'empty']) await maker.client.mkdir(ROOT, name);
    const { nodeid } = await maker.client.lookup(ROOT, 'full');
    for (const name of long) await maker.client.mknod(nodeid, name, 0o100644);
    for (const name of ['a', 'b', 'c']) await make(maker.client, name, name);
    await maker.client.symlink(ROOT, 'link', 'long/'.repeat(800));
    await maker.end();

    const known = new Set<object>();
    const inner = wrap(await directory(host.path), {
      lookup(next, ...args) {
        const found = next(...args);
        if (found !== undefined && 'node' in found) known.add(found.node);
        return found;
      },
      readlink: (next, ...args) =>
        Promise.resolve(next(...args)).then((target) => {
          if (isRemoved) throw FsError.of('ENOENT');
          return target;
        }),
      forget(next, node) {
        known.delete(node);
        next(node);
      },
    });
    let isRemoved = false;
    const { client, end } = await guestOf(encrypted(inner, { key: KEY }) as Backend);
    const full = (await client.lookup(ROOT, 'full')).nodeid;
    const look = (): Promise<unknown> =>
      Promise.all(['a', 'b', 'c', 'empty'].map((name) => client.lookup(ROOT, name)));
    for (let i = 0; i < 4; i++) {
      const { fh } = await client.opendir(full);
      await Promise.all([client.readdirplus(full, fh, 0n, 65_536), look(), look()]);
      await client.releasedir(full, fh);
      await Promise.all([rejectsWith(client.rmdir(ROOT, 'full'), Errno.ENOTEMPTY), look(), look()]);
    }
    isRemoved = true;
    await rejectsWith(client.lookup(ROOT, 'link'), Errno.ENOENT);
    await end();
    assert.deepEqual([...known], []);
  });

  it('finds every byte that was changed, and every block that was moved', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    const open = async () => guestOf(encrypted(await directory(host.path), { key: KEY }) as Backend);
    let guest = await open();
    await make(guest.client, 'one', Buffer.alloc(12_288, 'one'));
    await guest.end();
    const names = (): string[] => readdirSync(host.path).filter((name) => name !== 'virtiofs-kit.key');
    const one = join(host.path, names()[0]!);
    guest = await open();
    await make(guest.client, 'two', Buffer.alloc(12_288, 'two'));
    await guest.end();
    const two = join(
      host.path,
      names().find((name) => join(host.path, name) !== one)!,
    );
    const good = readFileSync(one);
    const BLOCK = 4096 + 28;
    assert.equal(good.length, 32 + 3 * BLOCK);
    const block = (bytes: Buffer, i: number): Buffer => bytes.subarray(32 + i * BLOCK, 32 + (i + 1) * BLOCK);
    const broken: Record<string, () => Buffer> = {
      'a changed byte of content': () => flipped(good, 32 + 100),
      'a changed nonce': () => flipped(good, 32),
      'a changed tag': () => flipped(good, 32 + BLOCK - 1),
      'a changed file id': () => flipped(good, 20),
      'a changed version': () => flipped(good, 4),
      'blocks that were exchanged': () =>
        Buffer.concat([good.subarray(0, 32), block(good, 1), block(good, 0), block(good, 2)]),
      'a block of another file': () =>
        Buffer.concat([good.subarray(0, 32), block(readFileSync(two), 0), block(good, 1), block(good, 2)]),
      'a cut in a block': () => good.subarray(0, 32 + BLOCK - 1),
      'a cut in the header': () => good.subarray(0, 20),
    };
    for (const [what, bytes] of Object.entries(broken)) {
      writeFileSync(one, bytes());
      const { client, end } = await open();
      const { nodeid } = await client.lookup(ROOT, 'one');
      if (what === 'a cut in the header') assert.equal((await contentOf(client, nodeid)).length, 0);
      else await assert.rejects(contentOf(client, nodeid), { errno: Errno.EIO }, what);
      await end();
    }
    writeFileSync(one, good);
    guest = await open();
    const { nodeid } = await guest.client.lookup(ROOT, 'one');
    assert.deepEqual(await contentOf(guest.client, nodeid), Buffer.alloc(12_288, 'one'));
    await guest.end();
  });

  it('does not see older states of the same file, cuts between blocks and holes, as its document says', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    const open = async () => guestOf(encrypted(await directory(host.path), { key: KEY }) as Backend);
    const write = async (fill: string): Promise<Buffer> => {
      const { client, end } = await open();
      if (!(await client.list(ROOT)).includes('file')) await make(client, 'file', Buffer.alloc(8192, fill));
      else {
        const { nodeid } = await client.lookup(ROOT, 'file');
        const { fh } = await client.open(nodeid, 2);
        await client.write(nodeid, fh, 0, Buffer.alloc(8192, fill));
        await client.release(nodeid, fh);
      }
      await end();
      return readFileSync(path());
    };
    const path = (): string =>
      join(
        host.path,
        readdirSync(host.path).find((name) => name !== 'virtiofs-kit.key')!,
      );
    const content = async (bytes: Buffer): Promise<Buffer> => {
      writeFileSync(path(), bytes);
      const { client, end } = await open();
      try {
        return await contentOf(client, (await client.lookup(ROOT, 'file')).nodeid);
      } finally {
        await end();
      }
    };
    const [older, newer] = [await write('o'), await write('n')];
    const middle = 32 + 4096 + 28;
    const mixed = Buffer.concat([newer.subarray(0, middle), older.subarray(middle)]);
    const expected = Buffer.concat([Buffer.alloc(4096, 'n'), Buffer.alloc(4096, 'o')]);
    assert.deepEqual(await content(mixed), expected);
    assert.deepEqual(await content(older), Buffer.alloc(8192, 'o'));
    assert.deepEqual(await content(newer.subarray(0, middle)), Buffer.alloc(4096, 'n'));
    const hole = Buffer.concat([newer.subarray(0, middle), Buffer.alloc(newer.length - middle)]);
    assert.deepEqual(await content(hole), Buffer.concat([Buffer.alloc(4096, 'n'), Buffer.alloc(4096)]));
    // A file that was made anew under the same name has another key: nothing of the old one fits.
    const guest = await open();
    await guest.client.unlink(ROOT, 'file');
    await make(guest.client, 'file', Buffer.alloc(8192, 'f'));
    await guest.end();
    const fresh = readFileSync(path());
    await assert.rejects(content(Buffer.concat([fresh.subarray(0, middle), older.subarray(middle)])), {
      errno: Errno.EIO,
    });
  });

  it('is what was written, after random writes, cuts, holes and appends', (t) =>
    withSeed(t, 1, async (seed) => {
      await using host = await temporaryDirectory('/dev/shm');
      const open = async () => guestOf(encrypted(await directory(host.path), { key: KEY }) as Backend);
      const random = new Random(seed);
      const pick = (below: number): number => random.below(below);
      let model: Buffer = Buffer.alloc(0);
      let guest = await open();
      await make(guest.client, 'file', '');
      for (let step = 0; step < repetitions(400); step++) {
        const { client } = guest;
        const { nodeid } = await client.lookup(ROOT, 'file');
        const data = Buffer.alloc(pick(9000), `${step} `);
        const size = [pick(30_000), 4096 * pick(8), 0][pick(3)]!;
        const resized = (length: number): Buffer =>
          Buffer.concat([model, Buffer.alloc(Math.max(0, length - model.length))]).subarray(0, length);
        if (pick(4) === 0) {
          await client.setattr(nodeid, { size });
          model = resized(size);
        } else {
          const appends = pick(4) === 0;
          const { fh } = await client.open(nodeid, 1 | (appends ? OpenFlags.APPEND : 0));
          const at = appends ? model.length : pick(30_000);
          await client.write(nodeid, fh, appends ? 0 : at, data);
          await client.release(nodeid, fh);
          if (data.length > 0) {
            model = Buffer.from(resized(Math.max(model.length, at + data.length)));
            data.copy(model, at);
          }
        }
        if (pick(20) === 0) {
          await guest.end();
          guest = await open();
        }
        const { nodeid: now, attr } = await guest.client.lookup(ROOT, 'file');
        assert.equal(attr.size, model.length, `size after step ${step}`);
        assert.ok((await contentOf(guest.client, now)).equals(model), `content after step ${step}`);
      }
      await guest.end();
    }));

  it('tells a wrong key, and lists nothing that is not its own', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    const first = await guestOf(encrypted(await directory(host.path), { key: KEY }) as Backend);
    await make(first.client, 'file', 'content');
    await first.end();
    writeFileSync(join(host.path, 'foreign'), 'x');
    await assert.rejects(
      engine(encrypted(await directory(host.path), { key: newEncryptionKey() }) as Backend),
      /not the key with which/,
    );
    const again = await guestOf(encrypted(await directory(host.path), { key: KEY }) as Backend);
    assert.deepEqual(await again.client.list(ROOT), ['file']);
    await again.end();
  });

  it('takes a key of 32 bytes, from a file or a passphrase', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    const file = join(host.path, 'key');
    writeFileSync(file, KEY);
    assert.deepEqual(readEncryptionKey(file), KEY);
    writeFileSync(file, `${KEY.toString('hex')}\n`);
    assert.deepEqual(readEncryptionKey(file), KEY);
    writeFileSync(file, 'short');
    assert.throws(() => readEncryptionKey(file), /neither 32 bytes nor 64 hexadecimal digits/);
    assert.throws(() => readEncryptionKey(join(host.path, 'none')), /none: ENOENT/);
    const salt = Buffer.alloc(16, 'salt');
    assert.equal((await encryptionKeyFrom('words', salt)).length, 32);
    const inner = await memory();
    assert.throws(() => encrypted(inner, { key: Buffer.alloc(16) }), /16 bytes: it must have 32/);
  });
});

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at]! ^= 1;
  return copy;
}

describe('routed', () => {
  it('closes a directory of which only the paths of mounts were read', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    const mounts = Object.fromEntries([
      ['/', await directory(host.path)],
      ...(await Promise.all(['/a', '/b', '/c'].map(async (path) => [path, await memory()] as const))),
    ]);
    const { client, end } = await guestOf(routed({ mounts }) as Backend);
    writeFileSync(join(host.path, 'file'), '');
    const open = (): number =>
      readdirSync('/proc/self/fd').filter((fd) => {
        try {
          return readlinkSync(`/proc/self/fd/${fd}`).startsWith(host.path);
        } catch {
          return false;
        }
      }).length;
    const before = open();
    for (let i = 0; i < 20; i++) {
      const { fh } = await client.opendir(ROOT);
      assert.equal((await client.readdir(ROOT, fh, 0n, 32)).length, 1);
      assert.equal((await client.readdir(ROOT, fh, 0n, 100)).length, 3);
      await client.releasedir(ROOT, fh);
    }
    assert.equal(open(), before);
    const { fh } = await client.opendir(ROOT);
    const names = (await client.readdir(ROOT, fh, 0n, 4096)).map(({ name }) => name);
    assert.deepEqual(names.toSorted(), ['.', '..', 'a', 'b', 'c', 'file']);
    await client.releasedir(ROOT, fh);
    await end();
  });

  /** Two directories with the same names, whose files tell where they are. */
  function ruled(rules: readonly PathRule[]): ReturnType<typeof guestOf> {
    const { backend } = MemfsVolume.fromJSON({
      '/a/file': 'a',
      '/b/file': 'b',
      '/b/fixed/file': 'fixed',
      '/b/hidden/file': 'hidden',
    });
    return guestOf(routed({ mounts: { '/': backend as Backend }, rules }) as Backend);
  }

  async function whole(): Promise<Awaited<ReturnType<typeof guestOf>>> {
    const inner = await memory();
    const fill = await guestOf(inner);
    const { client } = fill;
    for (const name of ['open', 'shown', 'plain']) {
      const { nodeid } = await client.mkdir(ROOT, name);
      const { entry, open } = await client.create(nodeid, 'secret');
      await client.write(entry.nodeid, open.fh, 0, Buffer.from(name));
      await client.release(entry.nodeid, open.fh);
    }
    // Its end would discard it: the tree goes on with what it is.
    const state = await inner.save!();
    await fill.end();
    const base = await memory();
    const mount = base.mount.bind(base);
    base.mount = async (host) => {
      const root = await mount(host);
      await base.restore!(state);
      return root;
    };
    return guestOf(
      routed({
        mounts: { '/': base, '/data/other': await memory(), '/fixed': readOnly(await memory()) },
        rules: [
          { path: '/open/secret', access: 'hidden' },
          { path: '/shown', access: 'read-only' },
        ],
      }) as Backend,
    );
  }

  it('shows mounts, and what leads to them', async () => {
    const { client, end } = await whole();
    assert.deepEqual((await client.list(ROOT)).sort(), ['data', 'fixed', 'open', 'plain', 'shown']);
    const data = await client.walk('data');
    assert.deepEqual(await client.list(data.nodeid), ['other']);
    const other = await client.walk('data/other');
    const { entry } = await client.create(other.nodeid, 'file');
    assert.notEqual(entry.attr.ino, (await client.walk('plain')).attr.ino);
    await rejectsWith(client.create(data.nodeid, 'file'), Errno.EROFS);
    await end();
  });

  it('hides a name from every request', async () => {
    const { client, end } = await whole();
    const { nodeid } = await client.walk('open');
    const plain = (await client.walk('plain')).nodeid;
    assert.deepEqual(await client.list(nodeid), []);
    await rejectsWith(client.lookup(nodeid, 'secret'), Errno.ENOENT);
    await rejectsWith(client.create(nodeid, 'secret'), Errno.EACCES);
    await rejectsWith(client.unlink(nodeid, 'secret'), Errno.ENOENT);
    await rejectsWith(client.rename(nodeid, 'secret', plain, 'seen'), Errno.ENOENT);
    await rejectsWith(client.rename(plain, 'secret', nodeid, 'secret'), Errno.ENOENT);
    // Nor can the directory be taken elsewhere, where the rule is not.
    await rejectsWith(client.rename(ROOT, 'open', ROOT, 'moved'), Errno.EBUSY);
    await rejectsWith(client.rename(ROOT, 'plain', ROOT, 'open', RenameFlags.EXCHANGE), Errno.EBUSY);
    await end();
  });

  it('lets nothing change what is read-only', async () => {
    const { client, end } = await whole();
    const { nodeid } = await client.walk('shown');
    const file = (await client.walk('shown/secret')).nodeid;
    const plain = (await client.walk('plain')).nodeid;
    assert.equal(String(await contentOf(client, file)), 'shown');
    for (const go of [
      () => client.create(nodeid, 'file'),
      () => client.mkdir(nodeid, 'file'),
      () => client.unlink(nodeid, 'secret'),
      () => client.rename(nodeid, 'secret', plain, 'file'),
      () => client.rename(plain, 'secret', nodeid, 'file'),
      () => client.open(file, 1),
      () => client.open(file, OpenFlags.TRUNC),
      () => client.setattr(file, { size: 0 }),
      () => client.setxattr(file, 'user.a', Buffer.from('x')),
    ])
      await rejectsWith(go(), Errno.EROFS);
    await rejectsWith(client.link(file, plain, 'link'), Errno.EXDEV);
    await rejectsWith(client.create((await client.walk('fixed')).nodeid, 'file'), Errno.EROFS);
    await end();
  });

  it('denies what it lists', async () => {
    const { client, end } = await ruled([{ path: '/a/file', access: 'denied' }]);
    const { nodeid } = await client.walk('a');
    assert.deepEqual(await client.list(nodeid), ['file']);
    await rejectsWith(client.lookup(nodeid, 'file'), Errno.EACCES);
    await rejectsWith(client.create(nodeid, 'file'), Errno.EACCES);
    await rejectsWith(client.unlink(nodeid, 'file'), Errno.EACCES);
    await rejectsWith(client.rename(nodeid, 'file', ROOT, 'seen'), Errno.EACCES);
    await rejectsWith(client.rename(ROOT, 'a', ROOT, 'moved'), Errno.EBUSY);
    await end();
  });

  it('shows at a path what is at another, with the rules that hold there', async () => {
    const { client, end } = await ruled([
      { path: '/a', access: 'redirected', to: '/b' },
      { path: '/new', access: 'redirected', to: '/b/file' },
      { path: '/none', access: 'redirected', to: '/missing' },
      { path: '/b/fixed', access: 'read-only' },
      { path: '/b/hidden', access: 'hidden' },
    ]);
    assert.deepEqual((await client.list(ROOT)).sort(), ['a', 'b', 'new']);
    await rejectsWith(client.lookup(ROOT, 'none'), Errno.ENOENT);
    await rejectsWith(client.create(ROOT, 'none'), Errno.EACCES);
    const a = (await client.walk('a')).nodeid;
    const b = (await client.walk('b')).nodeid;
    assert.notEqual(a, b);
    assert.deepEqual((await client.list(a)).sort(), ['file', 'fixed']);
    assert.equal(String(await contentOf(client, (await client.walk('new')).nodeid)), 'b');
    const { entry, open } = await client.create(a, 'made');
    await client.release(entry.nodeid, open.fh);
    await client.lookup(b, 'made');
    await rejectsWith(client.lookup(a, 'hidden'), Errno.ENOENT);
    await rejectsWith(
      client.unlink(await client.walk('a/fixed').then(({ nodeid }) => nodeid), 'file'),
      Errno.EROFS,
    );
    await rejectsWith(client.rename(a, 'made', b, 'moved'), Errno.EXDEV);
    await rejectsWith(client.rename(ROOT, 'a', ROOT, 'moved'), Errno.EBUSY);
    await rejectsWith(client.rename(ROOT, 'b', ROOT, 'moved'), Errno.EBUSY);

    await end();
  });

  it('refuses redirects of which it is not clear what they show', async () => {
    const inner = await memory();
    const other = await memory();
    const redirects = (...all: readonly (readonly [string, string])[]) =>
      routed({
        mounts: { '/': inner, '/mount': other },
        rules: all.map(([path, to]) => ({ path, access: 'redirected', to })),
      });
    assert.throws(() => redirects(['/', '/a']), /root cannot be redirected/);
    assert.throws(() => redirects(['/a', '/']), /not below the root of one backend/);
    assert.throws(() => redirects(['/a', '/mount']), /not below the root of one backend/);
    assert.throws(() => redirects(['/mount', '/a']), /no mount or rule can be there/);
    assert.throws(() => redirects(['/a/b', '/a']), /\/a\/b is in/);
    assert.throws(() => redirects(['/a', '/a/b']), /no mount or rule can be there/);
    assert.throws(() => redirects(['/a', '/b/c'], ['/b', '/d']), /which \/b redirects again/);
    assert.throws(() => redirects(['/a', '/b'], ['/b', '/c']), /\/b is in/);
    assert.throws(() => redirects(['/a', '/b'], ['/a', '/c']), /redirected twice/);
  });

  it('moves nothing from one backend to another, and no mount away', async () => {
    const { client, end } = await whole();
    const plain = (await client.walk('plain')).nodeid;
    const other = (await client.walk('data/other')).nodeid;
    await rejectsWith(client.rename(plain, 'secret', other, 'file'), Errno.EXDEV);
    await rejectsWith(client.link((await client.walk('plain/secret')).nodeid, other, 'file'), Errno.EXDEV);
    await rejectsWith(client.rmdir((await client.walk('data')).nodeid, 'other'), Errno.EBUSY);
    await rejectsWith(client.rename(ROOT, 'data', ROOT, 'moved'), Errno.EBUSY);
    await end();
  });

  it('refuses paths that are none, or twice the same', async () => {
    const inner = await memory();
    assert.throws(() => routed({ mounts: {} }), /no backend is mounted/);
    assert.throws(() => routed({ mounts: { relative: inner } }), /relative: not a path from the root/);
    assert.throws(() => routed({ mounts: { '/a/../b': inner } }), /not a path from the root/);
    assert.throws(() => routed({ mounts: { '/a': inner, '/a/': inner } }), /two backends at one path/);
    assert.throws(() => routed({ mounts: { '/a': inner, '/b': inner } }), /mounted once only/);
    assert.throws(
      () => routed({ mounts: { '/': inner }, rules: [{ path: '/', access: 'hidden' }] }),
      /root cannot be hidden/,
    );
  });
});

test('wrappers are kinds of backend, which configuration puts together', async () => {
  await using host = await temporaryDirectory('/dev/shm');
  const keyFile = join(host.path, 'key');
  writeFileSync(keyFile, KEY);
  const { client, end } = await guestOf(
    await registry.create(
      {
        type: 'routed',
        mounts: {
          '/': { type: 'quota', bytes: '1m', of: { type: 'encrypted', keyFile, of: { type: 'memfs' } } },
          '/slow': { type: 'throttled', bytesPerSecond: '1g', of: { type: 'cached', of: { type: 'memfs' } } },
        },
        hidden: ['/away'],
        readOnly: ['/fixed'],
        denied: ['/closed'],
        redirected: { '/shown': '/slow/file' },
      },
      { log: new MemoryLog() },
    ),
  );
  await rejectsWith(client.mkdir(ROOT, 'away'), Errno.EACCES);
  await rejectsWith(client.mkdir(ROOT, 'fixed'), Errno.EROFS);
  await rejectsWith(client.lookup(ROOT, 'closed'), Errno.EACCES);
  await rejectsWith(make(client, 'large', Buffer.alloc(2 ** 21)), Errno.ENOSPC);
  await client.create((await client.walk('slow')).nodeid, 'file');
  await client.lookup(ROOT, 'shown');
  await end();
  for (const [spec, message] of [
    [{ type: 'quota', bytes: 'much', of: { type: 'memfs' } }, /bytes.*not a size/],
    [{ type: 'quota' }, /of/],
    [{ type: 'routed', mounts: {} }, /mounts: give one or more/],
    [{ type: 'encrypted', keyFile: '/none', of: { type: 'memfs' } }, /key file \/none/],
  ] as const)
    await assert.rejects(async () => registry.create(spec, { log: new MemoryLog() }), message);
});
