import assert from 'node:assert/strict';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeName, nameBytes, nameLength } from '../../../core/backend/index.js';
import { format, fresh, parse } from '../../../backends/s3/objects/attributes.js';
import { Extents } from '../../../backends/s3/journal/extents.js';
import { decodePart, encodePart, KeyMap } from '../../../backends/s3/objects/keys.js';
import { optionsSchema } from '../../../backends/s3/options.js';
import { RecordType, StagingLog } from '../../../backends/s3/journal/staging-log.js';
import type { FoundRecord } from '../../../backends/s3/journal/staging-log.js';
import { partStart } from '../../../backends/s3/write/upload.js';
import { removeFolders, temporaryFolder } from './support.js';

after(removeFolders);

describe('keys and names', () => {
  const name = fc
    .uint8Array({ minLength: 1, maxLength: 40 })
    .map((bytes) => decodeName(bytes.map((byte) => (byte === 0 || byte === 0x2f ? 0x41 : byte))));
  const tricky = fc
    .array(fc.constantFrom('\u201b', '80', 'FF', '8', 'F', '\udc80', '\udcff', 'a', 'é', '😀', '%', ' '), {
      minLength: 1,
      maxLength: 8,
    })
    .map((parts) => decodeName(nameBytes(parts.join(''))));
  const valid = fc
    .oneof(name, tricky)
    .filter((text) => text !== '.' && text !== '..' && nameLength(text) <= 255);

  it('every name comes back from its key, and the key is UTF-8', () => {
    fc.assert(
      fc.property(valid, (text) => {
        const part = encodePart(text);
        assert.equal(Buffer.from(part).toString(), part);
        assert.equal(decodePart(part), text);
      }),
      { numRuns: 2000 },
    );
  });

  it('two names never share a key', () => {
    fc.assert(
      fc.property(valid, valid, (a, b) => {
        fc.pre(a !== b);
        assert.notEqual(encodePart(a), encodePart(b));
      }),
      { numRuns: 2000 },
    );
  });

  it('UTF-8 names are their own keys, so that other tools see them as they are', () => {
    for (const text of ['a', 'Grüße', '日本 😀', '100%', 'a+b', '\u201b', '\u201bxx']) {
      assert.equal(encodePart(text), text);
    }
  });

  it('parts that no name stands for are told', () => {
    for (const part of ['', '.', '..', 'a\0b', 'x'.repeat(256), '\u201bC3\u201bA9']) {
      assert.equal(decodePart(part), undefined);
    }
  });

  it('a prefix is a directory whether or not it is written with slashes', () => {
    assert.equal(new KeyMap('/a/b/').file('c'), 'a/b/c');
    assert.equal(new KeyMap('a/b').directory(''), 'a/b/');
    assert.equal(new KeyMap('').directory(''), '');
    assert.equal(new KeyMap('').directory('x/y'), 'x/y/');
  });
});

describe('attributes in metadata', () => {
  const defaults = { uid: 7, gid: 8, fileMode: 0o640, directoryMode: 0o750 };

  it('come back as they were written', () => {
    const posix = {
      ...fresh(0o100755, 1000, 100, { seconds: 1_700_000_000, nanoseconds: 5 }),
      rdev: 0x501,
      xattrs: new Map([['user.größe', Buffer.from([0, 255, 10])]]),
      foreign: { 'content-hash': 'abc' },
    };
    const read = parse(format(posix, 'm1'), {}, false, 5, defaults);
    assert.deepEqual(
      { ...read, xattrs: [...read.xattrs] },
      { ...posix, mark: 'm1', xattrs: [...posix.xattrs] },
    );
  });

  it("s3fs's, rclone's and geesefs's are read", () => {
    const s3fs = parse({ mode: '33261', uid: '3', gid: '4', mtime: '1700000000.25' }, {}, false, 9, defaults);
    assert.deepEqual(
      [s3fs.mode, s3fs.uid, s3fs.gid, s3fs.mtime],
      [0o100755, 3, 4, { seconds: 1_700_000_000, nanoseconds: 250_000_000 }],
    );
    const rclone = parse({ mtime: '1700000000.123456789' }, {}, false, 9, defaults);
    assert.deepEqual([rclone.mtime.nanoseconds, rclone.mode], [123_456_789, 0o100640]);
    const geesefs = parse({ '--symlink-target': 'a%2Fb' }, {}, false, 9, defaults);
    assert.deepEqual([geesefs.mode, geesefs.target], [0o120777, 'a/b']);
  });

  it('nonsense counts as absent', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.constantFrom('mode', 'uid', 'gid', 'mtime', 'xattr', 'rdev'), fc.string()),
        (metadata) => {
          const posix = parse(metadata, {}, false, 9, defaults);
          assert.ok(Number.isInteger(posix.mode) && posix.mode >> 12 > 0 && posix.mode <= 0o177777);
          assert.ok(Number.isSafeInteger(posix.mtime.seconds) && posix.mtime.nanoseconds < 1e9);
        },
      ),
    );
    assert.equal(
      parse({ mode: 'rwx', uid: '-1', mtime: 'now', xattr: '%7B' }, {}, false, 9, defaults).uid,
      7,
    );
  });
});

