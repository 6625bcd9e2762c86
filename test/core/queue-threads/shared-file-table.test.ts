import assert from 'node:assert/strict';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, test, type TestContext } from 'node:test';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { Backing } from '../../../core/backend/accelerator.js';
import { type Attributes, FileType } from '../../../core/backend/index.js';
import { Counters, Opcode } from '../../../core/fuse/index.js';
import { type Fd, DescriptorUse, SharedDescriptors } from '../../../core/system/index.js';
import { Count, SharedFileTable, FileTableView } from '../../../core/queue-threads/shared-file-table.js';
import {
  FROM,
  type Identity,
  NAME,
  type NodesData,
  Progress,
  type ReaderReport,
  stat,
  statx,
  type TakerData,
  type TakersEntry,
} from './file-table-reader.js';
import { withPlainNumbers, type PlainNumbers } from '../../support/plain-numbers.js';
import { raceMs, Random } from '../../support/random.js';

/** Lookups with which an entry is published. */
const GRANTED = 255;

const file: Attributes = {
  mode: FileType.REGULAR | 0o644,
  size: 5000,
  mtime: 1_700_000_000,
  mtimeNsec: 7,
  ctime: 1_700_000_001,
  ctimeNsec: 999_999_999,
};

const birth = { seconds: 1_600_000_000, nanoseconds: 0 };
const NO_TIMES = { entry: noTime(), negative: noTime(), attributes: noTime() };

function noTime(): { seconds: number; nanoseconds: number } {
  return { seconds: 0, nanoseconds: 0 };
}

/** Finds an entry by the name that all entries here have. */
function findEntry(view: PlainNumbers<FileTableView>, from: Int32Array): boolean {
  return view.findEntry(NAME.low, NAME.high, NAME.hash, from, FROM);
}

/** The file table of a session, and the views that some threads have of it. */
class Rig {
  readonly descriptors = new SharedDescriptors();
  readonly uses: readonly DescriptorUse[];
  readonly fileTable = withPlainNumbers(new SharedFileTable(this.descriptors));
  readonly views: readonly PlainNumbers<FileTableView>[];
  /** The view of the first thread. */
  readonly view: PlainNumbers<FileTableView>;
  /** Slots for which the owner learned that a thread gave other attributes, in order. */
  readonly differing: number[] = [];
  readonly givenBack: [slot: number, lookups: number][] = [];
  readonly #open = new Set<Fd>();

  constructor(t: TestContext, threads = 1) {
    const users = Array.from({ length: threads }, () => this.descriptors.join());
    this.fileTable.begin(NO_TIMES, {
      returnLookups: (slot, lookups) => void this.givenBack.push([slot, lookups]),
      attributesDiffer: (slot) => void this.differing.push(slot),
    });
    this.uses = users.map((user) => new DescriptorUse(user));
    this.views = this.uses.map((use) => withPlainNumbers(new FileTableView(this.fileTable.memory, use)));
    this.view = this.views[0]!;
    t.after(() => {
      for (const user of users) this.descriptors.leave(user);
      for (const fd of this.#open) this.descriptors.close(fd);
    });
  }

  open(): Fd {
    const fd = fs.openSync('/dev/null', 'r') as Fd;
    this.#open.add(fd);
    return fd;
  }

  close(fd: number): void {
    this.#open.delete(fd as Fd);
    this.descriptors.close(fd as Fd);
  }

  backing(change: Partial<Backing> = {}): Backing {
    return {
      fd: change.fd ?? this.open(),
      attributes: true,
      readFlags: 0,
      writes: false,
      names: false,
      ...change,
    };
  }

  publishEntry(slot: number, identity: Identity, attributes = file, fd = -1): number {
    const backing = this.backing({
      fd,
      identity: {
        mount: identity.mount,
        inoLow: Number(BigInt.asUintN(32, identity.ino)),
        inoHigh: Number(identity.ino >> 32n),
        birth: identity.birth,
      },
    });
    const node = { low: 1000 + slot, high: -slot, generation: 70 + slot };
    return this.fileTable.publishEntry(NAME, slot, node, backing, attributes);
  }

  /** Whether the view finds the entry that {@link publishEntry} published for a slot. */
  finds(slot: number, identity: Identity, attributes = file): boolean {
    const isFound = findEntry(this.view, statx(identity, attributes));
    if (isFound) {
      const { nodeLow, nodeHigh, generation } = this.view;
      assert.deepEqual([nodeLow, nodeHigh, generation], [1000 + slot, -slot, 70 + slot]);
    }
    return isFound;
  }

  /** Finds an entry and confirms it, as a thread that answers a LOOKUP does. */
  takes(identity: Identity, attributes = file, view = this.view): boolean {
    const from = statx(identity, attributes);
    return findEntry(view, from) && view.confirmEntry(from, FROM);
  }

  /** Identities with inode numbers whose entries would have the same place as the first. */
  sharing(count: number, first = 1000n): Identity[] {
    const identities: Identity[] = [{ ino: first, mount: 30, birth }];
    const [before, differing] = [this.givenBack.length, this.differing.length];
    this.publishEntry(1, identities[0]!);
    for (let ino = first + 1n; identities.length < count; ino++) {
      assert.ok(ino < first + 1_000_000n, 'there are fewer places');
      const identity = { ino, mount: 30, birth };
      this.publishEntry(2, identity);
      if (!this.givenBack.some(([slot], i) => i >= before && slot === 1)) continue;
      identities.push(identity);
      this.publishEntry(1, identities[0]!);
      this.givenBack.length = before;
    }
    this.fileTable.clear();
    this.givenBack.length = before;
    assert.equal(this.differing.length, differing);
    return identities;
  }

  /** The low half of a node id that has the place of another one, of the same high half. */
  sharingNode(low: number, high = 0): number {
    const backing = this.backing();
    for (let other = low + 1; ; other++) {
      assert.ok(other < low + 1_000_000, 'there are fewer places');
      this.fileTable.publishNode(1, low, high, backing, undefined);
      this.fileTable.publishNode(2, other, high, backing, undefined);
      if (this.view.findNode(low, high)) continue;
      this.fileTable.clear();
      return other;
    }
  }
}

describe('a published open file', () => {
  it('is found by its fh and its node, with what may be done with it', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const backing = rig.backing({ readFlags: 8, writes: true });
    assert.equal(view.findFile(5, -3, 77, -1), false);
    fileTable.publishFile(5, -3, 77, -1, backing);
    assert.equal(view.findFile(5, -3, 77, -1), true);
    assert.deepEqual([view.fd, view.readFlags, view.writes], [backing.fd, 8, true]);
    assert.equal(view.findFile(6, -3, 77, -1), false);
    assert.equal(view.findFile(5, -2, 77, -1), false);
    assert.equal(view.findFile(5, -3, 78, -1), false);
    assert.equal(view.findFile(5, -3, 77, 0), false);
    const other = rig.backing();
    fileTable.publishFile(0, 1, 2, 0, other);
    assert.equal(view.findFile(0, 1, 2, 0), true);
    assert.deepEqual([view.fd, view.readFlags, view.writes], [other.fd, 0, false]);
    assert.equal(view.findFile(0, 0, 0, 0), false);
  });

  it('is not found once it is withdrawn', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    fileTable.withdrawFile(5);
    fileTable.publishFile(5, 1, 77, 0, rig.backing());
    fileTable.withdrawFile(4);
    assert.equal(view.findFile(5, 1, 77, 0), true);
    fileTable.withdrawFile(5);
    assert.equal(view.findFile(5, 1, 77, 0), false);
    assert.equal(view.findFile(0, 0, 0, 0), false);
    fileTable.publishFile(5, 2, 77, 0, rig.backing());
    assert.equal(view.findFile(5, 1, 77, 0), false);
    assert.equal(view.findFile(5, 2, 77, 0), true);
  });

