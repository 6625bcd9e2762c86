import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Backend, FileType, FsError } from '../../../../core/backend/index.js';
import { overlay as createOverlay } from '../../../../backends/overlay/index.js';
import { asynchronous, defaults, memoryLayer, mounted, overlayOf, Paths, root } from '../support.js';

/* Layers as the kernel and container tools make them, and overlays as layers of overlays. */

function mark(paths: Paths, path: string, name: string, value: string): Promise<void> {
  return paths.at(path, (node) =>
    paths.backend.setxattr!(node, name, Buffer.from(value), 0, false, root),
  ) as Promise<void>;
}

async function device(paths: Paths, path: string): Promise<void> {
  await paths.in(path, async (directory, name) => {
    const { node } = await paths.backend.mknod!(directory, name, FileType.CHARACTER, 0, root);
    paths.backend.forget!(node);
  });
}

async function base(lower: Paths): Promise<void> {
  for (const name of ['dir', 'opaque', 'old']) {
    await lower.mkdir(`/${name}`);
    await lower.write(`/${name}/file`, `in ${name}`);
    await lower.write(`/${name}/kept`, `kept in ${name}`);
  }
}

for (const namespace of ['trusted', 'user'] as const) {
  test(`whiteouts, opaque directories and redirects of a lower are understood (${namespace}.overlay)`, async () => {
    const { union } = await overlayOf(
      [
        async (top) => {
          await top.mkdir('/dir');
          await device(top, '/dir/file');
          await top.mkdir('/opaque');
          await mark(top, '/opaque', `${namespace}.overlay.opaque`, 'y');
          await top.mkdir('/new');
          await mark(top, '/new', `${namespace}.overlay.redirect`, '/old');
          await device(top, '/old');
        },
        base,
      ],
      { xattrs: namespace },
    );
    assert.deepEqual(await union.tree(), {
      '/dir': 'directory',
      '/dir/kept': 'kept in dir',
      '/new': 'directory',
      '/new/file': 'in old',
      '/new/kept': 'kept in old',
      '/opaque': 'directory',
    });
  });

  test(`empty files are whiteouts by attribute, in directories that say so (${namespace}.overlay)`, async () => {
    const { union } = await overlayOf(
      [
        async (top) => {
          for (const name of ['dir', 'opaque']) {
            await top.mkdir(`/${name}`);
            await top.write(`/${name}/file`, '');
            await mark(top, `/${name}/file`, `${namespace}.overlay.whiteout`, '');
          }
          await mark(top, '/dir', `${namespace}.overlay.opaque`, 'x');
        },
        base,
      ],
      { xattrs: namespace },
    );
    assert.deepEqual(await union.names('/dir'), ['kept']);
    assert.equal(await union.exists('/dir/file'), false);
    assert.deepEqual(await union.names('/opaque'), ['file', 'kept']);
    assert.equal(await union.read('/opaque/file'), '');
  });

  test(`the upper's marks are ${namespace}.overlay attributes, and none where they cannot be`, async () => {
    const upper = await memoryLayer();
    const { union, again } = await overlayOf(
      [
        async (lower) => {
          await base(lower);
          await lower.symlink('/link', 'dir');
        },
      ],
      { upper, xattrs: namespace },
    );
    await union.rename('/dir', '/moved');
    await union.rename('/link', '/moved/link');
    const raw = await Paths.mount(upper);
    const redirect = await raw.at('/moved', (node) =>
      raw.backend.getxattr!(node, `${namespace}.overlay.redirect`, root),
    );
    assert.equal(Buffer.from(redirect!).toString(), 'dir');
    assert.equal(await (await again()).read('/moved/file'), 'in dir');
  });
}

