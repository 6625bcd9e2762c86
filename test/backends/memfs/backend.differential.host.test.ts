import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { Arena } from '../../../backends/memfs/content/arena.js';
import { MemfsBackend } from '../../../backends/memfs/backend.js';
import { PAGE_BYTES } from '../../../backends/memfs/content/chunk.js';
import { Space } from '../../../backends/memfs/tree/space.js';
import { Tree } from '../../../backends/memfs/tree/tree.js';
import { FallocateMode, FileType, FsError } from '../../../core/backend/index.js';
import { digest, type Driver, extents, HostDriver, MemfsDriver } from './drivers.js';
import { checkProperty } from '../../support/random.js';

/** Sequences of operations per property; VIRTIOFS_KIT_RUNS=1000 for a long run. */
const RUNS = Number(process.env['VIRTIOFS_KIT_RUNS'] ?? 60);
const STEPS = 60;

/**
 * What a sequence of operations carries from step to step: handles, which have the same numbers for
 * both drivers.
 */
interface State {
  readonly driver: Driver;
  readonly handles: number[];
}

interface Operation {
  readonly name: string;
  /** @returns an answer, which must be the same for both drivers. */
  run(state: State): unknown;
}

const anyName = fc.constantFrom('a', 'b', 'c');
const anyPath = fc.oneof(
  { weight: 3, arbitrary: anyName },
  { weight: 2, arbitrary: fc.tuple(anyName, anyName).map((parts) => parts.join('/')) },
  { weight: 1, arbitrary: fc.tuple(anyName, anyName, anyName).map((parts) => parts.join('/')) },
);
const anyMode = fc.constantFrom(0o644, 0o755, 0o4711, 0o2755, 0o2644, 0o1777, 0o600);
const anyUmask = fc.constantFrom(0, 0o022, 0o077);
const anyHandle = fc.nat(3);
const anyOffset = fc.oneof(
  fc.nat(9000),
  fc.nat(100).map((page) => page * PAGE_BYTES),
  fc.nat(400_000),
  fc.constantFrom(131_072, 131_071, 262_144, 1 << 23, 5 * 2 ** 30, 0),
);
const anyLength = fc.oneof(
  fc.nat(300),
  fc.nat(20_000),
  fc.nat(60).map((page) => page * PAGE_BYTES),
  fc.nat(300_000),
);
const anyXattr = fc.constantFrom('user.a', 'trusted.b', 'security.c', 'user.', 'nothing.d');

/**
 * `user::rwx,user:5:rw,group::r-x,mask::r-x,other::r--` and one that says no more than a mode does.
 */
const acls = [acl([1, 7], [2, 6, 5], [4, 5], [16, 5], [32, 4]), acl([1, 6], [4, 4], [32, 0])];

function acl(...entries: (readonly [tag: number, permissions: number, id?: number])[]): Uint8Array {
  const value = Buffer.alloc(4 + entries.length * 8);
  value.writeUInt32LE(2, 0);
  entries.forEach(([tag, permissions, id = 0xffffffff], i) => {
    value.writeUInt16LE(tag, 4 + i * 8);
    value.writeUInt16LE(permissions, 6 + i * 8);
    value.writeUInt32LE(id, 8 + i * 8);
  });
  return new Uint8Array(value);
}

function operation<T extends unknown[]>(
  title: string,
  arbitraries: { [K in keyof T]: fc.Arbitrary<T[K]> },
  run: (state: State, ...values: T) => unknown,
): fc.Arbitrary<Operation> {
  return fc.tuple<T>(...arbitraries).map((values) => ({
    name: `${title}(${values.map((value) => JSON.stringify(value)).join(', ')})`,
    run: (state: State) => run(state, ...values),
  }));
}

/** Runs `use` with a handle, if the sequence has opened that many files. */
function withHandle(state: State, index: number, use: (id: number) => unknown): unknown {
  const chosen = state.handles[index];
  return chosen === undefined ? 'none' : use(chosen);
}

