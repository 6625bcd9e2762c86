import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import {
  type Awaitable,
  decodeName,
  type DirectoryEntry,
  FileType,
  FsError,
} from '../../../core/backend/index.js';
import { DirectoryStream, type Listing, ListingBudget } from '../../../core/state/directory-stream.js';
import { checkProperty } from '../../support/random.js';

const file = (name: string, ino?: number | bigint): DirectoryEntry => ({ name, type: FileType.REGULAR, ino });

/** Reads up to `most` entries at an offset, as `name@cookie`. */
function read(
  stream: DirectoryStream,
  offset: number,
  list: () => Awaitable<Listing>,
  most = Infinity,
): Awaitable<string[]> {
  return stream.read(offset, list, () => {
    const found: string[] = [];
    const step = (index: number): Awaitable<string[]> => {
      for (; found.length < most; index++) {
        const there = stream.at(index);
        if (there instanceof Promise) {
          const here = index;
          return there.then((more) => (more ? take(here) : found));
        }
        if (!there) return found;
        push(index);
      }
      return found;
    };
    const push = (index: number): void => {
      const name = decodeName(stream.bytes, stream.nameStart(index), stream.nameEnd(index));
      found.push(`${name}@${index + 1}`);
    };
    const take = (index: number): Awaitable<string[]> => {
      push(index);
      return step(index + 1);
    };
    return step(offset);
  });
}

async function* later(entries: Iterable<DirectoryEntry>): AsyncGenerator<DirectoryEntry> {
  for (const entry of entries) {
    await new Promise(setImmediate);
    yield entry;
  }
}

function* numbered(count: number): Generator<DirectoryEntry> {
  for (let i = 0; i < count; i++) yield file(`file-${i}`, i);
}

const endless = (): Listing => numbered(Infinity);

function unlistable(): Listing {
  throw FsError.of('EIO');
}

const ab = [file('a'), file('b')];

