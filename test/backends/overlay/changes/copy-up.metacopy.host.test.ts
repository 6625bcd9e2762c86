import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Backend, FsError, OpenFlags } from '../../../../core/backend/index.js';
import { overlay as createOverlay, type OverlaySettings } from '../../../../backends/overlay/index.js';
import {
  asynchronous,
  defaults,
  memoryLayer,
  mounted,
  overlayOf,
  Paths,
  plain,
  root,
  share,
  watched,
} from '../support.js';

/* A change of metadata alone leaves a file's content in the lower. */

const MARK = 'trusted.overlay.metacopy';
const REDIRECT = 'trusted.overlay.redirect';

async function base(lower: Paths): Promise<void> {
  await lower.mkdir('/dir');
  await lower.mkdir('/other');
  await lower.write('/dir/file', 'lower content');
  await lower.link('/dir/file', '/dir/hard');
  await lower.write('/dir/single', 'single content');
}

function isError(code: string): (error: unknown) => boolean {
  return (error) => error instanceof FsError && error.code === code;
}

function chmod(union: Paths, path: string, mode = 0o600): Promise<unknown> {
  return union.at(path, (node) => union.backend.setattr!(node, { mode }, undefined, root));
}

function cut(union: Paths, path: string, size: number): Promise<unknown> {
  return union.at(path, (node) => union.backend.setattr!(node, { size }, undefined, root));
}

function attribute(paths: Paths, path: string, name: string): Promise<string | undefined> {
  return paths.at(path, async (node) => {
    const value = await paths.backend.getxattr!(node, name, root);
    return value && Buffer.from(value).toString();
  });
}

function mark(paths: Paths, path: string, name: string, value: string | Buffer): Promise<void> {
  return paths.at(path, (node) =>
    paths.backend.setxattr!(node, name, Buffer.from(value), 0, false, root),
  ) as Promise<void>;
}

/** An overlay of `base` under an upper that tells how much is written into it. */
async function counted(settings: Partial<OverlaySettings> = {}) {
  const memory = await memoryLayer();
  const written: number[] = [];
  const upper = watched(memory, (name, given) => {
    if (name === 'write') written.push((given[2] as { length: number }).length);
  });
  const made = await overlayOf([base], { upper, ...settings });
  return { ...made, raw: await Paths.mount(memory), written };
}

const changes: Record<string, (union: Paths) => unknown> = {
  mode: (union) => chmod(union, '/dir/single'),
  owner: (union) =>
    union.at('/dir/single', (node) => union.backend.setattr!(node, { uid: 5 }, undefined, root)),
  times: (union) =>
    union.at('/dir/single', (node) =>
      union.backend.setattr!(node, { mtime: { seconds: 5, nanoseconds: 0 } }, undefined, root),
    ),
  'extended attributes': (union) => mark(union, '/dir/single', 'user.colour', 'blue'),
  names: (union) => union.link('/dir/single', '/other/second'),
};

for (const [what, change] of Object.entries(changes)) {
  test(`a change of ${what} copies no content, and all there is can be read, also after a restart`, async () => {
    const { union, again, raw, written } = await counted();
    const { size, blocks } = await union.stat('/dir/single');
    await change(union);
    for (const paths of [union, await again()]) {
      assert.equal(await paths.read('/dir/single'), 'single content');
      const after = await paths.stat('/dir/single');
      assert.deepEqual([after.size, after.blocks], [size, blocks]);
    }
    assert.deepEqual(written, []);
    assert.equal(await attribute(raw, '/dir/single', MARK), '');
    assert.equal((await raw.stat('/dir/single')).size, size);
  });
}

test('a write brings the content up, once, and the mark goes', async () => {
  const { union, again, raw, written, lowers } = await counted();
  await chmod(union, '/dir/single');
  await union.write('/dir/single', 'SINGLE', 0);
  assert.deepEqual(written, [14, 6]);
  assert.equal(await attribute(raw, '/dir/single', MARK), undefined);
  for (const paths of [union, await again(), raw]) {
    assert.equal(await paths.read('/dir/single'), 'SINGLE content');
  }
  assert.equal(await lowers[0]!.read('/dir/single'), 'single content');
});