/**
 * An open file's dentry keeps the directory that it was in, and that directory's inode: a removed
 * directory would still count in the kernel, where no file system can know of it.
 */
function pinsDirectories({ handles }: State): boolean {
  return handles.length > 0;
}

function isDirectory({ driver }: State, path: string): boolean {
  try {
    return (driver.lstat(path).mode & FileType.MASK) === FileType.DIRECTORY;
  } catch {
    return false;
  }
}

function content(seed: number, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (Math.imul(i + seed, 2654435761) >>> 24) | 1);
}

const { KEEP_SIZE, PUNCH_HOLE } = FallocateMode;

const names = fc.oneof(
  operation(
    'mknod',
    [
      anyPath,
      fc.constantFrom(FileType.REGULAR, FileType.FIFO, FileType.CHARACTER, FileType.SOCKET),
      anyMode,
      anyUmask,
    ],
    (s, p, t, m, u) => s.driver.mknod(p, t | m, u),
  ),
  operation('mkdir', [anyPath, anyMode, anyUmask], (s, p, m, u) => s.driver.mkdir(p, m, u)),
  operation(
    'symlink',
    [anyPath, fc.constantFrom('x', 'x/'.repeat(63) + 'x', 'x/'.repeat(64), 'x/' + 'é'.repeat(120))],
    (s, p, t) => s.driver.symlink(p, t),
  ),
  operation('link', [anyPath, anyPath], (s, p, q) => s.driver.link(p, q)),
  operation('unlink', [anyPath], (s, p) => s.driver.unlink(p)),
  operation('rmdir', [anyPath], (s, p) => (pinsDirectories(s) ? 'skipped' : s.driver.rmdir(p))),
  operation('rename', [anyPath, anyPath, fc.constantFrom(0, 0, 0, 1, 2, 4, 5, 3)], (s, p, q, f) =>
    pinsDirectories(s) && isDirectory(s, q) ? 'skipped' : s.driver.rename(p, q, f),
  ),
  operation('readlink', [anyPath], (s, p) => s.driver.readlink(p)),
  operation('list', [anyPath], (s, p) => s.driver.list(p)),
);
const attributes = fc.oneof(
  operation('chmod', [anyPath, anyMode], (s, p, m) => s.driver.chmod(p, m)),
  operation('chown', [anyPath, fc.nat(2), fc.nat(2)], (s, p, u, g) => s.driver.chown(p, u, g)),
  operation('truncate', [anyPath, anyOffset], (s, p, o) => s.driver.truncate(p, o)),
  operation('utimes', [anyPath, fc.nat(2 ** 31), fc.nat(2 ** 31)], (s, p, a, m) => s.driver.utimes(p, a, m)),
  operation(
    'setxattr',
    [anyPath, anyXattr, fc.uint8Array({ maxLength: 300 }), fc.constantFrom(0, 1, 2)],
    (s, p, n, v, f) => s.driver.setxattr(p, n, v, f),
  ),
  operation('removexattr', [anyPath, anyXattr], (s, p, n) => s.driver.removexattr(p, n)),
  operation('setacl', [anyPath, fc.constantFrom('access', 'default'), fc.nat(1)], (s, p, n, i) =>
    s.driver.setxattr(p, `system.posix_acl_${n}`, acls[i]!, 0),
  ),
);
const descriptors = fc.oneof(
  operation('open', [anyPath], (s, p) => {
    if (s.handles.length < 4 && (s.driver.lstat(p).mode & FileType.MASK) === FileType.REGULAR)
      s.handles.push(s.driver.open(p));
  }),
  operation('tmpfile', [fc.constantFrom('', 'a', 'b'), anyMode], (s, p, m) => {
    if ((s.driver.lstat(p).mode & FileType.MASK) === FileType.DIRECTORY && s.handles.length < 4)
      s.handles.push(s.driver.tmpfile(p, m));
  }),
  operation('close', [anyHandle], (s, h) =>
    withHandle(s, h, (id) => {
      s.driver.close(id);
      s.handles.splice(h, 1);
    }),
  ),
  operation('linkHandle', [anyHandle, anyPath], (s, h, p) =>
    withHandle(s, h, (id) => s.driver.linkHandle(id, p)),
  ),
  operation('write', [anyHandle, anyOffset, anyLength, fc.nat(255)], (s, h, o, l, seed) =>
    withHandle(s, h, (id) => s.driver.write(id, o, content(seed, l))),
  ),
  operation('ftruncate', [anyHandle, anyOffset], (s, h, o) =>
    withHandle(s, h, (id) => s.driver.ftruncate(id, o)),
  ),
  operation(
    'fallocate',
    [
      anyHandle,
      fc.constantFrom(0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE),
      anyOffset,
      anyLength,
    ],
    (s, h, m, o, l) => withHandle(s, h, (id) => s.driver.fallocate(id, m, o, l)),
  ),
  operation('copy', [anyHandle, anyOffset, anyHandle, anyOffset, anyLength], (s, h, o, i, p, l) =>
    withHandle(s, h, (from) => withHandle(s, i, (to) => s.driver.copy(from, o, to, p, l))),
  ),
  operation('read', [anyHandle, anyOffset, anyLength], (s, h, o, l) =>
    withHandle(s, h, (id) => Buffer.from(s.driver.read(id, o, l)).toString('hex')),
  ),
);
const operations = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: names },
    { weight: 2, arbitrary: attributes },
    { weight: 5, arbitrary: descriptors },
  ),
  { minLength: 1, maxLength: STEPS, size: 'max' },
);

