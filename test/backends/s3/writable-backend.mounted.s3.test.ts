import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { MountedExport, shell } from '../../support/host-mount.js';
import { WITHOUT_HARD_LINKS, workloads } from '../../support/workloads.js';
import { mountBucket, removeFolders, temporaryFolder, TestBucket } from './support.js';

/**
 * Workloads that a bucket cannot do, or not in time. An object has one name, and 25,000 requests
 * one after the other take minutes. `reading-backend.s3.test.ts` lists large directories.
 */
const skipped = /hard links share|10,000 files/;

describe('over a host mount of a bucket', () => {
  let mounted: MountedExport;
  before(async () => {
    const bucket = await TestBucket.create();
    mounted = await mountBucket(bucket);
  });
  after(async () => {
    await mounted[Symbol.asyncDispose]();
    await removeFolders();
  });

  workloads.forEach(({ name, script }, index) => {
    it(name, { skip: skipped.test(name) }, async () => {
      const { code, output } = await shell(
        `mkdir w${index}; cd w${index}\n${WITHOUT_HARD_LINKS}${script}`,
        mounted.directory,
      );
      assert.match(output, /(^|\n)ok\n$/);
      assert.equal(code, 0);
    });
  });
});

it('a full disk of the cache is ENOSPC for who writes, and what follows works once there is room', async () => {
  const cacheDir = await temporaryFolder();
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'cache', cacheDir]);
  try {
    const bucket = await TestBucket.create();
    await using mounted = await mountBucket(bucket, { cacheDir, writebackDelay: 3600 });
    const script = `dd if=/dev/zero of=large bs=64k count=100 conv=fsync; rm large; echo small > small; cat small`;
    const { output } = await shell(script, mounted.directory);
    assert.match(output, /No space left on device/);
    assert.doesNotMatch(output, /Input\/output error/);
    assert.match(output, /\nsmall\n$/);
  } finally {
    execFileSync('umount', [cacheDir]);
    await removeFolders();
  }
});