  it('loses its place to another one, which is found from then on', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const [one, two] = [rig.backing({ readFlags: 8 }), rig.backing({ writes: true })];
    fileTable.publishFile(5, 1, 77, 0, one);
    fileTable.publishFile(5 + 2048, 1, 77, 0, two);
    assert.equal(view.findFile(5, 1, 77, 0), false);
    assert.equal(view.findFile(5 + 2048, 1, 77, 0), true);
    assert.deepEqual([view.fd, view.readFlags, view.writes], [two.fd, 0, true]);
    fileTable.withdrawFile(5);
    assert.equal(view.findFile(5 + 2048, 1, 77, 0), true);
    fileTable.withdrawFile(5 + 2048);
    assert.equal(view.findFile(5 + 2048, 1, 77, 0), false);
  });

  it('is not found once its descriptor is closed, nor when another has the number', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const backing = rig.backing();
    fileTable.publishFile(5, 1, 77, 0, backing);
    rig.close(backing.fd);
    assert.equal(view.findFile(5, 1, 77, 0), false);
    const again = rig.backing();
    assert.equal(again.fd, backing.fd);
    fileTable.publishFile(6, 1, 77, 0, again);
    assert.equal(view.findFile(5, 1, 77, 0), false);
    assert.equal(view.findFile(6, 1, 77, 0), true);
    fileTable.publishFile(5, 1, 77, 0, again);
    assert.equal(view.findFile(5, 1, 77, 0), true);
  });

  it('has a descriptor, and threads that may see it', (t) => {
    const rig = new Rig(t);
    rig.fileTable.publishFile(5, 1, 77, 0, rig.backing({ fd: -1 }));
    assert.equal(rig.view.findFile(5, 1, 77, 0), false);
    const fileTable = withPlainNumbers(new SharedFileTable(new SharedDescriptors()));
    fileTable.publishFile(5, 1, 77, 0, rig.backing());
    assert.equal(
      withPlainNumbers(new FileTableView(fileTable.memory, rig.uses[0]!)).findFile(5, 1, 77, 0),
      false,
    );
  });
});