/** Runs a step. @returns its answer, or its errno. */
function answer(step: Operation, state: State): unknown {
  try {
    return step.run(state) ?? 'done';
  } catch (error) {
    if (error instanceof FsError) return error.code;
    throw error;
  }
}

interface Observed {
  readonly stats: Map<string, unknown>;
  readonly times: Map<string, { mtime: string; ctime: string }>;
}

/**
 * Everything that can be seen: the tree, and the open files.
 * @param holes where data is too. A fallocate that fails on tmpfs leaves pages that it did not
 * allocate as data.
 */
function observe({ driver, handles }: State, holes = true): Observed {
  const stats = new Map<string, unknown>();
  const times = new Map<string, { mtime: string; ctime: string }>();
  const identities = new Map<number, number>();
  const show = (key: string, at: string | undefined, id?: number): void => {
    const { ino, atime: _, mtime, ctime, ...shown } = at === undefined ? driver.fstat(id!) : driver.lstat(at);
    if (!identities.has(ino)) identities.set(ino, identities.size);
    const type = shown.mode & FileType.MASK;
    const opened = id ?? (type === FileType.REGULAR ? driver.open(at!) : undefined);
    const data =
      opened === undefined
        ? ''
        : `${holes ? extents(driver, opened) : ''} ${shown.size < 1 << 21 ? digest(driver, opened, shown.size) : ''}`;
    if (id === undefined && opened !== undefined) driver.close(opened);
    stats.set(key, {
      ...shown,
      same: identities.get(ino),
      data,
      target: type === FileType.SYMLINK ? driver.readlink(at!) : '',
      xattrs: at === undefined ? [] : driver.xattrs(at),
    });
    times.set(key, { mtime, ctime });
    if (at === undefined || type !== FileType.DIRECTORY) return;
    for (const child of driver.list(at)) show(`${key}/${child}`, at === '' ? child : `${at}/${child}`);
  };
  show('', '');
  handles.forEach((id, i) => show(`handle ${i}`, undefined, id));
  return { stats, times };
}

