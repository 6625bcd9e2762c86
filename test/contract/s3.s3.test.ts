import assert from 'node:assert/strict';
import { after, it } from 'node:test';
import s3 from '../../backends/s3/index.js';
import { checkBackend } from '../../core/contract/index.js';
import { LeasedBackend } from '../../backends/s3/leased-backend.js';
import { logged, routed } from '../../core/wrappers/index.js';
import { optionsOf, removeFolders, temporaryFolder, TestBucket } from '../backends/s3/support.js';
import { pluginEnvironment, keepingLog } from '../support/host-mount.js';

after(removeFolders);

it('the contract is kept by a bucket, but for hard links and files without a name', async () => {
  const bucket = await TestBucket.create();
  const { name, endpoint } = bucket;
  const options = s3.options.parse({
    bucket: name,
    endpoint,
    pathStyle: true,
    cacheDir: await temporaryFolder(),
  });
  const create = () => s3.create(options, pluginEnvironment());
  const { results } = await checkBackend({
    create,
    log: keepingLog(),
    timeoutMs: 300_000,
    // Listings of 1,500 are read by the reading backend's own test, without 1,100 uploads.
    only: (rule) => !rule.includes('more than a thousand'),
  });
  const wrong = results.filter(({ outcome }) => outcome === 'failed');
  assert.deepEqual(
    wrong.map((result) => `${result.name}: ${result.reason}`),
    [],
  );
  const lacks = [
    /hard links/,
    /temporary file/,
    /64 KiB/,
    /exchange/,
    /data and holes/,
    /a range is (?:not )?copied/,
  ];
  for (const { name: rule, outcome } of results) {
    if (outcome === 'skipped')
      assert.ok(
        lacks.some((lack) => lack.test(rule)),
        rule,
      );
  }
});

for (const isWrapped of [false, true])
  it(`the rules of locks are kept by a bucket of several hosts${isWrapped ? ', by way of wrappers' : ''}`, async () => {
    const bucket = await TestBucket.create();
    const cacheDir = await temporaryFolder();
    const options = await optionsOf(bucket, { sharing: 'leases', cacheDir, leaseTerm: 60 });
    const { results, passed } = await checkBackend({
      create: () => {
        const backend = new LeasedBackend(options);
        return isWrapped ? routed({ mounts: { '/': logged(backend, keepingLog()) } }) : backend;
      },
      log: keepingLog(),
      timeoutMs: 300_000,
      only: (rule) => /\block/.test(rule),
    });
    const wrong = results.filter(({ outcome }) => outcome !== 'passed');
    assert.deepEqual(
      wrong.map((result) => `${result.name}: ${result.reason}`),
      [],
    );
    assert.equal(passed, 4);
  });