describe('a published node', () => {
  it('is found by its id', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const [directory, plain] = [rig.backing({ names: true }), rig.backing()];
    assert.equal(view.findNode(1, 0), false);
    fileTable.publishNode(0, 1, 0, directory, undefined);
    fileTable.publishNode(9, -5, -6, plain, file);
    assert.equal(view.findNode(1, 0), true);
    assert.deepEqual([view.fd, view.names], [directory.fd, true]);
    assert.equal(view.findNode(-5, -6), true);
    assert.deepEqual([view.fd, view.names], [plain.fd, false]);
    for (const [low, high] of [
      [1, 1],
      [2, 0],
      [-5, 6],
      [-6, -5],
      [0, 0],
    ] as const)
      assert.equal(view.findNode(low, high), false);
  });

  it('is not found once it is withdrawn, or its descriptor closed', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const backing = rig.backing();
    fileTable.withdrawNode(7, 8);
    fileTable.publishNode(3, 7, 8, backing, file);
    fileTable.withdrawNode(7, 9);
    assert.equal(view.findNode(7, 8), true);
    fileTable.withdrawNode(7, 8);
    assert.equal(view.findNode(7, 8), false);
    fileTable.publishNode(3, 7, 8, backing, undefined);
    assert.equal(view.findNode(7, 8), true);
    rig.close(backing.fd);
    assert.equal(view.findNode(7, 8), false);
    const again = rig.backing();
    assert.equal(again.fd, backing.fd);
    fileTable.publishNode(4, 70, 80, again, undefined);
    assert.equal(view.findNode(7, 8), false);
    fileTable.publishNode(3, 7, 8, again, undefined);
    assert.equal(view.findNode(7, 8), true);
  });

  it('loses its place to another one, which is found from then on', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const other = rig.sharingNode(7, 8);
    const [one, two] = [rig.backing({ names: true }), rig.backing()];
    fileTable.publishNode(3, 7, 8, one, file);
    fileTable.publishNode(4, other, 8, two, file);
    assert.equal(view.findNode(7, 8), false);
    assert.equal(view.findNode(other, 8), true);
    assert.deepEqual([view.fd, view.names], [two.fd, false]);
    fileTable.withdrawNode(7, 8);
    assert.equal(view.findNode(other, 8), true);
    fileTable.withdrawNode(other, 8);
    assert.equal(view.findNode(other, 8), false);
  });

  it('is confirmed as long as it is the one that was found', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const backing = rig.backing();
    fileTable.publishNode(3, 7, 8, backing, file);
    assert.equal(view.findNode(7, 8), true);
    fileTable.withdrawNode(7, 8);
    assert.equal(view.confirmNode(stat({ ...file, size: 1 }), FROM), false);
    fileTable.publishNode(3, 7, 8, backing, file);
    assert.equal(view.findNode(7, 8), true);
    fileTable.publishNode(3, 7, 8, backing, { ...file, size: 2 });
    assert.equal(view.confirmNode(stat({ ...file, size: 3 }), FROM), false);
  });

  it('has its owner learn when a thread gave other attributes, and only then', (t) => {
    const rig = new Rig(t);
    const { fileTable, view, differing } = rig;
    const backing = rig.backing();
    const give = (attributes: Attributes): void => {
      assert.equal(view.findNode(7, 8), true);
      assert.equal(view.confirmNode(stat(attributes), FROM), true);
    };
    for (const attributes of variants) {
      for (const other of [attributes, ...changes(attributes)]) {
        fileTable.publishNode(3, 7, 8, backing, attributes);
        give(attributes);
        give(other);
        give(attributes);
        assert.deepEqual(differing, []);
        fileTable.withdrawNode(7, 8);
        assert.deepEqual(differing.splice(0), other === attributes ? [] : [3], JSON.stringify(other));
      }
      // From here on other attributes are those that differ from the ones published last.
      fileTable.publishNode(3, 7, 8, backing, file);
      fileTable.publishNode(3, 7, 8, backing, attributes);
      give(attributes);
      fileTable.withdrawNode(7, 8);
      assert.deepEqual(differing, []);
    }
  });

  it('has it learn when another takes its place, when it is published again, and when all is cleared', (t) => {
    const rig = new Rig(t);
    const { fileTable, view, differing } = rig;
    const other = rig.sharingNode(7, 8);
    const backing = rig.backing();
    const publish = (slot: number, low: number): void => fileTable.publishNode(slot, low, 8, backing, file);
    const giveOther = (low: number): void => {
      assert.equal(view.findNode(low, 8), true);
      assert.equal(view.confirmNode(stat({ ...file, size: 1 }), FROM), true);
    };
    publish(3, 7);
    giveOther(7);
    publish(4, other);
    assert.deepEqual(differing.splice(0), [3]);
    giveOther(other);
    publish(4, other);
    assert.deepEqual(differing.splice(0), [4]);
    publish(3, 7);
    assert.deepEqual(differing, []);
    giveOther(7);
    rig.close(backing.fd);
    fileTable.clear();
    assert.deepEqual(differing.splice(0), [3]);
    fileTable.clear();
    assert.deepEqual(differing, []);
  });

  it('keeps its attributes when it is published again without any', (t) => {
    const rig = new Rig(t);
    const { fileTable, view, differing } = rig;
    const backing = rig.backing();
    fileTable.publishNode(3, 7, 8, backing, file);
    assert.equal(view.findNode(7, 8), true);
    fileTable.publishNode(3, 7, 8, backing, undefined);
    assert.equal(view.confirmNode(stat(file), FROM), true);
    fileTable.withdrawNode(7, 8);
    assert.deepEqual(differing, []);
    // Nobody knows what attributes the guest has: any may differ from them.
    fileTable.publishNode(3, 7, 8, backing, undefined);
    assert.equal(view.findNode(7, 8), true);
    assert.equal(view.confirmNode(stat(file), FROM), true);
    fileTable.withdrawNode(7, 8);
    assert.deepEqual(differing, [3]);
  });
});

/** Attributes that files have, unusual ones included. */
const variants: readonly Attributes[] = [
  file,
  { ...file, size: 0, mtime: 0, mtimeNsec: 0, ctime: 0, ctimeNsec: 0 },
  { ...file, size: 2 ** 32 + 5000 },
  { ...file, size: Number.MAX_SAFE_INTEGER },
  { ...file, size: 0xffffffff, mtime: 0x7fffffff, ctime: 0x80000000 },
  { ...file, mtime: -1, ctime: -1_000_000_000, mtimeNsec: 999_999_999 },
  { ...file, mtime: -(2 ** 32), ctime: -(2 ** 32) - 1 },
  { ...file, mtime: 2 ** 33, ctime: 2 ** 32 - 1 },
];

