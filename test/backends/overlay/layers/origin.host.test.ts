import assert from 'node:assert/strict';
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Backend, FileType, FsError, OpenFlags } from '../../../../core/backend/index.js';
import { overlay as createOverlay } from '../../../../backends/overlay/index.js';
import { defaults, memoryLayer, overlayOf, Paths, root, share } from '../support.js';
import { allEntriesOf } from '../../../support/listings.js';

/** Every path's identity and inode number, and the numbers that listings show. */
async function identities(paths: Paths): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  async function visit(path: string): Promise<void> {
    const listed = new Map<string, unknown>();
    await paths.at(path, async (node) => {
      for (const { name, ino } of await allEntriesOf(await paths.backend.readdir!(node, root)))
        listed.set(name, ino);
    });
    for (const [name, ino] of listed) {
      const child = `${path}/${name}`;
      await paths.at(child, (node, attributes) => {
        assert.equal(attributes.ino, ino, `d_ino of ${child}`);
        found[child] = `${String(paths.backend.key!(node))} ${String(ino)}`;
      });
      if (((await paths.stat(child)).mode & FileType.MASK) === FileType.DIRECTORY) await visit(child);
    }
  }
  await visit('');
  return found;
}

async function onHost(use: (mount: () => Promise<Paths>, directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'virtiofs-kit-overlay-'));
  try {
    for (const name of ['upper', 'top', 'bottom']) mkdirSync(join(directory, name));
    mkdirSync(join(directory, 'bottom/dir/sub'), { recursive: true });
    mkdirSync(join(directory, 'top/dir'));
    writeFileSync(join(directory, 'bottom/dir/file'), 'file');
    writeFileSync(join(directory, 'bottom/dir/sub/deep'), 'deep');
    linkSync(join(directory, 'bottom/dir/file'), join(directory, 'bottom/linked'));
    writeFileSync(join(directory, 'top/dir/other'), 'other');
    await use(async () => {
      const layer = (name: string): Backend => share(join(directory, name));
      const lowers = [layer('top'), layer('bottom')];
      return Paths.mount(createOverlay({ ...defaults, upper: layer('upper'), lowers }) as Backend);
    }, directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test('identity and inode number are the same before and after copy-up, and after a restart', () =>
  onHost(async (mount) => {
    const first = await mount();
    const before = await identities(first);
    for (const path of Object.keys(before)) {
      await first.at(path, (node) => first.backend.setattr!(node, { uid: 9 }, undefined, root));
    }
    assert.deepEqual(await identities(first), before, 'after copy-up');
    await first.backend.unmount!();
    const second = await mount();
    assert.deepEqual(await identities(second), before, 'after a restart');
    assert.equal((await second.stat('/dir/sub/deep')).uid, 9);
    await second.backend.unmount!();
  }));

test('no two files of different layers have one inode number', () =>
  onHost(async (mount) => {
    const union = await mount();
    await union.write('/dir/new', 'new');
    await union.mkdir('/made');
    const seen = await identities(union);
    const paths = new Map<string, string[]>();
    for (const [path, text] of Object.entries(seen)) {
      const number = text.split(' ').at(-1)!;
      paths.set(number, [...(paths.get(number) ?? []), path]);
    }
    const shared = [...paths.values()].filter((several) => several.length > 1).map((all) => all.toSorted());
    assert.deepEqual(shared, [['/dir/file', '/linked']]);
    await union.backend.unmount!();
  }));

test('numbers of nested overlays stay apart, though each uses all the bits there are', async () => {
  const inner = async (): Promise<Backend> => {
    const lower = await memoryLayer();
    const upper = await memoryLayer();
    const paths = await Paths.mount(lower);
    for (let i = 0; i < 20; i++) await paths.write(`/lower${i}`, '');
    return createOverlay({ ...defaults, upper, lowers: [lower] }) as Backend;
  };
  const nested = await inner();
  const filled = await Paths.mount(nested);
  for (let i = 0; i < 20; i++) await filled.write(`/upper${i}`, '');
  const seen = await identities(
    await Paths.mount(createOverlay({ ...defaults, lowers: [nested] }) as Backend),
  );
  const numbers = Object.values(seen).map((text) => text.split(' ').at(-1));
  assert.equal(numbers.length, 40);
  assert.equal(new Set(numbers).size, 40);
});

test('what guests know is found again by a restarted daemon, files without a name included', async () => {
  const lower = await memoryLayer();
  const filled = await Paths.mount(lower);
  await filled.mkdir('/dir');
  await filled.write('/dir/file', 'file');
  await filled.write('/dir/gone', 'gone');
  await filled.write('/unlinked', 'unlinked');
  await filled.write('/borrowed', 'borrowed');
  const settings = { ...defaults, lowers: [lower] };
  const first = await Paths.mount(createOverlay({ ...settings, upper: await memoryLayer() }) as Backend);
  await first.write('/dir/file', 'changed');
  await first.rename('/dir', '/moved');
  const { backend } = first;
  const keys = new Map<string, unknown>();
  const known: object[] = [];
  for (const path of ['/moved', '/moved/file', '/moved/gone', '/unlinked', '/borrowed']) {
    await first.at(path, (node) => {
      keys.set(path, backend.key!(node));
    });
  }
  const walk = async (node: object, name: string): Promise<object> => {
    const entry = await backend.lookup(node, name, root);
    known.push(entry!.node);
    return entry!.node;
  };
  const moved = await walk(first.top, 'moved');
  await walk(moved, 'file');
  await walk(moved, 'gone');
  const unlinked = await walk(first.top, 'unlinked');
  const { file } = { ...(await backend.open!(unlinked, OpenFlags.READ_WRITE, root)) };
  await first.unlink('/unlinked');
  // The upper has only the metadata of this file.
  const borrowed = await walk(first.top, 'borrowed');
  await backend.setattr!(borrowed, { mode: 0o600 }, undefined, root);
  const { file: reader } = { ...(await backend.open!(borrowed, OpenFlags.READ_ONLY, root)) };
  await first.unlink('/borrowed');
  const state = await backend.save!();

  const second = createOverlay({ ...settings, upper: await memoryLayer() }) as Backend;
  const paths = await Paths.mount(second);
  await second.restore!(state);
  for (const [path, key] of keys) {
    const node = await second.resolve!(key as string);
    assert.equal(second.key!(node), key, path);
    const found = { ...(await second.getattr(node, undefined, root)) };
    if (path === '/borrowed') {
      const opened = { ...(await second.open!(node, OpenFlags.READ_ONLY, root)) };
      assert.equal(await paths.readFile(node, opened.file), 'borrowed');
      await second.release!(node, opened.file);
    }
    if (path === '/unlinked' || path === '/borrowed') assert.equal(found.nlink, 0);
    else assert.equal((await paths.stat(path)).ino, found.ino, path);
  }
  assert.equal(await paths.read('/moved/file'), 'changed');
  assert.equal(await paths.read('/moved/gone'), 'gone');
  await assert.rejects(
    async () => second.resolve!('1:nothing'),
    (error) => error instanceof FsError && error.code === 'ESTALE',
  );
  await backend.release!(unlinked, file);
  await backend.release!(borrowed, reader);
});

test('state that was not saved by such an overlay is refused', async () => {
  const { union } = await overlayOf([async () => {}]);
  for (const state of [Uint8Array.of(1), Buffer.from('\x02\0\0\0{}'), Buffer.from('\xff\xff\xff\xff{}')]) {
    await assert.rejects(
      async () => union.backend.restore!(state),
      (error) => error instanceof FsError && error.code === 'EINVAL',
    );
  }
});

test('lower files without any identity of their own are told apart by where the lower has them', async () => {
  const memory = await memoryLayer();
  const filled = await Paths.mount(memory);
  for (const name of ['one', 'two']) {
    await filled.mkdir(`/${name}`);
    await filled.write(`/${name}/file`, name);
  }
  const strip = <T extends { attributes: object }>(entry: T | undefined): T | undefined =>
    entry && { ...entry, attributes: { ...entry.attributes, ino: undefined } };
  const { readdir, read, open, release } = memory;
  const lower: Backend = {
    mount: () => filled.top,
    lookup: async (parent, name, context) => strip(await memory.lookup(parent, name, context)),
    getattr: async (node, file, context) => ({
      ...(await memory.getattr(node, file, context)),
      ino: undefined,
    }),
    readdir: readdir!.bind(memory),
    read: read!.bind(memory),
    open: open!.bind(memory),
    release: async (node, file) => release?.call(memory, node, file),
  };
  const { union } = await overlayOf([], { lowers: [lower] });
  await union.at('/one/file', async (kept) => {
    await union.rename('/one', '/away');
    await union.rename('/two', '/one');
    assert.equal(await union.read('/one/file'), 'two');
    await union.at('/one/file', (node) => assert.notEqual(node, kept));
    assert.equal(await union.read('/away/file'), 'one');
  });
});
