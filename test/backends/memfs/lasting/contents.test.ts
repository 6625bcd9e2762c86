import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test, type TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MemfsBackend } from '../../../../backends/memfs/backend.js';
import { Arena } from '../../../../backends/memfs/content/arena.js';
import { Bytes } from '../../../../backends/memfs/content/bytes.js';
import { CHUNK_BYTES } from '../../../../backends/memfs/content/chunk.js';
import { allInodes } from '../../../../backends/memfs/saved-state.js';
import { type Inode, pagesOf, sizeOf } from '../../../../backends/memfs/tree/inode.js';
import { Space } from '../../../../backends/memfs/tree/space.js';
import { Tree } from '../../../../backends/memfs/tree/tree.js';
import { acceleratorOf, type LastingContents } from '../../../../core/backend/accelerator.js';
import { FallocateMode, FileType, FsError, OpenFlags } from '../../../../core/backend/index.js';
import { RecordLog } from '../../../../core/lasting-memory/index.js';
import { contentsMemory, makeContentsMemory } from '../../../../core/plugins/lasting-memory.js';
import type { OwnedFd } from '../../../../core/system/index.js';
import { Random, repetitions, withSeed } from '../../../support/random.js';
import { bufferOf, caller, host } from '../support.js';

const ARENA_BYTES = 2 ** 30;
const root = caller();

interface Volume {
  readonly fs: MemfsBackend;
  readonly tree: Tree;
  readonly top: Inode;
}

function contentsOf(fs: MemfsBackend): LastingContents {
  return acceleratorOf(fs)!.contents!;
}

/** A volume; kept in memory if there is any, in which a former process has `left` something. */
function make(fd?: OwnedFd, left = false): Volume {
  const tree = new Tree(new Arena(ARENA_BYTES), new Space(1 << 18, 100_000));
  const fs = new MemfsBackend(tree);
  if (fd !== undefined) {
    if (left) contentsOf(fs).recover(contentsMemory(fd));
    else assert.equal(contentsOf(fs).begin(contentsMemory(fd)), true);
  }
  return { fs, tree, top: fs.mount(host) };
}

function memory(t: TestContext): OwnedFd {
  const { fs } = make();
  const fd = makeContentsMemory(contentsOf(fs).bytes);
  t.after(() => fd.close());
  return fd;
}

/** Everything of a volume but times. */
function dump({ tree, fs }: Volume): string {
  const lines = [...allInodes(tree)].map((inode) => {
    const { ino, mode, uid, gid, nlink, rdev, target, content } = inode;
    const names = [...(inode.entries ?? [])].map(([name, child]) => `${name}=${child.ino}`).sort();
    const xattrs = [...(inode.xattrs ?? [])].map(([name, value]) => `${name}=${sha1(value)}`);
    const bytes =
      content === undefined ? [] : [...content.extents()].map(([from, to]) => digest(inode, from, to));
    const blank = [...(content?.allocations() ?? [])].flat();
    const size = content === undefined ? 0 : sizeOf(inode);
    const all = [
      ino,
      mode,
      uid,
      gid,
      nlink,
      rdev,
      size,
      target,
      pagesOf(inode),
      names,
      xattrs.sort(),
      bytes,
      blank,
    ];
    return JSON.stringify(all);
  });
  const { pages, inodes, contentHeapBytes } = tree.space;
  // A tree of chunks keeps levels that it has no more use for.
  const heap = [...allInodes(tree)].reduce((sum, { content }) => sum + (content?.heapBytes ?? 0), 0);
  const usage = [pages, inodes, contentHeapBytes - heap, fs.statfs().filesFree];
  return [...lines.sort(), JSON.stringify(usage)].join('\n');
}

function sha1(bytes: Uint8Array): string {
  return createHash('sha1').update(bytes).digest('hex');
}

function digest({ content }: Inode, from: number, to: number): string {
  const hash = createHash('sha1');
  for (let at = from; at < to; at += CHUNK_BYTES) {
    const piece = new Uint8Array(Math.min(CHUNK_BYTES, to - at));
    content!.read(new Bytes(piece), at);
    hash.update(piece);
  }
  return `${from}-${to} ${hash.digest('hex')}`;
}

/** A change, to be made again with the same values. */
type Change = (volume: Volume) => void;

const NAMES = 7;

/** Offsets in files: at edges of chunks and pages, and far away. */
function offset(random: Random): number {
  const index = random.pick([0, 0, 0, 1, 2, 3, 63, 64, 130, 5000]);
  return index * CHUNK_BYTES + random.below(4) * random.pick([0, 100, 4096, 40_000]);
}

