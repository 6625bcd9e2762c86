import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError, OpenFlags, RenameFlags } from '../../../core/backend/index.js';
import { defaults, overlayOf, type Paths, root } from './support.js';
import { allEntriesOf } from '../../support/listings.js';

async function base(lower: Paths): Promise<void> {
  await lower.mkdir('/dir');
  await lower.write('/dir/a', 'lower a');
  await lower.write('/dir/b', 'lower b');
  await lower.mkdir('/dir/sub');
  await lower.write('/dir/sub/deep', 'deep');
  await lower.write('/file', 'lower file');
  await lower.symlink('/link', 'file');
}

function rejects(promise: Promise<unknown>, code: string): Promise<void> {
  return assert.rejects(promise, (error) => error instanceof FsError && error.code === code);
}

test('what the lowers have is seen, the topmost first', async () => {
  const { union } = await overlayOf([
    async (top) => {
      await top.mkdir('/dir');
      await top.write('/dir/a', 'top a');
    },
    base,
  ]);
  assert.equal(await union.read('/dir/a'), 'top a');
  assert.equal(await union.read('/dir/b'), 'lower b');
  assert.deepEqual(await union.names('/dir'), ['a', 'b', 'sub']);
  assert.deepEqual(await union.names(''), ['dir', 'file', 'link']);
});

test('a write goes to the upper and leaves the lower as it is', async () => {
  const { union, lowers } = await overlayOf([base]);
  await union.write('/dir/a', 'changed');
  await union.write('/dir/new', 'new');
  assert.equal(await union.read('/dir/a'), 'changed');
  assert.equal(await lowers[0]!.read('/dir/a'), 'lower a');
  assert.deepEqual(await union.names('/dir'), ['a', 'b', 'new', 'sub']);
  assert.deepEqual(await lowers[0]!.names('/dir'), ['a', 'b', 'sub']);
});

test('an unlinked lower file is gone, also after a copy-up, and can be made again', async () => {
  const { union } = await overlayOf([base]);
  await union.write('/dir/b', 'copied up');
  for (const name of ['a', 'b']) {
    await union.unlink(`/dir/${name}`);
    assert.equal(await union.exists(`/dir/${name}`), false);
  }
  assert.deepEqual(await union.names('/dir'), ['sub']);
  await union.write('/dir/a', 'again');
  assert.equal(await union.read('/dir/a'), 'again');
  assert.deepEqual(await union.names('/dir'), ['a', 'sub']);
});

test('a directory made over a whiteout is opaque', async () => {
  const { union } = await overlayOf([base]);
  await union.unlink('/dir/sub/deep');
  await union.rmdir('/dir/sub');
  assert.equal(await union.exists('/dir/sub'), false);
  await union.mkdir('/dir/sub');
  assert.deepEqual(await union.names('/dir/sub'), []);
});

test('a creation over a whiteout says what it made', async () => {
  const { union } = await overlayOf([base]);
  await union.unlink('/dir/a');
  await union.unlink('/dir/b');
  await union.at('/dir', async (directory) => {
    const { backend } = union;
    const made = await backend.mkdir!(directory, 'a', 0o2750, root);
    assert.equal(made.attributes.mode, 0o042750);
    const created = await backend.create!(directory, 'b', 0o640, OpenFlags.READ_WRITE, root);
    assert.equal(created.attributes.mode, 0o100640);
    assert.equal(created.attributes.ino, (await union.stat('/dir/b')).ino);
    await backend.release?.(created.node, created.file);
  });
});

test('a directory with entries is not removed, one with whiteouts only is', async () => {
  const { union } = await overlayOf([base]);
  await rejects(union.rmdir('/dir/sub'), 'ENOTEMPTY');
  await union.unlink('/dir/sub/deep');
  await union.rmdir('/dir/sub');
  assert.deepEqual(await union.names('/dir'), ['a', 'b']);
});

test('a lower directory can be renamed, again and again, and into another', async () => {
  const { union, lowers } = await overlayOf([base]);
  await union.rename('/dir', '/moved');
  assert.deepEqual(await union.names(''), ['file', 'link', 'moved']);
  assert.equal(await union.read('/moved/sub/deep'), 'deep');
  await union.rename('/moved/sub', '/sub');
  assert.equal(await union.read('/sub/deep'), 'deep');
  await union.mkdir('/dir');
  assert.deepEqual(await union.names('/dir'), []);
  await union.rename('/sub', '/dir/sub2');
  assert.equal(await union.read('/dir/sub2/deep'), 'deep');
  assert.deepEqual(await union.names('/moved'), ['a', 'b']);
  assert.equal(await lowers[0]!.read('/dir/sub/deep'), 'deep');
});

