import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError, RenameFlags } from '../../../../core/backend/index.js';
import { memoryLayer, overlayOf, Paths, plain, root, type Union } from '../support.js';

/* Layers without devices and extended attributes: whiteouts and the rest are reserved names. */

async function base(lower: Paths): Promise<void> {
  await lower.mkdir('/dir');
  await lower.write('/dir/a', 'lower a');
  await lower.write('/dir/b', 'lower b');
  await lower.mkdir('/dir/sub');
  await lower.write('/dir/sub/deep', 'deep');
  await lower.write('/file', 'lower file');
}

async function onPlain(): Promise<Union & { restart(): Promise<Paths> }> {
  const upper = await memoryLayer();
  const made = await overlayOf([base], { upper: plain(upper) });
  return { ...made, restart: () => made.again({ upper: plain(upper) }) };
}

function rejects(promise: Promise<unknown>, code: string): Promise<void> {
  return assert.rejects(promise, (error) => error instanceof FsError && error.code === code);
}

test('with names as whiteouts, what was removed stays away, also after a restart', async () => {
  const { union, restart, lowers } = await onPlain();
  await union.write('/dir/b', 'changed');
  await union.unlink('/dir/a');
  await union.unlink('/dir/b');
  await union.unlink('/dir/sub/deep');
  await union.rmdir('/dir/sub');
  await union.unlink('/file');
  const expected = { '/dir': 'directory' };
  assert.deepEqual(await union.tree(), expected);
  assert.deepEqual(await (await restart()).tree(), expected);
  assert.equal(await lowers[0]!.read('/dir/sub/deep'), 'deep');
});

test('with names as whiteouts, a name can be made again as anything, and a directory is opaque then', async () => {
  const { union, restart } = await onPlain();
  await union.unlink('/dir/sub/deep');
  await union.rmdir('/dir/sub');
  await union.mkdir('/dir/sub');
  await union.unlink('/file');
  await union.mkdir('/file');
  await union.unlink('/dir/a');
  await union.write('/dir/a', 'again');
  const expected = {
    '/dir': 'directory',
    '/dir/a': 'again',
    '/dir/b': 'lower b',
    '/dir/sub': 'directory',
    '/file': 'directory',
  };
  assert.deepEqual(await union.tree(), expected);
  assert.deepEqual(await (await restart()).tree(), expected);
});

test('with names as whiteouts, files and directories of the lower are renamed and exchanged', async () => {
  const { union, restart } = await onPlain();
  await union.rename('/dir', '/moved');
  await union.rename('/file', '/moved/file');
  await union.rename('/moved/sub', '/sub');
  await union.mkdir('/dir');
  await union.rename('/moved/a', '/moved/b', RenameFlags.EXCHANGE);
  const expected = {
    '/dir': 'directory',
    '/moved': 'directory',
    '/moved/a': 'lower b',
    '/moved/b': 'lower a',
    '/moved/file': 'lower file',
    '/sub': 'directory',
    '/sub/deep': 'deep',
  };
  assert.deepEqual(await union.tree(), expected);
  assert.deepEqual(await (await restart()).tree(), expected);
});

test('reserved names can neither be seen nor made nor moved to', async () => {
  const { union } = await onPlain();
  await union.unlink('/dir/a');
  await union.rename('/dir', '/moved');
  assert.deepEqual(await union.names('/moved'), ['b', 'sub']);
  for (const name of ['.wh.a', '.wh..wh..opq', '.wh..wh.redirect', '.wh.anything']) {
    assert.equal(await union.exists(`/moved/${name}`), false);
    await rejects(union.write(`/moved/${name}`, 'x'), 'EINVAL');
    await rejects(union.mkdir(`/moved/${name}`), 'EINVAL');
    await rejects(union.rename('/file', `/moved/${name}`), 'EINVAL');
    await rejects(union.unlink(`/moved/${name}`), 'ENOENT');
  }
});

test('the work area can neither be seen nor made nor moved to', async () => {
  const { union } = await overlayOf([base]);
  const name = '/.virtiofs-kit-work';
  assert.equal(await union.exists(name), false);
  assert.deepEqual(await union.names(''), ['dir', 'file']);
  await rejects(union.mkdir(name), 'EINVAL');
  await rejects(union.rename('/dir', name), 'EINVAL');
  await rejects(union.link('/file', name), 'EINVAL');
  await union.mkdir(`/dir${name}`);
  assert.deepEqual(await union.names('/dir'), ['.virtiofs-kit-work', 'a', 'b', 'sub']);
});

test('hard links of a lower file stay one file where the upper has no attributes', async () => {
  const upper = await memoryLayer();
  const { union, again } = await overlayOf(
    [
      async (lower) => {
        await lower.write('/one', 'shared');
        await lower.link('/one', '/two');
      },
    ],
    { upper: plain(upper) },
  );
  await union.write('/two', 'changed');
  assert.equal(await union.read('/one'), 'changed');
  const restarted = await again({ upper: plain(upper) });
  assert.equal(await restarted.read('/one'), 'changed');
  await restarted.rename('/one', '/moved');
  assert.deepEqual(await restarted.tree(), { '/moved': 'changed', '/two': 'changed' });
  assert.equal((await restarted.stat('/moved')).ino, (await restarted.stat('/two')).ino);
});

test('an upper whose file system refuses attributes gets names, and one that may not set them is refused', async () => {
  for (const [code, outcome] of [
    ['EOPNOTSUPP', 'names'],
    ['EPERM', /CAP_SYS_ADMIN/],
  ] as const) {
    const memory = await memoryLayer();
    const upper = new Proxy(memory, {
      get(target, property) {
        if (property === 'setxattr') {
          return () => {
            throw FsError.of(code);
          };
        }
        const value: unknown = Reflect.get(target, property, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    if (outcome !== 'names') {
      await assert.rejects(overlayOf([base], { upper }), outcome);
      continue;
    }
    const { union } = await overlayOf([base], { upper });
    await union.unlink('/file');
    assert.deepEqual(await union.names(''), ['dir']);
    const raw = await Paths.mount(memory);
    assert.deepEqual(await raw.names(''), ['.virtiofs-kit-work', '.wh.file']);
    assert.deepEqual(await raw.names('/.virtiofs-kit-work/work'), []);
  }
});

test('a guest cannot make a whiteout device', async () => {
  const CHARACTER = 0o020600;
  const { union } = await overlayOf([base]);
  const node = union.top;
  assert.throws(
    () => union.backend.mknod!(node, 'device', CHARACTER, 0, root),
    (error) => error instanceof FsError && error.code === 'EPERM',
  );
});