test('a guest that mounts an overlay in the guest keeps its marks to itself', async () => {
  const { union, again } = await overlayOf([base]);
  await mark(union, '/dir', 'trusted.overlay.opaque', 'y');
  await mark(union, '/dir/file', 'trusted.overlay.overlay.origin', 'deeper');
  const check = async (paths: Paths): Promise<void> => {
    assert.deepEqual(await paths.names('/dir'), ['file', 'kept']);
    const listed = await paths.at('/dir', (node) => paths.backend.listxattr!(node, root));
    assert.deepEqual(listed, ['trusted.overlay.opaque']);
    const value = await paths.at('/dir/file', (node) =>
      paths.backend.getxattr!(node, 'trusted.overlay.overlay.origin', root),
    );
    assert.equal(Buffer.from(value!).toString(), 'deeper');
    await paths.at('/dir', (node) => paths.backend.removexattr!(node, 'trusted.overlay.opaque', root));
    assert.deepEqual(await paths.at('/dir', (node) => paths.backend.listxattr!(node, root)), []);
  };
  await check(union);
  await mark(union, '/dir', 'trusted.overlay.opaque', 'y');
  await check(await again());
});

test("an overlay as a layer keeps its own marks, and a guest's escaped ones travel through a copy-up", async () => {
  const bottom = await Paths.mount(await memoryLayer());
  await base(bottom);
  const inner = createOverlay({
    ...defaults,
    upper: await memoryLayer(),
    lowers: [mounted(bottom)],
  }) as Backend;
  const middle = await Paths.mount(inner);
  await middle.unlink('/dir/file');
  await middle.rename('/old', '/new');
  await mark(middle, '/new/file', 'trusted.overlay.note', 'mine');
  const { union } = await overlayOf([], { lowers: [mounted(middle)] });
  assert.deepEqual(await union.names(''), ['dir', 'new', 'opaque']);
  await union.write('/dir/file', 'outer');
  await union.unlink('/opaque/file');
  await union.rename('/new', '/newer');
  await union.at('/newer/file', (node) => union.backend.setattr!(node, { uid: 4 }, undefined, root));
  const note = await union.at('/newer/file', (node) =>
    union.backend.getxattr!(node, 'trusted.overlay.note', root),
  );
  assert.equal(note, undefined, 'the inner guest sees a mark of its own; to the outer one it is a mark');
  assert.deepEqual(await union.tree(), {
    '/dir': 'directory',
    '/dir/file': 'outer',
    '/dir/kept': 'kept in dir',
    '/newer': 'directory',
    '/newer/file': 'in old',
    '/newer/kept': 'kept in old',
    '/opaque': 'directory',
    '/opaque/kept': 'kept in opaque',
  });
  assert.equal(await middle.exists('/dir/file'), false);
});

test('over layers that answer late, changes made at the same time leave what some order of them leaves', async () => {
  const { union } = await overlayOf([base], { upper: asynchronous(await memoryLayer()) });
  await Promise.all([
    union.rename('/dir', '/moved'),
    union.unlink('/opaque/file'),
    union.mkdir('/made'),
    union.write('/old/file', 'written'),
    union.symlink('/link', 'old'),
    union.link('/old/kept', '/linked'),
  ]);
  assert.deepEqual(await union.tree(), {
    '/link': '-> old',
    '/linked': 'kept in old',
    '/made': 'directory',
    '/moved': 'directory',
    '/moved/file': 'in dir',
    '/moved/kept': 'kept in dir',
    '/old': 'directory',
    '/old/file': 'written',
    '/old/kept': 'kept in old',
    '/opaque': 'directory',
    '/opaque/kept': 'kept in opaque',
  });
  const outcomes = await Promise.allSettled(
    Array.from({ length: 5 }, () =>
      union.in('/old/file', (directory, name) => union.backend.unlink!(directory, name, root)),
    ),
  );
  const refused = outcomes.filter(
    (outcome) => outcome.status === 'rejected' && (outcome.reason as FsError).code === 'ENOENT',
  );
  assert.equal(refused.length, 4, 'one of five unlinks of a name succeeds');
});