describe('a directory stream', () => {
  it('lists dot and dot-dot first, in the same turn where the backend does', () => {
    const stream = new DirectoryStream(new ListingBudget());
    assert.deepEqual(
      read(stream, 0, () => ab),
      ['.@1', '..@2', 'a@3', 'b@4'],
    );
    assert.deepEqual(
      read(stream, 4, () => ab),
      [],
    );
    assert.deepEqual(
      read(stream, 3, () => ab),
      ['b@4'],
    );
  });

  it('gives types and inode numbers of 64 bits, and 0 for unknown ones', () => {
    const stream = new DirectoryStream(new ListingBudget());
    const entries = [
      { name: '.', type: FileType.DIRECTORY, ino: 2 ** 40 + 7 },
      { name: '..', type: FileType.DIRECTORY, ino: 1 },
      { name: 'x', type: FileType.SYMLINK, ino: 0xfedc_ba98_7654_3210n },
      { name: 'y', type: FileType.DIRECTORY | 0o755, ino: 2 ** 52 + 1 },
      { name: 'z', type: 0 },
    ];
    void read(stream, 0, () => entries);
    const seen = [0, 1, 2, 3, 4].map((i) => [stream.type(i), stream.inoHigh(i), stream.inoLow(i)]);
    assert.deepEqual(seen, [
      [4, 256, 7],
      [4, 0, 1],
      [10, 0xfedcba98, 0x76543210],
      [4, 2 ** 20, 1],
      [0, 0, 0],
    ]);
  });

  it('pulls no further than it is read', () => {
    let pulled = 0;
    function* counted(): Generator<DirectoryEntry> {
      for (;;) yield file(`n${pulled++}`);
    }
    const stream = new DirectoryStream(new ListingBudget());
    assert.deepEqual(read(stream, 0, counted, 2), ['.@1', '..@2']);
    assert.equal(pulled, 1, 'one entry, which could have been a dot');
    assert.deepEqual(read(stream, 2, counted, 2), ['n0@3', 'n1@4']);
    assert.equal(pulled, 2);
  });

  it('keeps its order and its cookies while names come and go', () => {
    const names = new Set(['a', 'b', 'c', 'd']);
    const list = function* () {
      for (const name of names) yield file(name);
    };
    const stream = new DirectoryStream(new ListingBudget());
    assert.deepEqual(read(stream, 0, list, 4), ['.@1', '..@2', 'a@3', 'b@4']);
    names.delete('a');
    names.add('e');
    assert.deepEqual(read(stream, 3, list, 1), ['b@4']);
    assert.deepEqual(read(stream, 4, list), ['c@5', 'd@6', 'e@7']);
    assert.deepEqual(read(stream, 2, list), ['a@3', 'b@4', 'c@5', 'd@6', 'e@7']);
  });

  it('lists anew at offset 0, and ends the iterator that it leaves', () => {
    const ended: number[] = [];
    let listings = 0;
    const list = function* (): Generator<DirectoryEntry> {
      const listing = ++listings;
      try {
        yield file(`first of ${listing}`);
        yield file('second');
      } finally {
        ended.push(listing);
      }
    };
    const stream = new DirectoryStream(new ListingBudget());
    void read(stream, 0, list, 3);
    assert.deepEqual(ended, []);
    assert.deepEqual(read(stream, 0, list), ['.@1', '..@2', 'first of 2@3', 'second@4']);
    assert.deepEqual(ended, [1, 2]);
  });

  it('ends the iterator when it is closed early, and not twice', async () => {
    let ended = 0;
    const list = (): Iterable<DirectoryEntry> => ({
      [Symbol.iterator]: () => ({
        next: () => ({ value: file('again'), done: false }),
        return: () => {
          ended += 1;
          return { value: undefined, done: true };
        },
      }),
    });
    const budget = new ListingBudget();
    const stream = new DirectoryStream(budget);
    void read(stream, 0, list, 10);
    assert.ok(budget.used > 0);
    assert.equal(stream.close(), undefined);
    await stream.close();
    assert.equal(ended, 1);
    assert.equal(budget.used, 0);
    assert.throws(() => read(stream, 0, list), FsError.of('EBADF'));
  });

  it('reads what comes later, and serves overlapping reads one after the other', async () => {
    const stream = new DirectoryStream(new ListingBudget());
    let listings = 0;
    const list = async () => {
      listings += 1;
      await new Promise(setImmediate);
      return later([file('a'), file('b'), file('c')]);
    };
    const results = await Promise.all([
      read(stream, 0, list, 3),
      read(stream, 3, list),
      read(stream, 2, list, 1),
      read(stream, 0, list),
    ]);
    assert.deepEqual(results, [
      ['.@1', '..@2', 'a@3'],
      ['b@4', 'c@5'],
      ['a@3'],
      ['.@1', '..@2', 'a@3', 'b@4', 'c@5'],
    ]);
    assert.equal(listings, 2);
    assert.deepEqual(read(stream, 4, list), ['c@5'], 'what is there already needs no promise');
  });

  it('waits with closing for the read that is under way', async () => {
    let ended = false;
    async function* list(): AsyncGenerator<DirectoryEntry> {
      try {
        yield* later(ab);
      } finally {
        ended = true;
      }
    }
    const stream = new DirectoryStream(new ListingBudget());
    const reading = read(stream, 0, list, 3);
    const closing = stream.close();
    assert.deepEqual(await reading, ['.@1', '..@2', 'a@3']);
    await closing;
    assert.equal(ended, true);
  });

  for (const [kind, wrap] of [
    ['at once', (entries: Iterable<DirectoryEntry>): Listing => entries],
    ['later', (entries: Iterable<DirectoryEntry>): Listing => later(entries)],
  ] as const) {
    it(`shows an error that comes ${kind} after the entries before it, each time, until a rewind`, async () => {
      let broken = true;
      const list = (): Listing =>
        wrap(
          (function* () {
            yield file('a');
            if (broken) throw FsError.of('EACCES');
            yield file('b');
          })(),
        );
      const stream = new DirectoryStream(new ListingBudget());
      assert.deepEqual(await read(stream, 0, list, 3), ['.@1', '..@2', 'a@3']);
      const again = async (offset: number) => read(stream, offset, list);
      await assert.rejects(again(3), FsError.of('EACCES'));
      await assert.rejects(again(3), FsError.of('EACCES'));
      assert.deepEqual(await read(stream, 2, list, 1), ['a@3']);
      broken = false;
      assert.deepEqual(await again(0), ['.@1', '..@2', 'a@3', 'b@4']);
    });
  }

  it('shows the error of a backend that can not list at all', () => {
    const stream = new DirectoryStream(new ListingBudget());
    assert.throws(() => read(stream, 0, unlistable, 2), FsError.of('EIO'));
  });

  it('leaves out dots that the backend lists, and refuses names that no directory has', () => {
    for (const name of ['', 'a/b', 'a\0b', 'x'.repeat(256), 'ä'.repeat(128)]) {
      const stream = new DirectoryStream(new ListingBudget());
      const list = () => [file('.'), file('ok'), file('..'), file(name)];
      assert.deepEqual(read(stream, 0, list, 3), ['.@1', '..@2', 'ok@3']);
      assert.throws(() => read(stream, 3, list), /impossible file name/);
    }
  });

  it('keeps names of any bytes', () => {
    const names = ['x'.repeat(255), 'ä'.repeat(127), '\udcff\udc80', '😀', ' \n'];
    const stream = new DirectoryStream(new ListingBudget());
    const list = () => names.map((name) => file(name));
    assert.deepEqual(
      read(stream, 2, list),
      names.map((name, i) => `${name}@${i + 3}`),
    );
  });

  it('takes tens of bytes for each of 100,000 entries', () => {
    const budget = new ListingBudget();
    const stream = new DirectoryStream(budget);
    const all = read(stream, 0, () => numbered(100_000)) as string[];
    assert.equal(all.length, 100_002);
    assert.equal(all[100_001], 'file-99999@100002');
    assert.ok(budget.used < 100_000 * 60, `${budget.used} bytes`);
  });

  it('fails with ENOMEM beyond the budget, after the entries that fit', () => {
    const budget = new ListingBudget(10_000);
    const stream = new DirectoryStream(budget);
    assert.throws(() => read(stream, 0, endless), FsError.of('ENOMEM'));
    assert.ok(budget.used <= 10_000);
    assert.equal((read(stream, 1, endless, 100) as string[]).length, 100);
  });
});