/** The same with one field changed, in its low and its high half. */
function changes(attributes: Attributes): Attributes[] {
  const { size = 0, mtime = 0, mtimeNsec = 0, ctime = 0, ctimeNsec = 0 } = attributes;
  const wide = 2 ** 32;
  return [
    { ...attributes, size: size === 0 ? 1 : size - 1 },
    { ...attributes, size: size >= wide ? size - wide : size + wide },
    { ...attributes, mtime: mtime + 1 },
    { ...attributes, mtime: mtime - wide },
    { ...attributes, mtimeNsec: mtimeNsec === 0 ? 1 : mtimeNsec - 1 },
    { ...attributes, ctime: ctime - 1 },
    { ...attributes, ctime: ctime + wide },
    { ...attributes, ctimeNsec: ctimeNsec === 0 ? 1 : ctimeNsec - 1 },
  ];
}

describe('a published entry', () => {
  const identity: Identity = { ino: 0x1_8000_0005n, mount: 0xfffffff0, birth };

  it('is found by the identity that statx returns, time of birth included', (t) => {
    const rig = new Rig(t);
    assert.equal(rig.finds(3, identity), false);
    assert.equal(rig.publishEntry(3, identity), GRANTED);
    assert.equal(rig.finds(3, identity), true);
    assert.equal(rig.finds(3, identity, { ...file, size: 1 }), true);
    for (const other of [
      { ...identity, ino: 0x1_8000_0006n },
      { ...identity, ino: 0x8000_0005n },
      { ...identity, ino: 0x8_8000_0005n },
      { ...identity, mount: 30 },
      { ...identity, mount: 0x1_ffff_fff0 },
      { ...identity, birth: { ...birth, seconds: birth.seconds + 1 } },
      { ...identity, birth: { ...birth, nanoseconds: 1 } },
    ])
      assert.equal(rig.finds(3, other), false);
    rig.fileTable.withdrawEntry(3);
    assert.equal(rig.finds(3, identity), false);
  });

  it('is found under the name under which it was published last, and under no other', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const from = statx(identity, file);
    rig.publishEntry(3, identity);
    for (const other of [
      { ...NAME, low: NAME.low + 1 },
      { ...NAME, high: 0 },
      { ...NAME, hash: NAME.hash + 1 },
    ]) {
      rig.publishEntry(3, identity);
      assert.equal(view.findEntry(other.low, other.high, other.hash, from, FROM), false);
      assert.equal(findEntry(view, from), true);
      const { inoLow, inoHigh } = { inoLow: 0x8000_0005, inoHigh: 1 };
      const backing = rig.backing({ fd: -1, identity: { mount: identity.mount, inoLow, inoHigh, birth } });
      const node = { low: 1003, high: -3, generation: 73 };
      assert.equal(fileTable.publishEntry(other, 3, node, backing, file), GRANTED);
      assert.equal(findEntry(view, from), false);
      assert.equal(view.findEntry(other.low, other.high, other.hash, from, FROM), true);
      assert.equal(view.confirmEntry(from, FROM), true);
    }
    fileTable.withdrawEntry(3);
    assert.equal(
      rig.givenBack.reduce((sum, [, lookups]) => sum + lookups, 0),
      7 * GRANTED - 3,
    );
  });

  it('may have been born before 1970, and in any nanosecond', (t) => {
    const rig = new Rig(t);
    for (const seconds of [-1, -2_000_000_000, 0, 0x7fffffff]) {
      const old = { ...identity, birth: { seconds, nanoseconds: 999_999_999 } };
      assert.equal(rig.publishEntry(3, old), GRANTED);
      assert.equal(rig.takes(old), true);
      assert.equal(rig.finds(3, { ...old, birth: { seconds, nanoseconds: 0 } }), false);
    }
  });

  it('without birth is found as long as its descriptor is open', (t) => {
    const rig = new Rig(t);
    const kept: Identity = { ino: 77n, mount: 30 };
    const fd = rig.open();
    assert.equal(rig.publishEntry(3, kept, file, fd), GRANTED);
    assert.equal(rig.finds(3, kept), true);
    assert.equal(rig.finds(3, { ...kept, birth }), true);
    assert.equal(rig.finds(3, { ...kept, mount: 31 }), false);
    rig.close(fd);
    assert.equal(rig.finds(3, kept), false);
    assert.equal(rig.open(), fd);
    rig.descriptors.publish(fd);
    assert.equal(rig.finds(3, kept), false);
    assert.equal(rig.publishEntry(3, kept, file, fd), GRANTED);
    assert.deepEqual(rig.givenBack, [[3, GRANTED]]);
    assert.equal(rig.finds(3, kept), true);
  });

  it('with birth needs no descriptor, without birth it does', (t) => {
    const rig = new Rig(t);
    assert.equal(rig.publishEntry(3, { ino: 77n, mount: 30, birth }), GRANTED);
    assert.equal(rig.publishEntry(4, { ino: 78n, mount: 30 }), 0);
    assert.equal(rig.finds(4, { ino: 78n, mount: 30 }), false);
    rig.fileTable.withdrawEntry(4);
    assert.deepEqual(rig.givenBack, []);
  });

  it('gives back the lookups that no thread took, once', (t) => {
    const rig = new Rig(t);
    const { fileTable, givenBack } = rig;
    rig.publishEntry(3, identity);
    for (let i = 0; i < 10; i++) assert.equal(rig.takes(identity), true);
    fileTable.withdrawEntry(3);
    assert.deepEqual(givenBack.splice(0), [[3, GRANTED - 10]]);
    fileTable.withdrawEntry(3);
    assert.deepEqual(givenBack, []);
    assert.equal(rig.takes(identity), false);
    // Published anew, it gives the former ones back.
    rig.publishEntry(3, identity);
    assert.equal(rig.takes(identity), true);
    assert.equal(rig.publishEntry(3, identity), GRANTED);
    assert.deepEqual(givenBack.splice(0), [[3, GRANTED - 1]]);
    fileTable.clear();
    assert.deepEqual(givenBack.splice(0), [[3, GRANTED]]);
    fileTable.clear();
    assert.deepEqual(givenBack, []);
  });

  it('is not found any more when all its lookups are taken', (t) => {
    const rig = new Rig(t, 2);
    const [one, two] = rig.views as [PlainNumbers<FileTableView>, PlainNumbers<FileTableView>];
    const from = statx(identity, file);
    rig.publishEntry(3, identity);
    for (let i = 0; i < GRANTED - 2; i++) assert.equal(rig.takes(identity, file, i % 2 ? one : two), true);
    // Both threads have found it. The first one has taken the last of the lookups.
    assert.ok(findEntry(one, from) && findEntry(two, from));
    assert.equal(one.confirmEntry(from, FROM), true);
    assert.equal(two.confirmEntry(from, FROM), true);
    assert.equal(rig.finds(3, identity), false);
    rig.fileTable.withdrawEntry(3);
    assert.deepEqual(rig.givenBack.splice(0), [[3, 0]]);
    rig.publishEntry(3, identity);
    for (let i = 0; i < GRANTED - 1; i++) assert.equal(rig.takes(identity), true);
    assert.ok(findEntry(one, from) && findEntry(two, from));
    assert.equal(two.confirmEntry(from, FROM), true);
    assert.equal(one.confirmEntry(from, FROM), false);
    rig.fileTable.withdrawEntry(3);
    assert.deepEqual(rig.givenBack, [[3, 0]]);
  });

  it('is not confirmed where it was found before it was withdrawn, though it is published again', (t) => {
    const rig = new Rig(t);
    const { fileTable, view, givenBack } = rig;
    const from = statx(identity, file);
    rig.publishEntry(3, identity);
    assert.equal(rig.finds(3, identity), true);
    fileTable.withdrawEntry(3);
    assert.equal(view.confirmEntry(from, FROM), false);
    rig.publishEntry(3, identity);
    assert.equal(rig.finds(3, identity), true);
    rig.publishEntry(3, identity);
    assert.equal(view.confirmEntry(from, FROM), false);
    fileTable.withdrawEntry(3);
    assert.deepEqual(
      givenBack.map(([, lookups]) => lookups),
      [GRANTED, GRANTED, GRANTED],
    );
  });

  it('loses its place to another one, which is found from then on', (t) => {
    const rig = new Rig(t);
    const { fileTable, givenBack } = rig;
    const [one, two] = rig.sharing(2) as [Identity, Identity];
    rig.publishEntry(3, one);
    assert.equal(rig.takes(one), true);
    assert.equal(rig.publishEntry(4, two), GRANTED);
    assert.deepEqual(givenBack.splice(0), [[3, GRANTED - 1]]);
    assert.equal(rig.finds(3, one), false);
    assert.equal(rig.finds(4, two), true);
    fileTable.withdrawEntry(3);
    assert.deepEqual(givenBack, []);
    assert.equal(rig.finds(4, two), true);
    fileTable.withdrawEntry(4);
    assert.deepEqual(givenBack, [[4, GRANTED]]);
  });

  it('changes its place with its identity', (t) => {
    const rig = new Rig(t);
    rig.publishEntry(3, identity);
    assert.equal(rig.takes(identity), true);
    const other = { ...identity, ino: 6n };
    assert.equal(rig.publishEntry(3, other), GRANTED);
    assert.deepEqual(rig.givenBack.splice(0), [[3, GRANTED - 1]]);
    assert.deepEqual([rig.finds(3, identity), rig.finds(3, other)], [false, true]);
    rig.fileTable.clear();
    assert.deepEqual(rig.givenBack, [[3, GRANTED]]);
  });

  it('has its owner learn when a thread gave other attributes, and only then', (t) => {
    const rig = new Rig(t);
    const { fileTable, differing } = rig;
    for (const attributes of variants) {
      for (const other of [attributes, ...changes(attributes)]) {
        rig.publishEntry(3, identity, attributes);
        for (const given of [attributes, other, attributes]) assert.equal(rig.takes(identity, given), true);
        assert.deepEqual(differing, []);
        fileTable.withdrawEntry(3);
        assert.deepEqual(differing.splice(0), other === attributes ? [] : [3], JSON.stringify(other));
      }
    }
  });

  it('has it learn when another takes its place, when it is published again, and when all is cleared', (t) => {
    const rig = new Rig(t);
    const { differing } = rig;
    const [one, two] = rig.sharing(2) as [Identity, Identity];
    const changed = { ...file, ctimeNsec: 1 };
    rig.publishEntry(3, one);
    assert.equal(rig.takes(one, changed), true);
    rig.publishEntry(4, two);
    assert.deepEqual(differing.splice(0), [3]);
    assert.equal(rig.takes(two, changed), true);
    rig.publishEntry(4, two, changed);
    assert.deepEqual(differing.splice(0), [4]);
    assert.equal(rig.takes(two, changed), true);
    rig.publishEntry(3, one);
    assert.deepEqual(differing, []);
    assert.equal(rig.takes(one, changed), true);
    rig.fileTable.clear();
    assert.deepEqual(differing, [3]);
  });
});

