import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as fc from 'fast-check';
import { type Backend, FileType } from '../../../core/backend/index.js';
import { overlay as createOverlay } from '../../../backends/overlay/index.js';
import { passthrough } from '../../../backends/passthrough/backend.js';
import { options } from '../../../backends/passthrough/options.js';
import { defaults, host, Paths, root } from './support.js';
import { checkProperty } from '../../support/random.js';

/** What both sides can do; each throws an error with a `code`. */
interface Tree {
  write(path: string, text: string): unknown;
  mkdir(path: string): unknown;
  unlink(path: string): unknown;
  rmdir(path: string): unknown;
  rename(from: string, to: string): unknown;
  link(from: string, to: string): unknown;
  symlink(path: string, target: string): unknown;
  chmod(path: string, mode: number): unknown;
}

type Step = {
  readonly [Name in keyof Tree]: readonly [Name, ...Parameters<Tree[Name]>];
}[keyof Tree];

class KernelTree implements Tree {
  readonly directory: string;
  constructor(directory: string) {
    this.directory = directory;
  }
  write = (path: string, text: string): void => writeFileSync(this.directory + path, text);
  mkdir = (path: string): unknown => mkdirSync(this.directory + path);
  unlink = (path: string): void => unlinkSync(this.directory + path);
  rmdir = (path: string): void => rmdirSync(this.directory + path);
  rename = (from: string, to: string): void => renameSync(this.directory + from, this.directory + to);
  link = (from: string, to: string): void => linkSync(this.directory + from, this.directory + to);
  symlink = (path: string, target: string): void => symlinkSync(target, this.directory + path);
  chmod = (path: string, mode: number): void => chmodSync(this.directory + path, mode);
}

function failure(code: string): Error {
  return Object.assign(new Error(code), { code });
}

/** The overlay with the checks that a guest's VFS makes before it asks (Linux `fs/namei.c`). */
class OverlayTree implements Tree {
  readonly paths: Paths;
  constructor(paths: Paths) {
    this.paths = paths;
  }