/** Names of the files whose times changed. */
function changes(earlier: Observed, later: Observed): string[] {
  const changed: string[] = [];
  for (const [key, { mtime, ctime }] of later.times) {
    const old = earlier.times.get(key);
    if (old === undefined) continue;
    if (old.mtime !== mtime) changed.push(`mtime ${key}`);
    if (old.ctime !== ctime) changed.push(`ctime ${key}`);
  }
  return changed;
}

/** What is compared after each step. After the last step, everything is compared. */
type Thoroughness = 'answers' | 'state' | 'times';

/** The kernel's clock for timestamps ticks every 4 ms or less. */
const TICK_MS = 5;
const pause = new Int32Array(new SharedArrayBuffer(4));

function compare(steps: readonly Operation[], ours: State, theirs: State, thoroughness: Thoroughness): void {
  let ourBefore = observe(ours);
  let theirBefore = observe(theirs);
  const done: string[] = [];
  for (const step of steps) {
    done.push(step.name);
    if (thoroughness === 'times') Atomics.wait(pause, 0, 0, TICK_MS);
    assert.deepEqual(answer(step, ours), answer(step, theirs), done.join('\n'));
    if (thoroughness === 'answers') continue;
    const ourAfter = observe(ours);
    const theirAfter = observe(theirs);
    assert.deepEqual(ourAfter.stats, theirAfter.stats, done.join('\n'));
    if (thoroughness === 'times') {
      assert.deepEqual(changes(ourBefore, ourAfter), changes(theirBefore, theirAfter), done.join('\n'));
    }
    ourBefore = ourAfter;
    theirBefore = theirAfter;
  }
  const holes = thoroughness !== 'answers';
  assert.deepEqual(observe(ours, holes).stats, observe(theirs, holes).stats, done.join('\n'));
  assert.deepEqual(ours.driver.statfs(), theirs.driver.statfs(), done.join('\n'));
}

const refused = process.getuid?.() === 0 ? false : 'mounting a tmpfs takes root';
let directory: string;

before(() => {
  directory = mkdtempSync(join(tmpdir(), 'memfs-'));
});

after(() => {
  rmdirSync(directory);
});

/** Runs with an empty tmpfs of this size. */
function withTmpfs(pages: number, inodes: number, use: (root: string) => void): void {
  const options = `size=${pages * PAGE_BYTES},nr_inodes=${inodes},mode=755,huge=never`;
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'memfs-test', directory]);
  assert.equal(mounted.status, 0, String(mounted.stderr));
  try {
    use(directory);
  } finally {
    assert.equal(spawnSync('umount', [directory]).status, 0);
  }
}

async function check(
  t: TestContext,
  pages: number,
  inodes: number,
  thoroughness: Thoroughness,
  runs: number,
): Promise<void> {
  await checkProperty(
    t,
    fc.property(operations, (steps) => {
      withTmpfs(pages, inodes, (root) => {
        const arena = new Arena();
        const tree = new Tree(arena, new Space(pages, inodes));
        const ours: State = { driver: new MemfsDriver(new MemfsBackend(tree)), handles: [] };
        const theirs: State = { driver: new HostDriver(root), handles: [] };
        try {
          compare(steps, ours, theirs, thoroughness);
        } finally {
          for (const id of theirs.handles) theirs.driver.close(id);
        }
        for (const id of ours.handles) ours.driver.close(id);
        tree.history.discard();
        assert.equal(arena.blockBytes, 0);
      });
    }),
    { numRuns: runs },
  );
}

test(
  'random operations have the same answers, and leave the same files, as on tmpfs',
  { skip: refused },
  async (t) => {
    await check(t, 1 << 16, 1000, 'state', RUNS);
  },
);

test('random operations change the times that they change on tmpfs', { skip: refused }, async (t) => {
  await check(t, 1 << 16, 1000, 'times', Math.ceil(RUNS / 4));
});

test(
  'random operations run out of space and of inodes where they do on tmpfs',
  { skip: refused },
  async (t) => {
    await check(t, 60, 12, 'answers', RUNS * 2);
  },
);