describe('an open of a node', () => {
  it('withdraws it and its entry where threads gave other attributes, and its owner learns of it', (t) => {
    const rig = new Rig(t);
    const { fileTable, view, differing } = rig;
    const identity: Identity = { ino: 5n, mount: 30, birth };
    const changed = { ...file, size: 1 };
    const publish = (): void => {
      fileTable.publishNode(3, 1003, -3, rig.backing(), file);
      rig.publishEntry(3, identity);
    };
    const found = (): boolean[] => [view.findNode(1003, -3), rig.finds(3, identity)];

    publish();
    assert.equal(rig.takes(identity), true);
    assert.ok(view.findNode(1003, -3) && view.confirmNode(stat(file), FROM));
    fileTable.reportDifferences(3, 1003, -3);
    assert.deepEqual(differing, []);
    assert.deepEqual(found(), [true, true]);

    assert.ok(view.findNode(1003, -3) && view.confirmNode(stat(changed), FROM));
    fileTable.reportDifferences(3, 1003, -3);
    assert.deepEqual(differing.splice(0), [3]);
    assert.deepEqual(found(), [false, true]);
    assert.deepEqual(rig.givenBack, []);

    assert.equal(rig.takes(identity, changed), true);
    fileTable.reportDifferences(3, 1003, -3);
    assert.deepEqual(differing.splice(0), [3]);
    assert.deepEqual(found(), [false, false]);
    assert.deepEqual(rig.givenBack, [[3, GRANTED - 2]]);
    fileTable.reportDifferences(3, 1003, -3);
    assert.deepEqual(differing, []);
  });

  it('leaves others where they are, also one in the same place', (t) => {
    const rig = new Rig(t);
    const { fileTable, view, differing } = rig;
    const other = rig.sharingNode(7, 8);
    const [one, two] = rig.sharing(2) as [Identity, Identity];
    fileTable.publishNode(4, other, 8, rig.backing(), file);
    rig.publishEntry(3, one);
    rig.publishEntry(4, two);
    assert.ok(view.findNode(other, 8) && view.confirmNode(stat({ ...file, size: 1 }), FROM));
    assert.equal(rig.takes(two, { ...file, size: 1 }), true);
    fileTable.reportDifferences(3, 7, 8);
    assert.deepEqual(differing, []);
    assert.deepEqual([view.findNode(other, 8), rig.finds(4, two)], [true, true]);
    fileTable.reportDifferences(4, other, 8);
    assert.deepEqual(differing, [4, 4]);
    assert.deepEqual([view.findNode(other, 8), rig.finds(4, two)], [false, false]);
  });
});