test('truncation copies what is left, or nothing', async () => {
  const { union, again, raw, written } = await counted();
  await chmod(union, '/dir/single');
  await cut(union, '/dir/single', 6);
  assert.deepEqual(written, [6]);
  await chmod(union, '/dir/file');
  await union.write('/dir/file', '', OpenFlags.TRUNC);
  assert.deepEqual(written, [6]);
  for (const paths of [union, await again(), raw]) {
    assert.equal(await paths.read('/dir/single'), 'single');
    assert.equal(await paths.read('/dir/file'), '');
  }
  assert.equal(await attribute(raw, '/dir/single', MARK), undefined);
});

test('a file made longer keeps what it had', async () => {
  const { union, again } = await counted();
  await chmod(union, '/dir/single');
  await cut(union, '/dir/single', 16);
  for (const paths of [union, await again()]) {
    assert.equal(await paths.read('/dir/single'), 'single content\0\0');
  }
});

test('a file opened before reads on through a change of mode and a write', async () => {
  const { union } = await counted();
  await union.at('/dir/single', async (node) => {
    const { backend } = union;
    const early = { ...(await backend.open!(node, OpenFlags.READ_ONLY, root)) };
    await chmod(union, '/dir/single');
    const between = { ...(await backend.open!(node, OpenFlags.READ_ONLY, root)) };
    assert.equal(await union.readFile(node, early.file), 'single content');
    await union.write('/dir/single', 'SINGLE', 0);
    for (const { file } of [early, between]) {
      assert.equal(await union.readFile(node, file), 'SINGLE content');
      await backend.fsync!(node, file, false, root);
      await backend.release!(node, file);
    }
  });
});

test('a renamed file says where its content is, by name within a directory, by path beyond', async () => {
  const { union, again, raw, written } = await counted();
  await chmod(union, '/dir/single');
  await union.rename('/dir/single', '/dir/moved');
  assert.equal(await attribute(raw, '/dir/moved', REDIRECT), 'single');
  await union.rename('/dir/moved', '/dir/again');
  assert.equal(await attribute(raw, '/dir/again', REDIRECT), 'single');
  assert.equal(await (await again()).read('/dir/again'), 'single content');
  await union.rename('/dir/again', '/other/there');
  assert.equal(await attribute(raw, '/other/there', REDIRECT), '/dir/single');
  await union.rename('/other', '/dir/inner');
  await union.rename('/dir', '/top');
  for (const paths of [union, await again()]) {
    assert.equal(await paths.read('/top/inner/there'), 'single content');
    assert.equal(await paths.exists('/top/single'), false);
  }
  assert.deepEqual(written, []);
});

test('a rename alone leaves the content in the lower, and what follows it finds it', async () => {
  const { union, again, written } = await counted();
  await union.rename('/dir/single', '/other/moved');
  await union.unlink('/dir/file');
  await union.unlink('/dir/hard');
  await union.rmdir('/dir');
  await union.mkdir('/dir');
  await union.write('/dir/single', 'another');
  for (const paths of [union, await again()]) {
    assert.equal(await paths.read('/other/moved'), 'single content');
    assert.equal(await paths.read('/dir/single'), 'another');
  }
  assert.deepEqual(written, [7]);
});

test('hard links of a lower file stay one file, with content by every name', async () => {
  const { union, again, written } = await counted();
  await chmod(union, '/dir/file');
  await union.rename('/dir/file', '/other/first');
  await union.link('/dir/hard', '/third');
  for (const paths of [union, await again()]) {
    for (const path of ['/other/first', '/dir/hard', '/third']) {
      assert.equal(await paths.read(path), 'lower content');
      const { nlink, mode } = await paths.stat(path);
      assert.deepEqual([nlink, mode], [3, 0o100600]);
    }
  }
  assert.deepEqual(written, []);
  await union.write('/third', 'LOWER', 0);
  for (const paths of [union, await again()]) {
    for (const path of ['/other/first', '/dir/hard', '/third']) {
      assert.equal(await paths.read(path), 'LOWER content');
    }
  }
  await union.unlink('/dir/hard');
  assert.equal((await union.stat('/third')).nlink, 2);
});

