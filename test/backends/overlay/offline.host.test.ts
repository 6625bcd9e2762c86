import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import overlayPlugin, { overlay as createOverlay } from '../../../backends/overlay/index.js';
import { flatten } from '../../../backends/overlay/offline/commit.js';
import type { Backend } from '../../../core/backend/index.js';
import { view } from './crash-operations.js';
import { runOffline } from '../../support/commands.js';
import { defaults, host, Paths, root, share } from './support.js';

/** The options of a mount. */
interface Layers {
  readonly upper: string;
  readonly lowers: readonly string[];
}

const run = (name: string, options: object): Promise<string[]> =>
  runOffline(overlayPlugin, name, options, host.log);

/** A lower and an upper on this host, with changes of every kind in the upper. */
async function onHost(
  use: (layers: Layers, directory: string, shown: Record<string, string>) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'virtiofs-kit-overlay-'));
  const [upper = '', lower = ''] = ['upper', 'lower'].map((name) => join(directory, name));
  try {
    mkdirSync(upper);
    mkdirSync(join(lower, 'dir/sub'), { recursive: true });
    mkdirSync(join(lower, 'from/inner'), { recursive: true });
    mkdirSync(join(lower, 'kept'));
    for (const name of ['dir/a', 'dir/b', 'dir/sub/deep', 'from/inner/file', 'from/gone', 'file', 'kept/x']) {
      writeFileSync(join(lower, name), `lower ${name}`);
    }
    linkSync(join(lower, 'dir/a'), join(lower, 'linked'));
    const union = await Paths.mount(
      createOverlay({ ...defaults, upper: share(upper), lowers: [share(lower)] }) as Backend,
    );
    await change(union);
    const shown = await view(union);
    await union.backend.unmount!();
    await use({ upper, lowers: [lower] }, directory, shown);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function change(union: Paths): Promise<void> {
  await union.write('/dir/a', 'changed');
  await union.unlink('/dir/b');
  await union.write('/dir/new', 'new');
  await union.link('/dir/new', '/dir/again');
  await union.unlink('/from/gone');
  await union.rename('/from', '/moved');
  await union.unlink('/dir/sub/deep');
  await union.rmdir('/dir/sub');
  await union.mkdir('/dir/sub');
  await union.write('/dir/sub/other', 'other');
  await union.rename('/file', '/dir/file');
  await union.symlink('/dir/link', 'a');
  await union.at('/kept', (node) => union.backend.setattr!(node, { mode: 0o700 }, undefined, root));
}

const DIFFERENCES = [
  'A /dir/again',
  'A /dir/file',
  'A /dir/link',
  'A /dir/new',
  'A /dir/sub/other',
  'A /moved',
  'A /moved/inner',
  'A /moved/inner/file',
  'C /dir/a',
  'C /dir/sub',
  'C /kept',
  'D /dir/b',
  'D /file',
  'D /from',
];

test('what an upper changed is listed', () =>
  onHost(async (layers, directory) => {
    assert.deepEqual((await run('diff', layers)).toSorted(), DIFFERENCES);
    await assert.rejects(run('diff', { lowers: [join(directory, 'lower')] }), /--upper is required/);
  }));

test('what an upper changed is exported as a layer of a container image, read by GNU tar', () =>
  onHost(async (layers, directory) => {
    const file = join(directory, 'layer.tar.gz');
    await run('export', { ...layers, file });
    const listed = execFileSync('tar', ['tf', file], { encoding: 'utf8' }).trim().split('\n');
    assert.deepEqual(listed.toSorted(), [
      '.wh.file',
      '.wh.from',
      'dir/.wh.b',
      'dir/a',
      'dir/again',
      'dir/file',
      'dir/link',
      'dir/new',
      'dir/sub/',
      'dir/sub/.wh..wh..opq',
      'dir/sub/other',
      'kept/',
      'moved/',
      'moved/inner/',
      'moved/inner/file',
    ]);
    const target = join(directory, 'extracted');
    mkdirSync(target);
    execFileSync('tar', ['xf', file, '-C', target]);
    const raw = await Paths.mount(share(target));
    assert.equal(await raw.read('/moved/inner/file'), 'lower from/inner/file');
    assert.equal(await raw.read('/dir/a'), 'changed');
    assert.equal((await raw.stat('/dir/new')).nlink, 2);
    await raw.backend.unmount!();
  }));

test('an exported layer, extracted, is a layer that shows the same', () =>
  onHost(async (layers, directory, shown) => {
    const file = join(directory, 'layer.tar');
    await run('export', { ...layers, file });
    const target = join(directory, 'extracted');
    mkdirSync(target);
    execFileSync('tar', ['xpf', file, '-C', target]);
    const lowers = [share(target), share(join(directory, 'lower'))];
    const union = await Paths.mount(createOverlay({ ...defaults, lowers, marks: 'names' }) as Backend);
    const seen = await view(union);
    // A layer cannot have links to another layer's files. So other names of the same file, which
    // are not in it, stay as they were.
    delete seen['/linked'];
    delete seen['/dir/a'];
    const expected = { ...shown };
    delete expected['/linked'];
    delete expected['/dir/a'];
    assert.deepEqual(seen, expected);
    await union.backend.unmount!();
  }));

test('what an upper changed is committed to the lower, which then shows the same alone', () =>
  onHost(async (layers, directory, shown) => {
    await run('commit', layers);
    const alone = await Paths.mount(share(join(directory, 'lower')));
    assert.deepEqual(await view(alone), shown);
    await alone.backend.unmount!();
    const left = readdirSync(join(directory, 'upper')).filter((name) => name !== '.virtiofs-kit-work');
    assert.deepEqual(left, []);
    const marks = execFileSync('getfattr', ['-R', '-d', '-m', 'overlay', join(directory, 'lower')]);
    assert.equal(marks.toString(), '');
  }));

test('a commit that was interrupted is completed by another', () =>
  onHost(async (layers, directory, shown) => {
    const upper = join(directory, 'upper');
    const flattened = createOverlay({ ...defaults, upper: share(upper), lowers: layers.lowers.map(share) });
    await flattened.mount(host);
    await flatten(flattened);
    await flattened.unmount!();
    execFileSync('cp', ['--archive', upper, `${upper}-before`]);
    await run('commit', layers);
    // The same upper, over a lower that has almost everything already.
    rmSync(upper, { recursive: true });
    execFileSync('cp', ['--archive', `${upper}-before`, upper]);
    rmSync(join(directory, 'lower/dir/file'));
    rmSync(join(directory, 'lower/moved'), { recursive: true });
    writeFileSync(join(directory, 'lower/from'), 'not yet removed');
    await run('commit', layers);
    const alone = await Paths.mount(share(join(directory, 'lower')));
    assert.deepEqual(await view(alone), shown);
    await alone.backend.unmount!();
  }));