describe('the file table of a session', () => {
  it('is emptied at once', (t) => {
    const rig = new Rig(t);
    const { fileTable, view } = rig;
    const identities = [5n, 6n, 0x5_0000_0005n].map((ino): Identity => ({ ino, mount: 30, birth }));
    const found = (): number => {
      let count = 0;
      for (let i = 0; i < 5000; i += 500) if (view.findFile(i, 1, 77, 0)) count += 1;
      for (let i = 1; i < 10; i++) if (view.findNode(i, -i)) count += 1;
      for (const [i, identity] of identities.entries()) if (rig.finds(i + 1, identity)) count += 1;
      return count;
    };
    const backing = rig.backing();
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 5000; i += 500) fileTable.publishFile(i, 1, 77, 0, backing);
      for (let i = 1; i < 10; i++) fileTable.publishNode(i, i, -i, backing, file);
      for (const [i, identity] of identities.entries()) rig.publishEntry(i + 1, identity);
      assert.equal(found(), 10 + 9 + 3);
      fileTable.clear();
      assert.equal(found(), 0);
      assert.deepEqual(rig.givenBack.splice(0), [
        [1, GRANTED],
        [2, GRANTED],
        [3, GRANTED],
      ]);
    }
  });

  it('is its own: another session’s is not found', (t) => {
    const rig = new Rig(t);
    const other = withPlainNumbers(new SharedFileTable(rig.descriptors));
    const view = withPlainNumbers(new FileTableView(other.memory, rig.uses[0]!));
    const identity: Identity = { ino: 5n, mount: 30, birth };
    rig.fileTable.publishFile(5, 1, 77, 0, rig.backing());
    rig.fileTable.publishNode(3, 7, 8, rig.backing(), file);
    rig.publishEntry(3, identity);
    assert.equal(view.findFile(5, 1, 77, 0), false);
    assert.equal(view.findNode(7, 8), false);
    assert.equal(findEntry(view, statx(identity, file)), false);
    other.clear();
    assert.equal(rig.view.findNode(7, 8), true);
  });

  it('has the times for which guests may keep it, the longest too', (t) => {
    const rig = new Rig(t);
    const fileTable = withPlainNumbers(new SharedFileTable(rig.descriptors));
    const times = {
      entry: { seconds: 2 ** 32 - 1, nanoseconds: 999_999_999 },
      negative: { seconds: 0, nanoseconds: 1 },
      attributes: { seconds: 2 ** 31, nanoseconds: 0 },
    };
    fileTable.begin(times, { returnLookups: () => undefined, attributesDiffer: () => undefined });
    const view = withPlainNumbers(new FileTableView(fileTable.memory, rig.uses[0]!));
    assert.deepEqual(view.entryValid, times.entry);
    assert.deepEqual(view.negativeValid, times.negative);
    assert.deepEqual(view.attributesValid, times.attributes);
  });

  it('adds what all threads have served to the counters, once', (t) => {
    const rig = new Rig(t, 64);
    const { fileTable, views } = rig;
    const counters = new Counters();
    fileTable.addTo(counters);
    assert.deepEqual(counters, new Counters());
    for (const [i, { counts }] of views.entries()) {
      counts[Count.READS]! += 1;
      counts[Count.WRITES]! += 2;
      counts[Count.GETATTRS]! += 3;
      counts[Count.LOOKUPS]! += 4;
      counts[Count.FAILURES]! += i;
      counts[Count.BYTES_READ]! += 2 ** 40;
      counts[Count.BYTES_WRITTEN]! += 2 ** 33 + 1;
    }
    const expected = new Counters();
    expected.requests[Opcode.READ] = 64;
    expected.requests[Opcode.WRITE] = 128;
    expected.requests[Opcode.GETATTR] = 192;
    expected.requests[Opcode.LOOKUP] = 256;
    expected.threadFailures = 2016;
    expected.bytesRead = 2 ** 46;
    expected.bytesWritten = 64 * (2 ** 33 + 1);
    fileTable.addTo(counters);
    assert.deepEqual(counters, expected);
    // They stay when the table is emptied, and no other place of it has changed.
    fileTable.clear();
    fileTable.addTo(counters);
    assert.deepEqual(counters, expected);
    assert.deepEqual(rig.view.entryValid, noTime());
    assert.equal(rig.view.findFile(0, 0, 0, 0), false);
  });
});

