import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Attributes } from '../../../core/backend/index.js';
import { KeepCache } from '../../../core/state/index.js';
import { withPlainNumbers } from '../../support/plain-numbers.js';

const file: Attributes = { mode: 0o100644, size: 5000, mtime: 1000, mtimeNsec: 7, ctime: 1000, ctimeNsec: 7 };

/**
 * Whether a guest may keep a file's data that opened it long after its last change, and was then
 * told the attributes `later`.
 */
function keeps(later: Attributes, identity = 1): boolean {
  const keepCache = withPlainNumbers(new KeepCache());
  keepCache.tell(3, file, 1);
  keepCache.open(3, 2000);
  keepCache.tell(3, later, identity);
  return keepCache.open(3, 3000);
}

describe('cached data', () => {
  it('is kept where nothing has changed since the last open', () => {
    assert.equal(keeps({ ...file, atime: 2500, nlink: 1 }), true);
  });

  it('is dropped at the first open, and where size, mtime or ctime have changed by the least', () => {
    assert.equal(withPlainNumbers(new KeepCache()).open(3), false);
    assert.equal(keeps({ ...file, size: 5001 }), false);
    assert.equal(keeps({ ...file, size: 5000 + 2 ** 32 }), false);
    assert.equal(keeps({ ...file, mtimeNsec: 8 }), false);
    assert.equal(keeps({ ...file, mtime: 999 }), false);
    assert.equal(keeps({ ...file, ctimeNsec: 8 }), false);
    assert.equal(keeps({ ...file, ctime: 1001 }), false);
  });

  it('is dropped where the slot has become another node’s', () => {
    assert.equal(keeps(file, 2), false);
  });

  it('is dropped where the last change was so recent at the last open that another could hide in it', () => {
    const keepCache = withPlainNumbers(new KeepCache());
    keepCache.tell(3, file, 1);
    assert.equal(keepCache.open(3, 1001), false);
    keepCache.tell(3, file, 1);
    assert.equal(keepCache.open(3, 1010), false);
    assert.equal(keepCache.open(3, 1020), true);
  });

  it('is told apart by fractions of a second where a backend gives no nanoseconds', () => {
    const keepCache = withPlainNumbers(new KeepCache());
    keepCache.tell(0, { mode: 0o100644, mtime: 1000.25 }, 1);
    keepCache.open(0, 2000);
    keepCache.tell(0, { mode: 0o100644, mtime: 1000.5 }, 1);
    assert.equal(keepCache.open(0, 2000), false);
    assert.equal(keepCache.open(0, 2000), true);
  });
});
