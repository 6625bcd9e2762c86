import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { MountedExport, shell } from '../../support/host-mount.js';
import { reports } from '../../support/reports.js';
import { mountBucket, removeFolders, TestBucket } from './support.js';

describe('what was reported of others, over a bucket', () => {
  let mounted: MountedExport;
  before(async () => {
    const bucket = await TestBucket.create();
    mounted = await mountBucket(bucket);
  });
  after(async () => {
    await mounted[Symbol.asyncDispose]();
    await removeFolders();
  });

  reports.forEach(({ of, name, script, before: made = ':', links }, index) => {
    it(`${of}: ${name}`, { skip: links === true }, async () => {
      const { code, output } = await shell(
        `set -eu; mkdir r${index}; cd r${index}\n${made}\n${script}\necho ok`,
        mounted.directory,
      );
      assert.match(output, /(^|\n)ok\n$/);
      assert.equal(code, 0);
    });
  });
});