describe('a saved directory stream', () => {
  it('comes back with its entries and goes on with what it had not seen', () => {
    const stream = new DirectoryStream(new ListingBudget());
    const before = [file('a', 1), file('b', 2), file('c', 3)];
    void read(stream, 0, () => before, 4);
    const saved = structuredClone(stream.save());
    const budget = new ListingBudget();
    const again = DirectoryStream.restore(saved, budget);
    const now = [file('d'), file('b'), file('c'), file('a')];
    const after = () => now;
    assert.deepEqual(read(again, 3, after), ['b@4', 'd@5', 'c@6']);
    assert.deepEqual(read(again, 0, after), ['.@1', '..@2', 'd@3', 'b@4', 'c@5', 'a@6']);
    void again.close();
    assert.equal(budget.used, 0);
  });

  it('does not ask the backend when it was complete', () => {
    const stream = new DirectoryStream(new ListingBudget());
    void read(stream, 0, () => ab);
    const again = DirectoryStream.restore(stream.save(), new ListingBudget());
    assert.deepEqual(read(again, 2, assert.fail), ['a@3', 'b@4']);
  });

  it('is refused when its bytes are not entries', () => {
    for (const bytes of [[1], [0, 0, 0, 0, 0, 0, 0, 0, 8, 0], [0, 0, 0, 0, 0, 0, 0, 0, 8, 5, 65]]) {
      const saved = { entries: Uint8Array.from(bytes), complete: false };
      assert.throws(() => DirectoryStream.restore(saved, new ListingBudget()), RangeError);
    }
  });

  it('reads the same at any cookie before and after', async (t) => {
    const names = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,12}$/), { maxLength: 40 });
    await checkProperty(
      t,
      fc.property(names, fc.nat(45), fc.nat(45), (all, read1, seek) => {
        const list = () => all.map((name) => file(name));
        const stream = new DirectoryStream(new ListingBudget());
        void read(stream, 0, list, read1);
        const again = DirectoryStream.restore(stream.save(), new ListingBudget());
        const expected = ['.', '..', ...all].map((name, i) => `${name}@${i + 1}`).slice(Math.max(seek, 1));
        assert.deepEqual(read(stream, Math.max(seek, 1), list), expected);
        assert.deepEqual(read(again, Math.max(seek, 1), list), expected);
      }),
    );
  });
});
