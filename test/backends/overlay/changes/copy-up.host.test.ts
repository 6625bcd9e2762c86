import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  type Backend,
  FallocateMode,
  FsError,
  OpenFlags,
  RenameFlags,
} from '../../../../core/backend/index.js';
import { overlay as createOverlay, type OverlaySettings } from '../../../../backends/overlay/index.js';
import {
  asynchronous,
  defaults,
  memoryLayer,
  overlayOf,
  Paths,
  root,
  share,
  watched,
  onHost,
} from '../support.js';

async function base(lower: Paths): Promise<void> {
  await lower.mkdir('/dir');
  await lower.write('/dir/file', 'lower content');
  await lower.write('/other', 'other');
}

function isError(code: string): (error: unknown) => boolean {
  return (error) => error instanceof FsError && error.code === code;
}

async function mountShares(directory: string, settings: Partial<OverlaySettings> = {}): Promise<Paths> {
  const [upper, lower] = ['upper', 'lower'].map((name) => share(join(directory, name)));
  return Paths.mount(createOverlay({ ...defaults, upper, lowers: [lower!], ...settings }) as Backend);
}

test('a file that is opened to be truncated is copied up without its data', async () => {
  const memory = await memoryLayer();
  const calls: string[] = [];
  const { union } = await overlayOf([base], { upper: watched(memory, (name) => calls.push(name)) });
  calls.length = 0;
  await union.write('/dir/file', '', OpenFlags.TRUNC);
  assert.deepEqual(
    calls.filter((name) => name === 'write'),
    [],
  );
  assert.equal(await union.read('/dir/file'), '');
  await union.write('/other', 'OTH', 0);
  assert.equal(await union.read('/other'), 'OTHer');
});

test('a file that is cut short is copied up to its new length alone', async () => {
  const memory = await memoryLayer();
  const written: number[] = [];
  const upper = watched(memory, (name, given) => {
    if (name === 'write') written.push((given[2] as { length: number }).length);
  });
  const { union } = await overlayOf([base], { upper });
  await union.at('/dir/file', (node) => union.backend.setattr!(node, { size: 5 }, undefined, root));
  assert.equal(await union.read('/dir/file'), 'lower');
  assert.deepEqual(written, [5]);
});

test('where the upper is full half-way the lower stays visible, and nothing is left over', async () => {
  const memory = await memoryLayer();
  let room = 2;
  const upper = watched(memory, (name) => {
    if (name === 'write' && room-- <= 0) throw FsError.of('ENOSPC');
  });
  const { union } = await overlayOf(
    [
      async (lower) => {
        await lower.mkdir('/dir');
        await lower.write('/dir/big', 'x'.repeat(5 << 20));
      },
    ],
    { upper, metacopy: false },
  );
  const chmod = (): Promise<unknown> =>
    union.at('/dir/big', (node) => union.backend.setattr!(node, { mode: 0o600 }, undefined, root));
  await assert.rejects(chmod(), isError('ENOSPC'));
  assert.equal((await union.stat('/dir/big')).mode, 0o100644);
  assert.equal((await union.stat('/dir/big')).size, 5 << 20);
  const raw = await Paths.mount(memory);
  assert.deepEqual(await raw.names('/.virtiofs-kit-work/work'), []);
  room = Infinity;
  await chmod();
  assert.equal((await union.stat('/dir/big')).mode, 0o100600);
  assert.equal((await union.stat('/dir/big')).size, 5 << 20);
});

test('reading, listing and looking never copy up', async () => {
  const memory = await memoryLayer();
  const { union } = await overlayOf([base], { upper: memory });
  await union.tree();
  await union.at('/dir/file', async (node) => {
    const opened = { ...(await union.backend.open!(node, OpenFlags.READ_ONLY | OpenFlags.APPEND, root)) };
    await union.backend.fsync!(node, opened.file, false, root);
    await union.backend.release!(node, opened.file);
    await union.backend.getxattr!(node, 'user.none', root);
  });
  const raw = await Paths.mount(memory);
  assert.deepEqual(await raw.names(''), ['.virtiofs-kit-work']);
});