test('without redirects a lower directory is not renamed', async () => {
  const { union } = await overlayOf([base], { redirectDir: false });
  await rejects(union.rename('/dir', '/moved'), 'EXDEV');
  await union.mkdir('/own');
  await union.rename('/own', '/moved');
  assert.ok(await union.exists('/moved'));
});

test('a file opened before its copy-up reads what is written after it', async () => {
  const { union } = await overlayOf([base]);
  await union.at('/file', async (node) => {
    const opened = { ...(await union.backend.open!(node, OpenFlags.READ_ONLY, root)) };
    assert.equal(await union.readFile(node, opened.file), 'lower file');
    await union.write('/file', 'upper file');
    assert.equal(await union.readFile(node, opened.file), 'upper file');
    await union.backend.release!(node, opened.file);
  });
});

test('node and inode number stay through copy-up and rename, and listings show the same number', async () => {
  const { union } = await overlayOf([base]);
  for (const path of ['/file', '/dir', '/dir/a', '/link']) {
    await union.at(path, async (before, { ino }) => {
      await union.backend.setattr!(before, { uid: 5 }, undefined, root);
      await union.rename(path, `${path}-moved`);
      await union.at(`${path}-moved`, (after, attributes) => {
        assert.equal(after, before);
        assert.equal(attributes.ino, ino);
        assert.equal(attributes.uid, 5);
      });
      await union.rename(`${path}-moved`, path);
    });
  }
  for (const directory of ['', '/dir']) {
    await union.at(directory, async (node) => {
      for (const { name, ino } of await allEntriesOf(await union.backend.readdir!(node, root))) {
        assert.equal(ino, (await union.stat(`${directory}/${name}`)).ino, name);
      }
    });
  }
});

test('hard links of a lower file stay one file after copy-up through either name', async () => {
  const { union, overlay } = await overlayOf([
    async (lower) => {
      await lower.write('/one', 'shared');
      await lower.link('/one', '/two');
    },
  ]);
  assert.equal((await union.stat('/one')).nlink, 2);
  await union.write('/two', 'changed');
  assert.equal(overlay.union.knownNodes, 1);
  assert.equal(await union.read('/one'), 'changed');
  assert.equal((await union.stat('/one')).nlink, 2);
  assert.equal((await union.stat('/two')).ino, (await union.stat('/one')).ino);
  await union.link('/one', '/three');
  assert.equal((await union.stat('/two')).nlink, 3);
  await union.unlink('/one');
  assert.equal((await union.stat('/two')).nlink, 2);
  await union.unlink('/two');
  assert.equal((await union.stat('/three')).nlink, 1);
  assert.deepEqual(await union.names(''), ['three']);
});

test('names are exchanged, and NOREPLACE replaces nothing', async () => {
  const { union } = await overlayOf([base]);
  await union.rename('/file', '/dir', RenameFlags.EXCHANGE);
  assert.equal(await union.read('/dir'), 'lower file');
  assert.equal(await union.read('/file/sub/deep'), 'deep');
  await rejects(union.rename('/file/a', '/file/b', RenameFlags.NOREPLACE), 'EEXIST');
});

test('a rename onto a directory full of whiteouts replaces it', async () => {
  const { union } = await overlayOf([base]);
  await union.unlink('/dir/sub/deep');
  await union.mkdir('/own');
  await union.write('/own/x', 'x');
  await union.rename('/own', '/dir/sub');
  assert.deepEqual(await union.names('/dir/sub'), ['x']);
  assert.deepEqual(await union.names(''), ['dir', 'file', 'link']);
});

test('a guest neither sees nor sets the marks of the overlay', async () => {
  const { union } = await overlayOf([base]);
  await union.write('/dir/a', 'changed');
  await union.at('/dir', async (node) => {
    const { backend } = union;
    assert.deepEqual(await backend.listxattr!(node, root), []);
    await backend.setxattr!(node, 'trusted.overlay.opaque', Uint8Array.of(0x79), 0, false, root);
    assert.deepEqual(await backend.listxattr!(node, root), ['trusted.overlay.opaque']);
  });
  assert.deepEqual(await union.names('/dir'), ['a', 'b', 'sub']);
});

test('a union without an upper is read-only', async () => {
  const { overlay: createOverlay } = await import('../../../backends/overlay/index.js');
  const { lowers } = await overlayOf([base]);
  const overlay = createOverlay({
    ...defaults,
    lowers: [lowers[0]!.backend],
  });
  assert.equal(overlay.write, undefined);
  assert.equal(overlay.mkdir, undefined);
});

test('nothing is held once everything is forgotten', async () => {
  const { union, overlay } = await overlayOf([base]);
  await union.write('/dir/a', 'changed');
  await union.tree();
  await union.unlink('/dir/b');
  await union.rename('/dir', '/moved');
  await union.tree();
  assert.equal(overlay.union.knownNodes, 1);
});