/** Runs `file-table-reader` on a thread. */
function reader(data: NodesData | TakerData): Promise<ReaderReport> {
  const worker = new Worker(new URL('./file-table-reader.js', import.meta.url), { workerData: data });
  return Promise.all([once(worker, 'message'), once(worker, 'exit')]).then(
    ([[report]]) => report as ReaderReport,
  );
}

test('every lookup with which an entry is published is taken by a thread or returned, while this thread withdraws entries', async (t) => {
  const descriptors = new SharedDescriptors();
  const fileTable = withPlainNumbers(new SharedFileTable(descriptors));
  const users = [descriptors.join(), descriptors.join()];
  const most = 400_000;
  // What was published, by number. The number is the generation of the node id.
  const granted = new Int32Array(most);
  const givenBack = new Int32Array(most);
  const differing = new Uint8Array(most);
  /** The latest publication of each slot. */
  const current = new Map<number, number>();
  fileTable.begin(NO_TIMES, {
    returnLookups: (slot, lookups) => {
      givenBack[current.get(slot)!]! += lookups;
    },
    attributesDiffer: (slot) => {
      differing[current.get(slot)!] = 1;
    },
  });

  const together = new Rig(t).sharing(4);
  const entries: TakersEntry[] = [
    ...together.map((identity) => ({ identity, isSame: false })),
    { identity: { ino: 1n, mount: 30, birth }, isSame: true },
    { identity: { ino: 2n, mount: 30, birth }, isSame: true },
    { identity: { ino: 3n, mount: 30, birth }, isSame: false },
    { identity: { ino: 4n, mount: 30 }, isSame: false },
    { identity: { ino: 5n, mount: 30 }, isSame: true },
  ];
  const data: Omit<TakerData, 'user'> = {
    program: 'take',
    fileTable: fileTable.memory,
    entries,
    attributes: file,
    progress: new SharedArrayBuffer(Object.keys(Progress).length * 4),
    taken: new SharedArrayBuffer(most * 4),
    attributesDiffer: new SharedArrayBuffer(most * 4),
  };
  const reports = Promise.all(users.map((user) => reader({ ...data, user })));
  const progress = new Int32Array(data.progress);
  const fds = new Map<number, Fd>();
  let publications = 0;

  function publish(slot: number): void {
    const { identity } = entries[slot]!;
    const publication = publications++;
    let fd = -1 as Fd;
    if (identity.birth === undefined) {
      fd = fds.get(slot) ?? (fs.openSync('/dev/null', 'r') as Fd);
      fds.set(slot, fd);
    }
    granted[publication] = fileTable.publishEntry(
      NAME,
      slot,
      { low: 1000 + slot, high: 0, generation: publication },
      {
        fd,
        attributes: true,
        readFlags: 0,
        writes: false,
        names: false,
        identity: { mount: identity.mount, inoLow: Number(identity.ino), inoHigh: 0, birth: identity.birth },
      },
      file,
    );
    current.set(slot, publication);
    assert.equal(granted[publication], GRANTED);
  }

  function withdraw(slot: number): void {
    fileTable.withdrawEntry(slot);
    const fd = fds.get(slot);
    if (fd === undefined || slot % 2 === 0) return;
    fds.delete(slot);
    descriptors.close(fd);
  }

  const random = new Random(12345);
  const taken = new Int32Array(data.taken);
  const attributesDiffer = new Int32Array(data.attributesDiffer);
  /** On a busy machine the threads may have no time for a while: it goes on until all is seen. */
  const hasSeenAll = (): boolean =>
    taken.some((count) => count === GRANTED) &&
    taken.some((count) => count > 0 && count < GRANTED) &&
    attributesDiffer.includes(1);
  const end = performance.now() + raceMs(2000);
  while ((performance.now() < end || !hasSeenAll()) && publications < most - 20) {
    for (let i = 0; i < 20; i++) {
      const slot = random.below(entries.length);
      if (random.below(4) === 0) withdraw(slot);
      else if (random.below(50) === 0) fileTable.reportDifferences(slot, 1000 + slot, 0);
      else if (random.below(300) === 0) fileTable.clear();
      else publish(slot);
    }
    // Some stay published long enough for all their lookups to be taken.
    await Promise.race([
      random.below(30) === 0 ? setTimeout(performance.now() < end ? 1 : 20) : setImmediate(),
      reports,
    ]);
  }
  for (const slot of entries.keys()) withdraw(slot);
  Atomics.store(progress, Progress.STOP, 1);
  for (const { wrong } of await reports) assert.deepEqual(wrong, []);
  for (const user of users) descriptors.leave(user);
  for (const fd of fds.values()) descriptors.close(fd);

  for (let publication = 0; publication < publications; publication++) {
    const sum = taken[publication]! + givenBack[publication]!;
    assert.equal(sum, granted[publication], `publication ${publication}: ${taken[publication]} taken`);
    if (attributesDiffer[publication] === 1)
      assert.equal(differing[publication], 1, `publication ${publication}`);
  }
  assert.ok(hasSeenAll());
  assert.equal(current.size, entries.length);
});