test('a name that was given in one directory holds when another name moves', async () => {
  const { union, again } = await counted();
  await union.rename('/dir/single', '/dir/renamed');
  await union.link('/dir/renamed', '/other/linked');
  await union.unlink('/dir/renamed');
  assert.equal(await (await again()).read('/other/linked'), 'single content');
});

test('exchanged files keep their contents', async () => {
  const { union, again } = await counted();
  await union.rename('/dir/single', '/dir/file', 2);
  for (const paths of [union, await again()]) {
    assert.equal(await paths.read('/dir/file'), 'single content');
    assert.equal(await paths.read('/dir/single'), 'lower content');
    assert.equal(await paths.read('/dir/hard'), 'lower content');
  }
});

test('an unlinked file that is open keeps its content, and can be written', async () => {
  const { union, overlay } = await counted();
  await union.at('/dir/single', async (node) => {
    const { backend } = union;
    await chmod(union, '/dir/single');
    const reader = { ...(await backend.open!(node, OpenFlags.READ_ONLY, root)) };
    await union.unlink('/dir/single');
    const writer = { ...(await backend.open!(node, OpenFlags.READ_WRITE, root)) };
    await union.put(node, writer.file, 'SINGLE');
    assert.equal(await union.readFile(node, reader.file), 'SINGLE content');
    await backend.release!(node, reader.file);
    await backend.release!(node, writer.file);
  });
  assert.equal(await union.exists('/dir/single'), false);
  assert.equal(overlay.union.knownNodes, 1);
});

test('where the upper is full half-way the content stays the lower’s, and the times stay too', async () => {
  const memory = await memoryLayer();
  let room = 2;
  const upper = watched(memory, (name) => {
    if (name === 'write' && room-- <= 0) throw FsError.of('ENOSPC');
  });
  const big = 'x'.repeat(5 << 20);
  const { union, again } = await overlayOf([(lower) => lower.write('/big', big)], { upper });
  await chmod(union, '/big');
  const before = await union.stat('/big');
  await assert.rejects(union.write('/big', 'y', 0), isError('ENOSPC'));
  for (const paths of [union, await again()]) {
    const after = await paths.stat('/big');
    assert.deepEqual([after.mtime, after.mtimeNsec, after.size], [before.mtime, before.mtimeNsec, 5 << 20]);
    assert.equal((await paths.read('/big')).length, 1 << 20);
  }
  room = Infinity;
  await union.write('/big', 'y', 0);
  assert.equal((await union.read('/big')).slice(0, 3), 'yxx');
});

test('over layers that answer late, changes of a file while its content comes up are kept', async () => {
  const upper = asynchronous(await memoryLayer());
  const { union, again } = await overlayOf([base], { upper });
  const stamp = { seconds: 7, nanoseconds: 0 };
  await union.at('/dir/single', async (node) => {
    const { backend } = union;
    await Promise.all([
      backend.setattr!(node, { mode: 0o640 }, undefined, root),
      (async () => backend.release!(node, (await backend.open!(node, OpenFlags.READ_WRITE, root)).file))(),
      (async () => backend.release!(node, (await backend.open!(node, OpenFlags.READ_WRITE, root)).file))(),
      backend.setattr!(node, { uid: 3 }, undefined, root),
    ]);
    const { file } = await backend.open!(node, OpenFlags.READ_WRITE, root);
    await backend.setattr!(node, { mtime: stamp }, undefined, root);
    await backend.release!(node, file);
  });
  for (const paths of [union, await again()]) {
    const { mode, uid, mtime } = await paths.stat('/dir/single');
    assert.deepEqual([mode, uid, mtime], [0o100640, 3, 7]);
    assert.equal(await paths.read('/dir/single'), 'single content');
  }
});

