import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { optionsSchema } from '../../../backends/s3/options.js';

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

  it('limit the bandwidth where that is asked for, each way by itself', () => {
    const { uploadLimit, downloadLimit } = optionsSchema.parse({ bucket: 'b', downloadLimit: '2m' });
    assert.deepEqual([uploadLimit, downloadLimit], [undefined, 2 * 2 ** 20]);
  });

  it('refuse what makes no sense', () => {
    for (const wrong of [
      { memoryCache: '1' },
      { fileMode: '9' },
      { partSize: '1m' },
      { nosuch: 1 },
      { requests: 0 },
      { uploadLimit: '1k' },
      { downloadLimit: 'fast' },
    ]) {
      assert.equal(optionsSchema.safeParse({ bucket: 'b', ...wrong }).success, false, JSON.stringify(wrong));
    }
  });
});