test('owner, permissions, times and attributes are copied up, file capabilities too', () =>
  onHost(async (directory) => {
    const lower = await Paths.mount(share(join(directory, 'lower')));
    await lower.write('/program', 'program');
    const value = Uint8Array.of(1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    await lower.at('/program', async (node) => {
      const time = { seconds: 1_000_000_007, nanoseconds: 123_456_789 };
      const { backend } = lower;
      await backend.setattr!(node, { uid: 7, gid: 8 }, undefined, root);
      await backend.setattr!(node, { mode: 0o4751, atime: time, mtime: time }, undefined, root);
      await backend.setxattr!(node, 'security.capability', value, 0, false, root);
      await backend.setxattr!(node, 'user.colour', Buffer.from('blue'), 0, false, root);
      await backend.setattr!(node, { atime: time, mtime: time }, undefined, root);
    });
    const before = await lower.stat('/program');
    await lower.backend.unmount!();
    const union = await mountShares(directory);
    await union.link('/program', '/linked');
    const after = await union.stat('/program');
    for (const field of ['mode', 'uid', 'gid', 'size', 'mtime', 'mtimeNsec'] as const) {
      assert.equal(after[field], before[field], field);
    }
    await union.at('/linked', async (node) => {
      const { backend } = union;
      assert.deepEqual(new Uint8Array((await backend.getxattr!(node, 'security.capability', root))!), value);
      assert.equal(Buffer.from((await backend.getxattr!(node, 'user.colour', root))!).toString(), 'blue');
      assert.deepEqual((await backend.listxattr!(node, root)).toSorted(), [
        'security.capability',
        'user.colour',
      ]);
    });
    await union.backend.unmount!();
  }));

test('a daemon that cannot give files away copies them as its own, without set-id bits', async () => {
  const upper = watched(await memoryLayer(), (name, given) => {
    if (name === 'setattr' && (given[1] as { uid?: number }).uid !== undefined) throw FsError.of('EPERM');
  });
  const { union } = await overlayOf(
    [
      async (lower) => {
        await lower.write('/program', 'program');
        const set = (changes: object): Promise<unknown> =>
          lower.at('/program', (node) => lower.backend.setattr!(node, changes, undefined, root));
        await set({ uid: 7, gid: 7 });
        await set({ mode: 0o6755 });
      },
    ],
    { upper },
  );
  await union.link('/program', '/linked');
  assert.equal((await union.stat('/program')).mode, 0o100755);
  assert.equal((await union.stat('/program')).uid, 0);
});

test('holes stay holes, and what is copied within the host is the same', () =>
  onHost(async (directory) => {
    const path = join(directory, 'lower/sparse');
    writeFileSync(path, 'begin');
    truncateSync(path, 64 << 20);
    writeFileSync(path, 'tail', { flag: 'a' });
    const union = await mountShares(directory, { metacopy: false });
    await union.at('/sparse', (node) => union.backend.setattr!(node, { mode: 0o600 }, undefined, root));
    const copy = statSync(join(directory, 'upper/sparse'));
    assert.equal(copy.size, (64 << 20) + 4);
    assert.ok(copy.blocks < 1024, `${copy.blocks} blocks`);
    execFileSync('cmp', [path, join(directory, 'upper/sparse')]);
    await union.backend.unmount!();
  }));

test('a lower file that changes while it is copied up gives ESTALE, and no mixture', async () => {
  const lower = await Paths.mount(await memoryLayer());
  await lower.write('/file', 'x'.repeat(3 << 20));
  let reads = 0;
  const changing = watched(lower.backend, async (name) => {
    if (name === 'read' && ++reads === 2) await lower.write('/file', 'shorter now');
  });
  const layer = new Proxy(changing, {
    get: (target, property) =>
      property === 'mount' ? () => lower.top : Reflect.get(target, property, target),
  });
  const { union } = await overlayOf([], { lowers: [layer], metacopy: false });
  const chmod = (): Promise<unknown> =>
    union.at('/file', (node) => union.backend.setattr!(node, { mode: 0o600 }, undefined, root));
  await assert.rejects(chmod(), isError('ESTALE'));
  assert.equal(await union.read('/file'), 'shorter now');
  await chmod();
  assert.equal(await union.read('/file'), 'shorter now');
});

test('what a layer says of a file that was replaced below (ESTALE) reaches the guest', async () => {
  const lower = await memoryLayer();
  const stale = watched(lower, (name) => {
    if (name === 'read') throw FsError.of('ESTALE');
  });
  const filled = await Paths.mount(lower);
  await filled.write('/file', 'content');
  const layer = new Proxy(stale, {
    get: (target, property) =>
      property === 'mount' ? () => filled.top : Reflect.get(target, property, target),
  });
  const { union } = await overlayOf([], { lowers: [layer], metacopy: false });
  await assert.rejects(union.read('/file'), isError('ESTALE'));
  await assert.rejects(
    union.at('/file', (node) => union.backend.setattr!(node, { mode: 0o600 }, undefined, root)),
    isError('ESTALE'),
  );
});

test('a file without a name is made in the upper, and linked in over a whiteout', async () => {
  const { union } = await overlayOf([base]);
  await union.unlink('/dir/file');
  await union.at('/dir', async (directory) => {
    const { backend } = union;
    const made = { ...(await backend.tmpfile!(directory, 0o100600, OpenFlags.READ_WRITE, root)) };
    assert.deepEqual(await union.names('/dir'), []);
    await union.put(made.node, made.file, 'nameless');
    const linked = await backend.link!(made.node, directory, 'file', root);
    assert.equal(linked.node, made.node);
    await backend.release?.(made.node, made.file);
    backend.forget!(made.node);
  });
  assert.equal(await union.read('/dir/file'), 'nameless');
});

test('space is allocated, and holes are punched, in the copy', async () => {
  const { union, lowers } = await overlayOf([base]);
  await union.at('/dir/file', async (node) => {
    const { backend } = union;
    const opened = { ...(await backend.open!(node, OpenFlags.READ_WRITE, root)) };
    await backend.fallocate!(node, opened.file, 0, 0, 100_000, root);
    assert.equal((await backend.getattr(node, opened.file, root)).size, 100_000);
    const mode = FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE;
    await backend.fallocate!(node, opened.file, mode, 0, 6, root);
    assert.equal((await union.readFile(node, opened.file)).slice(0, 13), '\0\0\0\0\0\0content');
    await backend.release!(node, opened.file);
  });
  assert.equal(await lowers[0]!.read('/dir/file'), 'lower content');
});

test('copies of one file that are asked for at the same time are one', async () => {
  const memory = await memoryLayer();
  const calls: string[] = [];
  const upper = asynchronous(watched(memory, (name) => calls.push(name)));
  const { union, overlay } = await overlayOf([base], { upper });
  calls.length = 0;
  await union.at('/dir/file', async (node) => {
    const { backend } = union;
    const openAndClose = async (): Promise<void> => {
      const { file } = await backend.open!(node, OpenFlags.READ_WRITE, root);
      await backend.release!(node, file);
    };
    await Promise.all([
      backend.setattr!(node, { mode: 0o600 }, undefined, root),
      backend.setxattr!(node, 'user.a', Buffer.from('a'), 0, false, root),
      openAndClose(),
      backend.setattr!(node, { uid: 3 }, undefined, root),
    ]);
  });
  assert.equal(calls.filter((name) => name === 'create').length, 1);
  assert.equal(calls.filter((name) => name === 'mkdir').length, 1, 'the directory too');
  const { mode, uid } = await union.stat('/dir/file');
  assert.deepEqual([mode, uid], [0o100600, 3]);
  assert.equal(await union.read('/dir/file'), 'lower content');
  assert.equal(overlay.union.knownNodes, 1);
});

test('a file that is removed while it is copied up stays removed', async () => {
  const upper = asynchronous(await memoryLayer());
  const { union, overlay } = await overlayOf([base], { upper });
  await union.at('/dir/file', async (node) => {
    const { backend } = union;
    const opening = backend.open!(node, OpenFlags.READ_WRITE, root);
    await union.unlink('/dir/file');
    const { file } = await opening;
    assert.equal(await union.exists('/dir/file'), false);
    assert.equal(await union.readFile(node, file), 'lower content');
    await backend.release!(node, file);
  });
  assert.deepEqual(await union.names('/dir'), []);
  assert.equal(overlay.union.knownNodes, 1);
});

test('a file that is moved while it is copied up arrives with its changes', async () => {
  const upper = asynchronous(await memoryLayer());
  const { union } = await overlayOf([base], { upper });
  await union.at('/dir/file', async (node) => {
    const changing = union.backend.setattr!(node, { mode: 0o600 }, undefined, root);
    await Promise.all([changing, union.rename('/dir', '/moved'), union.rename('/other', '/second')]);
  });
  assert.equal((await union.stat('/moved/file')).mode, 0o100600);
  assert.deepEqual(await union.tree(), {
    '/moved': 'directory',
    '/moved/file': 'lower content',
    '/second': 'other',
  });
});

const links: Record<string, (union: Paths) => Promise<unknown>> = {
  moved: (union) => union.rename('/big', '/moved'),
  linked: (union) => union.link('/big', '/linked'),
  exchanged: (union) => union.rename('/small', '/big', RenameFlags.EXCHANGE),
  'unlinked by one of its names': (union) => union.unlink('/big'),
  'replaced at one of its names': (union) => union.rename('/small', '/big'),
};

for (const [what, change] of Object.entries(links)) {
  test(`while a large file is ${what}, other changes do not wait for its copy`, async () => {
    const { union } = await overlayOf(
      [
        async (lower) => {
          await lower.write('/big', 'x'.repeat(40 << 20));
          await lower.link('/big', '/second');
          await lower.write('/small', 'small');
        },
      ],
      { metacopy: false },
    );
    const order: string[] = [];
    const changing = change(union).then(() => order.push(what));
    await new Promise((resolve) => setImmediate(resolve));
    await union.mkdir('/quick');
    order.push('quick');
    await changing;
    assert.deepEqual(order, ['quick', what]);
  });
}