  async #type(path: string): Promise<number | undefined> {
    let here = '';
    let type: number = FileType.DIRECTORY;
    for (const name of path.split('/').slice(1)) {
      // The symbolic links of this test lead nowhere.
      if (type === FileType.SYMLINK) throw failure('ENOENT');
      if (type !== FileType.DIRECTORY) throw failure('ENOTDIR');
      here = `${here}/${name}`;
      if (!(await this.paths.exists(here))) {
        if (here === path) return undefined;
        throw failure('ENOENT');
      }
      type = (await this.paths.stat(here)).mode & FileType.MASK;
    }
    return type;
  }

  async #existing(path: string): Promise<number> {
    const type = await this.#type(path);
    if (type === undefined) throw failure('ENOENT');
    return type;
  }

  /** Both parents of a rename are resolved before either name. */
  async #parent(path: string): Promise<void> {
    const directory = path.slice(0, path.lastIndexOf('/'));
    const type = directory === '' ? FileType.DIRECTORY : await this.#existing(directory);
    if (type === FileType.SYMLINK) throw failure('ENOENT');
    if (type !== FileType.DIRECTORY) throw failure('ENOTDIR');
  }

  async #free(path: string): Promise<void> {
    if ((await this.#type(path)) !== undefined) throw failure('EEXIST');
  }

  async write(path: string, text: string): Promise<void> {
    const type = await this.#type(path);
    if (type === FileType.DIRECTORY) throw failure('EISDIR');
    if (type === FileType.SYMLINK) throw failure('ENOENT');
    await this.paths.write(path, text);
  }
  async mkdir(path: string): Promise<void> {
    await this.#free(path);
    await this.paths.mkdir(path);
  }
  async unlink(path: string): Promise<void> {
    if ((await this.#existing(path)) === FileType.DIRECTORY) throw failure('EISDIR');
    await this.paths.unlink(path);
  }
  async rmdir(path: string): Promise<void> {
    if ((await this.#existing(path)) !== FileType.DIRECTORY) throw failure('ENOTDIR');
    await this.paths.rmdir(path);
  }
  async rename(from: string, to: string): Promise<void> {
    await this.#parent(from);
    await this.#parent(to);
    const source = await this.#existing(from);
    const target = await this.#type(to);
    if (to.startsWith(`${from}/`)) throw failure('EINVAL');
    if (from.startsWith(`${to}/`)) throw failure('ENOTEMPTY');
    if (source === FileType.DIRECTORY && target !== undefined && target !== FileType.DIRECTORY) {
      throw failure('ENOTDIR');
    }
    if (source !== FileType.DIRECTORY && target === FileType.DIRECTORY) throw failure('EISDIR');
    await this.paths.rename(from, to);
  }
  async link(from: string, to: string): Promise<void> {
    const source = await this.#existing(from);
    await this.#free(to);
    if (source === FileType.DIRECTORY) throw failure('EPERM');
    await this.paths.link(from, to);
  }
  async symlink(path: string, target: string): Promise<void> {
    await this.#free(path);
    await this.paths.symlink(path, target);
  }
  async chmod(path: string, mode: number): Promise<void> {
    if ((await this.#existing(path)) === FileType.SYMLINK) throw failure('ENOENT');
    await this.paths.at(path, (node) => this.paths.backend.setattr!(node, { mode }, undefined, root));
  }
}

const names = fc.constantFrom('a', 'b', 'c');
const paths = fc
  .array(names, { minLength: 1, maxLength: 3 })
  .map((parts) => parts.map((part) => `/${part}`).join(''));
const texts = fc.constantFrom('', 'short', 'x'.repeat(5000));

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(fc.constant('write' as const), paths, texts),
  fc.tuple(fc.constant('mkdir' as const), paths),
  fc.tuple(fc.constant('unlink' as const), paths),
  fc.tuple(fc.constant('rmdir' as const), paths),
  fc.tuple(fc.constant('rename' as const), paths, paths),
  fc.tuple(fc.constant('rename' as const), paths, paths),
  fc.tuple(fc.constant('link' as const), paths, paths),
  fc.tuple(fc.constant('symlink' as const), paths, fc.constant('/nonexistent/nowhere')),
  fc.tuple(fc.constant('chmod' as const), paths, fc.constantFrom(0o600, 0o755)),
);

async function outcome(tree: Tree, [name, ...parameters]: Step): Promise<string> {
  try {
    await (tree[name] as (...given: unknown[]) => unknown)(...parameters);
    return 'done';
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === undefined) throw error;
    return code;
  }
}

interface FileView {
  readonly type: number;
  readonly mode: number;
  readonly nlink: number;
  readonly content: string;
}

function kernelView(directory: string, path = ''): Record<string, FileView> {
  const shown: Record<string, FileView> = {};
  for (const name of readdirSync(directory + path).toSorted()) {
    const child = `${path}/${name}`;
    const { mode, nlink } = lstatSync(directory + child);
    const type = mode & FileType.MASK;
    const isDirectory = type === FileType.DIRECTORY;
    const content = isDirectory
      ? ''
      : type === FileType.SYMLINK
        ? readlinkSync(directory + child)
        : readFileSync(directory + child, 'utf8');
    shown[child] = { type, mode: mode & 0o7777, nlink: isDirectory ? 0 : nlink, content };
    if (isDirectory) Object.assign(shown, kernelView(directory, child));
  }
  return shown;
}

async function ourView(tree: Paths, path = ''): Promise<Record<string, FileView>> {
  const shown: Record<string, FileView> = {};
  for (const name of await tree.names(path)) {
    const child = `${path}/${name}`;
    const { mode, nlink = 1 } = await tree.stat(child);
    const type = mode & FileType.MASK;
    const isDirectory = type === FileType.DIRECTORY;
    const content = isDirectory
      ? ''
      : type === FileType.SYMLINK
        ? await tree.at(child, (node) => tree.backend.readlink!(node, root))
        : await tree.read(child);
    shown[child] = { type, mode: mode & 0o7777, nlink: isDirectory ? 0 : nlink, content };
    if (isDirectory) Object.assign(shown, await ourView(tree, child));
  }
  return shown;
}

let base: string;

before(() => {
  base = mkdtempSync(join(tmpdir(), 'virtiofs-kit-overlay-'));
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', base]);
});

after(() => {
  execFileSync('umount', ['--lazy', base]);
  rmSync(base, { recursive: true });
});

/** Lowers with files, directories, links, a shared name in both, and names of one only. */
function fillLowers(directory: string, links: boolean): void {
  for (const lower of ['top', 'bottom']) mkdirSync(join(directory, lower), { recursive: true });
  const bottom = join(directory, 'bottom');
  mkdirSync(join(bottom, 'a/b'), { recursive: true });
  writeFileSync(join(bottom, 'a/c'), 'bottom a/c');
  writeFileSync(join(bottom, 'a/b/a'), 'bottom a/b/a');
  if (links) linkSync(join(bottom, 'a/c'), join(bottom, 'a/b/c'));
  mkdirSync(join(bottom, 'c'));
  writeFileSync(join(bottom, 'b'), 'bottom b');
  const top = join(directory, 'top');
  mkdirSync(join(top, 'a'));
  writeFileSync(join(top, 'a/a'), 'top a/a');
  symlinkSync('a', join(top, 'a/link'));
  mkdirSync(join(top, 'b'));
  writeFileSync(join(top, 'b/a'), 'a directory of the top over a file of the bottom');
}

let round = 0;

function fresh(links: boolean): string {
  round += 1;
  const directory = join(base, `${round}`);
  mkdirSync(directory);
  fillLowers(directory, links);
  for (const name of ['kernel', 'ours']) {
    mkdirSync(join(directory, name, 'upper'), { recursive: true });
    mkdirSync(join(directory, name, 'work'));
  }
  mkdirSync(join(directory, 'mount'));
  return directory;
}

function mountKernel(directory: string, side: string, metacopy: boolean): void {
  const at = (name: string): string => join(directory, name);
  execFileSync('mount', [
    '-t',
    'overlay',
    'overlay',
    '-o',
    `lowerdir=${at('top')}:${at('bottom')},upperdir=${at(`${side}/upper`)},workdir=${at(`${side}/work`)},` +
      `redirect_dir=on,index=on,xino=on,metacopy=${metacopy ? 'on' : 'off'}`,
    at('mount'),
  ]);
}

/**
 * Takes the mount out of the tree at once, even if another program has something open on it
 * (EBUSY). A daemon that shares the host's root, as for guests with the host's tools, keeps a
 * descriptor on every mount that it meets.
 */
function unmountKernel(directory: string): void {
  execFileSync('umount', ['--lazy', join(directory, 'mount')]);
}

function share(directory: string): Backend {
  return passthrough(options.parse({ sharedDir: directory, trustedXattrs: 'allow' }), host.log) as Backend;
}

async function mountOurs(directory: string, side: string, metacopy: boolean): Promise<Paths> {
  const overlay = createOverlay({
    ...defaults,
    upper: share(join(directory, side)),
    lowers: [share(join(directory, 'top')), share(join(directory, 'bottom'))],
    upperPath: ['upper'],
    workPath: ['kit-work'],
    metacopy,
  });
  return Paths.mount(overlay as Backend);
}

const runs = Number(process.env['VIRTIOFS_KIT_OVERLAY_RUNS'] ?? 40);

/**
 * Makes the same changes on both sides, and compares the outcome of each. Then hands both trees
 * over.
 */
async function compare(
  sequence: readonly Step[],
  links: boolean,
  metacopy: boolean,
  then: (directory: string, expected: Record<string, FileView>) => Promise<void>,
): Promise<void> {
  const directory = fresh(links);
  mountKernel(directory, 'kernel', metacopy);
  const ours = await mountOurs(directory, 'ours', metacopy);
  let expected: Record<string, FileView>;
  try {
    const kernel = new KernelTree(join(directory, 'mount'));
    const overlay = new OverlayTree(ours);
    for (const [at, step] of sequence.entries()) {
      const outcomeThere = await outcome(kernel, step);
      assert.equal(await outcome(overlay, step), outcomeThere, `step ${at}: ${step.join(' ')}`);
    }
    expected = kernelView(kernel.directory);
    assert.deepEqual(await ourView(ours), expected);
  } finally {
    await ours.backend.unmount!();
    unmountKernel(directory);
  }
  await then(directory, expected);
  rmSync(directory, { recursive: true });
}

async function remounted(
  directory: string,
  side: string,
  metacopy: boolean,
): Promise<Record<string, FileView>> {
  const ours = await mountOurs(directory, side, metacopy);
  try {
    return await ourView(ours);
  } finally {
    await ours.backend.unmount!();
  }
}

const sequences = fc.array(steps, { minLength: 5, maxLength: 40 });

test("random changes have the outcome that they have on the kernel's overlayfs, also after a restart", async (t) => {
  await checkProperty(
    t,
    fc.asyncProperty(sequences, fc.boolean(), (sequence, metacopy) =>
      compare(sequence, true, metacopy, async (directory, expected) => {
        assert.deepEqual(await remounted(directory, 'ours', metacopy), expected);
      }),
    ),
    { numRuns: runs },
  );
});

test("the kernel's overlayfs mounts an upper that we wrote, and we one that it wrote", async (t) => {
  const withoutLinks = fc.array(
    steps.filter(([name]) => name !== 'link'),
    { minLength: 5, maxLength: 40 },
  );
  await checkProperty(
    t,
    fc.asyncProperty(withoutLinks, fc.boolean(), (sequence, metacopy) =>
      compare(sequence, false, metacopy, async (directory, expected) => {
        const ours = await remounted(directory, 'kernel', metacopy);
        assert.deepEqual(ours, expected, "the kernel's upper, read by us");
        mountKernel(directory, 'ours', metacopy);
        try {
          assert.deepEqual(kernelView(join(directory, 'mount')), expected, 'our upper, read by the kernel');
        } finally {
          unmountKernel(directory);
        }
      }),
    ),
    { numRuns: runs },
  );
});

/* Files of which only the metadata is in the upper, made by one side and used on by the other. */

/** Each file moved or linked in its own way, content left in the lowers. */
const moves: readonly Step[] = [
  ['chmod', '/a/c', 0o640],
  ['rename', '/a/c', '/a/near'],
  ['rename', '/a/b/a', '/c/far'],
  ['rename', '/a', '/d'],
  ['link', '/c/far', '/d/linked'],
  ['chmod', '/d/a', 0o600],
];
const filesMoved = ['/d/near', '/c/far', '/d/linked', '/d/a'];

async function apply(tree: Tree, changes: readonly Step[]): Promise<void> {
  for (const step of changes) assert.equal(await outcome(tree, step), 'done', step.join(' '));
}

async function onKernel<T>(
  directory: string,
  side: string,
  use: (tree: KernelTree) => T | Promise<T>,
): Promise<T> {
  mountKernel(directory, side, true);
  try {
    return await use(new KernelTree(join(directory, 'mount')));
  } finally {
    unmountKernel(directory);
  }
}

async function onOurs<T>(
  directory: string,
  side: string,
  use: (tree: OverlayTree) => Promise<T>,
): Promise<T> {
  const ours = await mountOurs(directory, side, true);
  try {
    return await use(new OverlayTree(ours));
  } finally {
    await ours.backend.unmount!();
  }
}

/** Content and blocks, as shown by the kernel or by us. */
const EXPECTED = ['bottom a/c', 'bottom a/b/a', 'bottom a/b/a', 'top a/a'];

function kernelFiles({ directory }: KernelTree): [string, number][] {
  return filesMoved.map((path) => [
    readFileSync(directory + path, 'utf8'),
    lstatSync(directory + path).blocks,
  ]);
}

async function ourFiles({ paths: tree }: OverlayTree): Promise<[string, number][]> {
  const files: [string, number][] = [];
  for (const path of filesMoved) files.push([await tree.read(path), (await tree.stat(path)).blocks!]);
  return files;
}

function inUpper(directory: string, side: string): number[] {
  return filesMoved.map((path) => lstatSync(join(directory, side, 'upper') + path).blocks);
}

test('the kernel reads and fills files of which we copied up the metadata alone', async () => {
  const directory = fresh(false);
  const ours = await onOurs(directory, 'ours', async (tree) => {
    await apply(tree, moves);
    return ourFiles(tree);
  });
  assert.deepEqual(
    ours.map(([content]) => content),
    EXPECTED,
  );
  assert.deepEqual(inUpper(directory, 'ours'), [0, 0, 0, 0]);
  await onKernel(directory, 'ours', async (tree) => {
    assert.deepEqual(kernelFiles(tree), ours);
    appendFileSync(`${tree.directory}/c/far`, '!');
    truncateSync(`${tree.directory}/d/near`, 6);
  });
  await onOurs(directory, 'ours', async (tree) => {
    const contents = (await ourFiles(tree)).map(([content]) => content);
    assert.deepEqual(contents, ['bottom', 'bottom a/b/a!', 'bottom a/b/a!', 'top a/a']);
  });
});

test('we read and fill files of which the kernel copied up the metadata alone', async () => {
  const directory = fresh(false);
  const theirs = await onKernel(directory, 'kernel', async (tree) => {
    await apply(tree, moves);
    return kernelFiles(tree);
  });
  assert.deepEqual(inUpper(directory, 'kernel'), [0, 0, 0, 0]);
  await onOurs(directory, 'kernel', async (tree) => {
    assert.deepEqual(await ourFiles(tree), theirs);
    await tree.paths.write('/c/far', 'BOTTOM', 0);
    await tree.paths.at('/d/near', (node) => tree.paths.backend.setattr!(node, { size: 6 }, undefined, root));
  });
  await onKernel(directory, 'kernel', (tree) => {
    const contents = kernelFiles(tree).map(([content]) => content);
    assert.deepEqual(contents, ['bottom', 'BOTTOM a/b/a', 'BOTTOM a/b/a', 'top a/a']);
  });
});