test('threads find no file and no node but the published ones, and no difference that they report is lost', async (t) => {
  const folder = fs.mkdtempSync(join(tmpdir(), 'vfk-file-table-'));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  const descriptors = new SharedDescriptors();
  const fileTable = withPlainNumbers(new SharedFileTable(descriptors));
  const user = descriptors.join();
  /** Slots of nodes for which a thread gave other attributes. */
  const differing = new Set<number>();
  fileTable.begin(NO_TIMES, {
    returnLookups: () => undefined,
    attributesDiffer: (slot) => void differing.add(slot),
  });
  // The first two have the same place.
  const nodes = [50, new Rig(t).sharingNode(50), 49].map((low) => ({ low, high: 0 }));
  // The same as the first and the third of these.
  const files = [7, 8, 7 + 2048].map((index) => ({ index, generation: 1 }));
  const paths = [...nodes, ...files].map((_, i) => join(folder, `${i}`));
  for (const [i, path] of paths.entries()) fs.writeFileSync(path, Uint8Array.of(i));
  const data: NodesData = {
    program: 'read',
    fileTable: fileTable.memory,
    user,
    nodes,
    files,
    attributes: file,
    progress: new SharedArrayBuffer(Object.keys(Progress).length * 4),
    confirmed: new SharedArrayBuffer(nodes.length * 4),
  };
  const report = reader(data);
  const progress = new Int32Array(data.progress);
  const confirmed = new Int32Array(data.confirmed);
  const fds = new Map<number, Fd>();

  /** A descriptor of a file, new or not. */
  function backing(which: number): Backing {
    const fd = fds.get(which) ?? (fs.openSync(paths[which]!, 'r') as Fd);
    fds.set(which, fd);
    return { fd, attributes: true, readFlags: 0, writes: false, names: false };
  }

  function close(which: number): void {
    const fd = fds.get(which);
    if (fd !== undefined) descriptors.close(fd);
    fds.delete(which);
  }

  function publishNode(which: number): void {
    fileTable.publishNode(which, nodes[which]!.low, nodes[which]!.high, backing(which), file);
  }

  function withdrawNode(which: number): void {
    fileTable.withdrawNode(nodes[which]!.low, nodes[which]!.high);
  }

  async function turnOver(): Promise<void> {
    const since = Atomics.load(progress, Progress.TURNS);
    for (let tries = 0; Atomics.load(progress, Progress.TURNS) === since; tries++)
      if (tries > 1000) await Promise.race([setImmediate(), report]);
  }

  let changes = 0;
  const end = performance.now() + raceMs(1500);
  for (let round = 0; performance.now() < end || changes < 10; round++) {
    const which = round % nodes.length;
    const before = Atomics.load(confirmed, which);
    differing.delete(which);
    publishNode(which);
    for (const [i, { index, generation }] of files.entries()) {
      const at = nodes.length + i;
      const { low, high } = nodes[i]!;
      if ((round + i) % 3 === 0) fileTable.publishFile(index, generation, low, high, backing(at));
      else if ((round + i) % 5 === 0) fileTable.withdrawFile(index);
      else if ((round + i) % 7 === 0) close(at);
    }
    if (round % 4 === 0) await setImmediate();
    // Withdraws the node, in one of the ways there are.
    if (round % 5 === 0) publishNode(which === 0 ? 1 : which === 1 ? 0 : 2);
    if (round % 7 === 0) close(which);
    if (round % 11 === 0) fileTable.clear();
    withdrawNode(which);
    // The thread has finished what it was doing.
    await turnOver();
    await turnOver();
    if (Atomics.load(confirmed, which) === before) continue;
    changes += 1;
    assert.ok(differing.has(which), `round ${round}`);
  }
  Atomics.store(progress, Progress.STOP, 1);
  const { wrong, found } = await report;
  assert.deepEqual(wrong, []);
  assert.ok(found > 0);
  descriptors.leave(user);
  for (const which of fds.keys()) close(which);
});
