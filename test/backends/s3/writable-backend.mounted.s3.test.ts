import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { optionsSchema } from '../../../backends/s3/options.js';
import { WritableBackend } from '../../../backends/s3/writable-backend.js';
import { MountedExport, shell } from '../../support/host-mount.js';
import { WITHOUT_HARD_LINKS, workloads } from '../../support/workloads.js';
import { removeFolders, temporaryFolder, TestBucket } from './support.js';

/**
 * Workloads that a bucket can't do, or not in time: an object has one name, and 25,000 requests one
 * after the other take minutes. `reading-backend.s3.test.ts` lists large directories.
 */
const skipped = /hard links share|10,000 files/;

describe('over a host mount of a bucket', () => {
  let mounted: MountedExport;
  before(async () => {
    const bucket = await TestBucket.create();
    const options = optionsSchema.parse({
      bucket: bucket.name,
      endpoint: bucket.endpoint,
      pathStyle: true,
      cacheDir: await temporaryFolder(),
    });
    mounted = await MountedExport.open(new WritableBackend(options));
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