describe('extents', () => {
  it('show for each byte what wrote it last, as a plain array does', () => {
    const operation = fc.record({
      kind: fc.constantFrom('data', 'hole', 'truncate', 'drop'),
      start: fc.nat(60),
      length: fc.integer({ min: 1, max: 20 }),
    });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
        const extents = new Extents();
        let model: (string | undefined)[] = Array.from({ length: 100 }, () => undefined);
        let position = 1000;
        for (const { kind, start, length } of operations) {
          const end = start + length;
          if (kind === 'truncate') {
            extents.truncate(start);
            model.fill(undefined, start);
          } else if (kind === 'drop') {
            // Always the start of a record: one of the log is dropped whole or not at all.
            const limit = position - Math.floor(start / 10) * 100;
            extents.dropBefore(limit);
            model = model.map((owner) => (Number(owner?.split(':')[1] ?? 0) >= limit ? owner : undefined));
          } else {
            extents.insert(start, end, position, kind === 'hole');
            for (let at = start; at < end; at++) {
              model[at] = kind === 'hole' ? `hole:${position}` : `log:${position}:${position + at - start}`;
            }
            position += 100;
          }
        }
        const shown: (string | undefined)[] = [];
        for (const piece of extents.cover(0, 100)) {
          for (let at = piece.start; at < piece.end; at++) {
            const where = piece.position + at - piece.start;
            if (piece.source === 'gap') shown.push(undefined);
            else if (piece.source === 'hole') shown.push(`hole:${piece.position}`);
            else shown.push(`log:${where - (where % 100)}:${where}`);
          }
        }
        assert.deepEqual(shown, model);
        assert.equal(extents.live, model.filter((owner) => owner?.startsWith('log') === true).length);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('the staging log', () => {
  const payloads = [Buffer.from('first'), Buffer.alloc(0), Buffer.from('third record')];

  async function written(): Promise<string> {
    const path = join(await temporaryFolder(), 'x.log');
    const log = await StagingLog.create(path);
    await Promise.all(
      payloads.map((payload, i) => log.append({ type: RecordType.DATA, offset: i * 2 ** 33, payload })),
    );
    await log.close();
    return path;
  }

  async function scanned(path: string): Promise<{ found: FoundRecord[]; whole: boolean }> {
    const log = await StagingLog.open(path);
    const found: FoundRecord[] = [];
    const whole = await log.scan((record) => found.push(record), true);
    await log.close();
    return { found, whole };
  }

  it('gives its records back in order', async () => {
    const { found, whole } = await scanned(await written());
    assert.equal(whole, true);
    assert.deepEqual(
      found.map(({ payload, offset }) => [payload.toString(), offset]),
      payloads.map((payload, i) => [payload.toString(), i * 2 ** 33]),
    );
  });

  it('drops what was cut off at the end, wherever it was cut', async () => {
    const path = await written();
    const bytes = await readFile(path);
    for (let length = 0; length < bytes.length; length += 3) {
      await writeFile(path, bytes.subarray(0, length));
      const { found, whole } = await scanned(path);
      assert.equal(whole, true);
      const ends = [37, 69, 113].filter((end) => end <= length);
      assert.equal(found.length, ends.length, `${length}`);
    }
  });

  it('says so when a record in it is not what was written', async () => {
    const path = await written();
    const bytes = await readFile(path);
    for (const at of [0, 5, 9, 20, 33]) {
      const changed = Buffer.from(bytes);
      changed[at]! ^= 0x10;
      await writeFile(path, changed);
      const { found, whole } = await scanned(path);
      // A length that points beyond the end looks like a cut; every other change is told.
      if (at !== 9) assert.equal(whole, false, `byte ${at}`);
      assert.equal(found.length, 0);
    }
  });

  it('takes zeros at the end for what a power cut leaves', async () => {
    const path = await written();
    const { length } = await readFile(path);
    await truncate(path, length + 5000);
    const { found, whole } = await scanned(path);
    assert.deepEqual([found.length, whole], [3, true]);
  });
});

describe('parts', () => {
  it('grow so that 10,000 hold the largest object, and follow one another', () => {
    const MiB = 2 ** 20;
    assert.equal(partStart(1, 8 * MiB), 8 * MiB);
    assert.equal(partStart(1000, 8 * MiB), 8000 * MiB);
    assert.equal(partStart(1001, 8 * MiB), 8016 * MiB);
    assert.ok(partStart(10_000, 8 * MiB) >= 5 * 2 ** 40);
    for (const index of [0, 1, 999, 1000, 1001, 5000, 9999]) {
      const size = partStart(index + 1, 8 * MiB) - partStart(index, 8 * MiB);
      assert.ok(size >= 5 * MiB && size <= 5 * 2 ** 30);
    }
  });
});

describe('options', () => {
  it('take sizes with units and permissions in octal', () => {
    const options = optionsSchema.parse({
      bucket: 'b',
      memoryCache: '16m',
      fileMode: '0600',
      partSize: 2 ** 23,
    });
    assert.deepEqual([options.memoryCache, options.fileMode, options.partSize], [2 ** 24, 0o600, 2 ** 23]);
  });

  it('refuse what makes no sense', () => {
    for (const wrong of [
      { memoryCache: '1' },
      { fileMode: '9' },
      { partSize: '1m' },
      { nosuch: 1 },
      { requests: 0 },
    ]) {
      assert.equal(optionsSchema.safeParse({ bucket: 'b', ...wrong }).success, false, JSON.stringify(wrong));
    }
  });
});
