import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { format, fresh, parse } from '../../../../backends/s3/objects/attributes.js';
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