test('set-id bits and file capabilities outlive the copy of the content', () =>
  onHost(async (directory, mount) => {
    writeFileSync(join(directory, 'lower/program'), 'program');
    const union = await mount();
    await chmod(union, '/program', 0o4755);
    const value = Uint8Array.of(1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    await union.at('/program', (node) =>
      union.backend.setxattr!(node, 'security.capability', value, 0, false, root),
    );
    await union.at('/program', async (node) => {
      const { file } = await union.backend.open!(node, OpenFlags.READ_WRITE, root);
      await union.backend.release!(node, file);
      const kept = await union.backend.getxattr!(node, 'security.capability', root);
      assert.deepEqual(new Uint8Array(kept!), value);
    });
    assert.equal((await union.stat('/program')).mode, 0o104755);
    assert.equal(readFileSync(join(directory, 'upper/program'), 'utf8'), 'program');
    await union.backend.unmount!();
  }));

test('on the host a file without content is sparse in the upper, and full where it is shown', () =>
  onHost(async (directory, mount) => {
    const path = join(directory, 'lower/large');
    writeFileSync(path, 'x'.repeat(1 << 20));
    truncateSync(path, 3 << 20);
    const union = await mount();
    await chmod(union, '/large');
    const inUpper = statSync(join(directory, 'upper/large'));
    assert.deepEqual([inUpper.size, inUpper.blocks < 16], [3 << 20, true]);
    assert.equal((await union.stat('/large')).blocks, statSync(path).blocks);
    await union.write('/large', 'x', 0);
    execFileSync('cmp', [path, join(directory, 'upper/large')]);
    assert.equal((await union.stat('/large')).blocks, statSync(join(directory, 'upper/large')).blocks);
    await union.backend.unmount!();
  }));

/* Layers that others made. */

test('a chain of files without content through several layers is followed', async () => {
  const { union } = await overlayOf([
    async (top) => {
      await top.mkdir('/dir');
      await sparse(top, '/dir/file', 13);
      await mark(top, '/dir/file', MARK, '');
      await mark(top, '/dir/file', REDIRECT, 'middle');
    },
    async (middle) => {
      await middle.mkdir('/dir');
      await middle.write('/dir/middle', '.............');
      await mark(middle, '/dir/middle', MARK, Buffer.of(0, 6, 0, 1, 200, 201));
      await mark(middle, '/dir/middle', REDIRECT, '/far/data');
    },
    async (bottom) => {
      await bottom.mkdir('/far');
      await bottom.write('/far/data', 'lower content');
    },
  ]);
  assert.equal(await union.read('/dir/file'), 'lower content');
  await chmod(union, '/dir/file');
  await union.rename('/dir/file', '/top');
  assert.equal(await union.read('/top'), 'lower content');
  await union.write('/top', 'LOWER', 0);
  assert.equal(await union.read('/top'), 'LOWER content');
});

async function sparse(paths: Paths, path: string, size: number): Promise<void> {
  await paths.write(path, '');
  await cut(paths, path, size);
}

async function borrowed(top: Paths): Promise<void> {
  await top.mkdir('/dir');
  await sparse(top, '/dir/single', 14);
  await mark(top, '/dir/single', MARK, '');
}

test('a file that a crash left half filled is known by the mark of its directory', async () => {
  const { union } = await overlayOf([
    async (top) => {
      await top.mkdir('/dir');
      await mark(top, '/dir', 'trusted.overlay.impure', 'y');
      await top.write('/dir/single', 'single ???????');
      await mark(top, '/dir/single', MARK, '');
    },
    base,
  ]);
  assert.equal(await union.read('/dir/single'), 'single content');
});

test('without the option a file without content is refused, not shown as zeros, and can be replaced', async () => {
  const { union } = await overlayOf([borrowed, base], { metacopy: false });
  assert.equal((await union.stat('/dir/single')).size, 14);
  await assert.rejects(union.read('/dir/single'), isError('EPERM'));
  await assert.rejects(union.write('/dir/single', 'x', 0), isError('EPERM'));
  await union.write('/dir/single', 'new', OpenFlags.TRUNC);
  assert.equal(await union.read('/dir/single'), 'new');
});

test('nothing is followed through attributes that any user may set', async () => {
  const { union } = await overlayOf(
    [
      async (top) => {
        await borrowed(top);
        await mark(top, '/dir/single', 'user.overlay.metacopy', '');
      },
      base,
    ],
    { xattrs: 'user' },
  );
  await assert.rejects(union.read('/dir/single'), isError('EPERM'));
  assert.equal(await union.read('/dir/file'), 'lower content');
  await chmod(union, '/dir/file');
  assert.equal(await attribute(union, '/dir/file', 'user.overlay.metacopy'), undefined);
});

const broken: Record<string, (top: Paths) => Promise<unknown>> = {
  'is nowhere': (top) => mark(top, '/dir/single', REDIRECT, '/none'),
  'is a directory': (top) => mark(top, '/dir/single', REDIRECT, '/other'),
  'has a mark of another version': (top) => mark(top, '/dir/single', MARK, Buffer.of(1, 4, 0, 0)),
  'has a mark of another length': (top) => mark(top, '/dir/single', MARK, Buffer.of(0, 9, 0, 0)),
};

for (const [what, breakIt] of Object.entries(broken)) {
  test(`a file whose content ${what} gives EIO`, async () => {
    const { union } = await overlayOf([
      async (top) => {
        await borrowed(top);
        await breakIt(top);
      },
      base,
    ]);
    await assert.rejects(union.read('/dir/single'), isError('EIO'));
    await assert.rejects(union.write('/dir/single', 'x', 0), isError('EIO'));
    await union.unlink('/dir/single');
    assert.equal(await union.exists('/dir/single'), false);
  });
}

test('a redirect of a layer cannot lead out of its layers', () =>
  onHost(async (directory, mount) => {
    writeFileSync(join(directory, 'secret'), 'secret content');
    mkdirSync(join(directory, 'lower/dir'));
    writeFileSync(join(directory, 'lower/dir/single'), 'single content');
    const top = await Paths.mount(await memoryLayer());
    await borrowed(top);
    for (const path of ['../../secret', '..', 'a/../../../secret', '/../secret', '/dir/../../secret', '.']) {
      await mark(top, '/dir/single', REDIRECT, path);
      const lowers = [mounted(top), share(join(directory, 'lower'))];
      const union = await mount({ upper: await memoryLayer(), lowers });
      assert.equal(await union.read('/dir/single'), 'single content');
      await mark(top, '/dir', REDIRECT, path);
      const moved = await mount({ upper: await memoryLayer(), lowers });
      assert.equal(await moved.read('/dir/single'), 'single content');
    }
  }));

test('where an upper cannot hold marks, content is copied', async () => {
  const upper = plain(await memoryLayer());
  const { union, again } = await overlayOf([base], { upper });
  await chmod(union, '/dir/single');
  const raw = await Paths.mount(upper);
  assert.equal(await raw.read('/dir/single'), 'single content');
  assert.equal(await (await again()).read('/dir/single'), 'single content');
});

/** Directories of the host for layers, removed afterwards. */
async function onHost(
  use: (directory: string, mount: (settings?: Partial<OverlaySettings>) => Promise<Paths>) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'virtiofs-kit-overlay-'));
  try {
    for (const name of ['upper', 'lower']) mkdirSync(join(directory, name));
    await use(directory, (settings = {}) => {
      const [upper, lower] = ['upper', 'lower'].map((name) => share(join(directory, name)));
      return Paths.mount(createOverlay({ ...defaults, upper, lowers: [lower!], ...settings }) as Backend);
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}
