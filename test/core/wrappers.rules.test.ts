import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import {
  type Backend,
  DAEMON,
  FileType,
  FsError,
  type NodeKey,
  OpenFlags,
  RenameFlags,
} from '../../core/backend/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { type PathRule, routed } from '../../core/wrappers/index.js';
import { MemfsVolume } from '../../backends/memfs/index.js';
import { overlay } from '../../backends/overlay/index.js';
import { defaults, host } from '../backends/overlay/support.js';
import { Random, repetitions, withSeed } from '../support/random.js';

/** Content and names that no guest may see. */
const SECRET = 'secret';

const FILES = {
  '/hidden/secret-name': SECRET,
  '/hidden/deep/secret-name': SECRET,
  '/work/hidden-file': SECRET,
  '/denied/secret-name': SECRET,
  '/work/deep/denied-file': SECRET,
  '/fixed/file': 'fixed',
  '/fixed/deep/file': 'fixed',
  '/work/fixed-file': 'fixed',
  '/target/file': 'open',
  '/target/deep/file': 'open',
  '/target/deep/hidden-file': SECRET,
  '/target/fixed/file': 'fixed',
  '/work/file': 'open',
  '/work/deep/file': 'open',
  '/other/file': 'open',
  '/covered/secret-name': SECRET,
};

const RULES: readonly PathRule[] = [
  { path: '/hidden', access: 'hidden' },
  { path: '/work/hidden-file', access: 'hidden' },
  { path: '/target/deep/hidden-file', access: 'hidden' },
  { path: '/missing/hidden', access: 'hidden' },
  { path: '/denied', access: 'denied' },
  { path: '/work/deep/denied-file', access: 'denied' },
  { path: '/fixed', access: 'read-only' },
  { path: '/work/fixed-file', access: 'read-only' },
  { path: '/target/fixed', access: 'read-only' },
  { path: '/covered', access: 'redirected', to: '/target' },
  { path: '/work/alias', access: 'redirected', to: '/other/file' },
];

/** What no guest may change, nor make. */
const KEPT = ['/hidden', '/work/hidden-file', '/target/deep/hidden-file', '/missing/hidden', '/denied']
  .concat(['/work/deep/denied-file', '/fixed', '/work/fixed-file', '/target/fixed', '/covered'])
  .concat(['/work/alias']);

const NAMES = [
  'hidden',
  'work',
  'hidden-file',
  'missing',
  'denied',
  'deep',
  'denied-file',
  'fixed',
  'file',
].concat(['fixed-file', 'target', 'covered', 'alias', 'other', 'new', 'moved']);

function memory(): Backend {
  return MemfsVolume.fromJSON(FILES).backend as Backend;
}

function layered(): Backend {
  return overlay({
    ...defaults,
    upper: new MemfsVolume().backend,
    lowers: [MemfsVolume.fromJSON(FILES).backend],
  }) as Backend;
}

/** All that is at a path and below, as the owner sees it. */
async function told(backend: Backend, root: object, path: string): Promise<string[]> {
  let node = root;
  let type: number = FileType.DIRECTORY;
  for (const name of path.split('/').slice(1)) {
    const entry = type === FileType.DIRECTORY ? await backend.lookup(node, name, DAEMON) : undefined;
    if (entry === undefined) return [`${path} none`];
    ({ node } = entry);
    type = entry.attributes.mode & FileType.MASK;
  }
  const { mode } = { ...(await backend.getattr(node, undefined, DAEMON)) };
  if (type === FileType.SYMLINK) return [`${path} ${mode}`];
  if (type !== FileType.DIRECTORY) return [`${path} ${mode} ${await content(backend, node)}`];
  const lines = [`${path} ${mode}`];
  for (const name of (await namesIn(backend, node)).sort())
    lines.push(...(await told(backend, root, `${path}/${name}`)));
  return lines;
}

async function toldOf(backend: Backend, root: object): Promise<string[]> {
  const lines: string[] = [];
  for (const path of KEPT) lines.push(...(await told(backend, root, path)));
  return lines;
}

async function namesIn(backend: Backend, node: object): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of await backend.readdir!(node, DAEMON))
    if (name !== '.' && name !== '..') names.push(name);
  return names;
}

async function content(backend: Backend, node: object): Promise<string> {
  const { file } = (await backend.open?.(node, OpenFlags.READ_ONLY, DAEMON)) ?? { file: undefined };
  const buffer = hostBuffer(64);
  try {
    const count = await backend.read!(node, file, buffer, 0, DAEMON);
    return Buffer.from(buffer.bytes.subarray(0, count)).toString();
  } finally {
    buffer.close();
    await backend.release?.(node, file);
  }
}

/** A guest that tries whatever requests there are, with whatever it has got. */
class Intruder {
  readonly #tree: Backend;
  readonly #root: object;
  readonly #random: Random;
  readonly #nodes: object[];
  readonly #keys: NodeKey[] = [];

  constructor(tree: Backend, root: object, random: Random) {
    this.#tree = tree;
    this.#root = root;
    this.#random = random;
    this.#nodes = [root];
  }