/** What a guest may do, as the backend gets it. */
function change(random: Random): Change {
  const name = `n${random.below(NAMES)}`;
  const other = `n${random.below(NAMES)}`;
  const inner = random.once(3) ? `d${random.below(2)}` : undefined;
  const newInner = random.once(3) ? `d${random.below(2)}` : undefined;
  const at = offset(random);
  const bytes = random.bytes(random.pick([1, 100, 4096, 5000, 70_000]));
  const number = random.below(1000);
  const parent = ({ top, tree }: Volume, within = inner): Inode =>
    (within === undefined ? undefined : tree.lookup(top, within)) ?? top;
  const file = (volume: Volume): Inode | undefined => volume.tree.lookup(parent(volume), name);
  const opened = { append: false, noAtime: false };
  const context = random.once(2) ? root : caller({ uid: 1000, gid: 1000 });
  switch (random.below(20)) {
    case 0:
      return (volume) => void volume.fs.mkdir(volume.top, `d${number & 1}`, 0o755, context);
    case 1:
      return (volume) => void volume.fs.create(parent(volume), name, 0o644, OpenFlags.READ_WRITE, context);
    case 2: {
      const type = random.pick([FileType.FIFO, FileType.CHARACTER, FileType.SOCKET, FileType.REGULAR]);
      return (volume) => void volume.fs.mknod(parent(volume), name, type | 0o640, number, context);
    }
    case 3:
      return (volume) =>
        void volume.fs.symlink(parent(volume), name, 'é\udc80'.repeat(1 + (number % 90)), context);
    case 4:
      return (volume) => {
        const found = file(volume);
        if (found !== undefined) volume.fs.link(found, parent(volume, newInner), other);
      };
    case 5:
      return (volume) => volume.fs.unlink(parent(volume), name);
    case 6:
      return (volume) => volume.fs.rmdir(volume.top, `d${number & 1}`);
    case 7:
      return (volume) =>
        volume.fs.rename(
          parent(volume),
          name,
          parent(volume, newInner),
          other,
          number % 3 === 0 ? 2 : 0,
          context,
        );
    case 8:
      return (volume) =>
        volume.fs.rename(
          volume.top,
          `d${number & 1}`,
          parent(volume, newInner),
          other,
          number % 4 === 0 ? 4 : 0,
          context,
        );
    case 9:
      return (volume) => {
        const found = file(volume);
        if (found !== undefined) volume.fs.setxattr(found, `user.${name}`, bytes.subarray(0, 5000), 0, false);
      };
    case 10:
      return (volume) => {
        const found = file(volume);
        if (found !== undefined) volume.fs.removexattr(found, `user.${name}`);
      };
    case 11:
      return (volume) => {
        const found = file(volume);
        if (found !== undefined) volume.fs.setattr(found, { size: at + (number & 7) }, opened);
      };
    case 12:
      return (volume) => {
        const found = file(volume);
        if (found !== undefined)
          volume.fs.setattr(
            found,
            { mode: 0o4755 ^ number, uid: number, mtime: { seconds: -number, nanoseconds: 5 } },
            undefined,
          );
      };
    case 13: {
      const { KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE } = FallocateMode;
      const mode = random.pick([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE]);
      return (volume) => {
        const found = file(volume);
        if (found !== undefined) void volume.fs.fallocate(found, opened, mode, at, 1 + number * 500, root);
      };
    }
    case 14:
      return (volume) => {
        const found = file(volume);
        const target = volume.tree.lookup(parent(volume, newInner), other);
        if (found?.content !== undefined && target?.content !== undefined && found !== target)
          volume.fs.copyFileRange(
            found,
            opened,
            0,
            target,
            opened,
            (number % 3) * CHUNK_BYTES,
            400_000,
            root,
          );
      };
    case 15:
      // An open file loses its name, or nobody has it open any more.
      return (volume) => {
        const found = file(volume);
        if (found !== undefined) volume.fs.forget(found);
      };
    case 16:
      return ({ fs, tree }) => {
        const [orphan] = [...tree.orphans].sort((a, b) => a.ino - b.ino);
        if (orphan !== undefined) fs.forget(orphan);
      };
    default:
      return (volume) => {
        const found = file(volume);
        if (found !== undefined) volume.fs.write(found, opened, bufferOf(bytes), at, 0);
      };
  }
}

/** @returns the error's name, if the change fails as it may. */
function attempt(make: Change, volume: Volume): string {
  try {
    make(volume);
    return '';
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    return error.code;
  }
}

class Killed extends Error {}

/** Ends what the recorder writes at one of its stores, as a kill does. */
class Killer {
  #left = Infinity;

