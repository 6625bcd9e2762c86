import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { optionsSchema } from '../../../backends/s3/options.js';
import { WritableBackend } from '../../../backends/s3/writable-backend.js';
import { MountedExport, shell } from '../../support/host-mount.js';
import { reports } from '../../support/reports.js';
import { removeFolders, temporaryFolder, TestBucket } from './support.js';

describe('what was reported of others, over a bucket', () => {
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

  reports.forEach(({ of, name, script, links }, index) => {
    it(`${of}: ${name}`, { skip: links === true }, async () => {
      const { code, output } = await shell(
        `set -eu; mkdir r${index}; cd r${index}\n${script}\necho ok`,
        mounted.directory,
      );
      assert.match(output, /(^|\n)ok\n$/);
      assert.equal(code, 0);
    });
  });
});
