import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FileType } from '../../../../core/backend/index.js';
import {
  attributesFit,
  format,
  formatFitting,
  fresh,
  METADATA_MAX_BYTES,
  parse,
} from '../../../../backends/s3/objects/attributes.js';
import { checkProperty } from '../../../support/random.js';

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

  it('give way to what others have put there, the least of ours first', () => {
    const posix = fresh(0o100755, 1000, 100, { seconds: 1_700_000_000, nanoseconds: 5 });
    const size = (metadata: Record<string, string>): number =>
      Object.entries(metadata).reduce((sum, [name, value]) => sum + name.length + value.length, 0);
    const ours = (theirs: number): string[] => {
      const foreign = { theirs: 'x'.repeat(theirs - 6) };
      const written = formatFitting({ ...posix, foreign }, 'mark');
      assert.ok(size(written) <= Math.max(theirs, METADATA_MAX_BYTES));
      assert.equal(written['theirs'], foreign.theirs);
      return Object.keys(written).filter((name) => name !== 'theirs');
    };
    assert.deepEqual(ours(1000), ['mode', 'uid', 'gid', 'mtime', 'virtiofs-kit-write', 'ctime', 'atime']);
    assert.deepEqual(ours(1970), ['mode', 'uid', 'gid', 'mtime', 'virtiofs-kit-write']);
    assert.deepEqual(ours(2020), ['mode', 'uid', 'gid']);
    assert.deepEqual(ours(2500), []);
    const fits = (theirs: number): boolean =>
      attributesFit({ ...posix, foreign: { theirs: 'x'.repeat(theirs - 6) } });
    assert.deepEqual([fits(1970), fits(2020)], [true, false]);
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

  for (const [writer, text, directory, mode] of [
    ['s3fs, a file', '33188', false, 0o100644],
    ['s3fs, a file whose digits are octal too', '33204', false, 0o100664],
    ['s3fs, a directory', '16877', true, 0o040755],
    ['s3fs, a directory whose digits are octal too', '16777', true, 0o040611],
    ['s3fs, a symbolic link', '41471', false, 0o120777],
    ['rclone, a file', '100664', false, 0o100664],
    ['rclone, a directory', '40755', true, 0o040755],
    ['rclone, a directory with the sticky bit', '41777', true, 0o041777],
    ['rclone with a leading 0', '0100600', false, 0o100600],
    ['hexadecimal', '0x81a4', false, 0o100644],
    ['permissions alone, octal', '644', false, 0o100644],
    ['permissions alone, octal, of a directory', '755', true, 0o040755],
    ['permissions alone, with a leading 0', '0755', false, 0o100755],
    ['permissions alone, decimal', '493', false, 0o100755],
    ['permissions alone, decimal, digits that are octal too', '420', false, 0o100644],
    ['no mode', '999999', false, 0o100640],
  ] as const) {
    it(`a mode as written by ${writer}: ${text}`, () => {
      assert.equal(parse({ mode: text }, {}, directory, 9, defaults).mode.toString(8), mode.toString(8));
    });
  }

  it('every mode that is written is read', () => {
    for (let permissions = 0; permissions <= 0o7777; permissions++) {
      for (const type of [FileType.REGULAR, FileType.SYMLINK, FileType.FIFO, FileType.CHARACTER]) {
        const posix = fresh(type | permissions, 0, 0, { seconds: 0, nanoseconds: 0 });
        assert.equal(parse(format(posix, 'm'), {}, false, 0, defaults).mode, type | permissions);
      }
      const posix = fresh(FileType.DIRECTORY | permissions, 0, 0, { seconds: 0, nanoseconds: 0 });
      assert.equal(parse(format(posix, 'm'), {}, true, 0, defaults).mode, FileType.DIRECTORY | permissions);
    }
  });

  it('nonsense counts as absent', async (t) => {
    await checkProperty(
      t,
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