  constructor(t: TestContext) {
    const countDown = (): void => {
      if (this.#left-- <= 0) throw new Killed();
    };
    for (const name of ['put', 'putBytes', 'commit', 'turn', 'leave'] as const) {
      const method = RecordLog.prototype[name] as (...args: unknown[]) => unknown;
      t.mock.method(RecordLog.prototype, name, function (this: RecordLog, ...args: unknown[]) {
        countDown();
        return method.apply(this, args);
      });
    }
  }

  /** @returns whether `run` was ended after so many stores. */
  during(stores: number, run: () => void): boolean {
    this.#left = stores;
    try {
      run();
      return false;
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
      return true;
    } finally {
      this.#left = Infinity;
    }
  }
}

/**
 * The volume as the next process finds it. Files without a name are found again by their keys.
 * @param plain has what guests know.
 */
function recovered(fd: OwnedFd, before: Volume, plain: Volume): Volume {
  const next = make(fd, true);
  const { recover, contents } = acceleratorOf(next.fs)!;
  for (const inode of allInodes(plain.tree)) {
    if (!inode.held) continue;
    try {
      void recover!(before.fs.key(inode));
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
  }
  contents!.recovered();
  return next;
}

function assertSame(one: string, other: string, what: string): void {
  if (one === other) return;
  const lines = new Set(other.split('\n'));
  const odd = one.split('\n').filter((line) => !lines.delete(line));
  assert.fail(`${what}: has\n${odd.join('\n')}\nand not\n${[...lines].join('\n')}`.slice(0, 3000));
}

test('a volume is what it was after each change, over kills between changes and compactions', async (t) => {
  await withSeed(t, 1, async (seed) => {
    const random = new Random(seed);
    const fd = memory(t);
    const plain = make();
    let kept = make(fd);
    for (let i = 0; i < repetitions(3000); i++) {
      const one = change(random);
      assert.equal(attempt(one, kept), attempt(one, plain));
      if (i % 100 !== 0) continue;
      await nextTurn();
      kept = recovered(fd, kept, plain);
      for (const inode of kept.tree.orphans) assert.equal(inode.held, true);
      assertSame(dump(kept), dump(plain), `change ${i}`);
    }
  });
});

test('a change is made as a whole or not at all, at whatever store its process is killed', async (t) => {
  await withSeed(t, 1, async (seed) => {
    const random = new Random(seed);
    const killer = new Killer(t);
    const fd = memory(t);
    const plain = make();
    let kept = make(fd);
    let kills = 0;
    let before = dump(plain);
    for (let i = 0; i < repetitions(400); i++) {
      const one = change(random);
      const stores = random.pick([0, 1, 2, 5, 20, 22, 23, 40, 45, 60, 80, 200]);
      const result = attempt(one, plain);
      const after = dump(plain);
      if (killer.during(stores, () => assert.equal(attempt(one, kept), result))) {
        kills += 1;
        kept = recovered(fd, kept, plain);
        const left = dump(kept);
        if (left !== after) {
          if (!isInPlace(left, before)) assertSame(left, before, `killed at change ${i}`);
          assert.equal(attempt(one, kept), result);
        }
      }
      assertSame(dump(kept), after, `change ${i}`);
      before = after;
    }
    assert.ok(kills > repetitions(40), `${kills} kills`);
    await nextTurn();
  });
});

test('a log that no recorder has written is refused, or read as far as it makes sense', async (t) => {
  await withSeed(t, 1, async (seed) => {
    const random = new Random(seed);
    const fd = memory(t);
    const volume = make(fd);
    for (let i = 0; i < 400; i++) attempt(change(random), volume);
    const { bytes } = contentsMemory(fd).map(0, 2 ** 30);
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
    const header = words.slice(0, 8);
    const [, , , length] = header;
    const records = words.slice(1024, 1024 + length!);
    let refused = 0;
    for (let i = 0; i < repetitions(300); i++) {
      for (let left = 1 + random.below(4); left > 0; left--) {
        const at = random.once(10) ? 2 + random.below(3) : 1024 + random.below(length!);
        words[at] = random.pick([0, 1, -1, random.next() | 0, words[at]! ^ (1 << random.below(32))]);
      }
      try {
        make(fd, true);
      } catch (error) {
        assert.ok(error instanceof RangeError, String(error));
        refused += 1;
      }
      words.set(header);
      words.set(records, 1024);
    }
    t.diagnostic(`${refused} were refused`);
    assert.ok(refused > 0);
    assertSame(dump(recovered(fd, volume, volume)), dump(volume), 'the log itself');
    await nextTurn();
  });
});

/** Whether two volumes differ in bytes only that a write changes in place, and is repeated. */
function isInPlace(left: string, before: string): boolean {
  const shape = (text: string): string => text.replace(/ [0-9a-f]{40}"/g, '"');
  return shape(left) === shape(before);
}