  async act(): Promise<void> {
    const tree = this.#tree;
    const { pick, node, name } = {
      pick: <T>(values: readonly T[]): T => this.#random.pick(values),
      node: () => this.#random.pick(this.#nodes),
      name: () => this.#random.pick(NAMES),
    };
    const acts: (() => Promise<unknown>)[] = [
      async () => this.#take((await tree.lookup(node(), name(), DAEMON))?.node),
      async () => this.#take((await tree.lookup(node(), name(), DAEMON))?.node),
      async () => this.#take(await tree.parent!(node(), DAEMON)),
      async () => this.#keys.length > 0 && this.#take(await tree.resolve!(pick(this.#keys))),
      async () => this.#forget(node()),
      async () => this.#take((await tree.mkdir!(node(), name(), 0o755, DAEMON)).node),
      async () => this.#take((await tree.symlink!(node(), name(), '/hidden', DAEMON)).node),
      async () => this.#take((await tree.mknod!(node(), name(), FileType.REGULAR | 0o644, 0, DAEMON)).node),
      async () => this.#take((await tree.link!(node(), node(), name(), DAEMON)).node),
      async () => {
        const { node: made, file } = await tree.create!(node(), name(), 0o644, OpenFlags.READ_WRITE, DAEMON);
        await tree.release?.(made, file);
        await this.#take(made);
      },
      async () => {
        const { node: made, file } = await tree.tmpfile!(node(), 0o644, OpenFlags.READ_WRITE, DAEMON);
        await tree.link!(made, node(), name(), DAEMON);
        await tree.release?.(made, file);
        await this.#take(made);
      },
      async () => tree.unlink!(node(), name(), DAEMON),
      async () => tree.rmdir!(node(), name(), DAEMON),
      async () =>
        tree.rename!(
          node(),
          name(),
          node(),
          name(),
          pick([0, 0, RenameFlags.EXCHANGE, RenameFlags.NOREPLACE]),
          DAEMON,
        ),
      async () => tree.setattr!(node(), { mode: 0o700 }, undefined, DAEMON),
      async () => tree.setattr!(node(), { size: 1 }, undefined, DAEMON),
      async () => tree.setxattr!(node(), 'user.a', Buffer.from('x'), 0, false, DAEMON),
      () => this.#write(node()),
      () => this.#copy(node(), node()),
    ];
    try {
      await pick(acts)();
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
  }

  /** Looks at what it has got. */
  async #take(node: object | undefined): Promise<void> {
    if (node === undefined) return;
    if (!this.#nodes.includes(node)) this.#nodes.push(node);
    this.#keys.push(this.#tree.key!(node));
    const { mode } = { ...(await this.#tree.getattr(node, undefined, DAEMON)) };
    const type = mode & FileType.MASK;
    if (type === FileType.REGULAR) assert.notEqual(await content(this.#tree, node), SECRET);
    if (type === FileType.DIRECTORY)
      for (const name of await namesIn(this.#tree, node)) assert.notEqual(name, 'secret-name');
  }

  #forget(node: object): Promise<void> {
    if (node !== this.#root) {
      this.#nodes.splice(this.#nodes.indexOf(node), 1);
      this.#tree.forget!(node);
    }
    return Promise.resolve();
  }

  async #write(node: object): Promise<void> {
    const { file } = await this.#tree.open!(node, OpenFlags.READ_WRITE, DAEMON);
    const buffer = hostBuffer(3);
    try {
      await this.#tree.write!(node, file, buffer, 0, 0, DAEMON);
    } finally {
      buffer.close();
      await this.#tree.release?.(node, file);
    }
  }

  async #copy(from: object, to: object): Promise<void> {
    const { file } = await this.#tree.open!(from, OpenFlags.READ_ONLY, DAEMON);
    const { file: target } = await this.#tree.open!(to, OpenFlags.READ_WRITE, DAEMON);
    await this.#tree.copyFileRange!(from, file, 0, to, target, 0, 8, DAEMON);
    await this.#tree.release?.(from, file);
    await this.#tree.release?.(to, target);
  }
}

async function attack(t: TestContext, make: () => Backend, runs: number): Promise<void> {
  await withSeed(t, 1, async (seed) => {
    for (let run = 0; run < repetitions(runs); run++) {
      const inner = make();
      const tree = routed({ mounts: { '/': inner }, rules: RULES }) as Backend;
      const root = await tree.mount(host);
      const innerRoot = (root as { readonly inner: object }).inner;
      const before = await toldOf(inner, innerRoot);
      const intruder = new Intruder(tree, root, new Random(seed + run));
      for (let count = 0; count < 300; count++) await intruder.act();
      const after = await toldOf(inner, innerRoot);
      assert.deepEqual(after, before, `run ${run}`);
      await tree.unmount?.();
    }
  });
}

test('whatever a guest tries, rules hold, in memory', (t) => attack(t, memory, 200));

test('whatever a guest tries, rules hold, over an overlay', (t) => attack(t, layered, 60));

test('a rule holds in a directory that was forgotten and is found again from below', async () => {
  const tree = routed({ mounts: { '/': memory() }, rules: RULES }) as Backend;
  const root = await tree.mount(host);
  const work = (await tree.lookup(root, 'work', DAEMON))!.node;
  const deep = (await tree.lookup(work, 'file', DAEMON))!.node;
  tree.forget!(deep);
  const target = (await tree.lookup(root, 'target', DAEMON))!.node;
  const below = (await tree.lookup(target, 'deep', DAEMON))!.node;
  const made = (await tree.mkdir!(below, 'made', 0o755, DAEMON)).node;
  const key = tree.key!(made);
  for (const node of [made, below, target]) tree.forget!(node);
  const again = await tree.parent!(await tree.resolve!(key), DAEMON);
  assert.equal(await tree.lookup(again, 'hidden-file', DAEMON), undefined);
  assert.deepEqual((await namesIn(tree, await tree.parent!(again, DAEMON))).sort(), [
    'deep',
    'file',
    'fixed',
  ]);
});
